//! One experiment over thirteen hosts, told in a tree of three levels: whoever dies meanwhile, every guest reaches every
//! other in the end, and nothing is left after it.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;
use std::process::Child;

use fleet_tests::{Fleet, Lab, Vm, stat, until};
use serde_json::Value;

/// Two VMs on each host, on two lans, and a router between these on one of the hosts.
const FILE: &str = r"lan floor
lan attic
router gw { on floor; on attic }
default vm { hypervisor uml; mem 40MiB }
vm low[0..13]  { on floor; apart }
vm high[0..13] { on attic; apart }
check low[*] reaches low[*]
check low[*] reaches high[*]
check high[*] reaches low[*]
check high[*] reaches high[*]
";
const VMS: u64 = 26;
/// With 12 agents in three racks of four and three branches a host, the first of each rack tells the others of it.
const TREE: &str = "tree_k = 3";
const INTERIOR: &str = "h05";

/// Process and its start time of each VM that runs, by name: the same map means the same processes.
fn lives(lab: &Lab) -> BTreeMap<String, (u32, u64)> {
    let running = lab.fleet().vms().into_iter().filter(|vm| vm.state == "running");
    running.map(|vm: Vm| (vm.name, (vm.pid, stat(vm.pid).map_or(0, |(_, start)| start)))).collect()
}

/// Begins an `up` and waits until a host has made something of it: by then all were told, and few are done.
fn begin(lab: &Lab, file: &str, host: &Fleet) -> Child {
    let mut up = lab.fleet().spawn(&["up", file]);
    let mut ended = || up.try_wait().unwrap().is_some();
    until("something of the experiment", || ended() || !host.traces().namespaces.is_empty());
    if ended() {
        let output = up.wait_with_output().unwrap();
        panic!(
            "`up` ended before: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    up
}

/// Every VM runs, once, two on each host; and packets go from each to each.
fn is_whole(lab: &Lab, file: &str) -> BTreeMap<String, (u32, u64)> {
    until("all VMs to run", || lives(lab).len() as u64 == VMS);
    let up = lab.fleet().json(&["up", file]);
    let checks = up["checks"].as_array().unwrap();
    assert_eq!(checks.len(), 4, "{up:#}");
    assert!(checks.iter().all(|check| check["passed"] == true), "{up:#}");
    let sum: u64 = up["outcomes"].as_array().unwrap().iter().map(|fold| fold["count"].as_u64().unwrap()).sum();
    assert_eq!((sum, up["targets"].as_u64()), (VMS, Some(VMS)), "{up:#}");
    let ps = lab.fleet().json(&["ps"]);
    let mut by_host: BTreeMap<&str, u32> = BTreeMap::new();
    for vm in ps["vms"].as_array().unwrap() {
        *by_host.entry(vm["host"].as_str().unwrap()).or_default() += 1;
    }
    assert!(by_host.len() == 13 && by_host.values().all(|vms| *vms == 2), "{by_host:?}");
    assert_eq!(ps["routers"][0]["up"], Value::from(true), "{ps:#}");
    assert_eq!(lab.machines() as u64, VMS, "a VM runs twice, or one is not listed");
    lives(lab)
}

/// Takes it down; every host is as it was before.
fn down(lab: &Lab, before: &[fleet_tests::Traces]) {
    let _ = lab.fleet().ok(&["down"]);
    let now = || lab.folders().map(|fleet| fleet.traces().of_experiments()).collect::<Vec<_>>();
    if !fleet_tests::within(std::time::Duration::from_secs(20), || now() == before) {
        panic!("left: {:#?}\nwas: {before:#?}", now());
    }
    assert_eq!(lab.fleet().json(&["ps"])["vms"], serde_json::json!([]));
}

#[test]
fn every_guest_reaches_every_other_whoever_dies_in_the_middle_of_an_up() {
    let mut lab = Lab::new(12, TREE);
    let file = lab.fleet().write("tree.fleet", FILE);
    let before: Vec<_> = lab.folders().map(|fleet| fleet.traces().of_experiments()).collect();

    // An agent that tells others dies.
    let interior = &lab.hosts().iter().find(|host| host.name == INTERIOR).unwrap().fleet;
    let mut up = begin(&lab, &file, interior);
    lab.kill(INTERIOR);
    lab.restart(INTERIOR);
    up.wait().unwrap();
    let made = is_whole(&lab, &file);

    // A host is cut off, and healed: nothing was moved, and nothing started again.
    lab.cut("h09");
    lab.wait_for("h09", "unknown");
    lab.heal("h09");
    lab.wait_for("h09", "ready");
    assert_eq!(is_whole(&lab, &file), made);
    down(&lab, &before);

    // The controller dies; the next one goes on by itself.
    let mut up = begin(&lab, &file, lab.fleet());
    lab.kill_controller();
    up.wait().unwrap();
    lab.start_controller();
    lab.until_ready();
    let made = is_whole(&lab, &file);
    assert_eq!(is_whole(&lab, &file), made);
    down(&lab, &before);
}
