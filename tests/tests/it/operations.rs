//! What operators do to hosts and the controller while guests run: nothing is lost, nothing is started twice.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;

use fleet_tests::{Lab, stat, until};
use serde_json::Value;

/// A VM on each of three hosts.
const FILE: &str = "lan floor
default vm { hypervisor uml; mem 40MiB }
vm low[0..3] { on floor; apart }
check low[*] reaches low[*]
";

/// Host, process and its start time of each VM that runs, by name.
fn lives(lab: &Lab) -> BTreeMap<String, (String, u32, u64)> {
    let ps = lab.fleet().json(&["ps"]);
    let running = ps["vms"].as_array().unwrap().iter().filter(|vm| vm["state"] == "running");
    let life = |vm: &Value| {
        let (text, pid) = (|key: &str| vm[key].as_str().unwrap().to_owned(), vm["pid"].as_u64().unwrap() as u32);
        (text("name"), (text("host"), pid, stat(pid).map_or(0, |(_, start)| start)))
    };
    running.map(life).collect()
}

/// A VM that is not on the controller's own host, which stays, and its host.
fn away(lives: &BTreeMap<String, (String, u32, u64)>) -> (String, String) {
    let (vm, (host, ..)) = lives.iter().find(|(_, (host, ..))| host != "head").unwrap();
    (vm.clone(), host.clone())
}

fn up(lab: &Lab, file: &str) -> BTreeMap<String, (String, u32, u64)> {
    let up = lab.fleet().json(&["up", file]);
    assert!(up["checks"].as_array().unwrap().iter().all(|check| check["passed"] == true), "{up:#}");
    let lives = lives(lab);
    assert_eq!(lives.len(), 3, "{lives:?}");
    lives
}

#[test]
fn a_host_with_vms_is_removed_only_by_force_and_what_it_ran_meanwhile_ends_when_it_joins_again() {
    let mut lab = Lab::new(3, "");
    let file = lab.fleet().write("floor.fleet", FILE);
    let before = up(&lab, &file);
    let (vm, host) = away(&before);

    let _ = lab.fleet().run(&["host", "rm", &host]).code(2).says(&[&host, "--force"]);
    assert_eq!(lives(&lab), before);
    let _ = lab.fleet().ok(&["host", "rm", &host, "--force"]);
    assert_eq!(lab.machines(), 3, "what ran on it goes on");

    // Its VM comes up elsewhere; the others stay as they are.
    let after = up(&lab, &file);
    assert_ne!(after[&vm].0, host, "{after:?}");
    assert!(before.iter().all(|(name, life)| *name == vm || after[name] == *life), "{before:?}\n{after:?}");
    assert_eq!(lab.machines(), 4, "and the earlier one still runs where nobody reaches it");

    lab.join_again(&host);
    until("the earlier VM to be gone", || lab.machines() == 3);
    assert_eq!(up(&lab, &file), after);

    // The other way: its VM moves off it first.
    let (vm, host) = away(&after);
    let _ = lab.fleet().ok(&["host", "drain", "--no-wait", &host]).says(&["draining: 1 host"]);
    assert_eq!(lab.fleet().json(&["ps"])["vms"].as_array().unwrap().len(), 3, "what moves is listed once");
    let _ = lab.fleet().ok(&["host", "drain", &host]).says(&["drained: 1 host, in "]);
    assert_eq!(lab.machines(), 3, "its VM runs elsewhere, and only there");
    assert_ne!(lives(&lab)[&vm].0, host);
    let _ = lab.fleet().ok(&["host", "rm", &host]);
    let _ = lab.fleet().ok(&["down"]);
    assert_eq!(lab.machines(), 0);
}

#[test]
fn a_controller_whose_state_is_lost_finds_its_guests_by_its_backup() {
    let mut lab = Lab::new(2, "");
    let file = lab.fleet().write("floor.fleet", FILE);
    let before = up(&lab, &file);
    let backup = lab.fleet().root().join("keep.backup").to_str().unwrap().to_owned();
    let _ = lab.fleet().ok(&["controller", "backup", &backup]);
    // What comes after the backup is not in it.
    let late =
        lab.fleet().write("late.fleet", "lan attic\nvm late { on attic; hypervisor uml; place tag \"odd=1\" }\n");
    let _ = lab.fleet().ok(&["up", &late]);
    let all = lives(&lab);
    assert_eq!(all.len(), 4);

    lab.kill_controller();
    std::fs::remove_dir_all(lab.fleet().root().join("state")).unwrap();
    let _ = lab.fleet().ok(&["controller", "restore", &backup]);
    lab.start_controller();
    lab.until_ready();
    until("all guests to be listed", || lives(&lab) == all);
    let _ = lab.fleet().ok(&["up", &file]);
    assert_eq!(lives(&lab), all, "the same processes; what the backup does not know is ended by nobody but the user");
    let _ = lab.fleet().ok(&["down", "late"]);
    assert_eq!(lives(&lab), before);
    let _ = lab.fleet().ok(&["down"]);
    assert_eq!(lab.machines(), 0);
}
