//! Snapshots of a range of VMs, and going back to them.
#![allow(clippy::unwrap_used, missing_docs)]

use fleet_tests::Fleet;

const THREE: &str = "lan office
vm web[0..3] { on office; hypervisor qemu }
vm native { on office; hypervisor uml }
check native reaches web
";

#[test]
fn a_range_goes_back_to_its_snapshot_also_after_the_agent_was_killed() {
    let fleet = Fleet::new();
    let file = fleet.write("three.fleet", THREE);
    let _ = fleet.json(&["up", &file]);
    for index in 0..3 {
        let _ = fleet.exec(&format!("web[{index}]"), &format!("echo old {index} > /root/file"));
    }
    let taken = fleet.json(&["vm", "snapshot", "web", "--name", "before"]);
    assert_eq!(taken["targets"], 3, "{taken:#}");
    for index in 0..3 {
        let _ = fleet.exec(&format!("web[{index}]"), "echo new > /root/file");
    }
    let listed = fleet.json(&["vm", "snapshots", "three"]);
    assert_eq!(listed["snapshots"].as_array().unwrap().len(), 3, "{listed:#}");
    for snapshot in listed["snapshots"].as_array().unwrap() {
        assert_eq!(snapshot["name"], "before");
        assert!(snapshot["shared_bytes"].as_u64() > Some(0), "clones have memory in common: {snapshot:#}");
    }
    let _ = fleet.ok(&["vm", "restore", "web[1..3]", "--name", "before"]);
    assert_eq!(fleet.exec("web[0]", "cat /root/file"), "new");
    assert_eq!(fleet.exec("web[1]", "cat /root/file"), "old 1");

    fleet.kill_controller();
    for index in 0..3 {
        fleet.wait_for(&format!("web[{index}]"), "running");
    }
    let _ = fleet.ok(&["vm", "restore", "web", "--name", "before"]);
    for index in 0..3 {
        assert_eq!(
            fleet.exec(&format!("web[{index}]"), "cat /root/file; hostname"),
            format!("old {index}\nweb-{index}")
        );
        let address = fleet.vm(&format!("web[{index}]")).addresses[0].split('/').next().unwrap().to_owned();
        let _ = fleet.ok(&["exec", "native", "--", "ping", "-c", "2", "-W", "20", &address]);
    }

    // What cannot be is said, and nothing is touched.
    let _ = fleet.run(&["vm", "snapshot", "native"]).code(3).says(&["hypervisor qemu"]);
    let _ = fleet.run(&["vm", "restore", "web[0]", "--name", "never"]).code(3).says(&["no snapshot \"never\""]);
    assert_eq!(fleet.exec("web[0]", "cat /root/file"), "old 0");

    let removed = fleet.json(&["vm", "snapshots", "three", "--remove", "before"]);
    assert_eq!((removed["removed"].as_u64(), removed["snapshots"].as_array().map(Vec::len)), (Some(3), Some(0)));
    fleet.down();
}
