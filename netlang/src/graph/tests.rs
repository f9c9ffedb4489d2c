//! Promises of the pictures.

#![allow(clippy::unwrap_used)]

use super::layout::Rect;
use super::model::{ItemKind, LineKind};
use super::svg::{Canvas, canvas, contains};
use super::{Expand, Graph, GraphError};
use crate::{Lock, Source, design};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> Source {
    let path = root().join(path);
    let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
    Source::new(name, std::fs::read_to_string(&path).unwrap())
}

const FILES: &[&str] = &[
    "examples/hello.fleet",
    "examples/group.fleet",
    "examples/routed.fleet",
    "examples/links.fleet",
    "examples/errors.fleet",
    "netlang/tests/samples/enterprise.fleet",
    "netlang/tests/samples/internet.fleet",
];

fn graph(source: &Source) -> Graph {
    Graph::new(source, &Lock::default(), &Expand::default()).unwrap()
}

/// Checks what every picture must fulfil.
fn assert_good(graph: &Graph) -> Result<(), TestCaseError> {
    let svg = graph.to_svg();
    prop_assert!(roxmltree::Document::parse(&svg).is_ok(), "{:?}", roxmltree::Document::parse(&svg).err());
    assert_dot(&graph.to_dot())?;
    let Canvas { size, layout } = canvas(&graph.title, &graph.model, &graph.sums, &graph.notes);
    let page = Rect { x: 0.0, y: 0.0, w: size.w, h: size.h };
    for (at, one) in layout.items.iter().enumerate() {
        prop_assert!(contains(&page, one), "an item off the page");
        for other in &layout.items[..at] {
            prop_assert!(!overlap(one, other), "items overlap: {one:?} {other:?}");
        }
        if let Some(cluster) = graph.model.items[at].cluster {
            prop_assert!(contains(&layout.clusters[cluster as usize], one), "an item out of its box");
        }
    }
    let labels: Vec<Rect> = layout.lines.iter().filter_map(|l| l.label).collect();
    for (at, label) in labels.iter().enumerate() {
        prop_assert!(contains(&page, label), "a label off the page");
        prop_assert!(labels[..at].iter().all(|l| !overlap(l, label)), "labels overlap");
        prop_assert!(layout.items.iter().chain(&layout.titles).all(|i| !overlap(i, label)), "a label on an item");
    }
    for (title, item) in layout.titles.iter().flat_map(|t| layout.items.iter().map(move |i| (t, i))) {
        prop_assert!(!overlap(title, item), "a title on an item");
    }
    for (route, line) in layout.lines.iter().zip(&graph.model.lines) {
        prop_assert!(route.points.iter().all(|(x, y)| *x >= 0.0 && *y >= 0.0 && *x <= size.w && *y <= size.h));
        let [from, to] = line.ends.map(|e| layout.items[e as usize]);
        let near = |p: Option<&(f64, f64)>, r: Rect| {
            p.is_some_and(|(x, y)| contains(&r, &Rect { x: *x, y: y.clamp(r.y, r.y + r.h), w: 0.0, h: 0.0 }))
        };
        prop_assert!(near(route.points.first(), from) && near(route.points.last(), to), "a line that does not end");
    }
    Ok(())
}

fn overlap(a: &Rect, b: &Rect) -> bool {
    let gap = 0.01;
    a.x + gap < b.x + b.w && b.x + gap < a.x + a.w && a.y + gap < b.y + b.h && b.y + gap < a.y + a.h
}

/// Quotes and brackets of DOT in pairs, and nothing after the graph.
fn assert_dot(dot: &str) -> Result<(), TestCaseError> {
    let (mut depth, mut brackets, mut quoted, mut escaped) = (0, 0, false, false);
    for c in dot.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => {}
            '{' => depth += 1,
            '}' => depth -= 1,
            '[' => brackets += 1,
            ']' => brackets -= 1,
            _ => {}
        }
        prop_assert!(depth >= 0 && brackets >= 0);
    }
    prop_assert!(dot.starts_with("digraph ") && depth == 0 && brackets == 0 && !quoted);
    Ok(())
}

#[test]
fn pictures_of_all_samples_are_good() {
    for file in FILES {
        assert_good(&graph(&read(file))).unwrap_or_else(|e| panic!("{file}: {e}"));
    }
}

#[test]
fn sums_are_those_of_the_plan() {
    for file in FILES {
        let source = read(file);
        let Some(plan) = design(&source, &Lock::default()).plan else { continue };
        let (sums, totals) = (graph(&source).sums, plan.summary().totals);
        assert_eq!(
            (sums.vms, sums.lans, sums.routers, sums.links),
            (totals.vms, totals.segments, totals.routers, totals.links),
            "{file}"
        );
    }
}

#[test]
fn every_declaration_is_drawn_once() {
    let graph = graph(&read("netlang/tests/samples/enterprise.fleet"));
    let names: Vec<(Option<u32>, &str)> = graph.model.items.iter().map(|i| (i.cluster, &*i.names[0])).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    let clusters: Vec<&str> = graph.model.clusters.iter().map(|c| &*c.names[0]).collect();
    assert_eq!(clusters, ["hq", "branch", "dc"]);
    let items: BTreeSet<&str> = names.iter().filter(|(c, _)| *c == Some(2)).map(|(_, n)| *n).collect();
    assert_eq!(items, BTreeSet::from(["front", "back", "web[0..60]", "db[0..20]", "gw"]));
    let links = graph.model.lines.iter().filter(|l| l.kind != LineKind::Attach);
    let names: Vec<Option<&str>> = links.map(|l| l.name.text()).collect();
    assert_eq!(names, [Some("fibre"), Some("radio"), Some("spare"), None]);
}

#[test]
fn a_thousand_instances_are_one_box_and_their_links_one_line() {
    let graph = graph(&read("netlang/tests/samples/internet.fleet"));
    let boxes: Vec<(&str, u64)> = graph.model.clusters.iter().map(|c| (&*c.names[0], c.instances)).collect();
    assert_eq!(boxes, [("t1[0..10]", 10), ("t2[0..90]", 90), ("stub[0..900]", 900)]);
    assert_eq!(graph.model.items.len(), 9);
    let lines: Vec<(String, bool)> = (graph.model.lines.iter().filter(|l| l.kind != LineKind::Attach))
        .map(|l| (super::words::line(l).join(" | "), l.transit))
        .collect();
    assert_eq!(
        lines,
        [
            ("mesh, 45 links | 20ms · 10Gbit".to_owned(), false),
            ("2 each, 180 links | 10ms · 1Gbit".to_owned(), true),
            ("3 each, 261 links | 8ms · 1Gbit".to_owned(), false),
            ("2 each, 1,800 links | 5ms · 200Mbit · 0.01% loss".to_owned(), true),
        ]
    );
}

#[test]
fn many_declarations_are_folded_to_a_page_that_says_so() {
    let mut text = "lan a = 10.0.0.0/16\nlan b = 10.1.0.0/16\n".to_owned();
    for n in 0..10_000 {
        text.push_str(&format!("vm v{n} {{ on {} }}\n", ["a", "b"][n % 2]));
    }
    let graph = graph(&Source::new("many", text));
    assert_eq!(graph.model.items.len(), 4);
    assert_eq!(graph.sums.vms, 10_000);
    assert!(graph.to_svg().contains("Folded to fit a page: VMs of the same lans."));
    assert_good(&graph).unwrap();
}

#[test]
fn a_file_with_errors_is_drawn_as_far_as_it_is_known() {
    let graph = graph(&read("examples/errors.fleet"));
    assert!(graph.diagnostics.iter().any(crate::Diagnostic::is_error));
    assert!(graph.to_svg().contains("The file has errors"));
    assert_eq!((graph.sums.lans, graph.sums.routers), (3, 1));
}

#[test]
fn parts_can_be_expanded() {
    let source = read("netlang/tests/samples/internet.fleet");
    let expand = |paths: &[&str]| Expand::Paths(paths.iter().map(|p| (*p).to_owned()).collect());
    let graph = Graph::new(&source, &Lock::default(), &expand(&["t1", "t2.seg"])).unwrap();
    assert_eq!(graph.model.clusters.len(), 12);
    let segments = graph.model.items.iter().filter(|i| i.names[0].starts_with("seg[") && i.pinned);
    assert_eq!(segments.map(|i| i.elements).collect::<Vec<_>>(), [90, 90, 90, 90]);
    assert_eq!(graph.sums, self::graph(&source).sums);
    assert_good(&graph).unwrap();
    let wrong = Graph::new(&source, &Lock::default(), &expand(&["t1.borders"]));
    let similar = Some("t1.border".to_owned());
    assert_eq!(wrong.unwrap_err(), GraphError::UnknownPath { path: "t1.borders".to_owned(), similar });
    let all = Graph::new(&source, &Lock::default(), &Expand::All);
    assert_eq!(all.unwrap_err(), GraphError::TooMany { most: super::MOST_DRAWN });
}

/// The pictures in the documentation are what the program draws. `FLEET_WRITE=1 cargo test -p netlang` writes them.
#[test]
fn the_pictures_of_the_documentation_are_up_to_date() {
    for name in ["enterprise", "internet"] {
        let svg = graph(&read(&format!("netlang/tests/samples/{name}.fleet"))).to_svg();
        let path = root().join(format!("docs/pictures/{name}.svg"));
        if std::env::var_os("FLEET_WRITE").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &svg).unwrap();
        }
        let there = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(there == svg, "{} is out of date: FLEET_WRITE=1 cargo test -p netlang writes it", path.display());
    }
}

/// A network in the making: lans, routers on some of them, VMs, links, some of it in modules.
#[derive(Debug, Clone)]
struct Network {
    lans: usize,
    routers: Vec<Vec<usize>>,
    vms: Vec<(usize, usize, usize)>,
    links: Vec<(usize, usize, u8)>,
    instances: Vec<usize>,
    uplinks: Vec<(usize, usize)>,
}

fn networks() -> impl Strategy<Value = Network> {
    let routers = proptest::collection::vec(proptest::collection::vec(0usize..8, 0..4), 1..9);
    let vms = proptest::collection::vec((0usize..8, 0usize..8, 0usize..5), 0..14);
    let links = proptest::collection::vec((0usize..9, 0usize..9, 0u8..4), 0..12);
    let instances = proptest::collection::vec(0usize..4, 0..6);
    let uplinks = proptest::collection::vec((0usize..6, 0usize..9), 0..8);
    (1usize..8, routers, vms, links, instances, uplinks).prop_map(|(lans, routers, vms, links, instances, uplinks)| {
        Network { lans, routers, vms, links, instances, uplinks }
    })
}

impl Network {
    fn text(&self) -> String {
        let mut text = "pool lan 10.0.0.0/8 each /24\nmodule site {\n  lan inner { gateway gw }\n  vm pc[0..9] \
                        { on inner }\n  router gw { on inner }\n}\n"
            .to_owned();
        text.extend((0..self.lans).map(|l| format!("lan l{l}\n")));
        for (n, lans) in self.routers.iter().enumerate() {
            let lans: BTreeSet<usize> = lans.iter().map(|l| l % self.lans).collect();
            let on: Vec<String> = lans.iter().map(|l| format!("on l{l}")).collect();
            text.push_str(&format!("router r{n} {{ {} }}\n", on.join("; ")));
        }
        for (n, (a, b, size)) in self.vms.iter().enumerate() {
            let (a, b) = (a % self.lans, b % self.lans);
            let second = if a == b { String::new() } else { format!("; on l{b}") };
            let array = if *size == 0 { String::new() } else { format!("[0..{size}]") };
            text.push_str(&format!("vm v{n}{array} {{ on l{a}{second} }}\n"));
        }
        for (n, (a, b, kind)) in self.links.iter().enumerate() {
            let (a, b) = (a % self.routers.len(), b % self.routers.len());
            let says = ["", "delay 5ms", "delay 12ms jitter 3ms; rate 10Mbit; loss 0.5%", "cost 77"][*kind as usize];
            if a != b {
                text.push_str(&format!("link r{a} -- r{b} as line_{n} {{ {says} }}\n"));
            }
        }
        for (n, size) in self.instances.iter().enumerate() {
            let array = if *size == 0 { String::new() } else { format!("[0..{size}]") };
            text.push_str(&format!("site s{n}{array} {{ }}\n"));
        }
        for (n, (site, router)) in self.uplinks.iter().enumerate() {
            let Some(size) = self.instances.get(*site) else { continue };
            let (index, router) = (if *size == 0 { "" } else { "[0]" }, router % self.routers.len());
            text.push_str(&format!("link s{site}{index}.gw -- r{router} as up_{n} {{ delay {n}ms }}\n"));
        }
        text
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pictures_are_good_and_complete_whatever_the_network(network in networks()) {
        let source = Source::new("net", network.text());
        let graph = graph(&source);
        assert_good(&graph).map_err(|e| TestCaseError::fail(format!("{e}\n{}", source.text)))?;
        let sites: u64 = network.instances.iter().map(|n| (*n).max(1) as u64).sum();
        let vms: u64 = network.vms.iter().map(|v| v.2.max(1) as u64).sum();
        prop_assert_eq!(graph.sums.lans, network.lans as u64 + sites);
        prop_assert_eq!(graph.sums.routers, network.routers.len() as u64 + sites);
        prop_assert_eq!(graph.sums.vms, vms + 9 * sites);
        prop_assert_eq!(graph.to_svg(), self::graph(&source).to_svg());
        let lans = graph.model.items.iter().filter(|i| i.kind == ItemKind::Lan).map(|i| i.decls).sum::<u64>();
        prop_assert!(lans >= 1);
        // Element by element, too.
        if let Ok(all) = Graph::new(&source, &Lock::default(), &Expand::All) {
            prop_assert_eq!(all.sums, graph.sums);
            assert_good(&all).map_err(|e| TestCaseError::fail(format!("all: {e}\n{}", source.text)))?;
        }
    }

    #[test]
    fn no_text_makes_the_graph_panic(text in "[a-z0-9 \\[\\]{}.*/=\n\"<&-]{0,200}") {
        let graph = graph(&Source::new("<&\"\u{1}>", text));
        prop_assert!(roxmltree::Document::parse(&graph.to_svg()).is_ok());
        assert_dot(&graph.to_dot())?;
    }
}
