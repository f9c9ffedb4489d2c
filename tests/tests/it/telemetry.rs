//! Telemetry is best effort: without its server everything else works.
#![allow(clippy::unwrap_used, missing_docs)]

use fleet_tests::{Fleet, Options, kill, until};

fn server(fleet: &Fleet) -> Option<u32> {
    let is_server = |command: &str| command.contains("secantusd") || command.contains("mongod ");
    fleet.traces().processes.into_iter().find(|(_, command)| is_server(command)).map(|(pid, _)| pid)
}

#[test]
fn a_server_that_dies_disturbs_nobody_and_comes_back() {
    let fleet = Fleet::with(Options { telemetry: true, ..Options::default() });
    let _ = fleet.ok(&["up", &fleet.example("hello.fleet")]);
    let connected = || fleet.json(&["controller", "status"])["telemetry"]["connected"] == true;
    until("the telemetry server", connected);
    let pids: Vec<_> = fleet.vms().iter().map(|vm| vm.pid).collect();
    let first = server(&fleet).unwrap();
    kill(first);
    let _ = fleet.ok(&["exec", "hello", "--", "true"]);
    let _ = fleet.ok(&["vm", "reboot", "bob"]);
    assert_eq!(fleet.vm("alice").pid, pids[0]);
    until("another telemetry server", || server(&fleet).is_some_and(|pid| pid != first) && connected());
    // What happened meanwhile was kept; what was stored before is there.
    until("the events of the reboot", || {
        let events = fleet.run(&["--json", "telemetry", "query", "hello.bob", "--events"]);
        let starts = |text: &str| text.matches("vm.running").count();
        events.code == 0 && starts(&events.stdout) == 2
    });
    fleet.down();
}

#[test]
fn the_server_outlives_no_down_and_its_data_outlives_a_killed_controller() {
    let fleet = Fleet::with(Options { telemetry: true, ..Options::default() });
    let _ = fleet.ok(&["up", &fleet.example("hello.fleet")]);
    until("the first samples", || fleet.run(&["telemetry", "query", "hello.alice"]).stdout.contains("alice"));
    fleet.kill_controller();
    let _ = fleet.ok(&["ps"]);
    until("the earlier events", || {
        let events = fleet.run(&["telemetry", "query", "hello.alice", "--events"]);
        events.stdout.contains("vm.running") && events.stdout.contains("vm.adopted")
    });
    let servers = fleet.traces().processes.into_iter().filter(|(_, command)| command.contains("--port")).count();
    assert_eq!(servers, 1, "{:#?}", fleet.traces().processes);
    fleet.down();
}

#[test]
fn without_telemetry_the_status_says_so_and_the_rest_works() {
    let fleet = Fleet::with(Options { telemetry: true, ..Options::default() });
    let _ = fleet.ok(&["up", "--no-telemetry", &fleet.example("hello.fleet")]);
    let _ = fleet.ok(&["controller", "status"]).says(&["telemetry  off", "--no-telemetry"]);
    assert_eq!(server(&fleet), None);
    assert_eq!(fleet.exec("alice", "hostname"), "alice");
    let _ = fleet.run(&["telemetry", "query", "hello"]).code(2).says(&["switched off"]);
    fleet.down();
}

#[test]
fn without_any_server_one_line_says_so_and_the_rest_works() {
    let nowhere = ["HOME", "XDG_CACHE_HOME"].map(|name| (name.to_owned(), "/nowhere".to_owned()));
    let path = ("PATH".to_owned(), "/usr/bin:/bin".to_owned());
    let env = nowhere.into_iter().chain([path]).collect();
    let fleet = Fleet::with(Options { telemetry: true, env, ..Options::default() });
    let _ = fleet.ok(&["up", &fleet.example("hello.fleet")]).says(&["proved"]);
    let status = fleet.json(&["controller", "status"])["telemetry"].clone();
    assert_eq!((status["on"].as_bool(), status["connected"].as_bool()), (Some(false), Some(false)), "{status:#}");
    let reason = status["reason"].as_str().unwrap();
    assert!(reason.contains("telemetry is off") && reason.contains("--mongodb") && !reason.contains('\n'), "{reason}");
    let _ = fleet.ok(&["controller", "status"]).says(&["telemetry  off", "--mongodb"]);
    let _ = fleet.run(&["telemetry", "query", "hello"]).code(5).says(&["telemetry is off"]);
    fleet.down();
}
