//! Segments over hosts: real frames through real tunnels, between namespaces that stand for hosts.

#![allow(clippy::unwrap_used)]

use crate::common::{
    guest::{BROADCAST, Guest, experiment_frame, ping},
    hosts::{Hosts, crossing_lan, has_tunnels, kind, wait_for},
    inspect, ip, mac,
};
use fleet_net::NetworkOptions;

const ARP: [u8; 2] = [0x08, 0x06];
const IPV4: [u8; 2] = [0x08, 0x00];

/// A frame to all OSPF routers.
fn hello(guest: &Guest) -> Vec<u8> {
    experiment_frame([0x01, 0, 0x5e, 0, 0, 5], guest.mac)
}

fn plug(hosts: &Hosts, host: usize, experiment: &str, number: u16) -> Guest {
    wait_for(Guest::plug(&hosts.network(host, experiment), 1, number))
}

#[test]
fn guests_on_two_hosts_reach_each_other_and_only_their_packets_go_over_the_wire() {
    if !has_tunnels() {
        return;
    }
    for hosts in [Hosts::new(2), Hosts::with_ipv6(2)] {
        let specs = crossing_lan(&hosts, "pair", &[&[1, 2], &[3]]);
        let watch = hosts.watch();
        for (host, spec) in specs.iter().enumerate() {
            hosts.reconcile(host, spec);
        }
        let (mut a, mut b) = (plug(&hosts, 0, "pair", 1), plug(&hosts, 1, "pair", 3));
        let hop = b.ip;
        assert_eq!(ping(&mut a, &mut b, hop, 1), 64);
        let hop = a.ip;
        assert_eq!(ping(&mut b, &mut a, hop, 2), 64);
        let inner = watch.inner();
        assert!(!inner.is_empty());
        for frame in inner {
            assert_eq!(kind(&frame), IPV4, "{frame:02x?}");
            assert!([a.mac, b.mac].iter().all(|mac| frame[..12].windows(6).any(|at| at == mac)), "{frame:02x?}");
        }
    }
}

#[test]
fn a_packet_as_long_as_the_segment_allows_passes() {
    if !has_tunnels() {
        return;
    }
    for hosts in [Hosts::new(2), Hosts::with_ipv6(2)] {
        let specs = crossing_lan(&hosts, "long", &[&[1], &[2]]);
        specs.iter().enumerate().for_each(|(host, spec)| drop(hosts.reconcile(host, spec)));
        let (mut a, mut b) = (plug(&hosts, 0, "long", 1), plug(&hosts, 1, "long", 2));
        let frame = crate::common::guest::ethernet(b.mac, a.mac, [0x88, 0xb5], &[7; 1500]);
        a.send(&frame);
        assert_eq!(b.receive(crate::common::hosts::PATIENCE), Some(frame));
    }
}

#[test]
fn no_arp_broadcast_multicast_or_unknown_unicast_goes_over_the_wire() {
    if !has_tunnels() {
        return;
    }
    let hosts = Hosts::new(2);
    let specs = crossing_lan(&hosts, "still", &[&[1, 2], &[3]]);
    specs.iter().enumerate().for_each(|(host, spec)| drop(hosts.reconcile(host, spec)));
    let (mut a, mut b) = (plug(&hosts, 0, "still", 1), plug(&hosts, 0, "still", 2));
    let mut far = plug(&hosts, 1, "still", 3);
    let watch = hosts.watch();
    assert_eq!(a.resolve(far.ip), Some(far.mac), "answered on this host");
    assert_eq!(far.resolve(a.ip), Some(a.mac));
    // Nobody's address, everybody's, a group's, and no station's.
    a.send(&a.arp_request(ip(1, 77)));
    a.send(&experiment_frame(BROADCAST, a.mac));
    a.send(&hello(&a));
    a.send(&experiment_frame([0x02, 0xee, 0, 0, 0, 1], a.mac));
    a.send(&a.marker(1));
    b.frames_until_marker(&a, 1);
    // What follows is all that crosses.
    let last = experiment_frame(far.mac, a.mac);
    a.send(&last);
    assert_eq!(far.receive(crate::common::hosts::PATIENCE), Some(last.clone()));
    assert!(watch.inner().iter().all(|frame| *frame == last));
}

#[test]
fn on_a_segment_with_multicast_each_host_gets_one_copy_of_what_is_for_all() {
    if !has_tunnels() {
        return;
    }
    let hosts = Hosts::new(3);
    let mut specs = crossing_lan(&hosts, "loud", &[&[1], &[2, 3], &[4]]);
    for (host, spec) in specs.iter_mut().enumerate() {
        spec.segments[0].multicast = true;
        hosts.reconcile(host, spec);
    }
    let mut a = plug(&hosts, 0, "loud", 1);
    let mut others = [(1, 2), (1, 3), (2, 4)].map(|(host, number)| plug(&hosts, host, "loud", number));
    let watch = hosts.watch();
    assert_eq!(a.resolve(others[2].ip), Some(others[2].mac));
    let frames = [hello(&a), experiment_frame(BROADCAST, a.mac)];
    frames.iter().for_each(|frame| a.send(frame));
    a.send(&a.marker(1));
    for other in &mut others {
        assert_eq!(other.frames_until_marker(&a, 1), frames);
    }
    assert!(watch.inner().iter().all(|frame| kind(frame) != ARP), "planned addresses are answered locally");
}

#[test]
fn what_comes_out_of_a_tunnel_must_be_from_a_station_behind_it() {
    if !has_tunnels() {
        return;
    }
    let hosts = Hosts::new(2);
    let mut specs = crossing_lan(&hosts, "forged", &[&[1], &[2, 3]]);
    specs[0].options = NetworkOptions { port_security: false };
    specs.iter().enumerate().for_each(|(host, spec)| drop(hosts.reconcile(host, spec)));
    let mut a = plug(&hosts, 0, "forged", 1);
    let mut b = plug(&hosts, 1, "forged", 2);
    // A stranger's address, and that of a guest of the other host.
    a.send(&experiment_frame(b.mac, mac(99, 1)));
    a.send(&experiment_frame(b.mac, mac(1, 3)));
    let honest = experiment_frame(b.mac, a.mac);
    a.send(&honest);
    assert_eq!(b.receive(crate::common::hosts::PATIENCE), Some(honest));
    assert_eq!(inspect::learnt_macs(&hosts.network(1, "forged").switch_namespace()), Vec::<[u8; 6]>::new());
}

#[test]
fn stations_of_one_host_have_no_tunnel() {
    let hosts = Hosts::new(1);
    let specs = crossing_lan(&hosts, "alone", &[&[1, 2]]);
    let report = hosts.reconcile(0, &specs[0]);
    assert_eq!(report.made, ["lan lan1", "port pc1[0]/eth0", "port pc1[1]/eth0"]);
    let names: Vec<_> = inspect::links(&hosts.network(0, "alone").switch_namespace()).into_keys().collect();
    assert!(!names.iter().any(|name| name.contains("tunnel")), "{names:?}");
}
