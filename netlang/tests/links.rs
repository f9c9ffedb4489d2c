//! Links that are made in numbers: a router more or less moves no address of another link, and changes only the links
//! that are its own.

#![allow(clippy::unwrap_used)]

use netlang::{Lock, Source, design};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Sizes of the three tiers.
type Sizes = (u32, u32, u32);

fn text((core, middle, edge): Sizes, modules: bool) -> String {
    let tier = |name: &str, count: u32, base: u32| match modules {
        true => format!("site {name}[i in 0..{count}] {{ n {base} + i }}\n"),
        false => format!("router {name}[0..{count}]\n"),
    };
    let head = if modules { "module site {\n  param n int\n  router gw\n}\n" } else { "" };
    let gw = if modules { ".gw" } else { "" };
    format!(
        "{head}{}{}{}link mesh core[*]{gw}\nlink each middle[*]{gw} -> 2 of core[*]{gw}\nlink each middle[*]{gw} -- 1 of \
         middle[*]{gw}\nlink each edge[*]{gw} -> 2 of middle[*]{gw}\n",
        tier("core", core, 0),
        tier("middle", middle, 1000),
        tier("edge", edge, 2000)
    )
}

/// Prefix of every link by name, and the lock afterwards.
fn links(text: &str, lock: &Lock) -> (BTreeMap<String, String>, Lock) {
    let result = design(&Source::new("p", text), lock);
    let plan = result.plan.unwrap_or_else(|| panic!("{:?}\n{text}", result.diagnostics));
    let all: Vec<(String, String)> = plan.links().map(|l| (l.name, format!("{}/{}", l.prefix, l.prefix_len))).collect();
    let prefixes: BTreeSet<&String> = all.iter().map(|(_, p)| p).collect();
    assert_eq!(prefixes.len(), all.len(), "two links have one prefix");
    let count = all.len();
    let by_name: BTreeMap<String, String> = all.into_iter().collect();
    assert_eq!(by_name.len(), count, "two links have one name");
    (by_name, Lock::parse(&result.lock.to_string()).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn tiers_that_grow_and_shrink_move_no_link(
        sizes in proptest::collection::vec((2u32..12, 3u32..12, 1u32..20), 1..8),
        modules in any::<bool>(),
    ) {
        let mut lock = Lock::default();
        let mut ever: BTreeMap<String, String> = BTreeMap::new();
        for size in sizes {
            let (now, new_lock) = links(&text(size, modules), &lock);
            for (name, prefix) in &now {
                let known = ever.entry(name.clone()).or_insert_with(|| prefix.clone());
                prop_assert_eq!(&*known, prefix, "{} moved", name);
            }
            let (core, middle, edge) = size;
            let between = |a: &str, b: &str| now.keys().filter(|n| n.starts_with(a) && n.contains(&format!("--{b}"))).count();
            prop_assert_eq!(between("core", "core"), (core * (core - 1) / 2) as usize);
            prop_assert_eq!(between("middle", "core"), 2 * middle as usize);
            prop_assert_eq!(between("edge", "middle"), 2 * edge as usize);
            let peers = between("middle", "middle");
            prop_assert!((middle as usize).div_ceil(2) <= peers && peers <= middle as usize);
            lock = new_lock;
        }
    }

    #[test]
    fn one_router_more_wins_some_links_and_leaves_the_rest(size in (2u32..12, 3u32..12, 1u32..20), modules in any::<bool>()) {
        let (before, lock) = links(&text(size, modules), &Lock::default());
        let (after, _) = links(&text((size.0, size.1 + 1, size.2), modules), &lock);
        let new = format!("middle[{}]", size.1);
        let edges = |links: &BTreeMap<String, String>| -> BTreeSet<String> {
            links.keys().filter(|n| n.starts_with("edge")).cloned().collect()
        };
        let (old, now) = (edges(&before), edges(&after));
        for won in now.difference(&old) {
            prop_assert!(won.contains(&new), "{} changed, though {} came", won, new);
        }
        // Each router gives up at most one link for the new one.
        for edge in 0..size.2 {
            let start = format!("edge[{edge}]");
            prop_assert!(old.difference(&now).filter(|n| n.starts_with(&start)).count() <= 1);
        }
        for (name, prefix) in &before {
            prop_assert!(after.get(name).is_none_or(|now| now == prefix), "{} moved", name);
        }
    }
}

#[test]
fn very_many_routers_take_blocks_by_preference() {
    let text = "router core[0..100]\nrouter edge[0..20000]\nlink each edge[*] -> 2 of core[*]\n";
    let (links, lock) = links(text, &Lock::default());
    assert_eq!(links.len(), 40_000);
    assert!(lock.to_string().contains("#rank"));
}
