//! The two pictures that a reconcile compares: what a namespace should hold ([`WantedPlace`]) and what it holds
//! ([`SeenPlace`]). Switch and routers have the same shape, so one comparison serves both.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use rtnetlink::packet_route::link::{InfoBridge, InfoBridgePort};

use crate::spec::Mac;

/// One namespace of an experiment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// The one that holds all bridges and taps.
    Switch,
    /// A router, by name.
    Router(String),
}

/// The kinds of device that this crate makes, by the kernel's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Bridge,
    Tap,
    Veth,
    Vxlan,
}

/// One end of a cable between namespaces.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct End {
    pub place: Place,
    pub device: String,
}

/// The settings of a vxlan device that hold for its whole life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tunnel {
    pub vni: u32,
    /// UDP port of all ends.
    pub port: u16,
    /// This host's end.
    pub local: IpAddr,
    pub learning: bool,
}

/// A device that should be there.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct WantedDevice {
    /// What reports and errors call it.
    pub label: String,
    pub kind: Kind,
    pub alias: String,
    pub mtu: u32,
    /// `None` leaves the kernel's choice.
    pub mac: Option<Mac>,
    /// The bridge it is plugged into, with the port's settings.
    pub port_of: Option<(String, Vec<InfoBridgePort>)>,
    /// Settings of a bridge.
    pub bridge: Vec<InfoBridge>,
    /// The other end of a veth.
    pub peer: Option<End>,
    /// Settings of a vxlan device.
    pub tunnel: Option<Tunnel>,
}

/// A device that is there.
#[derive(Debug, Clone, Default)]
pub(crate) struct SeenDevice {
    pub index: u32,
    /// `None` for kinds that this crate never makes.
    pub kind: Option<Kind>,
    pub alias: String,
    pub mtu: u32,
    pub mac: Vec<u8>,
    pub up: bool,
    /// Index of the bridge it is plugged into, 0 for none.
    pub master: u32,
    /// Index of a veth's other end, in that end's namespace.
    pub peer_index: u32,
    pub port: Vec<InfoBridgePort>,
    pub bridge: Vec<InfoBridge>,
    pub tunnel: Option<Tunnel>,
}

/// A permanent neighbour that should be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WantedNeighbour {
    pub mac: Mac,
    /// The station behind it, as reports call it.
    pub label: String,
}

/// A network by address and prefix length.
pub(crate) type Prefix = (Ipv4Addr, u8);

/// What a namespace should hold. Devices are named by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct WantedPlace {
    pub devices: BTreeMap<String, WantedDevice>,
    /// Static FDB entries: which device leads to which MAC. A port has its entry in the bridge, a tunnel one of its own
    /// with the host behind it.
    pub fdb: BTreeMap<(String, Mac), Option<IpAddr>>,
    /// The hosts to which a tunnel sends a copy of what is for all.
    pub copies: BTreeSet<(String, IpAddr)>,
    /// Permanent neighbours: which MAC has an address, on which device.
    pub neighbours: BTreeMap<(String, Ipv4Addr), WantedNeighbour>,
    pub addresses: BTreeSet<(String, Prefix)>,
    /// Static routes by destination.
    pub routes: BTreeMap<Prefix, Ipv4Addr>,
}

/// What a namespace holds. Entries are named by the device's index.
#[derive(Debug, Clone, Default)]
pub(crate) struct SeenPlace {
    pub devices: BTreeMap<String, SeenDevice>,
    /// Static entries of bridges.
    pub fdb: BTreeSet<(u32, Mac)>,
    /// Entries of tunnels.
    pub far: BTreeMap<(u32, Mac), IpAddr>,
    pub copies: BTreeSet<(u32, IpAddr)>,
    pub neighbours: BTreeMap<(u32, Ipv4Addr), Mac>,
    pub addresses: BTreeSet<(u32, Prefix)>,
    pub routes: BTreeMap<Prefix, Ipv4Addr>,
}

impl Place {
    /// What a report calls a router; the switch is nobody's business.
    pub fn label(&self) -> Option<String> {
        match self {
            Place::Switch => None,
            Place::Router(name) => Some(crate::wanted::router_label(name)),
        }
    }
}
