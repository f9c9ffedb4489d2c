//! Hosts join a fleet as processes of their own, over mutual TLS on loopback; and those that may not are refused.
#![allow(clippy::unwrap_used, missing_docs)]

use fleet_tests::{Daemon, Fleet, Options, eventually, until};
use serde_json::Value;

fn log(fleet: &Fleet) -> String {
    Daemon::log(fleet.root())
}

fn with(config: &str) -> Fleet {
    Fleet::with(Options { config: config.into(), ..Options::default() })
}

fn controller() -> Fleet {
    with("listen = \"127.0.0.1:0\"\nheartbeat_seconds = 1\nhost = \"head\"")
}

/// Starts the controller and waits until it answers.
fn run(fleet: &Fleet) -> Daemon {
    let daemon = Daemon::start(fleet, &["controller", "run", "--no-telemetry"]);
    until("the controller", || fleet.run(&["controller", "status", "--json"]).stdout.contains("\"pid\""));
    daemon
}

/// A token and where the controller listens.
fn token(fleet: &Fleet, args: &[&str]) -> (String, String) {
    let args: Vec<&str> = ["host", "token"].iter().chain(args).copied().collect();
    let document = fleet.json(&args);
    let text = |key: &str| document[key].as_str().unwrap().to_owned();
    (text("token"), text("controller"))
}

fn join(fleet: &Fleet, name: &str, token: &str, controller: &str) -> Daemon {
    let listen = ["--listen", "127.0.0.1:0", "--name", name];
    let args: Vec<&str> = ["agent", "--join", controller, "--token", token].iter().chain(&listen).copied().collect();
    Daemon::start(fleet, &args)
}

/// A host as `fleet host ls --json` shows it.
fn host(fleet: &Fleet, name: &str) -> Option<Value> {
    let hosts = fleet.json(&["host", "ls"]);
    hosts["hosts"].as_array().unwrap().iter().find(|host| host["name"] == name).cloned()
}

fn is(fleet: &Fleet, name: &str, state: &str) -> Option<Value> {
    host(fleet, name).filter(|host| host["state"] == state)
}

#[test]
fn a_host_joins_stays_itself_over_restarts_and_is_refused_once_it_was_removed() {
    let (fleet, other) = (controller(), with(""));
    let head = run(&fleet);
    assert!(is(&fleet, "head", "ready").is_some(), "the controller's own host is not listed");
    let (token, address) = token(&fleet, &["--rack", "r1", "--tag", "ssd"]);
    let agent = join(&other, "h1", &token, &address);
    let seen = eventually("h1 to be ready", || is(&fleet, "h1", "ready"));
    assert_eq!((seen["rack"].as_str(), &seen["tags"]["ssd"]), (Some("r1"), &Value::from("")), "{seen}");
    assert!(seen["cpus"].as_u64() > Some(0) && seen["memory_bytes"].as_u64() > Some(0), "{seen}");
    assert!(seen["address"].as_str().unwrap().starts_with("127.0.0.1:"), "{seen}");

    // Cut off it is unknown, not gone; and it comes back without a token, as another incarnation of itself.
    agent.kill();
    eventually("h1 to be unknown", || is(&fleet, "h1", "unknown"));
    let agent = Daemon::start(&other, &["agent", "--listen", "127.0.0.1:0"]);
    let again = eventually("h1 to be ready again", || is(&fleet, "h1", "ready"));
    assert_ne!(again["incarnation"], seen["incarnation"]);
    assert_eq!((&again["joined_ms"], &again["rack"]), (&seen["joined_ms"], &seen["rack"]));

    // So it does when the controller was killed: the registry is on disk.
    head.kill();
    let head = run(&fleet);
    assert!(host(&fleet, "h1").is_some(), "the controller has forgotten a host");
    drop(agent);
    let (_, address) = self::token(&fleet, &[]);
    let agent = Daemon::start(&other, &["agent", "--join", &address, "--listen", "127.0.0.1:0"]);
    eventually("h1 to follow the controller", || is(&fleet, "h1", "ready"));

    let _ = fleet.ok(&["host", "drain", "h1"]).says(&["drained: 1 host"]);
    assert!(is(&fleet, "h1", "draining").is_some());
    let _ = fleet.ok(&["host", "undrain", "h1"]);
    let _ = fleet.ok(&["host", "tag", "h1", "gpu=2", "-ssd"]);
    assert_eq!(host(&fleet, "h1").unwrap()["tags"], serde_json::json!({ "gpu": "2" }));
    let _ = fleet.run(&["host", "rm", "nobody"]).code(2).says(&["nobody"]);

    let _ = fleet.ok(&["host", "rm", "h1"]).says(&["removed: 1 host"]);
    assert!(host(&fleet, "h1").is_none());
    until("the agent to learn that it was removed", || log(&other).contains("no member of the fleet any more"));
    drop(agent);
    drop(head);
}

#[test]
fn a_token_lets_in_as_many_as_it_says_and_a_wrong_one_nobody() {
    let (fleet, first, second) = (controller(), with(""), with(""));
    let head = run(&fleet);
    let (token, address) = token(&fleet, &[]);

    // Another fleet's token: its CA is not this one.
    let stranger = controller();
    let (foreign, _) = {
        let other = run(&stranger);
        let issued = self::token(&stranger, &[]);
        drop(other);
        issued
    };
    assert_ne!(join(&first, "h1", &foreign, &address).ended(), 0);
    assert!(log(&first).contains("CA is not the one of the token"), "{}", log(&first));

    let agent = join(&first, "h1", &token, &address);
    eventually("h1 to be ready", || is(&fleet, "h1", "ready"));
    // It was for one host.
    assert_ne!(join(&second, "h2", &token, &address).ended(), 0);
    assert!(log(&second).contains("cannot join"), "{}", log(&second));
    assert!(host(&fleet, "h2").is_none());

    // A name belongs to the key that joined with it.
    let (token, _) = self::token(&fleet, &["--uses", "2"]);
    assert_ne!(join(&second, "h1", &token, &address).ended(), 0);
    let revoked = fleet.json(&["host", "token", "--ls"]);
    let id = revoked["tokens"].as_array().unwrap().last().unwrap()["id"].as_str().unwrap().to_owned();
    let _ = fleet.ok(&["host", "token", "--revoke", &id]).says(&["revoked: 1 token"]);
    assert_ne!(join(&second, "h2", &token, &address).ended(), 0);
    drop(agent);
    drop(head);
}

/// What makes a machine a member, as its agent keeps it.
fn identity(fleet: &Fleet) -> Value {
    serde_json::from_str(&std::fs::read_to_string(fleet.root().join("state/identity.json")).unwrap()).unwrap()
}

#[test]
fn a_certificate_is_renewed_before_it_ends_and_a_host_that_missed_that_comes_back_by_its_key() {
    let config = "listen = \"127.0.0.1:0\"\nheartbeat_seconds = 1\nhost = \"head\"\ncertificate_life_seconds = 6";
    let (fleet, other) = (with(config), with(""));
    let head = run(&fleet);
    let (token, address) = token(&fleet, &[]);
    let agent = join(&other, "h1", &token, &address);
    eventually("h1 to be ready", || is(&fleet, "h1", "ready"));
    until("the certificate to be renewed", || log(&other).contains("the certificate was renewed"));
    drop(agent);
    let ends = identity(&other)["membership"]["not_after_ms"].as_u64().unwrap();
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    until("the certificate to end", || now() > u128::from(ends));
    let agent = Daemon::start(&other, &["agent", "--listen", "127.0.0.1:0"]);
    eventually("h1 to come back", || is(&fleet, "h1", "ready"));
    assert!(log(&fleet).contains("a host came back"), "{}", log(&fleet));
    drop(agent);
    drop(head);
}

#[test]
fn a_removed_host_is_refused_at_its_next_start_and_let_in_by_a_new_token() {
    let (fleet, other) = (controller(), with(""));
    let head = run(&fleet);
    let (first, address) = token(&fleet, &[]);
    let agent = join(&other, "h1", &first, &address);
    eventually("h1 to be ready", || is(&fleet, "h1", "ready"));
    drop(agent);
    let _ = fleet.ok(&["host", "rm", "h1"]);
    // Its old token does not help either: it has joined with that already.
    let agent = join(&other, "h1", &first, &address);
    until("the agent to be refused", || log(&other).contains("no member of the fleet any more"));
    assert!(log(&fleet).contains("its certificate was revoked"), "{}", log(&fleet));
    assert!(host(&fleet, "h1").is_none());
    drop(agent);
    let (second, address) = token(&fleet, &[]);
    let agent = join(&other, "h1", &second, &address);
    eventually("h1 to be let in again", || is(&fleet, "h1", "ready"));
    drop(agent);
    drop(head);
}

#[test]
fn a_stale_controller_is_refused_by_a_host_that_knows_a_newer_one() {
    let (fleet, other) = (controller(), with(""));
    let head = run(&fleet);
    let (token, address) = token(&fleet, &[]);
    let agent = join(&other, "h1", &token, &address);
    eventually("h1 to be ready", || is(&fleet, "h1", "ready"));
    drop(agent);
    // A newer one, on a copy of this one's state for example, has spoken to the host meanwhile.
    std::fs::write(other.root().join("state/epoch"), "1000\n").unwrap();
    let agent = Daemon::start(&other, &["agent", "--listen", "127.0.0.1:0"]);
    until("the agent to refuse", || log(&other).contains("is stale: one of epoch 1000 speaks for this fleet"));
    until("the controller to hear of it", || log(&fleet).contains("this controller is stale"));
    drop(agent);
    eventually("h1 to be unknown", || is(&fleet, "h1", "unknown"));
    drop(head);
}
