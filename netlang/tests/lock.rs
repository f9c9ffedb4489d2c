//! What a file would change in its lock, and what pruning frees.

#![allow(clippy::unwrap_used)]

use netlang::{Lock, LockDifference, Source, compile};

fn difference(text: &str, lock: &Lock) -> (LockDifference, Lock) {
    let result = compile(&Source::new("p", text), lock);
    assert!(result.plan.is_some(), "{:#?}", result.diagnostics);
    (result.lock_difference(lock), result.lock)
}

fn lines(entries: &[netlang::LockEntry]) -> Vec<String> {
    entries.iter().map(|e| format!("{} {} {}", e.kind, e.path, e.blocks.join(" + "))).collect()
}

#[test]
fn new_gone_grown_and_moved_lines_are_told_apart() {
    let (first, lock) = difference("lan a\nlan b\nvm x { on a }\nvm w[0..4] { on b }", &Lock::default());
    assert_eq!(lines(&first.new).len(), 6);
    assert!(first.gone.is_empty() && first.grown.is_empty() && first.moved.is_empty());
    let lock = Lock::parse(&lock.to_string()).unwrap();
    let (same, _) = difference("lan b\nlan a\nvm w[0..3] { on b }\nvm x { on a }", &lock);
    assert!(same.is_empty(), "{same:?}");
    let (next, _) = difference("pool lan 172.16.0.0/12\nlan b\nvm w[0..6] { on b }\nvm y { on b }", &lock);
    assert_eq!(lines(&next.new), ["host b/y 24"]);
    assert_eq!(lines(&next.gone), ["host a/x 16", "net a 10.0.0.0/24", "vni a 1"]);
    assert_eq!(next.grown.iter().map(|c| c.after.blocks.join(" ")).collect::<Vec<_>>(), ["16 [0..4] 20 [4..8]"]);
    assert_eq!(lines(&next.moved.iter().map(|c| c.after.clone()).collect::<Vec<_>>()), ["net b 172.16.0.0/24"]);
}

#[test]
fn pruning_frees_only_what_is_gone_from_this_file() {
    let (_, lock) = difference("lan a\nlan b\nvm x { on a }\nvm w[0..4] { on b }", &Lock::default());
    let mut lock = Lock::parse(&lock.to_string()).unwrap();
    lock.merge(&Lock::parse("[other]\nhost l/v 16\nvni l 9\n").unwrap());
    let (before, full) = difference("lan b\nvm w[0..4] { on b }\nvm y { on b }", &lock);
    let pruned = lock.pruned("p", &before.gone);
    assert_eq!(pruned.section("other"), lock.section("other"));
    let (after, next) = difference("lan b\nvm w[0..4] { on b }\nvm y { on b }", &pruned);
    assert!(after.gone.is_empty());
    assert_eq!(after.new, before.new, "pruning writes nothing new");
    let kept = |lock: &Lock| {
        lock.only("p").to_string().lines().filter(|l| l.contains(" b")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(kept(&next), kept(&full), "what is there keeps its addresses");
    let (_, all) = difference("let n = 1", &lock);
    let gone = difference("let n = 1", &all).0.gone;
    assert!(all.pruned("p", &gone).section("p").is_none());
}
