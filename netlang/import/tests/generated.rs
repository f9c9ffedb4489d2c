//! What holds for the translation of every topology, consistent or not.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use fleet_import::containerlab;
use netlang::{Lock, Source};
use proptest::prelude::*;

const NAMES: &[&str] = &[
    "r1", "R1", "r-1", "r_1", "vm", "lan", "mesh", "1a", "web.lab", "x", "X", "in", "eth", "a-b", "a_b", "a", "b", "é",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Vm,
    Router,
    Bridge,
}

/// Kinds and images, and what they become.
const KINDS: &[(&str, Role)] = &[
    ("kind: linux, image: 'alpine:3'", Role::Vm),
    ("kind: linux, image: 'reg.io:5000/x/tool-box:1.2', cpu: 1.5, memory: 1Gb", Role::Vm),
    ("kind: generic_vm", Role::Vm),
    ("kind: linux, image: 'quay.io/frrouting/frr:10'", Role::Router),
    ("group: routers", Role::Router),
    ("kind: nokia_srlinux", Role::Router),
    ("kind: bridge", Role::Bridge),
    ("kind: ovs-bridge", Role::Bridge),
];

#[derive(Debug, Clone)]
struct Lab {
    nodes: Vec<(String, Role)>,
    /// Places of the nodes at both ends.
    links: Vec<(usize, usize)>,
    text: String,
}

fn labs() -> impl Strategy<Value = Lab> {
    let nodes = (2..NAMES.len()).prop_flat_map(|count| {
        let names = proptest::sample::subsequence(NAMES, count);
        (names, proptest::collection::vec((0..KINDS.len(), any::<bool>()), count))
    });
    let link = (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..8u8, 0..6u8, 1..40u8, 1..40u8, 24..33u8);
    (nodes, proptest::collection::vec(link, 0..30), any::<bool>()).prop_map(|((names, kinds), links, routes)| {
        let mut text = String::from("name: lab\ntopology:\n  groups:\n    routers: { kind: frr }\n  nodes:\n");
        let mut exec: BTreeMap<usize, String> = BTreeMap::new();
        let mut lines = String::new();
        let mut ends = Vec::new();
        for (at, (a, b, form, net, x, y, len)) in links.iter().enumerate() {
            let (a, b) = (a.index(names.len()), b.index(names.len()));
            ends.push((a, b));
            let (from, to) = (names[a], names[b]);
            let extra = match form {
                0 => ", mtu: 1500".to_owned(),
                1 => ", mtu: 9000".to_owned(),
                2 => format!(", vars: {{ ipv4: [10.0.{net}.{x}/{len}, 10.0.{net}.{y}/{len}] }}"),
                _ => String::new(),
            };
            lines += &format!("    - {{ endpoints: ['{from}:eth{at}', '{to}:eth{at}x']{extra} }}\n");
            if *form > 3 {
                let of = exec.entry(a).or_default();
                *of += &format!("'ip addr add 10.0.{net}.{x}/{len} dev eth{at}', ");
                if routes {
                    *of += &format!("'ip route add default via 10.0.{net}.{y}', ");
                }
            }
            if *form > 4 {
                *exec.entry(b).or_default() += &format!("'ip addr add 10.0.{net}.{y}/24 dev eth{at}x', ");
            }
        }
        let mut nodes = Vec::new();
        for (at, (name, (kind, routed))) in names.iter().zip(kinds).enumerate() {
            let (fields, role) = KINDS[kind];
            // With routes, a VM that has the address of a next hop would be taken for a router.
            let exec = exec.get(&at).filter(|_| routed && (role != Role::Vm || !routes));
            let exec = exec.map(|exec| format!(", exec: [{exec}]")).unwrap_or_default();
            text += &format!("    '{name}': {{ {fields}{exec} }}\n");
            nodes.push(((*name).to_owned(), role));
        }
        text += "  links:\n";
        text += &lines;
        Lab { nodes, links: ends, text }
    })
}

/// Attachments to lans, and links, that a translation must have.
fn expected(lab: &Lab) -> (usize, usize) {
    let role = |at: usize| lab.nodes[at].1;
    // Bridges that are joined are one.
    let mut lan: Vec<usize> = (0..lab.nodes.len()).collect();
    for _ in 0..lab.nodes.len() {
        for (a, b) in lab.links.iter().filter(|(a, b)| role(*a) == Role::Bridge && role(*b) == Role::Bridge) {
            let low = lan[*a].min(lan[*b]);
            (lan[*a], lan[*b]) = (low, low);
        }
    }
    let mut routers_on = BTreeSet::new();
    let (mut attachments, mut links) = (0, 0);
    for (a, b) in lab.links.iter().copied() {
        match (role(a), role(b)) {
            (Role::Bridge, Role::Bridge) => {}
            (Role::Bridge, Role::Router) => attachments += usize::from(routers_on.insert((b, lan[a]))),
            (Role::Router, Role::Bridge) => attachments += usize::from(routers_on.insert((a, lan[b]))),
            (Role::Bridge, _) | (_, Role::Bridge) => attachments += 1,
            _ if a == b => {}
            (Role::Router, Role::Router) => links += 1,
            _ => attachments += 2,
        }
    }
    (attachments, links)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_node_is_declared_once_and_every_end_attached(lab in labs()) {
        let imported = containerlab(&lab.text).unwrap();
        let text = &imported.fleet;
        let formatted = netlang::format(text);
        prop_assert_eq!(formatted.as_ref(), Ok(text));
        let compiled = netlang::design(&Source::new("lab", text.clone()), &Lock::default());
        prop_assert!(!compiled.has_errors(), "{}\n{}\n{:?}", lab.text, text, compiled.diagnostics);

        let declared = |keyword: &str| -> Vec<&str> {
            let statements = text.lines().filter_map(|line| line.strip_prefix(keyword)?.strip_prefix(' '));
            statements.map(|rest| rest.split_whitespace().next().unwrap()).collect()
        };
        let count = |role| lab.nodes.iter().filter(|node| node.1 == role).count();
        prop_assert_eq!(declared("vm").len(), count(Role::Vm));
        prop_assert_eq!(declared("router").len(), count(Role::Router));
        let mut names = BTreeSet::new();
        for name in ["vm", "router", "lan", "image"].into_iter().flat_map(declared) {
            prop_assert!(names.insert(name), "{name} twice");
        }
        let (attachments, links) = expected(&lab);
        let on = text.split_whitespace().filter(|word| *word == "on").count();
        prop_assert_eq!(on, attachments, "{}\n{}", &lab.text, text);
        prop_assert_eq!(declared("link").len(), links);
    }

    #[test]
    fn the_same_topology_gives_the_same_result(lab in labs()) {
        prop_assert_eq!(containerlab(&lab.text), containerlab(&lab.text));
    }
}
