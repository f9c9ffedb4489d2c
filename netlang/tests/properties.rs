//! Promises that hold for every file: addresses never move, the formatter changes nothing but the layout, and no
//! input makes the compiler panic.

#![allow(clippy::unwrap_used)]

use netlang::{Lock, Source, compile, format};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A network in the making: groups by name, each with a lan and a size; 0 is a single VM.
#[derive(Debug, Clone)]
struct Model {
    groups: BTreeMap<u8, (u8, u16)>,
    explicit_lan: bool,
}

#[derive(Debug, Clone)]
enum Edit {
    Add(u8, u8, u16),
    Remove(u8),
    Grow(u8, u16),
    Shrink(u8),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let edit = prop_oneof![
        (0u8..12, 0u8..3, 0u16..40).prop_map(|(g, l, n)| Edit::Add(g, l, n)),
        (0u8..12).prop_map(Edit::Remove),
        (0u8..12, 1u16..60).prop_map(|(g, n)| Edit::Grow(g, n)),
        (0u8..12).prop_map(Edit::Shrink),
    ];
    proptest::collection::vec(edit, 1..25)
}

impl Model {
    fn apply(&mut self, edit: &Edit) {
        match edit {
            Edit::Add(group, lan, size) => drop(self.groups.entry(*group).or_insert((*lan, *size))),
            Edit::Remove(group) => drop(self.groups.remove(group)),
            Edit::Grow(group, more) => {
                if let Some((_, size)) = self.groups.get_mut(group).filter(|g| g.1 > 0) {
                    *size += more;
                }
            }
            Edit::Shrink(group) => {
                if let Some((_, size)) = self.groups.get_mut(group).filter(|g| g.1 > 1) {
                    *size /= 2;
                    *size = (*size).max(1);
                }
            }
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for lan in 0..3 {
            match self.explicit_lan {
                true => text.push_str(&format!("lan l{lan} = 10.{lan}.0.0/16\n")),
                // Far apart, so that a lan can always grow where it is.
                false => text.push_str(&format!("lan l{lan}\n")),
            }
        }
        if !self.explicit_lan {
            text.push_str("pool lan 10.0.0.0/8 each /20\n");
        }
        for (group, (lan, size)) in &self.groups {
            match size {
                0 => text.push_str(&format!("vm g{group} {{ on l{lan} }}\n")),
                n => text.push_str(&format!("vm g{group}[0..{n}] {{ on l{lan} }}\n")),
            }
        }
        text
    }
}

type Addresses = BTreeMap<String, Vec<([u8; 6], std::net::Ipv4Addr, u32)>>;

fn addresses(source: &Source, lock: &Lock) -> (Addresses, Lock) {
    let result = compile(source, lock);
    let plan = result.plan.unwrap_or_else(|| panic!("{:?}\n{}", result.diagnostics, source.text));
    let mut all = Addresses::new();
    for group in plan.groups() {
        for index in group.first..group.first + group.count {
            let vm = plan.vm(group.id, index).unwrap();
            let vni = |n: &netlang::Nic| plan.segment(n.segment).unwrap().vni;
            all.insert(vm.name.clone(), vm.nics.iter().map(|n| (n.mac, n.ip, vni(n))).collect());
        }
    }
    (all, result.lock)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn edits_renumber_nobody_who_was_there(edits in edits(), explicit_lan in any::<bool>()) {
        let mut model = Model { groups: BTreeMap::new(), explicit_lan };
        let mut lock = Lock::default();
        let mut ever: BTreeMap<(String, u8, bool), Vec<_>> = BTreeMap::new();
        for edit in &edits {
            model.apply(edit);
            let (now, new_lock) = addresses(&Source::new("p", model.text()), &lock);
            // The lock survives its own text form.
            let new_lock: Lock = Lock::parse(&new_lock.to_string()).unwrap();
            let distinct: std::collections::BTreeSet<_> = now.values().flatten().map(|a| (a.1, a.2)).collect();
            prop_assert_eq!(distinct.len(), now.len(), "an address was given twice");
            for (name, at) in now {
                // A group that changed its lan or its kind is another one.
                let group: u8 = name[1..].split('[').next().unwrap().parse().unwrap();
                let (lan, size) = model.groups[&group];
                let known = ever.entry((name.clone(), lan, size == 0)).or_insert_with(|| at.clone());
                prop_assert_eq!(&*known, &at, "{} moved", name);
            }
            lock = new_lock;
        }
    }

    #[test]
    fn the_formatter_changes_the_layout_only_and_only_once(text in statements()) {
        if let Ok(once) = format(&text) {
            prop_assert_eq!(format(&once), Ok(once.clone()));
            let words = |t: &str| t.split(|c: char| c.is_whitespace() || c == ';').collect::<String>();
            prop_assert_eq!(words(&once), words(&text));
        }
    }

    #[test]
    fn no_text_makes_the_compiler_panic(text in prop_oneof![".{0,200}", statements()]) {
        let source = Source::new("p", text);
        let result = compile(&source, &Lock::default());
        netlang::render(&result.diagnostics, &source, netlang::RenderOptions { color: true, width: 60 });
        drop(format(&source.text));
        drop(Lock::parse(&source.text));
    }
}

#[test]
fn every_vm_is_on_the_lan_that_its_path_names() {
    let text = "module site { param n int; lan one; lan part[0..n]; lan last }\nsite s[i in 0..4] { n 3 }\n\
                site t[i in 0..4] { n 1 + i }\nlan seg[0..7]\n\
                vm a[i in 0..40] { on seg[i mod 7] }\nvm b[i in 2..22] { on seg[(i - 2) div 3] }\n\
                vm c[i in 0..40] { on s[i div 10].part[2] }\nvm d[i in 0..24] { on s[i mod 4].part[i mod 3] }\n\
                vm e[i in 0..24] { on t[i mod 4].last }\nvm f[i in 0..3] { on t[3 - i].part[i mod 2] }\n";
    let plan = compile(&Source::new("p", text), &Lock::default()).plan.unwrap();
    let expected = |group: &str, i: u32| match group {
        "a" => format!("seg[{}]", i % 7),
        "b" => format!("seg[{}]", (i - 2) / 3),
        "c" => format!("s[{}].part[2]", i / 10),
        "d" => format!("s[{}].part[{}]", i % 4, i % 3),
        "e" => format!("t[{}].last", i % 4),
        _ => format!("t[{}].part[{}]", 3 - i, i % 2),
    };
    let mut on: BTreeMap<u32, Vec<(netlang::GroupId, u32)>> = BTreeMap::new();
    for group in plan.groups() {
        for index in group.first..group.first + group.count {
            let nic = &plan.vm(group.id, index).unwrap().nics[0];
            assert_eq!(
                plan.segment(nic.segment).unwrap().name,
                expected(&group.path, index),
                "{}[{index}]",
                group.path
            );
            on.entry(nic.segment.0).or_default().push((group.id, index));
        }
    }
    for segment in plan.segments() {
        let vms = plan.ports_of(segment.id).filter_map(|port| match port.owner {
            netlang::PortOwner::Vm { group, index } => Some((group, index)),
            netlang::PortOwner::Router(_) => None,
        });
        assert_eq!(vms.collect::<Vec<_>>(), on.remove(&segment.id.0).unwrap_or_default(), "{}", segment.name);
    }
}

/// Texts of the language's own words in any order: many are wrong, some are right.
fn statements() -> impl Strategy<Value = String> {
    const WORDS: &[&str] = &[
        "lan",
        "vm",
        "router",
        "link",
        "on",
        "at",
        "let",
        "default",
        "pool",
        "check",
        "reaches",
        "cannot",
        "reach",
        "a",
        "b",
        "web",
        "web[0..3]",
        "web[i in 0..9]",
        "seg[i mod 4]",
        "i",
        "=",
        "--",
        "->",
        ",",
        "{",
        "}",
        "{",
        "}",
        "\n",
        "\n",
        "\n",
        ";",
        "5",
        "16 + i",
        "10.0.0.0/8",
        "10.0.0.1",
        "/24",
        "5ms",
        "64MiB",
        "\"x\"",
        "# note\n",
        "(",
        ")",
        "[",
        "]",
        "..",
        ".",
        "+",
        "-",
        "*",
        "mod",
        "div",
        "in",
        "module",
        "param",
        "mesh",
        "each",
        "of",
        "ospf",
        "firewall",
        "experiment",
        "gateway",
        "dhcp",
        "place",
        "every",
        "from",
        "until",
        "fail",
        "set",
        "reboot 5% of",
        "at 5s",
        "seed 3",
        "boot order",
        "sample 1 of 3 of",
        "int",
        "max",
        "<=",
        "nat",
        "external",
        "telemetry",
        "2 of",
        "\u{e9}",
        "\"",
        "A",
        "\r\n",
        "a.b[*].c",
        "x.sub(/24, 1)",
        "4294967295",
        "0..16777216",
    ];
    let word = proptest::sample::select(WORDS);
    let spaced = (word, prop_oneof![4 => Just(" "), 1 => Just("")]).prop_map(|(w, s)| format!("{w}{s}"));
    proptest::collection::vec(spaced, 0..120).prop_map(|words| words.concat())
}
