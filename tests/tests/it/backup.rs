//! A controller whose state is lost comes back from a backup, and its hosts with it.
#![allow(clippy::unwrap_used, missing_docs)]

use std::os::unix::fs::PermissionsExt;
use std::process::Child;

use fleet_tests::{Fleet, Options, eventually, until};
use nix::sys::signal::Signal;
use serde_json::Value;

/// A daemon in the foreground, ended with its value.
struct Daemon(Child);

impl Daemon {
    fn start(fleet: &Fleet, args: &[&str]) -> Self {
        let log = std::fs::File::options().create(true).append(true).open(fleet.root().join("daemon.log")).unwrap();
        let mut command = fleet.command(args);
        let child = command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null()).stderr(log);
        Self(child.spawn().unwrap())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.0.try_wait().unwrap().is_none() {
            fleet_tests::signal(self.0.id(), Signal::SIGTERM);
            self.0.wait().unwrap();
        }
    }
}

fn with(config: &str) -> Fleet {
    Fleet::with(Options { config: config.into(), ..Options::default() })
}

fn run(fleet: &Fleet) -> Daemon {
    let daemon = Daemon::start(fleet, &["controller", "run", "--no-telemetry"]);
    until("the controller", || fleet.run(&["controller", "status", "--json"]).stdout.contains("\"pid\""));
    daemon
}

fn is(fleet: &Fleet, name: &str, state: &str) -> Option<Value> {
    let hosts = fleet.json(&["host", "ls"]);
    hosts["hosts"].as_array().unwrap().iter().find(|host| host["name"] == name && host["state"] == state).cloned()
}

fn epoch(fleet: &Fleet) -> u64 {
    fleet.json(&["controller", "status"])["epoch"].as_u64().unwrap()
}

#[test]
fn a_controller_that_lost_its_state_comes_back_from_a_backup_and_its_hosts_need_no_new_token() {
    let fleet = with("listen = \"127.0.0.1:0\"\nheartbeat_seconds = 1\nhost = \"head\"");
    let other = with("");
    let file = fleet.root().join("keep.backup");
    let file = file.to_str().unwrap();
    let head = run(&fleet);
    let token = fleet.json(&["host", "token"]);
    let (secret, address) = (token["token"].as_str().unwrap(), token["controller"].as_str().unwrap());
    let join = ["agent", "--join", address, "--token", secret, "--listen", "127.0.0.1:0", "--name", "h1"];
    let agent = Daemon::start(&other, &join);
    let seen = eventually("h1 to be ready", || is(&fleet, "h1", "ready"));

    let _ = fleet.ok(&["controller", "backup", file]).says(&["backed up"]);
    assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600, "it has the CA's key");
    let _ = fleet.run(&["controller", "restore", file]).code(2).says(&["another controller"]);

    // Later controllers have higher epochs, and the host has seen them.
    drop(head);
    let head = run(&fleet);
    let before = epoch(&fleet);
    drop(agent);
    let address = fleet.json(&["host", "token"])["controller"].as_str().unwrap().to_owned();
    let agent = Daemon::start(&other, &["agent", "--join", &address, "--listen", "127.0.0.1:0"]);
    eventually("h1 to follow", || is(&fleet, "h1", "ready"));
    drop((agent, head));

    // All that the controller's host knew is gone, also the epoch that its own agent remembers.
    std::fs::remove_dir_all(fleet.root().join("state")).unwrap();
    let _ = fleet.ok(&["controller", "restore", file]).says(&["restored: the controller of head"]);
    let _ = fleet.run(&["controller", "restore", file]).code(2).says(&["is there already", "--force"]);
    let _ = fleet.ok(&["controller", "restore", file, "--force"]);
    let head = run(&fleet);
    assert!(epoch(&fleet) > before, "a host would refuse it");
    let address = fleet.json(&["host", "token"])["controller"].as_str().unwrap().to_owned();
    let agent = Daemon::start(&other, &["agent", "--join", &address, "--listen", "127.0.0.1:0"]);
    let again = eventually("h1 to come back without a token", || is(&fleet, "h1", "ready"));
    assert_eq!(again["joined_ms"], seen["joined_ms"], "it is the host that it was");
    drop((agent, head));

    // A damaged or foreign file changes nothing.
    let mut bytes = std::fs::read(file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(file, &bytes).unwrap();
    let _ = fleet.run(&["controller", "restore", file, "--force"]).code(2).says(&["damaged"]);
    std::fs::write(file, "a shopping list").unwrap();
    let _ = fleet.run(&["controller", "restore", file, "--force"]).code(2).says(&["no backup"]);
    let head = run(&fleet);
    assert!(is(&fleet, "h1", "unknown").is_some() || is(&fleet, "h1", "ready").is_some());
    drop(head);
}
