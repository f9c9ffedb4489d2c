//! The example files do what they say, with real packets.
#![allow(clippy::unwrap_used, missing_docs)]

use fleet_tests::Fleet;
use serde_json::Value;

fn checks(up: &Value) -> Vec<(&str, bool)> {
    let checks = up["checks"].as_array().unwrap();
    checks.iter().map(|check| (check["check"].as_str().unwrap(), check["passed"].as_bool().unwrap())).collect()
}

#[test]
fn a_router_joins_two_lans_and_keeps_a_third_apart() {
    let fleet = Fleet::new();
    let up = fleet.json(&["up", &fleet.example("routed.fleet")]);
    let expected = [
        "check alice reaches bob",
        "check bob reaches alice",
        "check alice reaches gw",
        "check alice cannot reach safe",
        "check safe cannot reach bob",
    ];
    assert_eq!(checks(&up), expected.map(|check| (check, true)));

    // Every host of a fleet on another fleet's words: what the guests themselves see.
    let bob = fleet.vm("bob").addresses[0].split('/').next().unwrap().to_owned();
    let safe = fleet.vm("safe").addresses[0].split('/').next().unwrap().to_owned();
    let _ = fleet.ok(&["exec", "alice", "--", "ping", "-c", "2", &bob]).says(&["2 packets received", "ttl=63"]);
    assert_ne!(fleet.run(&["exec", "alice", "--", "ping", "-c", "1", "-W", "1", &safe]).code, 0);
    // Not only ping: a stream of bytes crosses the router whole, found by the other's name.
    let _ = fleet.exec("bob", "head -c 3000000 /dev/zero > /tmp/file && httpd -p 8000 -h /tmp");
    assert_eq!(fleet.exec("alice", "wget -q -O - http://bob:8000/file | wc -c"), "3000000");

    let routers = fleet.json(&["ps"])["routers"].clone();
    assert_eq!((routers[0]["name"].as_str(), routers[0]["up"].as_bool()), (Some("gw"), Some(true)), "{routers}");
    fleet.down();
}

#[test]
fn three_towns_reach_one_another_by_the_cheapest_way() {
    let fleet = Fleet::new();
    let up = fleet.json(&["up", &fleet.example("links.fleet")]);
    assert_eq!(up["targets"], 3);
    let checks = checks(&up);
    assert!(checks.len() == 3 && checks.iter().all(|(_, passed)| *passed), "{checks:?}");
    // From west to east over north: three routers, so 64 - 3 hops are left.
    let ed = fleet.vm("ed").addresses[0].split('/').next().unwrap().to_owned();
    let _ = fleet.ok(&["exec", "anna", "--", "ping", "-c", "1", &ed]).says(&["ttl=61"]);
    fleet.down();
}

#[test]
fn thirty_of_a_kind_and_one_apart_come_up() {
    let fleet = Fleet::new();
    let up = fleet.json(&["up", &fleet.example("group.fleet")]);
    assert_eq!(up["targets"], 31, "{up:#}");
    assert_eq!(up["outcomes"][0]["count"], 31, "{up:#}");
    assert!(checks(&up).iter().all(|(_, passed)| *passed), "{up:#}");
    let vms = fleet.vms();
    assert_eq!(vms.iter().filter(|vm| vm.state == "running").count(), 31);
    assert_eq!(fleet.vm("web[29]").addresses, ["192.168.40.45/24"]);
    assert_eq!(fleet.vm("monitor").addresses, ["192.168.40.5/24"]);
    assert_eq!(fleet.ok(&["exec", "web[*]", "--", "uname", "-s"]).stdout, "web[0-29] (30)\n  Linux\n");
    // Each VM has its own name and address.
    let told = fleet.json(&["exec", "web[0..10]", "--", "sh", "-c", "hostname; ip -4 -o addr show eth0"]);
    for (index, answer) in told["answers"].as_array().unwrap().iter().enumerate() {
        let stdout = answer["stdout"].as_str().unwrap();
        assert!(stdout.contains(&format!("web-{index}\n")), "{answer}");
        assert!(stdout.contains(&format!("192.168.40.{}/24", 16 + index)), "{answer}");
    }
    fleet.down();
}
