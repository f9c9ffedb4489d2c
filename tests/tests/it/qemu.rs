//! The other hypervisor: slow where KVM does not work, and real.
#![allow(clippy::unwrap_used, missing_docs)]

use fleet_tests::{Fleet, stat};

const MIXED: &str = "lan office
vm native { on office; hypervisor uml }
vm emulated { on office; hypervisor qemu }
check native reaches emulated
check emulated reaches native
";

#[test]
fn uml_and_qemu_guests_share_a_lan_and_outlive_the_controller() {
    let fleet = Fleet::new();
    let file = fleet.write("mixed.fleet", MIXED);
    let up = fleet.json(&["up", &file]);
    assert_eq!(up["checks"].as_array().unwrap().iter().filter(|check| check["passed"] == true).count(), 2, "{up:#}");
    let emulated = fleet.vm("emulated");
    assert!(emulated.hypervisor.starts_with("qemu/"), "{emulated:?}");
    assert_eq!(fleet.vm("native").hypervisor, "uml");
    // Two kernels, one image.
    let kernels = ["native", "emulated"].map(|vm| fleet.exec(vm, "uname -r"));
    assert_ne!(kernels[0], kernels[1]);
    let echoed = fleet.run_with_input(&["exec", "-i", "emulated", "--", "cat"], &vec![b'x'; 100_000]).code(0);
    assert_eq!(echoed.stdout.len(), 100_000);

    let _ = fleet.ok(&["vm", "pause", "emulated"]);
    let address = emulated.addresses[0].split('/').next().unwrap();
    assert_ne!(fleet.run(&["exec", "native", "--", "ping", "-c", "1", "-W", "1", address]).code, 0);
    let _ = fleet.ok(&["vm", "resume", "emulated"]);
    let _ = fleet.ok(&["exec", "native", "--", "ping", "-c", "2", "-W", "10", address]);

    let life = stat(emulated.pid).unwrap().1;
    fleet.kill_controller();
    let found = fleet.wait_for("emulated", "running");
    assert_eq!((found.pid, stat(found.pid).unwrap().1), (emulated.pid, life));
    assert_eq!(fleet.exec("emulated", "hostname"), "emulated");
    let again = fleet.json(&["up", &file]);
    assert_eq!(again["difference"]["unchanged"], 2, "{again:#}");

    let _ = fleet.run(&["exec", "emulated", "--", "poweroff"]);
    fleet.wait_for("emulated", "stopped");
    let _ = fleet.ok(&["vm", "start", "emulated"]);
    let _ = fleet.ok(&["exec", "native", "--", "ping", "-c", "2", "-W", "10", address]);
    fleet.down();
}
