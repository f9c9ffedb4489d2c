//! The whole job on one machine: up, look, ask, down, and nothing remains.
#![allow(clippy::unwrap_used, missing_docs)]

use fleet_tests::{Fleet, Options, eventually};

#[test]
fn a_network_comes_up_answers_and_leaves_nothing() {
    let links = fleet_tests::links();
    let fleet = Fleet::with(Options { telemetry: true, ..Options::default() });
    let file = fleet.example("hello.fleet");

    let _ = fleet.ok(&["up", &file]).says(&["2 targets: 2 ok", "proved: alice reaches bob"]);
    // The count is only worth something when it sees what is there.
    let traces = fleet.traces();
    assert!(traces.processes.len() >= 4, "controller, server, two VMs: {traces:#?}");
    assert!(!traces.namespaces.is_empty() && !traces.mounts.is_empty(), "{traces:#?}");
    assert!(!traces.sockets.is_empty() && !traces.run_files.is_empty(), "{traces:#?}");
    assert!(fleet_tests::links().is_subset(&links), "the host's own network is touched");

    let _ =
        fleet.ok(&["ps"]).says(&["2 running (2 VMs, 0 routers, 1 segment)", "alice", "bob", "10.0.0.16/24", "48 MiB"]);
    let vms = fleet.vms();
    assert_eq!(vms.iter().map(|vm| vm.name.as_str()).collect::<Vec<_>>(), ["alice", "bob"]);
    for vm in &vms {
        assert_eq!((vm.state.as_str(), vm.memory_bytes), ("running", 48 << 20), "{vm:?}");
        assert!(fleet_tests::alive(vm.pid), "{vm:?}");
    }
    let _ = fleet.ok(&["logs", "alice"]).says(&["press Enter to get a shell"]);
    assert_eq!(fleet.json(&["logs", "alice", "-n", "1"])["lines"].as_array().unwrap().len(), 1);

    commands_run_in_guests(&fleet);
    measurements_arrive(&fleet);

    fleet.down();
    // What was measured outlives the network, and asking for it leaves nothing either.
    let _ = fleet.ok(&["telemetry", "query", "hello.alice"]).says(&["alice"]);
    fleet.nothing_is_left("after a query");
    let _ = fleet.ok(&["ps"]).says(&["nothing is up"]);
    fleet.nothing_is_left("after a ps");
}

fn commands_run_in_guests(fleet: &Fleet) {
    let both = fleet.run(&["exec", "alice", "--", "sh", "-c", "hostname; echo oops >&2; exit 7"]).code(7);
    assert_eq!((both.stdout.as_str(), both.stderr.as_str()), ("alice\n", "oops\n"));
    let lines: String = (0..5000).map(|number| format!("{number}\n")).collect();
    let echoed = fleet.run_with_input(&["exec", "-i", "bob", "--", "cat"], lines.as_bytes()).code(0);
    assert!(echoed.stdout == lines, "{} of {} bytes came back", echoed.stdout.len(), lines.len());
    let variable = fleet.ok(&["exec", "--env", "NAME=a value", "bob", "--", "sh", "-c", "echo $NAME"]);
    assert_eq!(variable.stdout, "a value\n");
    let _ = fleet.run(&["exec", "--timeout", "1", "bob", "--", "sleep", "600"]).code(124);
    let missing = fleet.run(&["exec", "bob", "--", "no-such-program"]);
    assert_ne!(missing.code, 0);
    let _ = missing.says(&["no-such-program"]);
    // Alike answers share a line, others stand apart.
    assert_eq!(fleet.ok(&["exec", "hello", "--", "echo", "same"]).stdout, "alice bob (2)\n  same\n");
    let apart = fleet.ok(&["exec", "hello", "--", "hostname"]).stdout;
    assert!(apart.contains("alice (1)\n  alice\n") && apart.contains("bob (1)\n  bob\n"), "{apart}");
    let one_fails = fleet.run(&["exec", "hello", "--", "sh", "-c", "[ $(hostname) = alice ]"]).code(3);
    assert!(one_fails.stdout.contains("bob (1) exit 1"), "{}", one_fails.stdout);
    // A ping of the guest's own goes through the network too.
    let _ = fleet.ok(&["exec", "alice", "--", "ping", "-c", "2", "10.0.0.17"]).says(&["2 packets received"]);
}

fn measurements_arrive(fleet: &Fleet) {
    let rows = eventually("samples of both VMs", || {
        let rows = fleet.run(&["telemetry", "query", "hello", "--metric", "cpu,memory", "--format", "json"]);
        let rows = rows.json().as_array().cloned().unwrap_or_default();
        let has = |name: &str| rows.iter().any(|row| row["vm"] == name);
        (has("alice") && has("bob")).then_some(rows)
    });
    assert!(rows.iter().all(|row| row["memory"].as_u64().unwrap() > 1 << 20), "a VM uses memory: {rows:?}");
    let csv = fleet.ok(&["telemetry", "query", "hello.alice", "--metric", "memory", "--format", "csv"]).stdout;
    assert!(csv.starts_with("time,experiment,host,vm,memory\n") && !csv.contains("bob"), "{csv}");
    let _ = fleet.ok(&["telemetry", "query", "hello"]).says(&["time", "alice", "bob"]);
    let folded = fleet.json(&["telemetry", "query", "hello", "--metric", "memory", "--bucket", "1h", "--agg", "max"]);
    // The hour may turn in the middle of the test: then there are two buckets a VM.
    assert!((2..=4).contains(&folded.as_array().unwrap().len()), "{folded}");
    eventually("bytes that alice received", || {
        let ports = fleet.json(&["telemetry", "query", "hello.alice", "--metric", "rx_bytes"]);
        ports.as_array().unwrap().iter().any(|row| row["rx_bytes"].as_u64() > Some(0)).then_some(())
    });
    eventually("samples of the host", || {
        let hosts = fleet.json(&["telemetry", "query", "--metric", "vms_running,host_available"]);
        hosts.as_array().unwrap().iter().any(|row| row["vms_running"] == 2).then_some(())
    });
    let events = eventually("what happened", || {
        let events = fleet.json(&["telemetry", "query", "hello", "--events"]);
        let events = events.as_array().unwrap().clone();
        events.iter().any(|event| event["kind"] == "experiment.applied").then_some(events)
    });
    for vm in ["alice", "bob"] {
        let running = events.iter().filter(|event| event["kind"] == "vm.running" && event["vm"] == vm).count();
        assert_eq!(running, 1, "{events:#?}");
    }
}
