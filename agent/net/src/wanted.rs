//! From the desired network to the devices and entries of each namespace.
//!
//! The guards of a segment (what each is for is told in docs/network.md):
//!
//! * Nothing is learnt and nothing unknown is flooded: every station's port is a static FDB entry.
//! * The bridge answers ARP for every station it knows (`proxy_arp_wifi` on all ports, with permanent neighbours on
//!   the bridge), and a request that was answered is not flooded. `neigh_suppress` cannot do this between ports of one
//!   bridge: the kernel leaves requests that come in over a suppressing port to be flooded (`br_arp_nd_proxy.c`).
//! * A port may send only from MACs that lead to it (`locked`).
//! * Broadcast still reaches all, so that DHCP and ARP for strangers work.
//!
//! A segment that crosses hosts has one port more, the *tunnel*: a vxlan device whose entries say behind which host each
//! remote station is. To the bridge remote stations are as local ones: they have FDB entries and neighbours, so ARP for
//! them is answered here, and a frame from the tunnel must come from a station that is behind it. Nothing is flooded
//! into the tunnel, unless the segment asks for multicast: then each other host gets a copy of what is for all. A link
//! that crosses hosts is a tunnel alone, which is the router's interface.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use rtnetlink::packet_route::link::{InfoBridge, InfoBridgePort};

use crate::{
    naming,
    spec::{
        Attachment, InterfaceSpec, Mac, NetworkOptions, NetworkSpec, RouterSpec, SegmentSpec, TunnelSpec, network_of,
        router_port_id,
    },
    state::{End, Kind, Place, Tunnel, WantedDevice, WantedNeighbour, WantedPlace},
};

/// The namespaces that the experiment should have, with their contents; tunnels use the UDP port `vxlan_port`. `spec`
/// has passed its check. An experiment of which nothing is here has no namespace.
pub(crate) fn places(spec: &NetworkSpec, vxlan_port: u16) -> BTreeMap<Place, WantedPlace> {
    if spec.segments.is_empty() && spec.routers.is_empty() {
        return BTreeMap::new();
    }
    let tunnels = Tunnels { local: spec.underlay, port: vxlan_port };
    let stations: BTreeMap<&str, Vec<Station>> =
        spec.segments.iter().map(|segment| (segment.name.as_str(), stations(spec, segment))).collect();
    let mut places = BTreeMap::from([(Place::Switch, WantedPlace::default())]);
    for segment in &spec.segments {
        add_segment(&mut places, spec, segment, &stations, tunnels);
    }
    for router in &spec.routers {
        let place = places.entry(Place::Router(router.name.clone())).or_default();
        for route in &router.routes {
            place.routes.insert((network_of(route.to, route.prefix_len), route.prefix_len), route.via);
        }
        for interface in &router.interfaces {
            add_interface(&mut places, spec, router, interface, &stations, tunnels);
        }
    }
    places
}

/// What a report calls a router.
pub(crate) fn router_label(router: &str) -> String {
    format!("router {router}")
}

fn port_label(id: &str) -> String {
    format!("port {id}")
}

fn interface_label(id: &str) -> String {
    format!("interface {id}")
}

/// What a report calls the tunnel of a segment. Changes of remote stations are told of it.
fn tunnel_label(segment: &str) -> String {
    format!("tunnel {segment}")
}

/// What all tunnels have in common.
#[derive(Clone, Copy)]
struct Tunnels {
    local: Option<IpAddr>,
    port: u16,
}

impl Tunnels {
    /// `None` only in a network that has not passed its check.
    fn with(self, vni: u32) -> Option<Tunnel> {
        self.local.map(|local| Tunnel { vni, port: self.port, local, learning: false })
    }
}

/// Whoever has an address on a segment, and the bridge's port that leads there.
struct Station {
    label: String,
    device: String,
    mac: Mac,
    ip: Ipv4Addr,
    /// The host it is behind; `None` for this one.
    host: Option<IpAddr>,
}

impl Station {
    fn neighbour(&self) -> WantedNeighbour {
        WantedNeighbour { mac: self.mac, label: self.label.clone() }
    }
}

fn stations(spec: &NetworkSpec, segment: &SegmentSpec) -> Vec<Station> {
    let taps = segment.ports.iter().map(|port| Station {
        label: port_label(&port.id),
        device: naming::tap_name(&port.id),
        mac: port.mac,
        ip: port.ip,
        host: None,
    });
    let routers = spec.routers.iter().flat_map(|router| {
        let on_segment = |i: &&InterfaceSpec| matches!(&i.attachment, Attachment::Segment(s) if *s == segment.name);
        router.interfaces.iter().filter(on_segment).map(|interface| {
            let id = router_port_id(&router.name, &interface.name);
            Station {
                label: interface_label(&id),
                device: naming::router_port_name(&id),
                mac: interface.mac,
                ip: interface.address,
                host: None,
            }
        })
    });
    let remote = segment.tunnel.iter().flat_map(|tunnel| &tunnel.stations).map(|station| Station {
        label: tunnel_label(&segment.name),
        device: naming::tunnel_name(&segment.name),
        mac: station.mac,
        ip: station.ip,
        host: Some(station.host),
    });
    taps.chain(routers).chain(remote).collect()
}

fn add_segment(
    places: &mut BTreeMap<Place, WantedPlace>,
    spec: &NetworkSpec,
    segment: &SegmentSpec,
    stations: &BTreeMap<&str, Vec<Station>>,
    tunnels: Tunnels,
) {
    let switch = places.entry(Place::Switch).or_default();
    let bridge = naming::bridge_name(&segment.name);
    switch.devices.insert(
        bridge.clone(),
        WantedDevice {
            label: format!("lan {}", segment.name),
            kind: Kind::Bridge,
            alias: segment.name.clone(),
            mtu: segment.mtu,
            mac: Some(naming::bridge_mac(&spec.experiment, &segment.name)),
            port_of: None,
            bridge: vec![InfoBridge::MulticastSnooping(false)],
            peer: None,
            tunnel: None,
        },
    );
    for port in &segment.ports {
        switch.devices.insert(
            naming::tap_name(&port.id),
            WantedDevice {
                label: port_label(&port.id),
                kind: Kind::Tap,
                alias: port.id.clone(),
                mtu: segment.mtu,
                mac: None,
                port_of: Some((bridge.clone(), port_guards(segment, &spec.options))),
                bridge: Vec::new(),
                peer: None,
                tunnel: None,
            },
        );
    }
    if let Some(tunnel) = &segment.tunnel {
        add_tunnel(switch, spec, segment, tunnel, tunnels);
    }
    for station in &stations[segment.name.as_str()] {
        switch.fdb.insert((station.device.clone(), station.mac), station.host);
        switch.neighbours.insert((bridge.clone(), station.ip), station.neighbour());
    }
}

/// The port of a segment that leads to its stations on other hosts.
fn add_tunnel(
    switch: &mut WantedPlace,
    spec: &NetworkSpec,
    segment: &SegmentSpec,
    tunnel: &TunnelSpec,
    tunnels: Tunnels,
) {
    let device = naming::tunnel_name(&segment.name);
    switch.devices.insert(
        device.clone(),
        WantedDevice {
            label: tunnel_label(&segment.name),
            kind: Kind::Vxlan,
            alias: tunnel_label(&segment.name),
            mtu: segment.mtu,
            mac: None,
            port_of: Some((naming::bridge_name(&segment.name), tunnel_guards(segment, &spec.options))),
            bridge: Vec::new(),
            peer: None,
            tunnel: tunnels.with(tunnel.vni),
        },
    );
    if segment.multicast {
        let hosts: BTreeSet<IpAddr> = tunnel.stations.iter().map(|station| station.host).collect();
        switch.copies.extend(hosts.into_iter().map(|host| (device.clone(), host)));
    }
}

/// How the port to other hosts is set: as the others, but of what is for all it takes only what it can hand on.
fn tunnel_guards(segment: &SegmentSpec, options: &NetworkOptions) -> Vec<InfoBridgePort> {
    let mut guards = port_guards(segment, options);
    for guard in &mut guards {
        if let InfoBridgePort::BroadcastFlood(flood) = guard {
            *flood = segment.multicast;
        }
    }
    guards
}

/// How every port of a segment is set. Settings that the kernel does not know yet are left out by the comparison.
fn port_guards(segment: &SegmentSpec, options: &NetworkOptions) -> Vec<InfoBridgePort> {
    vec![
        InfoBridgePort::Learning(false),
        InfoBridgePort::UnicastFlood(false),
        InfoBridgePort::MulticastFlood(segment.multicast),
        InfoBridgePort::BroadcastFlood(true),
        InfoBridgePort::ProxyARPWifi(true),
        InfoBridgePort::Locked(options.port_security),
    ]
}

fn add_interface(
    places: &mut BTreeMap<Place, WantedPlace>,
    spec: &NetworkSpec,
    router: &RouterSpec,
    interface: &InterfaceSpec,
    stations: &BTreeMap<&str, Vec<Station>>,
    tunnels: Tunnels,
) {
    let id = router_port_id(&router.name, &interface.name);
    let label = interface_label(&id);
    let here = End { place: Place::Router(router.name.clone()), device: interface.name.clone() };
    let (peer, tunnel, plugged_into) = match &interface.attachment {
        Attachment::Segment(segment) => {
            let bridges_end = End { place: Place::Switch, device: naming::router_port_name(&id) };
            (Some(bridges_end), None, format!("lan {segment}"))
        }
        Attachment::Link { peer_router, peer_interface } => {
            let far_end = End { place: Place::Router(peer_router.clone()), device: peer_interface.clone() };
            (Some(far_end), None, router_port_id(peer_router, peer_interface))
        }
        Attachment::Tunnel { vni, peer, .. } => (None, tunnels.with(*vni), peer.clone()),
    };
    // Both ends tell what the cable joins, so that a cable of an older plan is recognised as a wrong one.
    let alias = format!("{id} -> {plugged_into}");
    if let Attachment::Segment(name) = &interface.attachment
        && let Some(segment) = spec.segments.iter().find(|segment| segment.name == *name)
        && let Some(peer) = &peer
    {
        let switch = places.entry(Place::Switch).or_default();
        switch.devices.insert(
            peer.device.clone(),
            WantedDevice {
                label: label.clone(),
                kind: Kind::Veth,
                alias: alias.clone(),
                mtu: segment.mtu,
                mac: None,
                port_of: Some((naming::bridge_name(name), port_guards(segment, &spec.options))),
                bridge: Vec::new(),
                peer: Some(here.clone()),
                tunnel: None,
            },
        );
    }
    let place = places.entry(here.place).or_default();
    place.addresses.insert((interface.name.clone(), (interface.address, interface.prefix_len)));
    match &interface.attachment {
        Attachment::Segment(segment) => {
            // Learnt neighbours of all namespaces together are limited by the host's gc_thresh3 (1024 by default);
            // permanent ones are not counted.
            let is_own = |station: &&Station| peer.as_ref().is_some_and(|peer| peer.device == station.device);
            for station in stations[segment.as_str()].iter().filter(|station| !is_own(station)) {
                place.neighbours.insert((interface.name.clone(), station.ip), station.neighbour());
            }
        }
        Attachment::Link { .. } => {}
        Attachment::Tunnel { station, .. } => {
            let neighbour = WantedNeighbour { mac: station.mac, label: label.clone() };
            place.neighbours.insert((interface.name.clone(), station.ip), neighbour);
            place.fdb.insert((interface.name.clone(), station.mac), Some(station.host));
            // A link carries everything, as a cable does.
            place.copies.insert((interface.name.clone(), station.host));
        }
    }
    place.devices.insert(
        interface.name.clone(),
        WantedDevice {
            label,
            kind: if tunnel.is_some() { Kind::Vxlan } else { Kind::Veth },
            alias,
            mtu: interface.mtu,
            mac: Some(interface.mac),
            port_of: None,
            bridge: Vec::new(),
            peer,
            tunnel,
        },
    );
}
