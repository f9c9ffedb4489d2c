//! Twelve hosts, each an agent of its own in a network namespace: they join, are cut off, die and come back.
#![allow(clippy::unwrap_used, missing_docs)]

use fleet_tests::Lab;

#[test]
fn twelve_hosts_join_and_one_that_was_cut_off_or_killed_comes_back_by_itself() {
    let mut lab = Lab::new(12, "");
    let hosts = lab.fleet().json(&["host", "ls"]);
    assert_eq!(hosts["hosts"].as_array().unwrap().len(), 13, "{hosts:#}");
    let seen = lab.listed("h05");
    assert_eq!((seen["rack"].as_str(), seen["address"].as_str()), (Some("r2"), Some("10.99.0.6:7118")), "{seen}");
    assert_eq!(seen["tags"], serde_json::json!({ "odd": "1" }));

    // Cut off, it is unknown, and nobody else is.
    lab.cut("h05");
    lab.wait_for("h05", "unknown");
    assert_eq!(lab.in_state("unknown"), ["h05"]);
    lab.heal("h05");
    assert_eq!(lab.wait_for("h05", "ready")["incarnation"], seen["incarnation"]);

    // Killed, it comes back without a token, as another incarnation of itself.
    let seen = lab.listed("h07");
    lab.kill("h07");
    lab.wait_for("h07", "unknown");
    lab.restart("h07");
    let again = lab.wait_for("h07", "ready");
    assert_ne!(again["incarnation"], seen["incarnation"]);
    assert_eq!((&again["joined_ms"], &again["rack"]), (&seen["joined_ms"], &seen["rack"]));

    // All of them come to a controller that was killed.
    lab.kill_controller();
    lab.start_controller();
    lab.until_ready();
}
