//! Routers on other hosts than their segments' guests, and links that cross hosts.

#![allow(clippy::unwrap_used)]

use crate::common::{
    chain,
    guest::{Guest, ping},
    hosts::{Hosts, has_tunnels, kind, on_hosts, wait_for},
    inspect, ip,
};
use fleet_net::NetReport;

const IPV4: [u8; 2] = [0x08, 0x00];

/// Two lans joined by the routers a, b, c, where the guests of the first are on host 0 and of the second on the last.
fn plug(hosts: &Hosts, experiment: &str, last: usize) -> (Guest, Guest) {
    let guest = |host, lan| wait_for(Guest::plug(&hosts.network(host, experiment), lan, 1));
    (guest(0, 1), guest(last, 2))
}

#[test]
fn a_chain_of_routers_works_wherever_they_are() {
    if !has_tunnels() {
        return;
    }
    // All together, each at its guests, each with a host of its own, none at its guests.
    for (number, routers) in [[0, 0, 0], [0, 1, 2], [1, 2, 0], [2, 2, 1]].into_iter().enumerate() {
        let name = format!("chain{number}");
        let hosts = Hosts::new(3);
        let placed = |router: &str| routers[usize::from(router.as_bytes()[0] - b'a')];
        let specs = on_hosts(&hosts, &chain(&name), |port| if port.starts_with("pc1") { 0 } else { 2 }, placed);
        let watch = hosts.watch();
        for (host, spec) in specs.iter().enumerate() {
            hosts.reconcile(host, spec);
            assert!(hosts.reconcile(host, spec).is_empty(), "nothing is left to do");
        }
        let (mut x, mut y) = plug(&hosts, &name, 2);
        // As on one host, whoever is where.
        assert_eq!(ping(&mut x, &mut y, ip(1, 254), 1), 61);
        assert!(watch.inner().iter().all(|frame| kind(frame) == IPV4), "routers do not ask either");
        let routers = (0..3).map(|host| wait_for(hosts.network(host, &name).routers()).unwrap());
        let routers: Vec<_> = routers.flatten().collect();
        assert_eq!(routers.len(), 3);
        assert!(routers.iter().all(|router| router.is_up() && router.interfaces.len() == 2), "{routers:?}");
    }
}

#[test]
fn routers_move_between_hosts_and_change_places() {
    if !has_tunnels() {
        return;
    }
    let hosts = Hosts::new(2);
    let spec = chain("moving");
    let mut sequence = 0;
    let at_guests = |port: &str| if port.starts_with("pc1") { 0 } else { 1 };
    for places in [[0, 0, 1], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]] {
        let placed = |router: &str| places[usize::from(router.as_bytes()[0] - b'a')];
        let specs = on_hosts(&hosts, &spec, at_guests, placed);
        for (host, spec) in specs.iter().enumerate() {
            let planned = hosts.plan(host, spec).unwrap();
            let report = hosts.reconcile(host, spec);
            // What is set anew as a consequence is not known before.
            let what = |report: &NetReport| (report.made.clone(), report.removed.clone());
            assert_eq!(what(&planned), what(&report), "{places:?} on host {host}");
        }
        let (mut x, mut y) = plug(&hosts, "moving", 1);
        sequence += 1;
        assert_eq!(ping(&mut x, &mut y, ip(1, 254), sequence), 61, "{places:?}");
    }
}

#[test]
fn a_link_over_hosts_is_a_port_that_is_counted() {
    if !has_tunnels() {
        return;
    }
    let hosts = Hosts::new(2);
    let placed = |router: &str| usize::from(router != "a");
    let at_guests = |port: &str| if port.starts_with("pc1") { 0 } else { 1 };
    let specs = on_hosts(&hosts, &chain("counted"), at_guests, placed);
    specs.iter().enumerate().for_each(|(host, spec)| drop(hosts.reconcile(host, spec)));
    let (mut x, mut y) = plug(&hosts, "counted", 1);
    ping(&mut x, &mut y, ip(1, 254), 1);
    let counters = wait_for(hosts.network(0, "counted").counters()).unwrap();
    let link = counters.iter().find(|counter| counter.port == "a/eth1").unwrap();
    assert_eq!(link.segment, None);
    assert!(link.rx_frames >= 1 && link.tx_frames >= 1, "{link:?}");
    // Two guests of lan1 are here, and a with its two interfaces; a tunnel of a segment is nobody's port.
    assert_eq!(counters.len(), 4);
    let router = hosts.network(0, "counted").router_namespace("a");
    assert!(inspect::links(&router).contains_key("a/eth1 -> b/eth0"));
}
