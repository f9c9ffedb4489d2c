//! One file for each code in `tests/errors`: what a user would write, and what he is told.

#![allow(clippy::unwrap_used)]

use netlang::{Lock, RenderOptions, Source, all_codes, compile, design, explain, render};
use std::path::{Path, PathBuf};

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/errors");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "fleet"));
    files.sort();
    files
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn every_code_is_given_with_cause_and_mend() {
    for case in cases() {
        let name = stem(&case);
        let source = Source::new(name.clone(), std::fs::read_to_string(&case).unwrap());
        let lock = std::fs::read_to_string(case.with_extension("lock")).unwrap_or_default();
        let code = &name[..5];
        // Cases may use what this version cannot run yet; that is said by one code only.
        let check = if code == "E0099" { compile } else { design };
        let result = check(&source, &Lock::parse(&lock).unwrap());
        let of_code = result.diagnostics.iter().filter(|d| d.code == code).count();
        let text = render(&result.diagnostics, &source, RenderOptions { color: false, width: 120 });
        assert!(of_code > 0, "{name} does not give {code}:\n{text}");
        assert_eq!(result.plan.is_none(), result.has_errors());
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(name, text);
        });
    }
}

#[test]
fn every_code_has_a_case_and_a_page() {
    let cases: Vec<String> = cases().iter().map(|c| stem(c)[..5].to_owned()).collect();
    for code in all_codes() {
        assert!(cases.iter().any(|c| c == code), "no file in tests/errors gives {code}");
        let page = explain(code).unwrap();
        assert!(page.starts_with(&format!("# {code}: ")), "the page of {code} has no title");
        assert!(page.contains("```") && page.lines().count() > 8, "the page of {code} shows no example");
    }
    assert_eq!(explain("E9999"), None);
}

#[test]
fn the_example_of_errors_gives_them_all_in_one_run() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/errors.fleet");
    let source = Source::new("errors", std::fs::read_to_string(file).unwrap());
    let result = compile(&source, &Lock::default());
    let text = render(&result.diagnostics, &source, RenderOptions { color: false, width: 120 });
    insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!("example_errors", text);
    });
}
