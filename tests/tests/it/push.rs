//! Hosts without images: `up` sends them what they lack, and so does `fleet image push`.
#![allow(clippy::unwrap_used, missing_docs)]

use fleet_tests::{Lab, until};
use serde_json::Value;

fn counts(answer: &Value) -> Vec<(String, u64)> {
    let folds = answer["outcomes"].as_array().unwrap().iter();
    folds.map(|fold| (fold["outcome"].as_str().unwrap().to_owned(), fold["count"].as_u64().unwrap())).collect()
}

#[test]
fn images_go_to_hosts_that_lack_them_and_guests_of_them_run_there() {
    let stores = tempfile::tempdir().unwrap();
    let own = |number: usize| format!("image_store = {:?}", stores.path().join(number.to_string()));
    let lab = Lab::with(4, "", &own);
    let fleet = lab.fleet();

    // To one by hand, in pieces, down no tree at all; again, it has it.
    let push = ["image", "push", "tiny", "--to", "h01"];
    assert_eq!(counts(&fleet.json(&push)), [("ok".into(), 1)]);
    assert_eq!(counts(&fleet.json(&push)), [("already so".into(), 1)]);
    // To the others by `up`, along a chain; their guests run on what came.
    let file = fleet.write(
        "apart.fleet",
        "lan floor\ndefault vm { mem 48MiB }\nvm web[0..4] { on floor; apart; place tag \"odd\" }\ncheck web[*] reaches web[*]\n",
    );
    let up = fleet.json(&["up", &file]);
    assert_eq!(counts(&up), [("ok".into(), 4)], "{up:#}");
    assert!(up["checks"].as_array().unwrap().iter().all(|check| check["passed"] == true), "{up:#}");
    let ids: Vec<String> = (1..=4)
        .map(|number| std::fs::read_to_string(stores.path().join(number.to_string()).join("images/tiny")).unwrap())
        .collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    for number in 1..=4 {
        assert!(!stores.path().join(number.to_string()).join("incoming").exists(), "pieces are left on host {number}");
    }
    assert_eq!(counts(&fleet.json(&["image", "push", "tiny"])), [("already so".into(), 5)]);
    let _ = fleet.run(&["image", "push", "nothere"]).code(2).says(&["nothere"]);
    let _ = fleet.ok(&["down"]);
}

#[test]
fn a_host_that_dies_while_it_hands_an_image_on_costs_nobody_else_the_image() {
    let stores = tempfile::tempdir().unwrap();
    let own = |number: usize| format!("image_store = {:?}", stores.path().join(number.to_string()));
    // One after the other: whoever dies cuts off all that come after it.
    let mut lab = Lab::with(4, "tree_k = 1", &own);
    lab.limit(200);
    let mut push = lab.fleet().spawn(&["image", "push", "tiny", "--to", "h0[1-4]", "--json"]);
    // Halfway through: the second has some pieces, and the image is not whole yet.
    let arrives = stores.path().join("2/incoming");
    let mut ended = || push.try_wait().unwrap().is_some();
    until("pieces on the second host", || {
        ended() || arrives.read_dir().is_ok_and(|mut pieces| pieces.next().is_some())
    });
    assert!(!ended(), "the image was there too soon");
    lab.kill("h02");
    let output = push.wait_with_output().unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let ends = counts(&answer);
    let of = |outcome: &str| ends.iter().filter(|(known, _)| known == outcome).map(|(_, count)| count).sum::<u64>();
    assert_eq!((of("ok"), ends.iter().map(|(_, count)| count).sum::<u64>()), (3, 4), "{answer:#}");
    assert_ne!(output.status.code(), Some(0), "a host is without the image: {answer:#}");

    // It comes back with what it had, and gets the rest.
    lab.restart("h02");
    lab.wait_for("h02", "ready");
    let again = lab.fleet().json(&["image", "push", "tiny", "--to", "h0[1-4]"]);
    assert_eq!(counts(&again).iter().map(|(_, count)| count).sum::<u64>(), 4, "{again:#}");
    assert!(counts(&again).iter().all(|(outcome, _)| outcome == "ok" || outcome == "already so"), "{again:#}");
    assert!(!arrives.exists(), "pieces are left");
}
