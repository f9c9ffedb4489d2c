//! The desired network of one experiment on one host: plain data, compiled from the network file by whoever uses this crate.
//!
//! A *segment* is one L2 network and becomes a bridge; a *port* is a VM's attachment to it and becomes a tap; a *router*
//! is a namespace of its own whose interfaces sit on segments or on point-to-point links to other routers.
//!
//! Segments and links may cross hosts. What is on other hosts is in the description, too, each station with the host
//! that it is on: nothing has to be learnt or asked for.

use std::net::{IpAddr, Ipv4Addr};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Everything that one experiment wants of this host's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSpec {
    /// The experiment's name; it must be the one that the [`Network`](crate::Network) was opened with.
    pub experiment: String,
    /// The L2 networks, with the ports of this host's VMs.
    pub segments: Vec<SegmentSpec>,
    /// The routers that run on this host.
    pub routers: Vec<RouterSpec>,
    /// This host's end of all tunnels: an address of a device in the namespace in which the operation is called. Needed
    /// where something crosses hosts.
    pub underlay: Option<IpAddr>,
    /// Choices that hold for the whole experiment.
    pub options: NetworkOptions,
}

/// Choices that hold for a whole experiment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkOptions {
    /// Whether a port may send only from its own MAC address (bridge port flag `locked`). It stops MAC spoofing and
    /// frames that loop through a guest; an experiment whose guests bridge or change their MAC must turn it off.
    pub port_security: bool,
}

impl Default for NetworkOptions {
    fn default() -> Self {
        Self { port_security: true }
    }
}

/// One L2 network of the experiment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentSpec {
    /// The lan's name, unique in the experiment.
    pub name: String,
    /// Greatest payload of a frame, in bytes.
    pub mtu: u32,
    /// Whether multicast reaches every port. Off, a guest's neighbour discovery or mDNS is not copied a thousand
    /// times; on, routing protocols that speak multicast (OSPF, RIP) work over the segment.
    pub multicast: bool,
    /// The ports of VMs. A router's port is made from the router's [`InterfaceSpec`], it is not listed here.
    pub ports: Vec<PortSpec>,
    /// What joins it to its stations on other hosts; `None` when all of them are on this one.
    pub tunnel: Option<TunnelSpec>,
}

/// What joins a segment to its stations on other hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelSpec {
    /// VXLAN network identifier: 1 to 2^24 - 1, the same on all hosts of the segment and no other segment's there.
    pub vni: u32,
    /// The ports of VMs and routers that are on other hosts.
    pub stations: Vec<RemoteStation>,
}

/// A port on another host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteStation {
    /// Its MAC address.
    pub mac: Mac,
    /// Its address, which the bridge answers ARP for.
    pub ip: Ipv4Addr,
    /// Its host's end of the tunnels.
    pub host: IpAddr,
}

/// A VM's attachment to a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSpec {
    /// The port's identity in the experiment, such as `web[3]/eth0`; at most 100 bytes.
    pub id: String,
    /// The guest's MAC address.
    pub mac: Mac,
    /// The guest's address, which the bridge answers ARP for.
    pub ip: Ipv4Addr,
}

/// A router made of a network namespace that forwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterSpec {
    /// The router's name, unique in the experiment.
    pub name: String,
    /// Its interfaces.
    pub interfaces: Vec<InterfaceSpec>,
    /// Its static routes.
    pub routes: Vec<RouteSpec>,
}

/// One interface of a router. Its port id is `router/interface`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceSpec {
    /// The device's name inside the router, such as `eth0`; at most 15 bytes.
    pub name: String,
    /// What the interface is plugged into.
    pub attachment: Attachment,
    /// Its MAC address.
    pub mac: Mac,
    /// Its address.
    pub address: Ipv4Addr,
    /// Length of the network's prefix, in bits.
    pub prefix_len: u8,
    /// Greatest payload of a frame, in bytes.
    pub mtu: u32,
}

/// What a router's interface is plugged into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attachment {
    /// A segment, by name.
    Segment(String),
    /// A cable to another router; that router's interface names this one in turn.
    Link {
        /// The other router.
        peer_router: String,
        /// The other router's interface.
        peer_interface: String,
    },
    /// A link to a router on another host.
    Tunnel {
        /// VXLAN network identifier of the link, as in [`TunnelSpec::vni`].
        vni: u32,
        /// Port id of the other end, by [`router_port_id`].
        peer: String,
        /// The other end.
        station: RemoteStation,
    },
}

/// A static route of a router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteSpec {
    /// The destination network; bits beyond the prefix are ignored.
    pub to: Ipv4Addr,
    /// Length of the destination's prefix, in bits; 0 is the default route.
    pub prefix_len: u8,
    /// The next hop, in a network that the router is attached to.
    pub via: Ipv4Addr,
}

/// The port id of a router's interface.
pub fn router_port_id(router: &str, interface: &str) -> String {
    format!("{router}/{interface}")
}

/// `address` with the bits beyond `prefix_len` cleared.
pub(crate) fn network_of(address: Ipv4Addr, prefix_len: u8) -> Ipv4Addr {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix_len.min(32))).unwrap_or(0);
    Ipv4Addr::from(u32::from(address) & mask)
}

/// A MAC address as people write it.
pub(crate) fn mac_text(mac: &[u8]) -> String {
    mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_the_address_without_its_host_bits() {
        let address = Ipv4Addr::new(10, 1, 2, 3);
        assert_eq!(network_of(address, 24), Ipv4Addr::new(10, 1, 2, 0));
        assert_eq!(network_of(address, 0), Ipv4Addr::UNSPECIFIED);
        assert_eq!(network_of(address, 32), address);
    }
}
