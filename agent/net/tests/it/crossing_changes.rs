//! What becomes of tunnels when stations and hosts come and go; refusals, and clean ends.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use crate::common::{
    chain,
    guest::{Guest, ping},
    hosts::{Hosts, crossing_lan, has_tunnels, on_hosts, wait_for},
    inspect, lan, reconcile,
};
use fleet_net::{NetReport, SpecError, overhead};

fn plug(hosts: &Hosts, host: usize, experiment: &str, number: u16) -> Guest {
    wait_for(Guest::plug(&hosts.network(host, experiment), 1, number))
}

/// A ping from a guest to another on one lan, whatever hosts they are on.
fn reaches(a: &mut Guest, b: &mut Guest, sequence: u16) {
    let hop = b.ip;
    ping(a, b, hop, sequence);
}

#[test]
fn a_second_run_changes_nothing_and_a_new_process_finds_what_an_earlier_one_made() {
    if !has_tunnels() {
        return;
    }
    let hosts = Hosts::new(2);
    let mut specs = crossing_lan(&hosts, "twice", &[&[1], &[2, 3]]);
    specs.iter_mut().for_each(|spec| spec.segments[0].multicast = true);
    let planned = hosts.plan(0, &specs[0]).unwrap();
    assert_eq!(hosts.files(0), Vec::<PathBuf>::new());
    assert_eq!(planned.made, ["lan lan1", "port pc1[0]/eth0", "tunnel lan1"]);
    assert_eq!(planned, hosts.reconcile(0, &specs[0]));
    assert_eq!(hosts.reconcile(0, &specs[0]), NetReport { unchanged: 3, ..NetReport::default() });
}

#[test]
fn stations_come_go_and_move_and_each_host_changes_only_the_difference() {
    if !has_tunnels() {
        return;
    }
    let hosts = Hosts::new(3);
    let bring = |members: &[&[u16]]| -> Vec<NetReport> {
        let specs = crossing_lan(&hosts, "moves", members);
        specs.iter().enumerate().map(|(host, spec)| hosts.reconcile(host, spec)).collect()
    };
    bring(&[&[1], &[2], &[]]);
    let (mut a, mut b) = (plug(&hosts, 0, "moves", 1), plug(&hosts, 1, "moves", 2));
    reaches(&mut a, &mut b, 1);
    let before = inspect::links(&hosts.network(0, "moves").switch_namespace());

    // A third host joins, and one more station on the second.
    let reports = bring(&[&[1], &[2, 3], &[4]]);
    let changed = NetReport { changed: vec!["tunnel lan1".into()], unchanged: 2, ..NetReport::default() };
    assert_eq!(reports[0], changed);
    assert_eq!((&reports[1].made, &reports[1].changed), (&vec!["port pc1[2]/eth0".into()], &changed.changed));
    assert_eq!(inspect::links(&hosts.network(0, "moves").switch_namespace()), before);
    let (mut c, mut d) = (plug(&hosts, 1, "moves", 3), plug(&hosts, 2, "moves", 4));
    reaches(&mut a, &mut c, 2);
    reaches(&mut d, &mut b, 3);
    reaches(&mut a, &mut d, 4);

    // One moves from the second host to the third.
    drop(c);
    let reports = bring(&[&[1], &[2], &[4, 3]]);
    assert_eq!(reports[0], changed, "one entry leads elsewhere");
    assert_eq!(reports[1].removed, ["port pc1[2]/eth0"]);
    assert_eq!(reports[2].made, ["port pc1[2]/eth0"]);
    let mut c = plug(&hosts, 2, "moves", 3);
    reaches(&mut a, &mut c, 5);
    reaches(&mut b, &mut c, 6);

    // The third host goes: its stations come to the first, and nothing of the experiment stays on it.
    drop((c, d));
    let reports = bring(&[&[1, 3, 4], &[2], &[]]);
    assert_eq!(reports[2].removed, ["lan lan1", "port pc1[2]/eth0", "port pc1[3]/eth0", "tunnel lan1"]);
    assert_eq!(hosts.files(2), Vec::<PathBuf>::new());
    let mut c = plug(&hosts, 0, "moves", 3);
    reaches(&mut b, &mut c, 7);
    reaches(&mut a, &mut c, 8);

    // All on one: it has no tunnel any more.
    let reports = bring(&[&[1, 2, 3, 4], &[], &[]]);
    assert_eq!(reports[0].removed, ["tunnel lan1"]);
    drop(b);
    let mut b = plug(&hosts, 0, "moves", 2);
    reaches(&mut a, &mut b, 9);
}

#[test]
fn what_somebody_did_to_a_tunnel_is_put_right() {
    if !has_tunnels() {
        return;
    }
    let hosts = Hosts::new(2);
    let specs = crossing_lan(&hosts, "damaged", &[&[1], &[2]]);
    specs.iter().enumerate().for_each(|(host, spec)| drop(hosts.reconcile(host, spec)));
    let switch = hosts.network(0, "damaged").switch_namespace();
    let (mut a, mut b) = (plug(&hosts, 0, "damaged", 1), plug(&hosts, 1, "damaged", 2));
    inspect::delete_link(&switch, inspect::links(&switch)["tunnel lan1"].index);
    let report = hosts.reconcile(0, &specs[0]);
    assert_eq!((report.made, report.changed.len()), (vec!["tunnel lan1".into()], 0));
    reaches(&mut a, &mut b, 1);
    inspect::set_down(&switch, inspect::links(&switch)["tunnel lan1"].index);
    assert_eq!(hosts.reconcile(0, &specs[0]).changed, ["tunnel lan1"]);
    reaches(&mut b, &mut a, 2);
    assert!(hosts.reconcile(0, &specs[0]).is_empty());
}

#[test]
fn what_does_not_fit_into_the_underlay_is_refused_with_the_sums_and_the_mend() {
    if !has_tunnels() {
        return;
    }
    for (hosts, room) in [(Hosts::new(2), 1450), (Hosts::with_ipv6(2), 1430)] {
        let mut specs = crossing_lan(&hosts, "tight", &[&[1], &[2]]);
        hosts.set_mtu(0, 1500);
        for result in [hosts.plan(0, &specs[0]), hosts.try_reconcile(0, &specs[0])] {
            let error = result.unwrap_err().to_string();
            let raised = 1500 + overhead(hosts.address(0));
            let parts =
                ["lan lan1 has MTU 1500", "(underlay) has 1500", &format!("`mtu {room}`"), &format!("to {raised}")];
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
        assert_eq!(hosts.files(0), Vec::<PathBuf>::new());
        specs[0].segments[0].mtu = room;
        hosts.reconcile(0, &specs[0]);
    }
    // Links, too; the segments are smaller.
    let hosts = Hosts::new(2);
    let mut spec = chain("link");
    spec.segments.iter_mut().for_each(|segment| segment.mtu = 1400);
    let specs = on_hosts(&hosts, &spec, |_| 0, |router| usize::from(router == "c"));
    hosts.set_mtu(0, 1500);
    let error = hosts.plan(0, &specs[0]).unwrap_err().to_string();
    assert!(error.contains("the link from b/eth1 to c/eth0 has MTU 1500"), "{error}");
}

#[test]
fn an_underlay_that_the_host_has_not_is_refused() {
    if !has_tunnels() {
        return;
    }
    let hosts = Hosts::new(2);
    let mut specs = crossing_lan(&hosts, "elsewhere", &[&[1], &[2]]);
    specs[0].underlay = Some([198, 51, 100, 1].into());
    let error = hosts.plan(0, &specs[0]).unwrap_err().to_string();
    assert!(error.contains("198.51.100.1 is on no device of this host"), "{error}");
    specs[0].underlay = None;
    assert!(matches!(&specs[0].check()[..], [SpecError::NoLocalEnd { what }] if what == "lan lan1"));
    specs[0].underlay = Some("2001:db8::1".parse().unwrap());
    assert!(matches!(&specs[0].check()[..], [SpecError::BadFarEnd { problem, .. }] if problem.contains("IPv6")));
    specs[0].underlay = Some(hosts.address(1));
    assert!(matches!(&specs[0].check()[..], [SpecError::BadFarEnd { problem, .. }] if problem.contains("own address")));
}

#[test]
fn a_vni_of_another_experiment_is_refused_and_free_as_soon_as_that_is_removed() {
    if !has_tunnels() {
        return;
    }
    let hosts = Hosts::new(2);
    let first = crossing_lan(&hosts, "first", &[&[1], &[2]]);
    let second = crossing_lan(&hosts, "second", &[&[1], &[2]]);
    hosts.reconcile(0, &first[0]);
    // A VM that still runs keeps the namespace, nameless.
    let held = wait_for(hosts.network(0, "first").open_tap(&crate::common::port_id(1, 1))).unwrap();
    let error = hosts.plan(0, &second[0]).unwrap_err().to_string();
    assert!(error.contains("the VNI 1 is in use by experiment first"), "{error}");
    assert!(hosts.plan(0, &first[0]).unwrap().is_empty(), "its own are no others'");
    assert!(wait_for(hosts.network(0, "first").remove()).is_empty());
    hosts.reconcile(0, &second[0]);
    drop(held);
}

#[test]
fn two_segments_with_one_vni_are_refused() {
    let hosts = Hosts::new(2);
    let mut spec = crossing_lan(&hosts, "double", &[&[1], &[2]]).remove(0);
    let mut other = spec.segments[0].clone();
    other.name = "lan2".into();
    other.ports.clear();
    spec.segments.push(other);
    assert!(matches!(&spec.check()[..], [SpecError::BadVni { what, vni: 1, .. }] if what == "lan lan2"));
    spec.segments[1].tunnel.as_mut().unwrap().vni = 1 << 24;
    assert!(matches!(&spec.check()[..], [SpecError::BadVni { problem, .. }] if problem.contains("16,777,215")));
}

#[test]
fn the_hosts_own_network_gets_no_device_and_removal_leaves_nothing() {
    if !has_tunnels() {
        return;
    }
    let hosts = Hosts::new(2);
    let before = inspect::links(&hosts.namespace(0));
    let specs = on_hosts(&hosts, &chain("tidy"), |_| 0, |router| usize::from(router != "a"));
    specs.iter().enumerate().for_each(|(host, spec)| drop(hosts.reconcile(host, spec)));
    assert_eq!(inspect::links(&hosts.namespace(0)), before);
    for host in 0..2 {
        assert!(wait_for(hosts.network(host, "tidy").remove()).is_empty());
        assert_eq!(hosts.files(host), Vec::<PathBuf>::new());
    }
    assert_eq!(inspect::links(&hosts.namespace(0)), before);
}

#[tokio::test]
async fn an_experiment_of_which_nothing_is_here_has_no_namespace() {
    let lab = crate::common::Lab::new();
    let network = lab.network("gone");
    let nothing = lan("gone", 0);
    let nothing = fleet_net::NetworkSpec { segments: Vec::new(), ..nothing };
    assert!(reconcile(&network, &nothing).await.is_empty());
    assert_eq!(lab.files(), Vec::<PathBuf>::new());
    reconcile(&network, &chain("gone")).await;
    let planned = network.plan(&nothing).await.unwrap();
    assert_eq!(planned, reconcile(&network, &nothing).await);
    assert!(planned.removed.contains(&"router a".to_owned()) && planned.removed.contains(&"lan lan1".to_owned()));
    assert_eq!((lab.files(), lab.mounts()), (Vec::<PathBuf>::new(), 0));
}
