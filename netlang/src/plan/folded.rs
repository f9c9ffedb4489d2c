//! A plan on one page: what arrays of instances repeat is one row, `t1[0..10].seg[0..4]` with its sums.

use super::summary::PlanSummary;
use super::{HypervisorKind, Plan, RouterKind};
use crate::address::prefix::Prefix;
use hashbrown::HashMap;
use serde::Serialize;
use smallvec::SmallVec;
use std::net::Ipv4Addr;

/// A plan folded by declarations; see [`Plan::folded`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FoldedPlan {
    /// Groups of VMs.
    pub groups: Vec<FoldedGroup>,
    /// Segments.
    pub segments: Vec<FoldedSegment>,
    /// Routers.
    pub routers: Vec<FoldedRouter>,
    /// Links, by the statement that makes them.
    pub links: Vec<FoldedLink>,
}

/// Groups of one declaration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FoldedGroup {
    /// `t1[0..10].host[0..1000]`; `[*]` where instances differ.
    pub name: String,
    /// How many groups.
    pub groups: u32,
    /// VMs in all of them.
    pub vms: u64,
    /// The image, if it is the same in all.
    pub image: Option<String>,
    /// What must run them, if the file says so and it is the same in all.
    pub hypervisor: Option<HypervisorKind>,
    /// Memory of a VM, if the file gives it and it is the same in all.
    pub memory: Option<u64>,
    /// Lowest and highest address of their first NICs.
    pub addresses: Option<(Ipv4Addr, Ipv4Addr)>,
}

/// Segments of one declaration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FoldedSegment {
    /// `t1[0..10].seg[0..4]`
    pub name: String,
    /// How many.
    pub count: u32,
    /// The lowest and the highest prefix.
    pub prefixes: (Prefix, Prefix),
    /// Ports of all of them.
    pub ports: u64,
    /// Address of the gateway of the first, if there is one.
    pub gateway: Option<Ipv4Addr>,
}

/// Routers of one declaration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FoldedRouter {
    /// `t1[0..10].border`
    pub name: String,
    /// How many.
    pub count: u32,
    /// What routes.
    pub kind: RouterKind,
    /// The fewest and the most interfaces.
    pub interfaces: (u32, u32),
    /// Address of the first interface of the first and of the last.
    pub addresses: Option<(Ipv4Addr, Ipv4Addr)>,
}

/// Links of one statement between routers of the same declarations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FoldedLink {
    /// `t1[0..10].border -- t1[0..10].border`, or the link's own name.
    pub name: String,
    /// How many.
    pub count: u32,
    /// The lowest and the highest prefix.
    pub prefixes: (Prefix, Prefix),
}

/// Indices of a part of a path over all rows: the lowest, one past the highest, and whether rows differ in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bounds {
    first: u32,
    until: u32,
    ragged: bool,
}

type Place = SmallVec<[Option<Bounds>; 4]>;

/// Gives numbers to declaration paths, and collects the indices on them.
struct Paths<'p> {
    plan: &'p Plan,
    /// For each instance its path without indices.
    class: Vec<u32>,
    numbers: HashMap<(u32, u32), usize>,
    /// A row of the path, and the indices of all.
    found: Vec<(u32, u32, Place)>,
}

impl<'p> Paths<'p> {
    fn new(plan: &'p Plan) -> Paths<'p> {
        let instances = &plan.data.names.instances;
        let mut classes: HashMap<(u32, u32), u32> = HashMap::new();
        let mut class: Vec<u32> = Vec::with_capacity(instances.len());
        for (id, it) in instances.iter().enumerate() {
            let next = classes.len() as u32 + 1;
            // Instances come after their parents.
            let parent = class.get(it.parent as usize).copied().unwrap_or(0);
            class.push(if id == 0 { 0 } else { *classes.entry((parent, it.decl)).or_insert(next) });
        }
        Paths { plan, class, numbers: HashMap::new(), found: Vec::new() }
    }

    /// The number of a declaration's path, new ones in order.
    fn number(&mut self, instance: u32, decl: u32, own: Option<(u32, u32)>, whole: bool) -> usize {
        let names = &self.plan.data.names;
        let mut place = Place::new();
        place.push(own.map(|(first, until)| Bounds { first, until, ragged: false }));
        let mut at = instance;
        while at != 0 {
            let it = &names.instances[at as usize];
            place.push(it.index.map(|i| Bounds { first: i, until: i + 1, ragged: false }));
            at = it.parent;
        }
        let next = self.found.len();
        let number = *self.numbers.entry((self.class[instance as usize], decl)).or_insert(next);
        let Some((_, _, known)) = self.found.get_mut(number) else {
            self.found.push((instance, decl, place));
            return number;
        };
        for (level, (known, new)) in known.iter_mut().zip(place).enumerate() {
            if let (Some(known), Some(new)) = (known, new) {
                // Groups are whole arrays: where they differ there is no range that all have.
                known.ragged |= level == 0 && whole && (known.first, known.until) != (new.first, new.until);
                *known = Bounds {
                    first: known.first.min(new.first),
                    until: known.until.max(new.until),
                    ragged: known.ragged,
                };
            }
        }
        number
    }

    fn name(&self, number: usize) -> String {
        let names = &self.plan.data.names;
        let (instance, decl, place) = &self.found[number];
        let mut parts = Vec::new();
        let (mut instance, mut decl) = (*instance, *decl);
        for bounds in place {
            let mut part = names.interner.name(names.decl(instance, decl).symbol).to_owned();
            match bounds {
                Some(Bounds { ragged: true, .. }) => part.push_str("[*]"),
                Some(Bounds { first, until, .. }) if until - first == 1 && place.len() > 1 => {
                    part.push_str(&format!("[{first}]"))
                }
                Some(Bounds { first, until, .. }) => part.push_str(&format!("[{first}..{until}]")),
                None => {}
            }
            parts.push(part);
            let it = &names.instances[instance as usize];
            // The owner of the instance; the file itself ends the path.
            decl = it.decl;
            instance = it.parent;
        }
        parts.reverse();
        parts.join(".")
    }
}

impl Plan {
    /// The plan with one row for what arrays of instances repeat; `summary` is [`Plan::summary`] of the same plan.
    pub fn folded(&self, summary: &PlanSummary) -> FoldedPlan {
        let data = &self.data;
        let mut folded = FoldedPlan::default();
        let mut paths = Paths::new(self);
        for (row, group) in data.groups.iter().zip(&summary.groups) {
            let own = row.is_array.then_some((row.first, row.first + row.count));
            let at = paths.number(row.instance, row.decl, own, true);
            let addresses = group.addresses.first().map(|i| (i.first, i.last));
            match folded.groups.get_mut(at) {
                Some(known) => {
                    known.groups += 1;
                    known.vms += u64::from(row.count);
                    known.image = known.image.take().filter(|image| **image == *group.class.image);
                    known.hypervisor = known.hypervisor.filter(|kind| Some(*kind) == group.class.hypervisor);
                    known.memory = known.memory.filter(|memory| Some(*memory) == group.class.memory);
                    known.addresses = union(known.addresses, addresses);
                }
                None => folded.groups.push(FoldedGroup {
                    name: String::new(),
                    groups: 1,
                    vms: u64::from(row.count),
                    image: Some(group.class.image.to_string()),
                    hypervisor: group.class.hypervisor,
                    memory: group.class.memory,
                    addresses,
                }),
            }
        }
        for (at, group) in folded.groups.iter_mut().enumerate() {
            group.name = paths.name(at);
        }
        let mut paths = Paths::new(self);
        for (row, segment) in data.segments.iter().zip(&summary.segments) {
            let at = paths.number(row.instance, row.decl, row.index.map(|i| (i, i + 1)), false);
            match folded.segments.get_mut(at) {
                Some(known) => {
                    known.count += 1;
                    known.ports += u64::from(segment.ports);
                    known.prefixes = wider(known.prefixes, segment.prefix);
                }
                None => folded.segments.push(FoldedSegment {
                    name: String::new(),
                    count: 1,
                    prefixes: (segment.prefix, segment.prefix),
                    ports: u64::from(segment.ports),
                    gateway: segment.gateway,
                }),
            }
        }
        for (at, segment) in folded.segments.iter_mut().enumerate() {
            segment.name = paths.name(at);
        }
        let mut paths = Paths::new(self);
        let mut path_of_router = Vec::with_capacity(data.routers.len());
        for (row, router) in data.routers.iter().zip(&summary.routers) {
            let at = paths.number(row.instance, row.decl, row.index.map(|i| (i, i + 1)), false);
            path_of_router.push(at);
            let (count, first) = (router.addresses.len() as u32, router.addresses.first().copied());
            match folded.routers.get_mut(at) {
                Some(known) => {
                    known.count += 1;
                    known.interfaces = (known.interfaces.0.min(count), known.interfaces.1.max(count));
                    known.addresses = union(known.addresses, first.map(|a| (a, a)));
                }
                None => folded.routers.push(FoldedRouter {
                    name: String::new(),
                    count: 1,
                    kind: router.kind,
                    interfaces: (count, count),
                    addresses: first.map(|a| (a, a)),
                }),
            }
        }
        for (at, router) in folded.routers.iter_mut().enumerate() {
            router.name = paths.name(at);
        }
        folded.links = self.folded_links(summary, &folded.routers, &path_of_router);
        folded
    }

    fn folded_links(&self, summary: &PlanSummary, routers: &[FoldedRouter], path_of: &[usize]) -> Vec<FoldedLink> {
        let mut numbers = HashMap::new();
        let mut links: Vec<(FoldedLink, [usize; 2])> = Vec::new();
        for (row, link) in self.data.links.iter().zip(&summary.links) {
            let ends = row.routers.map(|r| path_of.get(r as usize).copied().unwrap_or(0));
            let next = links.len();
            let at = *numbers.entry((row.stmt, ends)).or_insert(next);
            match links.get_mut(at) {
                Some((known, _)) => {
                    known.count += 1;
                    known.prefixes = wider(known.prefixes, link.prefix);
                }
                None => {
                    let folded = FoldedLink { name: link.name.clone(), count: 1, prefixes: (link.prefix, link.prefix) };
                    links.push((folded, ends));
                }
            }
        }
        let name = |path: usize| routers.get(path).map_or("", |router| &router.name);
        links
            .into_iter()
            .map(|(link, ends)| match link.count {
                1 => link,
                _ => FoldedLink { name: format!("{} -- {}", name(ends[0]), name(ends[1])), ..link },
            })
            .collect()
    }
}

fn union(a: Option<(Ipv4Addr, Ipv4Addr)>, b: Option<(Ipv4Addr, Ipv4Addr)>) -> Option<(Ipv4Addr, Ipv4Addr)> {
    match (a, b) {
        (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
        (a, b) => a.or(b),
    }
}

fn wider(known: (Prefix, Prefix), new: Prefix) -> (Prefix, Prefix) {
    let key = |p: Prefix| (p.first(), p.len());
    let lowest = if key(new) < key(known.0) { new } else { known.0 };
    (lowest, if key(new) > key(known.1) { new } else { known.1 })
}
