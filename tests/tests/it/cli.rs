//! The program's own interface: help, completions, JSON documents, the console.
#![allow(clippy::unwrap_used, missing_docs)]

use fleet_tests::{Fleet, Pty};
use serde_json::Value;

#[track_caller]
fn has(value: &Value, keys: &[&str]) {
    let object = value.as_object().unwrap_or_else(|| panic!("no object: {value}"));
    for key in keys {
        assert!(object.contains_key(*key), "no `{key}` in {value:#}");
    }
}

#[test]
fn documents_have_the_keys_that_docs_cli_promises() {
    let fleet = Fleet::new();
    let file = fleet.example("routed.fleet");
    has(&fleet.json(&["down"]), &["experiments"]);
    has(&fleet.json(&["ps"]), &["experiments", "vms", "routers", "notes"]);
    has(&fleet.json(&["check", &file])["files"][0], &["file", "ok", "diagnostics"]);
    let plan = fleet.json(&["plan", &file]);
    assert!(plan["difference"].is_null(), "nothing runs yet: {plan:#}");
    has(&plan, &["version", "plan", "hosts", "placement", "refused", "lock", "pruned", "difference", "unsupported"]);
    has(&plan["plan"], &["experiment", "totals", "groups", "segments", "routers", "links", "places", "checks"]);
    has(&plan["plan"]["routers"][0]["interfaces"][0], &["on", "network", "address", "prefix_len"]);
    has(&plan["placement"]["hosts"][0], &["host", "ranges", "routers", "vms", "cpus", "memory"]);
    has(&plan["lock"], &["new", "gone", "grown", "moved"]);
    has(&fleet.json(&["fmt", "--check", &file]), &["changed", "check", "wrong"]);
    has(&fleet.json(&["image", "ls"])["images"][0], &["name", "id", "size_bytes", "uml", "x86", "damage"]);
    has(&fleet.run(&["--json", "doctor"]).json(), &["ok", "findings"]);

    let up = fleet.run(&["--json", "up", "--no-check", &file]).code(0).json();
    has(&up, &["experiment", "difference", "targets", "outcomes", "elapsed_ms", "checks"]);
    has(&up["difference"], &["start", "restart", "stop", "network", "unchanged"]);
    has(&up["outcomes"][0], &["outcome", "reason", "count", "targets"]);
    let ps = fleet.json(&["ps"]);
    has(&ps["experiments"][0], &["experiment", "file", "busy", "vms", "routers", "segments", "states"]);
    let vm =
        ["experiment", "name", "host", "state", "hypervisor", "image", "pid", "addresses", "memory_bytes", "reason"];
    has(&ps["vms"][0], &vm);
    has(&ps["vms"][0], &["last_lines", "since_ms", "boot_ms", "starts"]);
    has(&ps["routers"][0], &["experiment", "name", "host", "kind", "up", "reason", "addresses"]);
    let answers = fleet.json(&["exec", "alice", "--", "true"]);
    has(&answers["answers"][0], &["vm", "code", "failed", "cut", "stdout", "stderr"]);
    let status = fleet.json(&["controller", "status"]);
    has(&status, &["version", "pid", "epoch", "started_ms", "metrics_address", "telemetry", "hosts"]);
    has(&status["telemetry"], &["on", "server", "connected", "reason", "written", "dropped"]);
    has(&status["hosts"][0], &["name", "cpus", "memory_bytes", "memory_available_bytes", "hypervisors", "kernel"]);
    has(&fleet.json(&["vm", "stop", "alice"]), &["target", "action", "targets", "outcomes", "elapsed_ms"]);
    has(&fleet.json(&["logs", "bob"]), &["vm", "lines"]);
    has(&fleet.json(&["plan", &file]), &["plan", "difference"]);
    let down = fleet.json(&["down", "routed"]);
    has(&down["experiments"][0], &["experiment", "targets", "outcomes", "elapsed_ms"]);
    fleet.nothing_is_left("after down --json");
}

const COMMANDS: [&str; 21] = [
    "up",
    "down",
    "ps",
    "plan",
    "check",
    "fmt",
    "graph",
    "import",
    "explain",
    "exec",
    "console",
    "logs",
    "vm",
    "telemetry",
    "usb",
    "image",
    "doctor",
    "host",
    "controller",
    "agent",
    "completions",
];

#[test]
fn every_command_has_help_that_fits_a_terminal() {
    let fleet = Fleet::new();
    let main = fleet.ok(&["--help"]).stdout;
    for command in COMMANDS {
        assert!(
            main.lines().any(|line| line.trim_start().starts_with(&format!("{command} "))),
            "no {command} in:\n{main}"
        );
        let help = fleet.ok(&[command, "--help"]).stdout;
        for line in help.lines() {
            assert!(line.chars().count() <= 100, "fleet {command} --help: {line}");
        }
        assert!(help.contains("Usage: fleet"), "{help}");
        for option in ["--root", "--json", "--config"] {
            assert!(help.contains(option), "fleet {command} --help names no {option}");
        }
    }
    for (command, options) in [
        ("up", &["--hypervisor", "--rollback", "--no-check", "--concurrency", "--mongodb", "--no-telemetry"][..]),
        ("exec", &["--interactive", "--tty", "--stream", "--timeout", "--env"]),
        ("logs", &["--lines", "--follow"]),
        ("vm", &["stop", "start", "reboot", "pause", "resume", "snapshot", "restore", "snapshots"]),
        ("ps", &["--all", "--failed"]),
        ("controller", &["status", "stop", "--mongodb", "--no-telemetry"]),
    ] {
        let _ = fleet.ok(&[command, "--help"]).says(options);
    }
    let _ = fleet.ok(&["vm", "stop", "--help"]).says(&["--force"]);
    let _ = fleet.ok(&["usb", "--help"]).says(&["ls", "watch", "attach", "detach"]);
    let _ = fleet.ok(&["usb", "attach", "--help"]).says(&["--any", "--steal", "--timeout", "fleet usb attach D7000"]);
    let _ = fleet.ok(&["usb", "detach", "--help"]).says(&["--hold", "CAMERA|VM"]);
    let _ = fleet
        .ok(&["telemetry", "query", "--help"])
        .says(&["--metric", "--since", "--bucket", "--agg", "--events", "--format"]);
    let _ = fleet.run(&["fly"]).code(2).says(&["fly"]);
    let _ = fleet.run(&["up"]).code(2).says(&["FILE"]);
}

#[test]
fn completions_name_the_commands_in_every_shell() {
    let fleet = Fleet::new();
    for (shell, shells_own) in [("bash", "complete -F"), ("zsh", "#compdef fleet"), ("fish", "complete -c fleet")] {
        let script = fleet.ok(&["completions", shell]).says(&[shells_own]).stdout;
        for command in COMMANDS {
            assert!(script.contains(command), "no {command} for {shell}");
        }
    }
}

#[test]
fn a_console_gives_a_shell_and_is_left_with_one_key() {
    let fleet = Fleet::new();
    let _ = fleet.ok(&["up", &fleet.example("hello.fleet")]);
    let mut console = Pty::start(fleet.command(&["console", "alice"]));
    console.wait_for("ctrl-] to leave");
    console.wait_for("press Enter to get a shell");
    console.type_keys("\r");
    console.wait_for("# ");
    console.type_keys("echo $((6 * 7)) on $(hostname)\r");
    console.wait_for("42 on alice");
    // ctrl-C is the guest's, not ours. It is for a program that is in the foreground: the shell itself would finish the
    // line first.
    console.type_keys("sh -c \"echo be''gun; exec sleep 1000\"\r");
    console.wait_for("begun");
    console.type_keys("\x03");
    console.wait_for("# ");
    console.type_keys("\x1d");
    assert!(console.end().success());
    assert_eq!(fleet.vm("alice").state, "running");

    // A command on a terminal has one, of this one's size.
    let mut shell = Pty::start(fleet.command(&["exec", "-t", "bob", "--", "sh", "-c", "tty; stty size; exit 5"]));
    shell.wait_for("/dev/pts/");
    shell.wait_for("24 80");
    assert_eq!(shell.end().code(), Some(5));
    fleet.down();
}
