//! The large samples: whole networks that use all of the language.

#![allow(clippy::unwrap_used)]

use netlang::{Lock, Plan, RenderOptions, Source, design, render};
use std::path::Path;

fn plan(name: &str) -> Plan {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples").join(format!("{name}.fleet"));
    let source = Source::new(name.to_owned(), std::fs::read_to_string(file).unwrap());
    let result = design(&source, &Lock::default());
    let text = render(&result.diagnostics, &source, RenderOptions { color: false, width: 120 });
    assert!(result.diagnostics.is_empty(), "{text}");
    result.plan.unwrap()
}

#[test]
fn the_samples_are_right() {
    for name in ["enterprise", "internet"] {
        plan(name);
    }
}
