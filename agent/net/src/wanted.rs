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

use std::{collections::BTreeMap, net::Ipv4Addr};

use rtnetlink::packet_route::link::{InfoBridge, InfoBridgePort};

use crate::{
    naming,
    spec::{
        Attachment, InterfaceSpec, Mac, NetworkOptions, NetworkSpec, RouterSpec, SegmentSpec, network_of,
        router_port_id,
    },
    state::{End, Kind, Place, WantedDevice, WantedNeighbour, WantedPlace},
};

/// The namespaces that the experiment should have, with their contents. `spec` has passed its check.
pub(crate) fn places(spec: &NetworkSpec) -> BTreeMap<Place, WantedPlace> {
    let stations: BTreeMap<&str, Vec<Station>> =
        spec.segments.iter().map(|segment| (segment.name.as_str(), stations(spec, segment))).collect();
    let mut places = BTreeMap::from([(Place::Switch, WantedPlace::default())]);
    for segment in &spec.segments {
        add_segment(&mut places, spec, segment, &stations);
    }
    for router in &spec.routers {
        let place = places.entry(Place::Router(router.name.clone())).or_default();
        for route in &router.routes {
            place.routes.insert((network_of(route.to, route.prefix_len), route.prefix_len), route.via);
        }
        for interface in &router.interfaces {
            add_interface(&mut places, spec, router, interface, &stations);
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

/// Whoever has an address on a segment, and the bridge's port that leads there.
struct Station {
    label: String,
    device: String,
    mac: Mac,
    ip: Ipv4Addr,
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
            }
        })
    });
    taps.chain(routers).collect()
}

fn add_segment(
    places: &mut BTreeMap<Place, WantedPlace>,
    spec: &NetworkSpec,
    segment: &SegmentSpec,
    stations: &BTreeMap<&str, Vec<Station>>,
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
            },
        );
    }
    for station in &stations[segment.name.as_str()] {
        switch.fdb.insert((station.device.clone(), station.mac));
        switch.neighbours.insert((bridge.clone(), station.ip), station.neighbour());
    }
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
) {
    let id = router_port_id(&router.name, &interface.name);
    let label = interface_label(&id);
    let here = End { place: Place::Router(router.name.clone()), device: interface.name.clone() };
    let (peer, plugged_into) = match &interface.attachment {
        Attachment::Segment(segment) => {
            (End { place: Place::Switch, device: naming::router_port_name(&id) }, format!("lan {segment}"))
        }
        Attachment::Link { peer_router, peer_interface } => (
            End { place: Place::Router(peer_router.clone()), device: peer_interface.clone() },
            router_port_id(peer_router, peer_interface),
        ),
    };
    // Both ends tell what the cable joins, so that a cable of an older plan is recognised as a wrong one.
    let alias = format!("{id} -> {plugged_into}");
    if let Attachment::Segment(name) = &interface.attachment
        && let Some(segment) = spec.segments.iter().find(|segment| segment.name == *name)
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
            },
        );
    }
    let place = places.entry(here.place).or_default();
    place.addresses.insert((interface.name.clone(), (interface.address, interface.prefix_len)));
    if let Attachment::Segment(segment) = &interface.attachment {
        // Learnt neighbours of all namespaces together are limited by the host's gc_thresh3 (1024 by default);
        // permanent ones are not counted.
        for station in stations[segment.as_str()].iter().filter(|station| station.device != peer.device) {
            place.neighbours.insert((interface.name.clone(), station.ip), station.neighbour());
        }
    }
    place.devices.insert(
        interface.name.clone(),
        WantedDevice {
            label,
            kind: Kind::Veth,
            alias,
            mtu: interface.mtu,
            mac: Some(interface.mac),
            port_of: None,
            bridge: Vec::new(),
            peer: Some(peer),
        },
    );
}
