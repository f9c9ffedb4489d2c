//! The reference in `docs/language` is the one that the vocabulary gives.

#![allow(clippy::unwrap_used)]

use std::path::Path;

/// Set to write the page instead of comparing it: `FLEET_WRITE=1 cargo test -p netlang --test reference`.
const WRITE: &str = "FLEET_WRITE";

#[test]
fn the_reference_is_the_vocabulary() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/language/reference.md");
    let text = netlang::vocab::reference();
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == text, "reference.md is old; `{WRITE}=1 cargo test -p netlang --test reference` writes it");
}
