//! `fleet vm`: stop, start, reboot, pause and resume, on one VM and on targets.
#![allow(clippy::unwrap_used, missing_docs)]

use fleet_tests::Fleet;

const FLOOR: &str = "lan floor\nvm web[0..3] { on floor }\n";

fn states(fleet: &Fleet) -> Vec<String> {
    fleet.vms().into_iter().map(|vm| vm.state).collect()
}

#[test]
fn vms_stop_start_and_reboot_by_target() {
    let fleet = Fleet::new();
    let _ = fleet.ok(&["up", &fleet.write("yard.fleet", FLOOR)]);
    let first = fleet.vm("web[0]").pid;
    let _ = fleet.ok(&["vm", "stop", "web[1..3]"]).says(&["2 targets: 2 ok"]);
    assert_eq!(states(&fleet), ["running", "stopped", "stopped"]);
    assert_eq!(fleet.vm("web[1]").pid, 0);
    let _ = fleet.ok(&["vm", "stop", "web[1]"]).says(&["1 already so"]);
    let _ = fleet.run(&["exec", "web[1]", "--", "true"]).code(3).says(&["stopped", "fleet vm start"]);

    // Stopped on request, it stays so over the controller's death.
    fleet.kill_controller();
    assert_eq!(states(&fleet)[1..], ["stopped", "stopped"]);
    fleet.wait_for("web[0]", "running");
    assert_eq!(fleet.vm("web[0]").pid, first);

    let _ = fleet.ok(&["vm", "start", "yard.web[*]"]).says(&["3 targets", "2 ok", "1 already so"]);
    assert_eq!(states(&fleet), ["running", "running", "running"]);
    let _ = fleet.ok(&["vm", "reboot", "web[0]"]);
    assert_ne!(fleet.vm("web[0]").pid, first);
    assert_eq!(fleet.exec("web[0]", "hostname"), "web-0");
    let _ = fleet.ok(&["vm", "stop", "--force", "web[2]"]);
    assert_eq!(states(&fleet), ["running", "running", "stopped"]);
    // `up` brings back what somebody stopped.
    let _ = fleet.ok(&["up", &fleet.write("yard.fleet", FLOOR)]).says(&["1 ok", "2 already so"]);
    assert_eq!(states(&fleet), ["running", "running", "running"]);
    fleet.down();
}

#[test]
fn a_paused_vm_holds_still_and_goes_on_where_it_was() {
    let fleet = Fleet::new();
    let _ = fleet.ok(&["up", &fleet.example("hello.fleet")]);
    let alice = fleet.vm("alice");
    let _ =
        fleet.exec("alice", "(while :; do date +%s%N >> /tmp/ticks; sleep 0.1; done) > /dev/null 2>&1 & echo begun");
    let _ = fleet.ok(&["vm", "pause", "alice"]);
    assert_eq!(fleet.vm("alice").state, "paused");
    let _ = fleet.ok(&["vm", "pause", "alice"]).says(&["already so"]);
    let _ = fleet.ok(&["ps"]).says(&["1 running, 1 paused"]);
    assert_ne!(
        fleet.run(&["exec", "bob", "--", "ping", "-c", "1", "-W", "1", "10.0.0.16"]).code,
        0,
        "a paused VM answers"
    );
    // Found again, it is still paused.
    fleet.kill_controller();
    assert_eq!(fleet.wait_for("alice", "paused").pid, alice.pid);
    let _ = fleet.ok(&["vm", "resume", "alice"]);
    assert_eq!(fleet.vm("alice").state, "running");
    let _ = fleet.ok(&["exec", "bob", "--", "ping", "-c", "2", "-W", "5", "10.0.0.16"]);
    let ticks = || fleet.exec("alice", "wc -l < /tmp/ticks").parse::<u32>().unwrap();
    let before = ticks();
    fleet_tests::until("the guest's program to go on", || ticks() > before);
    let _ = fleet.ok(&["vm", "stop", "bob"]);
    let _ = fleet.run(&["vm", "pause", "bob"]).code(3).says(&["it is stopped"]);
    // A paused VM can be stopped too.
    let _ = fleet.ok(&["vm", "pause", "alice"]);
    let _ = fleet.ok(&["vm", "stop", "hello"]);
    assert_eq!(states(&fleet), ["stopped", "stopped"]);
    fleet.down();
}

#[test]
fn a_guest_that_powers_off_by_itself_is_stopped_not_failed() {
    let fleet = Fleet::new();
    let _ = fleet.ok(&["up", &fleet.example("hello.fleet")]);
    let poweroff = fleet.run(&["exec", "bob", "--", "sh", "-c", "poweroff -f; sleep 60"]);
    let _ = poweroff.code(3).says(&["the guest powered off"]);
    let bob = fleet.wait_for("bob", "stopped");
    assert!(bob.reason.contains("by itself"), "{bob:?}");
    assert_eq!(fleet.vm("alice").state, "running");
    let _ = fleet.ok(&["vm", "start", "bob"]);
    let _ = fleet.ok(&["exec", "alice", "--", "ping", "-c", "1", "10.0.0.17"]);
    fleet.down();
}

#[test]
fn verbs_over_ranges_fold_their_outcomes_and_can_be_repeated() {
    let fleet = Fleet::new();
    let _ = fleet.ok(&["up", "--no-check", &fleet.write("yard.fleet", "lan floor\nvm web[0..6] { on floor }\n")]);
    let outcomes = |args: &[&str]| {
        let answer = fleet.json(args);
        let folds = answer["outcomes"].as_array().unwrap().clone();
        let sum: u64 = folds.iter().map(|fold| fold["count"].as_u64().unwrap()).sum();
        assert_eq!(answer["targets"].as_u64(), Some(sum), "{answer:#}");
        let text = |fold: &serde_json::Value, key: &str| fold[key].as_str().unwrap().to_owned();
        folds.iter().map(|fold| (text(fold, "outcome"), text(fold, "targets"))).collect::<Vec<_>>()
    };
    let one = |outcome: &str, targets: &str| vec![(outcome.to_owned(), targets.to_owned())];
    for (verb, undo) in [("pause", "resume"), ("stop", "start")] {
        assert_eq!(outcomes(&["vm", verb, "web[1..5]"]), one("ok", "web[1-4]"));
        assert_eq!(outcomes(&["vm", verb, "web[1..5]"]), one("already so", "web[1-4]"), "{verb} twice");
        assert_eq!(outcomes(&["vm", undo, "yard"]), [one("ok", "web[1-4]"), one("already so", "web[0,5]")].concat());
    }
    let before: Vec<u32> = fleet.vms().iter().map(|vm| vm.pid).collect();
    assert_eq!(outcomes(&["vm", "reboot", "web[*]"]), one("ok", "web[0-5]"));
    assert!(fleet.vms().iter().zip(before).all(|(vm, old)| vm.state == "running" && vm.pid != old));
    // A part of what is asked for can be wrong: exit 3, and the rest is done.
    let _ = fleet.ok(&["vm", "stop", "web[0..2]"]);
    let _ = fleet.run(&["vm", "pause", "web[*]"]).code(3).says(&["4 ok", "web[0-1] (2) failed: it is stopped"]);
    let _ = fleet.run(&["vm", "stop", "web[4..9]"]).code(2);
    fleet.down();
}
