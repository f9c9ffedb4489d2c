//! One file for each feature in `tests/topologies`, and what becomes of it.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use fleet_import::{Imported, NoteKind, containerlab};
use netlang::{Lock, Source};

fn import(name: &str) -> Imported {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/topologies/{name}.clab.yml"));
    containerlab(&std::fs::read_to_string(file).unwrap()).unwrap()
}

/// Whether a note depends on what `fleet up` can run today.
fn is_of_today(why: &str) -> bool {
    why.contains("(E0")
}

#[test]
fn topologies_become_what_they_were() {
    for name in ["addresses", "anchors", "campus", "fabric", "forms", "switches"] {
        let imported = import(name);
        let notes = imported.notes.iter().filter(|note| !is_of_today(&note.why));
        let notes: String = notes.map(|note| format!("{note}\n")).collect();
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(name, format!("{}\n{notes}", imported.fleet));
        });
    }
}

#[test]
fn addresses_of_the_topology_are_those_of_the_plan() {
    let fleet = import("campus").fleet;
    let plan = netlang::design(&Source::new("campus", fleet), &Lock::default()).plan.unwrap();
    let summary = plan.summary();
    let address = |name: &str| {
        let group = summary.groups.iter().find(|group| group.name == name).unwrap();
        group.addresses[0].first.to_string()
    };
    assert_eq!(address("anna"), "10.20.4.10");
    assert_eq!(address("ben"), "10.20.4.11");
    assert_eq!(address("vm_1"), "10.20.9.2");
    let gateways: Vec<String> = summary.segments.iter().filter_map(|s| Some(s.gateway?.to_string())).collect();
    assert_eq!(gateways, ["10.20.4.254", "10.20.9.1"]);
}

#[test]
fn what_up_cannot_run_yet_is_said() {
    for name in ["addresses", "campus", "fabric", "switches"] {
        let imported = import(name);
        let compiled = netlang::design(&Source::new(name, imported.fleet.clone()), &Lock::default());
        assert!(!compiled.has_errors(), "{name}: {:?}", compiled.diagnostics);
        for part in compiled.plan.unwrap().unsupported() {
            let word = format!("`{}`", part.what);
            let said = |note: &&fleet_import::Note| note.kind == NoteKind::Advice && note.what == word;
            assert_eq!(imported.notes.iter().filter(said).count(), 1, "{name}: {word}");
        }
    }
}
