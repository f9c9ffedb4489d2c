//! Hosts without images: `up` sends them what they lack, and so does `fleet image push`.
#![allow(clippy::unwrap_used, missing_docs)]

use fleet_tests::Lab;
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
