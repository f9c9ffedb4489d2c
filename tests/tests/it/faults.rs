//! The controller dies, VMs die, people press ctrl-C: nothing is lost and nothing is there twice.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;

use fleet_tests::{Fleet, Options, kill, signal, stat, until};
use nix::sys::signal::Signal;

const TEN: &str = "lan floor\nvm web[0..10] { on floor }\ncheck web[0] reaches web[*]\n";

/// Name, process and its start time of every VM: the same map means the same processes.
fn lives(fleet: &Fleet) -> BTreeMap<String, (u32, u64)> {
    fleet.vms().into_iter().map(|vm| (vm.name, (vm.pid, stat(vm.pid).map_or(0, |(_, start)| start)))).collect()
}

#[test]
fn vms_outlive_the_controller_and_the_next_command_finds_them() {
    let fleet = Fleet::new();
    let _ = fleet.ok(&["up", &fleet.example("routed.fleet")]);
    let before = lives(&fleet);
    let first = fleet.controller_pid();
    fleet.kill_controller();
    assert!(before.values().all(|(pid, _)| fleet_tests::alive(*pid)), "a VM died with the controller");

    let _ = fleet.ok(&["ps"]).says(&["starting one in the background", "routed"]);
    assert_ne!(fleet.controller_pid(), first);
    for vm in ["alice", "bob", "safe"] {
        fleet.wait_for(vm, "running");
    }
    assert_eq!(lives(&fleet), before);
    let routers = fleet.json(&["ps"])["routers"].clone();
    assert_eq!(routers[0]["up"], true, "{routers}");
    // The control channel, the console's log and the network serve as before.
    assert_eq!(fleet.exec("alice", "hostname"), "alice");
    let _ = fleet.ok(&["logs", "bob"]).says(&["press Enter"]);
    let _ = fleet.ok(&["vm", "pause", "alice"]);
    let _ = fleet.ok(&["vm", "resume", "alice"]);
    let again = fleet.json(&["up", &fleet.example("routed.fleet")]);
    assert_eq!(
        (again["outcomes"][0]["outcome"].as_str(), again["difference"]["unchanged"].as_u64()),
        (Some("already so"), Some(3))
    );
    assert!(again["checks"].as_array().unwrap().iter().all(|check| check["passed"] == true), "{again:#}");
    assert_eq!(lives(&fleet), before);
    fleet.down();
}

#[test]
fn a_machine_that_is_called_otherwise_is_the_same_host() {
    let fleet = Fleet::with(Options { config: "host = \"before\"".to_owned(), ..Options::default() });
    let file = fleet.example("hello.fleet");
    let _ = fleet.ok(&["up", &file]);
    let before = lives(&fleet);
    fleet.kill_controller();
    let config = fleet.root().join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("before", "after")).unwrap();
    let hosts = fleet.json(&["host", "ls"])["hosts"].clone();
    let names: Vec<_> = hosts.as_array().unwrap().iter().map(|host| host["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["before"]);
    assert_eq!(fleet.json(&["up", &file])["outcomes"][0]["outcome"], "already so");
    assert_eq!(lives(&fleet), before);
    fleet.down();
}

#[test]
fn a_vm_that_ended_while_no_controller_watched_is_told_of() {
    let fleet = Fleet::new();
    let _ = fleet.ok(&["up", &fleet.example("hello.fleet")]);
    let bob = fleet.vm("bob").pid;
    let _ = fleet.ok(&["vm", "stop", "alice"]);
    fleet.kill_controller();
    kill(bob);
    // One was stopped on request and stays so; the other died.
    let vms = fleet.vms();
    assert_eq!(vms[0].state, "stopped", "{vms:?}");
    assert_eq!(vms[1].state, "failed", "{vms:?}");
    assert!(!vms[1].reason.is_empty());
    let up = fleet.json(&["up", &fleet.example("hello.fleet")]);
    assert_eq!(up["outcomes"][0]["outcome"], "ok", "{up:#}");
    assert!(fleet.vms().iter().all(|vm| vm.state == "running"));
    fleet.down();
}

#[test]
fn a_controller_killed_in_the_middle_of_an_up_loses_nothing_and_starts_nothing_twice() {
    let fleet = Fleet::new();
    let file = fleet.write("ten.fleet", TEN);
    let up = fleet.spawn(&["up", "--concurrency", "2", &file]);
    until("some but not all VMs to be up", || fleet.traces().machines() >= 3);
    fleet.kill_controller();
    // The command says that the controller went away; it does not hang.
    let ended = up.wait_with_output().unwrap();
    assert!(!ended.status.success(), "the up ended well without a controller");
    let running: Vec<_> = fleet.vms().into_iter().filter(|vm| vm.pid != 0).map(|vm| (vm.pid, stat(vm.pid))).collect();

    let again = fleet.json(&["up", &file]);
    let sum: u64 = again["outcomes"].as_array().unwrap().iter().map(|fold| fold["count"].as_u64().unwrap()).sum();
    assert_eq!((again["targets"].as_u64(), sum), (Some(10), 10), "{again:#}");
    assert!(again["checks"][0]["passed"] == true, "{again:#}");
    let vms = fleet.vms();
    assert_eq!(vms.iter().filter(|vm| vm.state == "running").count(), 10, "{vms:?}");
    assert_eq!(fleet.traces().machines(), 10, "{:#?}", fleet.traces().processes);
    for (pid, life) in running {
        assert_eq!(stat(pid).map(|(_, start)| start), life.map(|(_, start)| start), "a VM that ran was started again");
    }
    fleet.down();
}

#[test]
fn a_restarted_controller_goes_on_with_an_up_by_itself() {
    let fleet = Fleet::new();
    let file = fleet.write("ten.fleet", TEN);
    let mut up = fleet.spawn(&["up", "--concurrency", "1", &file]);
    until("the first VMs", || fleet.traces().machines() >= 2);
    fleet.kill_controller();
    let _ = up.wait().unwrap();
    until("all VMs", || fleet.vms().iter().filter(|vm| vm.state == "running").count() == 10);
    assert_eq!(fleet.traces().machines(), 10);
    fleet.down();
}

#[test]
fn ctrl_c_leaves_what_up_goes_on_with() {
    let fleet = Fleet::new();
    let file = fleet.write("ten.fleet", TEN);
    let up = fleet.spawn(&["up", "--concurrency", "1", &file]);
    until("the first VMs", || fleet.traces().machines() >= 2);
    signal(up.id(), Signal::SIGINT);
    let ended = up.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130));
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(said.contains("goes on") && said.contains("fleet down ten"), "{said}");

    let again = fleet.json(&["up", &file]);
    let sum: u64 = again["outcomes"].as_array().unwrap().iter().map(|fold| fold["count"].as_u64().unwrap()).sum();
    assert_eq!((again["targets"].as_u64(), sum), (Some(10), 10), "{again:#}");
    assert_eq!(fleet.vms().iter().filter(|vm| vm.state == "running").count(), 10);
    assert_eq!(fleet.traces().machines(), 10);
    fleet.down();
}

#[test]
fn ctrl_c_leaves_what_down_removes() {
    let fleet = Fleet::new();
    let file = fleet.write("ten.fleet", TEN);
    let mut up = fleet.spawn(&["up", "--concurrency", "1", &file]);
    until("the first VM", || fleet.traces().machines() >= 1);
    signal(up.id(), Signal::SIGINT);
    assert_eq!(up.wait().unwrap().code(), Some(130));
    let _ = fleet.ok(&["down", "ten"]);
    fleet.nothing_is_left("after a ctrl-C and a down");
}

#[test]
fn a_vm_killed_from_outside_is_failed_with_a_reason_and_the_others_run() {
    let fleet = Fleet::new();
    let _ = fleet.ok(&["up", &fleet.example("hello.fleet")]);
    let before = lives(&fleet);
    kill(fleet.vm("bob").pid);
    let bob = fleet.wait_for("bob", "failed");
    assert!(bob.reason.contains("SIGKILL") || bob.reason.contains("signal 9"), "{bob:?}");
    assert_eq!(bob.pid, 0);
    let _ = fleet.ok(&["ps"]).says(&["1 running, 1 failed", "fleet ps --failed"]);
    let _ = fleet.ok(&["ps", "--failed"]).says(&["bob", &bob.reason]);
    assert_eq!(lives(&fleet)["alice"], before["alice"]);
    assert_eq!(fleet.exec("alice", "hostname"), "alice");
    let _ = fleet.run(&["exec", "bob", "--", "true"]).code(3).says(&["bob", "failed"]);

    let _ = fleet.ok(&["vm", "start", "bob"]);
    assert_eq!(fleet.vm("bob").state, "running");
    let _ = fleet.ok(&["exec", "alice", "--", "ping", "-c", "1", "10.0.0.17"]);
    assert_eq!(lives(&fleet)["alice"], before["alice"]);
    fleet.down();
}
