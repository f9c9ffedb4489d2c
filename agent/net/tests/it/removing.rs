//! Refusals before anything is made, and clean ends.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    thread,
};

use crate::common::{Lab, chain, inspect, lan, mac, on_lan, reconcile, router, two_lans};
use fleet_net::{Attachment, NetConfig, NetError, Network, NetworkSpec, SpecError};
use nix::sched::{CloneFlags, unshare};

#[tokio::test]
async fn more_ports_than_a_bridge_takes_are_refused_before_anything_is_made() {
    let lab = Lab::new();
    let network = lab.network("crowded");
    // A router's port counts, too.
    let spec = NetworkSpec {
        routers: vec![router("gate", vec![on_lan("eth0", 1, 2000)], Vec::new())],
        ..lan("crowded", 1023)
    };
    for result in [network.plan(&spec).await, network.reconcile(&spec, |_| ()).await] {
        let error = result.unwrap_err();
        assert!(error.to_string().contains("lan1 has 1024 ports"), "{error}");
    }
    assert_eq!(lab.files(), Vec::<PathBuf>::new());
    let spec = NetworkSpec { routers: Vec::new(), ..spec };
    assert_eq!(spec.check(), Vec::new());
}

#[test]
fn every_problem_of_a_network_is_told_at_once() {
    let mut spec = two_lans("wrong");
    spec.segments[0].ports[1] = spec.segments[0].ports[0].clone();
    spec.segments[1].ports[0].mac = [0xff; 6];
    spec.segments[1].mtu = 10;
    spec.routers[0].interfaces[0].name = "an-interface-too-long".into();
    spec.routers[0].interfaces[1].attachment = Attachment::Segment("nowhere".into());
    spec.routers[0].routes.push(crate::common::route_to(9, crate::common::ip(77, 1)));
    let problems = spec.check();
    let kinds: [fn(&SpecError) -> bool; 8] = [
        |p| matches!(p, SpecError::Duplicate { kind: "port", .. }),
        |p| matches!(p, SpecError::DuplicateMac { mac, .. } if mac == "02:00:00:01:00:01"),
        |p| matches!(p, SpecError::DuplicateAddress { .. }),
        |p| matches!(p, SpecError::BadValue { what, .. } if what.contains("ff:ff:ff:ff:ff:ff")),
        |p| matches!(p, SpecError::BadValue { what, .. } if what.contains("MTU 10")),
        |p| matches!(p, SpecError::BadName { kind: "interface", .. }),
        |p| matches!(p, SpecError::Unknown { kind: "lan", name, .. } if name == "nowhere"),
        |p| matches!(p, SpecError::UnreachableHop { .. }),
    ];
    for (number, kind) in kinds.iter().enumerate() {
        assert_eq!(problems.iter().filter(|problem| kind(problem)).count(), 1, "kind {number} of {problems:#?}");
    }
    assert_eq!(problems.len(), kinds.len(), "{problems:#?}");
}

#[test]
fn a_link_must_be_wanted_by_both_ends() {
    let mut spec = chain("one-sided");
    assert_eq!(spec.check(), Vec::new());
    spec.routers[1].interfaces[0].attachment = Attachment::Segment("lan1".into());
    spec.routers[1].interfaces[0].mac = mac(1, 99);
    let problems = spec.check();
    assert!(matches!(&problems[..], [SpecError::OneSidedLink { port, .. }] if port == "a/eth1"), "{problems:?}");
}

#[tokio::test]
async fn a_network_is_made_under_its_own_name_only() {
    let lab = Lab::new();
    let error = lab.network("one").reconcile(&lan("other", 1), |_| ()).await.unwrap_err();
    assert!(matches!(error, NetError::OtherExperiment { .. }), "{error}");
    let config = NetConfig { prefix: "a-b".into(), ..lab.config() };
    assert!(matches!(Network::open(config, "one"), Err(NetError::Prefix { .. })));
}

#[tokio::test]
async fn removal_leaves_no_namespace_mount_or_file() {
    let lab = Lab::new();
    let network = lab.up(&chain("gone")).await;
    let held = network.open_tap(&crate::common::port_id(1, 1)).await.unwrap();
    assert_eq!((lab.files().len(), lab.mounts()), (4, 4));
    let error_texts: Vec<_> = network.remove().await.iter().map(ToString::to_string).collect();
    assert_eq!(error_texts, Vec::<String>::new());
    assert_eq!((lab.files().len(), lab.mounts()), (0, 0));
    // Once more, and with nothing there, is no error; nor does a name that is in use stand in a new network's way.
    assert!(network.remove().await.is_empty());
    reconcile(&network, &chain("gone")).await;
    drop(held);
}

#[tokio::test]
async fn removal_goes_on_past_an_error_and_tells_it() {
    let lab = Lab::new();
    let network = lab.up(&chain("stubborn")).await;
    // A folder where a router's file should be can be neither unmounted nor removed as a file.
    let odd = lab.config().netns_dir.join("test-stubborn-r-aa");
    fs::create_dir(&odd).unwrap();
    let errors = network.remove().await;
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].to_string().contains("test-stubborn-r-aa"), "{}", errors[0]);
    assert_eq!(lab.files(), [odd]);
}

#[tokio::test]
async fn experiments_with_namespaces_are_listed_by_their_full_names() {
    let lab = Lab::new();
    assert_eq!(Network::list(&lab.config()).await.unwrap(), Vec::<String>::new());
    let long = "an experiment: its name is long, and such as no file should have for its own";
    for name in ["plain", "plain-r", long] {
        lab.up(&two_lans(name)).await;
    }
    // What a crash may leave: of another experiment a router's file alone.
    fs::write(lab.config().netns_dir.join("test-half-r-core"), "").unwrap();
    // Not ours.
    fs::write(lab.config().netns_dir.join("tester-x"), "").unwrap();
    let mut names = Network::list(&lab.config()).await.unwrap();
    names.sort();
    assert_eq!(names, [long, "half", "plain", "plain-r"]);
    for name in &names {
        assert!(lab.network(name).remove().await.is_empty());
    }
    assert_eq!(Network::list(&lab.config()).await.unwrap(), Vec::<String>::new());
}

#[test]
fn the_hosts_own_network_is_never_touched() {
    // A namespace that stands for the host, so that nobody else on the real one disturbs the comparison.
    let test = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let host = Path::new("/proc/thread-self/ns/net");
        let before = (inspect::links(host), settings());
        let lab = Lab::new();
        runtime.block_on(async {
            let network = lab.up(&two_lans("guest-of-the-host")).await;
            assert_eq!((inspect::links(host), settings()), before);
            assert!(network.remove().await.is_empty());
        });
        assert_eq!((inspect::links(host), settings()), before);
    };
    thread::Builder::new().spawn(test).unwrap().join().unwrap();
}

/// The network settings of the calling thread's namespace that the crate changes in others, and their neighbours.
fn settings() -> BTreeMap<PathBuf, String> {
    let mut settings = BTreeMap::new();
    let mut folders = ["ipv4/conf", "ipv6/conf", "bridge"].map(|dir| Path::new("/proc/sys/net").join(dir)).to_vec();
    settings.insert("ip_forward".into(), fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            match fs::read_to_string(&path) {
                Ok(value) => drop(settings.insert(path, value)),
                // Some settings are for writing only, or are a secret that is not set.
                Err(_) if !path.is_dir() => {}
                Err(_) => folders.push(path),
            }
        }
    }
    assert!(settings.len() > 20, "{settings:?}");
    settings
}
