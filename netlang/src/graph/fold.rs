//! Folding until a picture fits a page. Each step merges more than the one before: VMs of one lan, instances of one
//! module, lans and routers with the same neighbours, everything of a kind, and at last all boxes.

use super::model::{ItemKind, LineKind, Model};
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

/// Items that a page has room for.
const PAGE_ITEMS: usize = 36;
/// Lines that a page has room for.
const PAGE_LINES: usize = 72;

/// Links between the same two items that are drawn one by one.
const MOST_PARALLEL: usize = 4;

/// What was folded to fit the page, in words; empty when nothing was.
pub(crate) fn fold(model: &mut Model) -> Vec<&'static str> {
    type Step = (&'static str, fn(&mut Model));
    const STEPS: &[Step] = &[
        ("VMs of the same lans", same_vms),
        ("instances of the same module", same_modules),
        ("lans and routers with the same neighbours", same_neighbours),
        (LINKS, same_links),
        ("everything of a kind", same_kinds),
        ("all modules", all_clusters),
    ];
    let mut notes = Vec::new();
    for (note, step) in STEPS {
        if fits(model) {
            break;
        }
        let before = (model.items.len(), model.lines.len(), model.clusters.len());
        step(model);
        if before != (model.items.len(), model.lines.len(), model.clusters.len()) {
            notes.push(*note);
        }
    }
    if parallel_links(model) && !notes.contains(&LINKS) {
        notes.push(LINKS);
    }
    notes
}

const LINKS: &str = "links between the same routers";

/// Merges the links between two items when they are many; tells whether there were such.
fn parallel_links(model: &mut Model) -> bool {
    let pair = |l: &super::model::Line| [l.ends[0].min(l.ends[1]), l.ends[0].max(l.ends[1])];
    let mut counts: HashMap<[u32; 2], usize> = HashMap::new();
    for line in &model.lines {
        *counts.entry(pair(line)).or_default() += 1;
    }
    let mut found = false;
    for line in model.lines.iter_mut().filter(|l| l.kind != LineKind::Attach) {
        if counts.get(&pair(line)).is_some_and(|n| *n > MOST_PARALLEL) {
            line.kind = LineKind::Links;
            found = true;
        }
    }
    merge_lines(model);
    found
}

/// What is to be seen by itself takes the room that it needs.
fn fits(model: &Model) -> bool {
    let pinned = model.items.iter().filter(|i| own_room(model, i)).count();
    let of_pinned = |l: &&super::model::Line| l.ends.iter().any(|e| own_room(model, &model.items[*e as usize]));
    let pinned_lines = model.lines.iter().filter(of_pinned).count();
    model.items.len() <= PAGE_ITEMS + pinned && model.lines.len() <= PAGE_LINES + pinned_lines
}

/// Whether an item, or a box around it, is to be seen by itself.
fn own_room(model: &Model, item: &super::model::Item) -> bool {
    let mut at = item.cluster;
    while let Some(cluster) = at.map(|c| &model.clusters[c as usize]) {
        if cluster.pinned {
            return true;
        }
        at = cluster.parent;
    }
    item.pinned
}

fn same_vms(model: &mut Model) {
    let neighbours = neighbours(model, |_| true);
    merge_items(model, |m, at| {
        let item = &m.items[at];
        (item.kind == ItemKind::Vm).then(|| (item.cluster, item.kind, neighbours[at].clone(), String::new()))
    });
}

fn same_neighbours(model: &mut Model) {
    for kind in [ItemKind::Lan, ItemKind::Router] {
        // VMs follow what they are on.
        let neighbours = neighbours(model, |k| k != ItemKind::Vm);
        merge_items(model, |m, at| {
            let item = &m.items[at];
            let fact =
                if kind == ItemKind::Router { item.facts[0].text().unwrap_or("").to_owned() } else { String::new() };
            (item.kind == kind).then(|| (item.cluster, kind, neighbours[at].clone(), fact))
        });
    }
    same_vms(model);
}

fn same_links(model: &mut Model) {
    for line in model.lines.iter_mut().filter(|l| l.kind != LineKind::Attach) {
        line.kind = LineKind::Links;
    }
    merge_lines(model);
}

fn same_kinds(model: &mut Model) {
    merge_items(model, |m, at| Some((m.items[at].cluster, m.items[at].kind, Vec::new(), String::new())));
}

/// Boxes of one module within the same box become one, with the same parts.
fn same_modules(model: &mut Model) {
    merge_clusters(model, |module| module.to_owned());
}

fn all_clusters(model: &mut Model) {
    merge_clusters(model, |_| String::new());
    same_kinds(model);
}

fn merge_clusters(model: &mut Model, key: impl Fn(&str) -> String) {
    let mut ids: HashMap<(Option<u32>, String), u32> = HashMap::new();
    let mut new_of: Vec<u32> = Vec::with_capacity(model.clusters.len());
    let mut clusters: Vec<super::model::Cluster> = Vec::new();
    // Parents come first.
    for mut cluster in std::mem::take(&mut model.clusters) {
        cluster.parent = cluster.parent.map(|p| new_of[p as usize]);
        if cluster.pinned {
            new_of.push(clusters.len() as u32);
            clusters.push(cluster);
            continue;
        }
        match ids.entry((cluster.parent, key(&cluster.module))) {
            Entry::Occupied(at) => {
                let into = &mut clusters[*at.get() as usize];
                into.decls += cluster.decls;
                into.instances += cluster.instances;
                let [_, last] = cluster.names;
                into.names[1] = last;
                if into.module != cluster.module {
                    into.module = "several modules".to_owned();
                }
                new_of.push(*at.get());
            }
            Entry::Vacant(at) => {
                at.insert(clusters.len() as u32);
                new_of.push(clusters.len() as u32);
                clusters.push(cluster);
            }
        }
    }
    model.clusters = clusters;
    for item in &mut model.items {
        item.cluster = item.cluster.map(|c| new_of[c as usize]);
    }
    // Parts of one module have the same names; arrays may differ in size.
    merge_items(model, |m, at| {
        let item = &m.items[at];
        let name = base_name(&item.names[0]).to_owned();
        item.cluster.map(|_| (item.cluster, item.kind, Vec::new(), name))
    });
}

/// `pc` of `pc[0..120]`.
fn base_name(name: &str) -> &str {
    name.split('[').next().unwrap_or_default()
}

/// For each item, those of some kinds that it is connected to, in order.
fn neighbours(model: &Model, kinds: impl Fn(ItemKind) -> bool) -> Vec<Vec<u32>> {
    let mut found: Vec<Vec<u32>> = vec![Vec::new(); model.items.len()];
    for line in &model.lines {
        for [a, b] in [line.ends, [line.ends[1], line.ends[0]]] {
            if kinds(model.items[b as usize].kind) {
                found[a as usize].push(b);
            }
        }
    }
    for list in &mut found {
        list.sort_unstable();
        list.dedup();
    }
    found
}

type MergeKey = (Option<u32>, ItemKind, Vec<u32>, String);

/// Merges items with the same key; those without one, and those that are to be seen, stay by themselves.
fn merge_items(model: &mut Model, key: impl Fn(&Model, usize) -> Option<MergeKey>) {
    let keys: Vec<Option<MergeKey>> =
        (0..model.items.len()).map(|at| key(model, at).filter(|_| !model.items[at].pinned)).collect();
    let mut ids: HashMap<MergeKey, u32> = HashMap::new();
    let mut new_of: Vec<u32> = Vec::with_capacity(keys.len());
    let mut items: Vec<super::model::Item> = Vec::new();
    for (item, key) in std::mem::take(&mut model.items).into_iter().zip(keys) {
        let next = items.len() as u32;
        match key.map(|k| ids.entry(k)) {
            Some(Entry::Occupied(at)) => {
                // Those of instances that were folded are one declaration, written once.
                let into = &mut items[*at.get() as usize];
                let same = item.cluster.is_some() && base_name(&into.names[0]) == base_name(&item.names[0]);
                if same && into.names != item.names {
                    // Arrays of unlike sizes.
                    let name = base_name(&into.names[0]).to_owned();
                    into.names = [name.clone(), name];
                }
                into.merge(item, same);
                new_of.push(*at.get());
                continue;
            }
            Some(Entry::Vacant(at)) => drop(at.insert(next)),
            None => {}
        }
        new_of.push(next);
        items.push(item);
    }
    model.items = items;
    for line in &mut model.lines {
        line.ends = line.ends.map(|e| new_of[e as usize]);
    }
    merge_lines(model);
}

/// Merges lines that came to have the same ends.
fn merge_lines(model: &mut Model) {
    let mut ids: HashMap<([u32; 2], LineKind), usize> = HashMap::new();
    let mut lines: Vec<super::model::Line> = Vec::new();
    for mut line in std::mem::take(&mut model.lines) {
        let sorted = [line.ends[0].min(line.ends[1]), line.ends[0].max(line.ends[1])];
        if !line.transit {
            line.ends = sorted;
        }
        // Of several statements the directions may differ.
        let ends = if line.kind == LineKind::Links { sorted } else { line.ends };
        match ids.entry((ends, line.kind)) {
            Entry::Occupied(at) => {
                let into = &mut lines[*at.get()];
                let turned = into.ends != line.ends;
                into.merge(line);
                into.transit &= !turned;
            }
            Entry::Vacant(at) => {
                at.insert(lines.len());
                lines.push(line);
            }
        }
    }
    model.lines = lines;
}
