//! From the columns of a plan to the declarations that are drawn.

use super::model::{Cluster, Fact, Item, ItemKind, Line, LineKind, Model};
use super::words;
use super::{Expand, GraphError, MOST_DRAWN};
use crate::plan::form::Form;
use crate::plan::route::LAN_COST;
use crate::plan::rows::{Data, On};
use crate::plan::{RouterKind, SwitchKind};
use crate::sema::Parts;
use crate::syntax::tree::StmtId;
use crate::text::{nearest, thousands};
use crate::vocab::Kind;
use hashbrown::{HashMap, HashSet};
use std::collections::BTreeSet;

/// A declaration in a box, and its index when it is expanded.
type Key = (Option<u32>, u32, Option<u32>);

struct Builder<'a> {
    known: &'a Parts,
    text: &'a str,
    model: Model,
    /// Plain paths that are expanded; `None` for all.
    expanded: Option<HashSet<String>>,
    /// Whether a declaration is expanded, by box and number.
    is_expanded: HashMap<(Option<u32>, u32), bool>,
    cluster_ids: HashMap<Key, u32>,
    /// The box of each instance.
    cluster_of: Vec<Option<u32>>,
    item_ids: HashMap<Key, u32>,
    line_ids: HashMap<([u32; 2], LineKind), u32>,
}

/// Builds the graph of all declarations.
///
/// # Errors
/// When a path to be expanded is not known, or too much is.
pub(crate) fn build(known: &Parts, text: &str, expand: &Expand) -> Result<Model, GraphError> {
    let expanded = match expand {
        Expand::All => None,
        Expand::Paths(paths) => Some(expanded_paths(&known.data, paths)?),
    };
    let mut builder = Builder {
        known,
        text,
        model: Model::default(),
        expanded,
        is_expanded: HashMap::new(),
        cluster_ids: HashMap::new(),
        cluster_of: Vec::new(),
        item_ids: HashMap::new(),
        line_ids: HashMap::new(),
    };
    builder.clusters()?;
    builder.items()?;
    builder.nics();
    builder.interfaces();
    builder.links();
    builder.model.lines.sort_by_key(|l| (l.kind, l.ends));
    Ok(builder.model)
}

/// The paths as the plan knows them: without indices.
fn expanded_paths(data: &Data, paths: &[String]) -> Result<HashSet<String>, GraphError> {
    let mut known: BTreeSet<String> = BTreeSet::new();
    if !paths.is_empty() {
        let mut classes = HashSet::new();
        for (instance, it) in (0u32..).zip(&data.names.instances) {
            // Instances of one declaration have the same paths below them.
            if instance == 0 || classes.insert(data.names.plain_path(it.parent, it.decl)) {
                let decls = data.names.modules.get(it.module as usize).map_or(0, |m| m.decls.len() as u32);
                let drawn = (0..decls).filter(|d| {
                    matches!(data.names.decl(instance, *d).kind, Kind::Vm | Kind::Lan | Kind::Router | Kind::Instance)
                });
                known.extend(drawn.map(|d| data.names.plain_path(instance, d)));
            }
        }
    }
    let mut found = HashSet::new();
    for path in paths {
        let plain = path.replace("[*]", "");
        if !known.contains(&plain) {
            let similar = nearest(&plain, known.iter().map(String::as_str)).map(str::to_owned);
            return Err(GraphError::UnknownPath { path: path.clone(), similar });
        }
        found.insert(plain);
    }
    Ok(found)
}

impl Builder<'_> {
    fn data(&self) -> &Data {
        &self.known.data
    }

    fn expanded(&mut self, instance: u32, decl: u32) -> bool {
        let Some(paths) = &self.expanded else { return true };
        let names = &self.known.data.names;
        let key = (self.cluster_of.get(instance as usize).copied().flatten(), decl);
        *self
            .is_expanded
            .entry(key)
            .or_insert_with(|| !paths.is_empty() && paths.contains(&names.plain_path(instance, decl)))
    }

    fn room(&self, more: usize) -> Result<(), GraphError> {
        let count = self.model.items.len() + self.model.clusters.len() + more;
        if count > MOST_DRAWN { Err(GraphError::TooMany { most: MOST_DRAWN }) } else { Ok(()) }
    }

    fn clusters(&mut self) -> Result<(), GraphError> {
        for instance in 0..self.data().names.instances.len() as u32 {
            if instance == 0 {
                self.cluster_of.push(None);
                continue;
            }
            let names = &self.known.data.names;
            let it = &names.instances[instance as usize];
            let (parent, decl, index) = (it.parent, it.decl, it.index);
            let pinned = self.expanded(parent, decl) && index.is_some();
            let parent_cluster = self.cluster_of.get(parent as usize).copied().flatten();
            let key = (parent_cluster, decl, index.filter(|_| pinned));
            if let Some(id) = self.cluster_ids.get(&key) {
                self.model.clusters[*id as usize].instances += 1;
                self.cluster_of.push(Some(*id));
                continue;
            }
            if self.expanded.is_none() || pinned {
                self.room(1)?;
            }
            let name = self.name(parent, decl, index, pinned);
            let module = names.modules.get(it.module as usize).and_then(|m| m.name);
            let module = module.map_or_else(String::new, |m| names.interner.name(m).to_owned());
            let id = self.model.clusters.len() as u32;
            self.model.clusters.push(Cluster {
                parent: parent_cluster,
                names: [name.clone(), name],
                decls: 1,
                module,
                instances: 1,
                pinned,
            });
            self.cluster_ids.insert(key, id);
            self.cluster_of.push(Some(id));
        }
        Ok(())
    }

    /// `web[0..30]`, `web[3]`, `alice`.
    fn name(&self, instance: u32, decl: u32, index: Option<u32>, expanded: bool) -> String {
        let names = &self.data().names;
        let own = names.interner.name(names.decl(instance, decl).symbol);
        let rows = names.rows(instance, decl);
        match index {
            Some(index) if expanded => format!("{own}[{index}]"),
            _ if rows.is_array => format!("{own}[{}..{}]", rows.first, u64::from(rows.first) + u64::from(rows.count)),
            _ => own.to_owned(),
        }
    }

    fn items(&mut self) -> Result<(), GraphError> {
        for instance in 0..self.data().names.instances.len() as u32 {
            let module = self.data().names.instances[instance as usize].module;
            let decls = self.data().names.modules.get(module as usize).map_or(0, |m| m.decls.len() as u32);
            for decl in 0..decls {
                let kind = match self.data().names.decl(instance, decl).kind {
                    Kind::Vm => ItemKind::Vm,
                    Kind::Lan => ItemKind::Lan,
                    Kind::Router => ItemKind::Router,
                    Kind::External => ItemKind::External,
                    _ => continue,
                };
                let rows = self.data().names.rows(instance, decl);
                if rows.is_array && self.expanded(instance, decl) {
                    self.room(rows.count as usize)?;
                    for nth in 0..rows.count {
                        self.add_item(instance, decl, kind, Some(rows.first + nth), nth..nth + 1);
                    }
                } else {
                    self.add_item(instance, decl, kind, None, 0..rows.count);
                }
            }
        }
        Ok(())
    }

    fn add_item(&mut self, instance: u32, decl: u32, kind: ItemKind, index: Option<u32>, nth: std::ops::Range<u32>) {
        let cluster = self.cluster_of[instance as usize];
        let elements = u64::from(nth.end - nth.start);
        let mut item = Item {
            cluster,
            kind,
            names: Default::default(),
            decls: 1,
            elements,
            owners: 1,
            each: [elements, elements],
            facts: Default::default(),
            traits: BTreeSet::new(),
            pinned: index.is_some(),
        };
        let name = self.name(instance, decl, index, index.is_some());
        item.names = [name.clone(), name];
        let base = self.data().names.rows(instance, decl).base;
        match kind {
            ItemKind::Vm => self.vm_facts(&mut item, base),
            ItemKind::Lan => self.lan_facts(&mut item, base + nth.start..base + nth.end),
            ItemKind::Router => self.router_facts(&mut item, base + nth.start..base + nth.end),
            ItemKind::External => self.external_facts(&mut item, decl),
        }
        match self.item_ids.entry((cluster, decl, index)) {
            hashbrown::hash_map::Entry::Occupied(at) => self.model.items[*at.get() as usize].merge(item, true),
            hashbrown::hash_map::Entry::Vacant(at) => {
                at.insert(self.model.items.len() as u32);
                self.model.items.push(item);
            }
        }
    }

    fn vm_facts(&self, item: &mut Item, group: u32) {
        let Some(row) = self.data().groups.get(group as usize) else { return };
        let Some(class) = self.data().classes.get(row.class as usize) else { return };
        item.facts = [Fact::of(class.image.to_string()), Fact::of(class.memory.map_or_else(String::new, words::size))];
        if class.needs_camera {
            item.traits.insert("camera");
        }
    }

    fn lan_facts(&self, item: &mut Item, segments: std::ops::Range<u32>) {
        for (n, segment) in segments.enumerate() {
            let Some(row) = self.data().segments.get(segment as usize) else { continue };
            // A lan that got no address because of an error keeps the blank /32.
            let known = row.prefix.len() < 31;
            let prefix = if known { row.prefix.to_string() } else { String::new() };
            let len = if known { format!("/{}", row.prefix.len()) } else { String::new() };
            for (fact, text) in item.facts.iter_mut().zip([prefix, len]) {
                if n == 0 { *fact = Fact::of(text) } else { fact.merge(Fact::of(text)) }
            }
            let Some(policy) = self.data().lan_policies.get(row.policy as usize) else { continue };
            let does = [
                (policy.switch == SwitchKind::Vde, "vde"),
                (policy.dhcp.is_some(), "dhcp"),
                (policy.isolate, "isolated"),
            ];
            item.traits.extend(does.iter().filter(|(is, _)| *is).map(|(_, word)| *word));
        }
    }

    fn router_facts(&self, item: &mut Item, routers: std::ops::Range<u32>) {
        for (n, router) in routers.enumerate() {
            let Some(row) = self.data().routers.get(router as usize) else { continue };
            let kind = match row.kind {
                RouterKind::Linux => "linux",
                RouterKind::Frr => "frr",
                RouterKind::Bird => "bird",
                RouterKind::Vm => "vm",
            };
            let asn = row.bgp.and_then(|b| self.data().bgp.get(b as usize)).map(|b| format!("AS {}", b.asn));
            for (fact, text) in item.facts.iter_mut().zip([kind.to_owned(), asn.unwrap_or_default()]) {
                if n == 0 { *fact = Fact::of(text) } else { fact.merge(Fact::of(text)) }
            }
            let from = row.first_interface as usize;
            let interfaces = self.data().interfaces.get(from..from + row.interface_count as usize).unwrap_or_default();
            let does = [
                (interfaces.iter().any(|i| i.ospf.is_some()), "ospf"),
                (row.bgp.is_some(), "bgp"),
                (row.firewall.is_some(), "firewall"),
                (row.nat_count > 0, "nat"),
            ];
            item.traits.extend(does.iter().filter(|(is, _)| *is).map(|(_, word)| *word));
        }
    }

    fn external_facts(&self, item: &mut Item, decl: u32) {
        let Some(row) = self.data().externals.iter().find(|e| e.decl == decl) else { return };
        let on = format!("{} on {}", row.interface, row.host);
        item.facts = [Fact::of(row.prefix.to_string()), Fact::of(on)];
    }

    fn item(&self, instance: u32, decl: u32, index: Option<u32>) -> Option<u32> {
        let cluster = *self.cluster_of.get(instance as usize)?;
        let folded = self.item_ids.get(&(cluster, decl, None));
        folded.or_else(|| self.item_ids.get(&(cluster, decl, index))).copied()
    }

    fn lan(&self, segment: u32) -> Option<u32> {
        let row = self.data().segments.get(segment as usize)?;
        self.item(row.instance, row.decl, row.index)
    }

    fn router(&self, router: u32) -> Option<u32> {
        let row = self.data().routers.get(router as usize)?;
        self.item(row.instance, row.decl, row.index)
    }

    fn attach(&mut self, ends: [Option<u32>; 2]) {
        if let [Some(a), Some(b)] = ends {
            self.add_line(Line {
                ends: [a, b],
                kind: LineKind::Attach,
                transit: false,
                count: 0,
                name: Fact::Unknown,
                shape: Fact::Unknown,
                says: Default::default(),
            });
        }
    }

    fn add_line(&mut self, line: Line) {
        match self.line_ids.entry((line.ends, line.kind)) {
            hashbrown::hash_map::Entry::Occupied(at) => self.model.lines[*at.get() as usize].merge(line),
            hashbrown::hash_map::Entry::Vacant(at) => {
                at.insert(self.model.lines.len() as u32);
                self.model.lines.push(line);
            }
        }
    }

    /// Lines of VMs to lans. A folded group has one to each lan that any of its VMs is on.
    fn nics(&mut self) {
        let data = &self.known.data;
        for nic in &data.nics {
            let Some(group) = data.groups.get(nic.group as usize) else { continue };
            let folded = self.item_ids.contains_key(&(self.cluster_of[group.instance as usize], group.decl, None));
            match nic.segment {
                Form::Const(segment) if folded => {
                    let ends = [self.lan(segment), self.item(group.instance, group.decl, None)];
                    self.attach(ends);
                }
                _ if folded => {}
                form => {
                    for index in group.first..group.first.saturating_add(group.count) {
                        let lan = data.forms.value(form, index).and_then(|s| self.lan(s));
                        self.attach([lan, self.item(group.instance, group.decl, Some(index))]);
                    }
                }
            }
        }
        for segment in 0..data.segments.len() as u32 {
            for nic in data.segment_nics.of(segment) {
                let nic = &data.nics[*nic as usize];
                let Some(group) = data.groups.get(nic.group as usize) else { continue };
                if let Some(vm) =
                    self.item_ids.get(&(self.cluster_of[group.instance as usize], group.decl, None)).copied()
                {
                    self.attach([self.lan(segment), Some(vm)]);
                }
            }
        }
    }

    fn interfaces(&mut self) {
        let data = &self.known.data;
        for interface in &data.interfaces {
            let router = self.router(interface.router);
            match interface.on {
                On::Segment(segment) => self.attach([router, self.lan(segment)]),
                On::External(external) => {
                    let decl = data.externals.get(external as usize).map(|e| e.decl);
                    self.attach([decl.and_then(|d| self.item(0, d, None)), router]);
                }
                On::Link(_) => {}
            }
        }
    }

    fn links(&mut self) {
        let data = &self.known.data;
        let mut shapes: HashMap<StmtId, Fact> = HashMap::new();
        for link in &data.links {
            let [Some(a), Some(b)] = link.routers.map(|r| self.router(r)) else { continue };
            let shape = shapes.entry(link.stmt).or_insert_with(|| self.shape(link.stmt)).clone();
            let transit = link.relation == crate::plan::Relation::Transit;
            // A line between two peers has no direction.
            let ends = if transit { [a, b] } else { [a.min(b), a.max(b)] };
            let policy = data.link_policies.get(link.policy as usize).copied().unwrap_or_default();
            let cost = if link.cost == LAN_COST { String::new() } else { format!("cost {}", link.cost) };
            let named = shape == Fact::Unknown;
            let name = link.name.as_deref().filter(|n| named && !n.contains("--"));
            self.add_line(Line {
                ends,
                kind: LineKind::Link(link.stmt.0),
                transit,
                count: 1,
                // The last part: the box says the rest.
                name: Fact::of(name.and_then(|n| n.rsplit('.').next()).unwrap_or_default().to_owned()),
                shape,
                says: [
                    Fact::of(words::delay(&policy)),
                    Fact::of(policy.rate.map_or_else(String::new, words::rate)),
                    Fact::of(words::loss(policy.loss)),
                    Fact::of(cost),
                ],
            });
        }
    }

    /// What the words of a link's statement say about its number.
    fn shape(&self, stmt: StmtId) -> Fact {
        let words = self.known.tree.words(stmt);
        let text = |at: usize| words.get(at).map_or("", |w| self.known.tree.span(*w).text(self.text));
        match text(1) {
            "mesh" => Fact::of("mesh".to_owned()),
            "each" => {
                Fact::of(text(4).parse().map_or_else(|_| "each".to_owned(), |n| format!("{} each", thousands(n))))
            }
            _ => Fact::Unknown,
        }
    }
}
