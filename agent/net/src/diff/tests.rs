//! The comparison on small pictures.

use std::net::Ipv4Addr;

use super::*;
use crate::{
    spec::{
        Attachment, InterfaceSpec, NetworkOptions, NetworkSpec, PortSpec, RemoteStation, RouterSpec, SegmentSpec,
        TunnelSpec,
    },
    wanted,
};

const FAR_HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

/// A segment with two ports, the router a, which is linked to the router b, and two stations on another host; a is
/// linked to a router there, too.
fn wanted() -> BTreeMap<Place, WantedPlace> {
    let port = |host| PortSpec { id: format!("pc{host}"), mac: [2, 0, 0, 0, 0, host], ip: [10, 0, 0, host].into() };
    let interface = |name: &str, attachment, host| InterfaceSpec {
        name: name.into(),
        attachment,
        mac: [2, 0, 0, 0, 1, host],
        address: Ipv4Addr::new(10, 0, 1, host),
        prefix_len: 24,
        mtu: 1500,
    };
    let link = |router: &str, name: &str| Attachment::Link { peer_router: router.into(), peer_interface: name.into() };
    let station = |host| RemoteStation { mac: [2, 0, 0, 0, 2, host], ip: [10, 0, 2, host].into(), host: FAR_HOST };
    let far = Attachment::Tunnel { vni: 2, peer: "c/eth0".into(), station: station(9) };
    let a = vec![
        interface("eth0", Attachment::Segment("lan".into()), 1),
        interface("eth1", link("b", "eth0"), 2),
        interface("eth2", far, 4),
    ];
    let b = vec![interface("eth0", link("a", "eth1"), 3)];
    let spec = NetworkSpec {
        experiment: "x".into(),
        underlay: Some([192, 0, 2, 1].into()),
        segments: vec![SegmentSpec {
            name: "lan".into(),
            mtu: 1500,
            multicast: true,
            ports: vec![port(1), port(2)],
            tunnel: Some(TunnelSpec { vni: 1, stations: vec![station(1), station(2)] }),
        }],
        routers: [("a", a), ("b", b)]
            .map(|(name, interfaces)| RouterSpec { name: name.into(), interfaces, routes: Vec::new() })
            .to_vec(),
        options: NetworkOptions::default(),
    };
    assert_eq!(spec.check(), Vec::new());
    wanted::places(&spec, 4789)
}

/// What the kernel shows once all of `wanted` is made.
fn made(wanted: &BTreeMap<Place, WantedPlace>) -> BTreeMap<Place, SeenPlace> {
    let index = |end: &End| 1 + wanted[&end.place].devices.keys().position(|n| *n == end.device).unwrap() as u32;
    let make = |(place, wanted): (&Place, &WantedPlace)| {
        let own = |name: &str| index(&End { place: place.clone(), device: name.into() });
        let is_port = |name: &String| wanted.devices[name].port_of.is_some();
        let device = |name: &str, device: &WantedDevice| SeenDevice {
            index: own(name),
            kind: Some(device.kind),
            alias: device.alias.clone(),
            mtu: device.mtu,
            mac: device.mac.unwrap_or_default().to_vec(),
            up: true,
            master: device.port_of.as_ref().map_or(0, |(bridge, _)| own(bridge)),
            peer_index: device.peer.as_ref().map_or(0, index),
            port: device.port_of.clone().map(|(_, guards)| guards).unwrap_or_default(),
            bridge: device.bridge.clone(),
            tunnel: device.tunnel,
        };
        let seen = SeenPlace {
            devices: wanted.devices.iter().map(|(n, d)| (n.clone(), device(n, d))).collect(),
            fdb: wanted.fdb.keys().filter(|(name, _)| is_port(name)).map(|(name, mac)| (own(name), *mac)).collect(),
            far: wanted.fdb.iter().filter_map(|((name, mac), host)| Some(((own(name), *mac), (*host)?))).collect(),
            copies: wanted.copies.iter().map(|(name, host)| (own(name), *host)).collect(),
            neighbours: wanted.neighbours.iter().map(|((name, ip), n)| ((own(name), *ip), n.mac)).collect(),
            addresses: wanted.addresses.iter().map(|(name, prefix)| (own(name), *prefix)).collect(),
            routes: wanted.routes.clone(),
        };
        (place.clone(), seen)
    };
    wanted.iter().map(make).collect()
}

#[test]
fn on_nothing_every_device_is_lacking_and_each_cable_once() {
    let structure = structure(&wanted(), &BTreeMap::new());
    // A bridge, two taps, the cable to the lan, the link, and two tunnels.
    assert_eq!((structure.lacking.len(), structure.doomed.len()), (7, 0));
}

#[test]
fn on_the_wanted_network_nothing_is_left_to_do() {
    let wanted = wanted();
    let seen = made(&wanted);
    assert!(structure(&wanted, &seen).is_empty());
    for (place, seen) in &seen {
        assert_eq!(settings(place, &wanted[place], seen).len(), 0);
    }
}

#[test]
fn whatever_device_is_lost_is_made_again_and_of_a_cable_the_rest_goes() {
    let wanted = wanted();
    for (place, contents) in &wanted {
        for (name, device) in &contents.devices {
            let mut seen = made(&wanted);
            seen.get_mut(place).unwrap().devices.remove(name);
            let structure = structure(&wanted, &seen);
            assert_eq!(structure.lacking.len(), 1);
            let doomed: Vec<_> = structure.doomed.into_keys().collect();
            assert_eq!(doomed, device.peer.iter().map(|peer| peer.place.clone()).collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_cable_that_joins_something_else_is_replaced() {
    let wanted = wanted();
    let mut seen = made(&wanted);
    let a = seen.get_mut(&Place::Router("a".into())).unwrap();
    a.devices.get_mut("eth1").unwrap().alias = "a/eth1 -> c/eth0".into();
    let structure = structure(&wanted, &seen);
    assert_eq!(structure.lacking, [End { place: Place::Router("a".into()), device: "eth1".into() }]);
    assert_eq!(structure.doomed.len(), 2);
}

#[test]
fn a_station_that_moves_to_another_host_changes_one_entry() {
    let wanted = wanted();
    let mut seen = made(&wanted);
    let switch = seen.get_mut(&Place::Switch).unwrap();
    *switch.far.values_mut().next().unwrap() = [192, 0, 2, 3].into();
    let settings = settings(&Place::Switch, &wanted[&Place::Switch], switch);
    let labels: Vec<_> = settings.iter().map(|setting| setting.label.as_deref()).collect();
    assert_eq!(labels, [Some("tunnel lan")]);
}

#[test]
fn what_a_tunnel_has_too_much_goes_and_what_it_lacks_comes() {
    let wanted = wanted();
    for (place, contents) in &wanted {
        let mut seen = made(&wanted);
        let seen = seen.get_mut(place).unwrap();
        let tunnels = seen.copies.len();
        let entries = contents.fdb.values().flatten().count();
        seen.far.clear();
        seen.copies.clear();
        assert_eq!(settings(place, contents, seen).len(), entries + tunnels);
        let index = seen.devices.values().find(|device| device.kind == Some(Kind::Vxlan)).map(|d| d.index);
        let Some(index) = index else { continue };
        let mut seen = made(&wanted).remove(place).unwrap();
        seen.far.insert((index, [2, 0, 0, 0, 9, 9]), FAR_HOST);
        seen.copies.insert((index, [192, 0, 2, 9].into()));
        assert_eq!(settings(place, contents, &seen).len(), 2);
    }
}

#[test]
fn a_tunnel_with_other_settings_is_replaced() {
    let wanted = wanted();
    let mut seen = made(&wanted);
    for device in seen.values_mut().flat_map(|place| place.devices.values_mut()) {
        if let Some(tunnel) = &mut device.tunnel {
            tunnel.vni += 10;
        }
    }
    let structure = structure(&wanted, &seen);
    assert_eq!(structure.lacking.len(), 2);
    assert_eq!(structure.doomed.values().map(Vec::len).sum::<usize>(), 2);
}

#[test]
fn a_setting_that_the_kernel_does_not_know_is_not_asked_for_again() {
    let wanted = wanted();
    let mut seen = made(&wanted);
    let switch = seen.get_mut(&Place::Switch).unwrap();
    let tap = switch.devices.values_mut().find(|device| device.kind == Some(Kind::Tap)).unwrap();
    tap.port.retain(|guard| !matches!(guard, rtnetlink::packet_route::link::InfoBridgePort::Locked(_)));
    assert_eq!(settings(&Place::Switch, &wanted[&Place::Switch], switch).len(), 0);
}
