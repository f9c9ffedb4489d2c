//! A second `up`: only what changed is touched; what fails can be undone; a guest that panics harms nobody.
#![allow(clippy::unwrap_used, missing_docs)]

use fleet_tests::{Fleet, Options, image};
use serde_json::Value;

const BEFORE: &str = "lan floor
vm web[0..3] { on floor }
vm store { on floor; mem 48MiB }
check web[0] reaches store
";
/// One VM of a group less, more memory for one, and a new one.
const AFTER: &str = "lan floor
vm web[0..2] { on floor }
vm store { on floor; mem 64MiB }
vm extra { on floor }
check web[0] reaches extra
";

fn text(value: &Value) -> String {
    value.as_array().unwrap().iter().map(|entry| entry.as_str().unwrap()).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_changed_file_touches_only_what_changed() {
    let fleet = Fleet::new();
    let file = fleet.write("floor.fleet", BEFORE);
    let _ = fleet.ok(&["up", &file]);
    let pids = |fleet: &Fleet| ["web[0]", "web[1]", "store"].map(|name| fleet.vm(name).pid);
    let before = pids(&fleet);
    let addresses = fleet.vm("web[1]").addresses;

    let again = fleet.json(&["up", &file]);
    assert_eq!(again["outcomes"].as_array().unwrap().len(), 1, "{again:#}");
    assert_eq!(
        (again["outcomes"][0]["outcome"].as_str(), again["outcomes"][0]["count"].as_u64()),
        (Some("already so"), Some(4))
    );
    assert_eq!(pids(&fleet), before);

    let _ = fleet.write("floor.fleet", AFTER);
    // `plan` says what `up` will do, and does nothing.
    for command in ["plan", "up"] {
        let answer = fleet.json(&[command, &file]);
        let difference = &answer["difference"];
        assert_eq!(text(&difference["start"]), "extra", "{command}: {answer:#}");
        assert_eq!(text(&difference["restart"]), "store", "{command}: {answer:#}");
        assert_eq!(text(&difference["stop"]), "web[2]", "{command}: {answer:#}");
        assert_eq!(difference["unchanged"], 2, "{command}: {answer:#}");
        if command == "plan" {
            assert_eq!(pids(&fleet), before);
        }
    }
    let after = pids(&fleet);
    assert_eq!(after[..2], before[..2], "a VM that did not change was restarted");
    assert_ne!(after[2], before[2]);
    let vms = fleet.vms();
    let seen: Vec<_> = vms.iter().map(|vm| (vm.name.as_str(), vm.state.as_str(), vm.memory_bytes >> 20)).collect();
    let running = |name, mem| (name, "running", mem);
    assert_eq!(seen, [running("web[0]", 48), running("web[1]", 48), running("store", 64), running("extra", 48)]);
    assert_eq!(fleet.vm("web[1]").addresses, addresses, "an edit moved an address");
    fleet.down();
}

/// A fleet whose store has `tiny` and `broken`.
fn with_broken_image() -> Fleet {
    let images = shared_store();
    let fleet = Fleet::with(Options { config: image::own_store(&images), ..Options::default() });
    image::build_broken(&fleet);
    fleet
}

/// One folder for all tests of this file: images are only ever added to it.
fn shared_store() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("images")
}

const WITH_BROKEN: &str = "lan office
vm alice { on office; mem 64MiB }
vm bob { on office }
vm carol { on office; image broken }
";

#[test]
fn a_guest_that_panics_is_failed_with_its_last_lines_and_the_others_run() {
    let fleet = with_broken_image();
    let up = fleet.run(&["--json", "up", &fleet.write("hello.fleet", WITH_BROKEN)]).code(3).json();
    let folds = up["outcomes"].as_array().unwrap();
    let fold = |outcome: &str| folds.iter().find(|fold| fold["outcome"] == outcome).unwrap();
    assert_eq!((fold("ok")["count"].as_u64(), fold("failed")["count"].as_u64()), (Some(2), Some(1)), "{up:#}");
    assert_eq!(fold("failed")["targets"], "carol");
    let carol = fleet.vm("carol");
    assert_eq!(carol.state, "failed");
    let told = format!("{} {}", carol.reason, carol.last_lines.join("\n"));
    assert!(told.contains("Attempted to kill init"), "the kernel's own words: {carol:?}");
    let code = format!("exitcode=0x0000{:02x}00", image::BROKEN_INIT_CODE);
    assert!(told.contains(&code), "the kernel's own words: {carol:?}");
    let _ = fleet.ok(&["ps", "--failed"]).says(&["carol", "Attempted to kill init"]);
    let _ = fleet.ok(&["logs", "carol"]).says(&["Kernel panic"]);
    assert_eq!((fleet.vm("alice").state, fleet.vm("bob").state), ("running".into(), "running".into()));
    let _ = fleet.ok(&["exec", "alice", "--", "ping", "-c", "1", "10.0.0.17"]);
    fleet.down();
}

#[test]
fn a_failed_up_with_rollback_leaves_nothing() {
    let fleet = with_broken_image();
    let file = fleet.write("hello.fleet", WITH_BROKEN);
    let answer = fleet.run(&["up", "--rollback", &file]).code(3).says(&["carol", "2 ok", "1 failed"]);
    fleet.nothing_is_left(&answer.stdout);
    let _ = fleet.ok(&["ps"]).says(&["nothing is up"]);
}

#[test]
fn a_failed_change_with_rollback_gives_the_earlier_state_back() {
    let fleet = with_broken_image();
    let hello = fleet.example("hello.fleet");
    let _ = fleet.ok(&["up", &hello]);
    let bob = fleet.vm("bob").pid;
    let changed = fleet.write("hello.fleet", WITH_BROKEN);
    let _ = fleet.run(&["up", "--rollback", &changed]).code(3).says(&["carol"]);
    let vms = fleet.vms();
    let seen: Vec<_> = vms.iter().map(|vm| (vm.name.as_str(), vm.state.as_str(), vm.memory_bytes >> 20)).collect();
    assert_eq!(seen, [("alice", "running", 48), ("bob", "running", 48)]);
    assert_eq!(fleet.vm("bob").pid, bob, "bob did not change, and must not be restarted");
    let again = fleet.json(&["up", &fleet.example("hello.fleet")]);
    assert_eq!(
        (again["difference"]["unchanged"].as_u64(), again["checks"][0]["passed"].as_bool()),
        (Some(2), Some(true))
    );
    fleet.down();
}
