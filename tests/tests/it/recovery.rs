//! The daemon is killed in the middle of its work, or replaced by another: what it had finished is kept, what was half
//! made is finished or removed, and the sums are right.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;

use fleet_tests::{Fleet, kill, stat, until};
use serde_json::Value;

/// How many VMs: `FLEET_TEST_VMS` asks for more where there is time and memory.
fn many() -> u32 {
    std::env::var("FLEET_TEST_VMS").ok().and_then(|count| count.parse().ok()).unwrap_or(30)
}

/// Random numbers that a failed test can be repeated with: `FLEET_TEST_SEED`. Knuth's generator (MMIX).
struct Random(u64);

impl Random {
    fn new() -> Self {
        let given = std::env::var("FLEET_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
        let seed = given.unwrap_or(clock);
        println!("FLEET_TEST_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as u32) % bound.max(1)
    }
}

/// Name, process and its start time of every VM that runs: the same map means the same processes.
fn lives(fleet: &Fleet) -> BTreeMap<String, (u32, u64)> {
    let running = fleet.vms().into_iter().filter(|vm| vm.state == "running");
    running.map(|vm| (vm.name, (vm.pid, stat(vm.pid).map_or(0, |(_, start)| start)))).collect()
}

/// Sessions of VMs: one for each that runs, whoever knows of it.
fn machines(fleet: &Fleet) -> u32 {
    fleet.traces().machines() as u32
}

/// The states of `ps` add up to the VMs, and each VM is listed once.
fn adds_up(ps: &Value, vms: u32) {
    let experiment = &ps["experiments"][0];
    let sum: u64 = experiment["states"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!((sum, experiment["vms"].as_u64()), (vms.into(), Some(vms.into())), "{experiment:#}");
    let listed: std::collections::BTreeSet<_> =
        ps["vms"].as_array().unwrap().iter().map(|vm| vm["name"].as_str().unwrap()).collect();
    assert_eq!(listed.len() as u32, vms);
}

#[test]
fn an_up_whose_daemon_is_killed_again_and_again_comes_to_its_end_with_every_vm_started_once() {
    let (fleet, mut random, vms) = (Fleet::new(), Random::new(), many());
    let text = format!("lan floor\ndefault vm {{ mem 40MiB }}\nvm web[0..{vms}] {{ on floor }}\n");
    let file = fleet.write("crash.fleet", &text);
    let mut up = fleet.spawn(&["up", "--no-check", &file]);
    let mut kept = BTreeMap::new();
    for _ in 0..4 {
        let enough = (machines(&fleet) + 1 + random.below(vms / 4 + 1)).min(vms);
        until("more VMs", || machines(&fleet) >= enough);
        std::thread::sleep(std::time::Duration::from_micros(random.below(30_000).into())); // any moment will do
        kept.extend(lives(&fleet));
        fleet.kill_controller();
        up.wait().unwrap();
        // Any command starts the next daemon, which goes on by itself.
        adds_up(&fleet.json(&["ps"]), vms);
    }
    until("all VMs to run", || lives(&fleet).len() as u32 == vms);
    assert_eq!(machines(&fleet), vms, "{:#?}", fleet.traces().processes);
    let now = lives(&fleet);
    for (name, life) in &kept {
        assert_eq!(now.get(name), Some(life), "{name} ran, and was started again");
    }
    adds_up(&fleet.json(&["ps"]), vms);
    let again = fleet.json(&["up", "--no-check", &file]);
    assert_eq!(again["outcomes"][0]["outcome"], "already so", "{again:#}");
    assert_eq!(again["outcomes"][0]["count"].as_u64(), Some(vms.into()), "{again:#}");
    let last = format!("web[{}]", vms - 1);
    assert_eq!(fleet.exec(&last, "hostname"), format!("web-{}", vms - 1));
    fleet.down();
}

#[test]
fn another_program_of_fleet_takes_over_all_vms_with_their_consoles_and_control_channels() {
    let fleet = Fleet::new();
    let _ = fleet.ok(&["up", &fleet.example("hello.fleet")]);
    let before = lives(&fleet);
    let uptime =
        |fleet: &Fleet| -> f64 { fleet.exec("alice", "cat /proc/uptime").split(' ').next().unwrap().parse().unwrap() };
    let up_for = uptime(&fleet);
    let _ = fleet.ok(&["controller", "stop"]);
    assert!(before.values().all(|(pid, _)| fleet_tests::alive(*pid)), "a VM ended with the daemon");

    // The next version is another file.
    let fleet = fleet.with_program_copied("next-fleet");
    until("both VMs to be found", || lives(&fleet).len() == 2);
    let daemon = std::fs::read_link(format!("/proc/{}/exe", fleet.controller_pid())).unwrap();
    assert_eq!(daemon.file_name().unwrap(), "next-fleet");
    assert_eq!(lives(&fleet), before);
    assert!(uptime(&fleet) >= up_for, "the guest started again");
    let _ = fleet.ok(&["logs", "bob"]).says(&["press Enter"]);
    let _ = fleet.ok(&["exec", "alice", "--", "ping", "-c", "1", "10.0.0.17"]);
    let up = fleet.json(&["up", &fleet.example("hello.fleet")]);
    assert_eq!(up["outcomes"][0]["outcome"], "already so", "{up:#}");
    assert_eq!(lives(&fleet), before);
    fleet.down();
}

#[test]
fn a_vm_that_crashes_is_started_again_where_the_file_says_so_and_only_so_often() {
    let fleet = Fleet::new();
    let text = "lan floor\nvm again { on floor; restart failed times 2 }\nvm once { on floor }\n";
    let _ = fleet.ok(&["up", "--no-check", &fleet.write("crash.fleet", text)]);
    for _ in 0..2 {
        let old = fleet.vm("again").pid;
        kill(old);
        until("another life", || {
            let vm = fleet.vm("again");
            vm.state == "running" && vm.pid != old
        });
    }
    kill(fleet.vm("again").pid);
    let failed = fleet.wait_for("again", "failed");
    assert!(failed.reason.contains("signal") || failed.reason.contains("SIGKILL"), "{failed:?}");
    kill(fleet.vm("once").pid);
    fleet.wait_for("once", "failed");
    // Both for one reason, in one fold that adds up.
    let ps = fleet.json(&["ps", "--failed"]);
    let count: u64 = ps["failures"].as_array().unwrap().iter().map(|fold| fold["count"].as_u64().unwrap()).sum();
    assert_eq!((count, ps["vms"].as_array().unwrap().len()), (2, 2), "{ps:#}");
    // Who starts it by hand gives it its tries back.
    let _ = fleet.ok(&["vm", "start", "again"]);
    kill(fleet.vm("again").pid);
    fleet.wait_for("again", "running");
    // Stopped on request, it stays so.
    let _ = fleet.ok(&["vm", "stop", "again"]);
    assert_eq!(fleet.vm("again").state, "stopped");
    fleet.down();
}

#[test]
fn more_memory_than_the_host_has_is_promised_only_when_the_file_says_so() {
    let fleet = Fleet::new();
    let total: u64 =
        std::fs::read_to_string("/proc/meminfo").unwrap().split_whitespace().nth(1).unwrap().parse().unwrap();
    // Two VMs that together have a quarter more than the host.
    let mib = total / 1024 * 5 / 8;
    let text = |more: &str| {
        format!("lan floor\ndefault vm {{ hypervisor uml; mem {mib}MiB; {more} }}\nvm web[0..2] {{ on floor }}\n")
    };
    let file = fleet.write("large.fleet", &text(""));
    let _ = fleet.run(&["up", &file]).code(2).says(&["2 VMs need", "GiB", "`overcommit 2`"]);
    fleet.nothing_is_left("after a refusal");
    let _ = fleet.ok(&["up", "--no-check", &fleet.write("large.fleet", &text("overcommit 50"))]);
    assert_eq!(lives(&fleet).len(), 2);
    fleet.down();
}

#[test]
fn a_lan_with_more_ports_than_a_bridge_has_is_refused_before_anything_is_made() {
    let fleet = Fleet::new();
    let text = "lan floor = 10.0.0.0/16\ndefault vm { mem 40MiB; overcommit 100 }\nvm web[0..1024] { on floor }\n";
    let _ = fleet.run(&["up", &fleet.write("wide.fleet", text)]).code(2).says(&["E0407", "floor", "1,023"]);
    fleet.nothing_is_left("after a refusal");
}
