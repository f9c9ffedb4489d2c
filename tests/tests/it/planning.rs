//! `fleet plan` and `fleet fmt`: what they show, and that they change nothing that they were not asked to.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::PathBuf;

use fleet_tests::Fleet;

/// A folder with files; removed at the end.
fn folder(files: &[(&str, &str)]) -> (tempfile::TempDir, impl Fn(&str) -> String + use<>) {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().to_owned();
    for (name, text) in files {
        std::fs::write(path.join(name), text).unwrap();
    }
    (folder, move |name: &str| path.join(name).display().to_string())
}

const NET: &str =
    "lan office\nvm web[0..40] { on office }\nvm db { on office }\nplace web { per host 10; hosts tag \"core\" }\n";

fn hosts(count: usize) -> String {
    let host = |n| format!("[[host]]\nname = \"h{n}\"\ntags = [\"core\"]\nmemory = \"4GiB\"\ncores = 4\n");
    (1..=count).map(host).collect()
}

#[test]
fn a_file_of_hosts_is_planned_for_or_refused_with_the_sums() {
    let fleet = Fleet::new();
    let (_folder, path) =
        folder(&[("net.fleet", NET), ("four.toml", &hosts(4)), ("three.toml", &hosts(3)), ("bad.toml", "x = 1")]);
    let shown = fleet.ok(&["plan", &path("net.fleet"), "--hosts", &path("four.toml")]).stdout;
    for words in ["h1", "web[0..10]", "place web: hosts with tag core, at most 10 per host", "web[0..40]  40"] {
        assert!(shown.contains(words), "no `{words}` in:\n{shown}");
    }
    assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
    let _ =
        fleet.run(&["plan", &path("net.fleet"), "--hosts", &path("three.toml")]).code(2).says(&["4 hosts are needed"]);
    let _ = fleet.run(&["plan", &path("net.fleet"), "--hosts", &path("bad.toml")]).code(2).says(&["[[host]]"]);
    // Without hosts to be held to, a plan that this host cannot run is still shown.
    let _ = fleet.ok(&["plan", &path("net.fleet")]).says(&["cannot run on this host alone", "--hosts"]);
}

#[test]
fn only_prune_writes_the_lock_and_frees_only_what_is_gone() {
    let fleet = Fleet::new();
    let lock = "version 1\n[net]\nhost office/gone 16\nvni office 4\n[other]\nvni lab 9\n";
    let (_folder, path) = folder(&[("net.fleet", "lan office\nvm a { on office }\n"), ("fleet.lock", lock)]);
    let text = || std::fs::read_to_string(path("fleet.lock")).unwrap();
    let _ = fleet.ok(&["plan", &path("net.fleet")]).says(&["host office/gone 16", "host office/a 17", "--prune"]);
    assert_eq!(text(), lock);
    let _ = fleet.ok(&["plan", "--prune", &path("net.fleet")]).says(&["freed: host office/gone 16"]);
    let pruned = text();
    assert!(!pruned.contains("gone") && pruned.contains("vni office 4") && pruned.contains("vni lab 9"), "{pruned}");
    assert!(!pruned.contains("office/a"), "pruning gives nothing new: {pruned}");
    let _ = fleet.ok(&["plan", "--prune", &path("net.fleet")]).says(&["nothing to free"]);
}

#[test]
fn a_million_vms_are_shown_on_a_page() {
    let fleet = Fleet::new();
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/../netlang/tests/samples/internet.fleet");
    let (_folder, path) = folder(&[("internet.fleet", &std::fs::read_to_string(sample).unwrap())]);
    let shown = fleet.ok(&["plan", &path("internet.fleet")]).stdout;
    assert!(shown.lines().count() <= 60, "{shown}");
    assert!(shown.contains("t1[0..10].seg[0..4]     40     10.0.0.0/22 … 10.0.156.0/22"), "{shown}");
}

#[test]
fn fmt_check_names_every_file_and_changes_none() {
    let fleet = Fleet::new();
    let (_folder, path) = folder(&[
        ("a.fleet", "lan   office\n"),
        ("b.fleet", "lan office\n"),
        ("c.fleet", "vm {{\n"),
        ("d.fleet", "lan  x\n"),
    ]);
    let (a, b, c, d) = (path("a.fleet"), path("b.fleet"), path("c.fleet"), path("d.fleet"));
    let _ = fleet.ok(&["fmt", "--check", &b]);
    let both = fleet.run(&["fmt", "--check", "--diff", &a, &b, &d]).code(3);
    let _ =
        both.says(&[&format!("{a}: not formatted"), &format!("{d}: not formatted"), "-lan   office", "+lan office"]);
    let _ = fleet.run(&["fmt", "--check", &a, &path("none.fleet"), &c]).code(2).says(&[
        "none.fleet",
        "a.fleet: not formatted",
        "error[",
    ]);
    assert_eq!(std::fs::read_to_string(&a).unwrap(), "lan   office\n");
    let _ = fleet.ok(&["fmt", &a, &d]).says(&["formatted"]);
    assert_eq!(std::fs::read_to_string(&a).unwrap(), "lan office\n");
}
