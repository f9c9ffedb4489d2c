//! Forwarding: which way each router sends packets for a destination.
//!
//! A router takes the longest prefix that it knows a route to: of the network itself (connected, static, OSPF), then
//! the announced ones of BGP, then the default. Routers without a protocol have static routes to everything, by least
//! cost. Networks that all routers see alike, such as the lans of one router, share a table.

use super::bgp::{BgpHop, Sessions};
use super::ospf;
use super::topology::{NONE, Topology, Tree};
use crate::address::prefix::Prefix;
use crate::plan::rows::On;
use hashbrown::HashMap;
use std::rc::Rc;

/// Where a router sends packets for a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hop {
    /// It knows no way.
    None,
    /// It is on the destination's network.
    Attached,
    /// By its interface, to the far one.
    Via { out: u32, far: u32 },
    /// To the gateway on an external network.
    Leave { out: u32 },
}

/// A table: the hop of every router.
pub(crate) type Fib = Vec<Hop>;

/// Tables are kept while they have no more entries than this together: 12 bytes each.
pub(crate) const MAX_KEPT: usize = 8 << 20;

/// What makes the tables of two networks equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    attached: Vec<(u32, Option<u32>)>,
    /// Announced prefixes that hold the network, longest first.
    announced: Vec<u32>,
    external: bool,
}

/// Works out forwarding tables.
pub(crate) struct Forwarding<'d> {
    pub(crate) topology: Topology<'d>,
    sessions: Sessions,
    /// Routers that announce a prefix by BGP.
    origins: Vec<(Prefix, Vec<u32>)>,
    origin_ids: HashMap<Prefix, u32>,
    /// Lengths of announced prefixes, longest first.
    lengths: Vec<u8>,
    /// The announced trees, when they were asked for.
    bgp_trees: HashMap<u32, Rc<Vec<BgpHop>>>,
    /// Ways to a router within its AS, for iBGP.
    interior: HashMap<u32, Rc<Tree>>,
    has_static: bool,
    has_ospf: bool,
    defaults: Option<Rc<Fib>>,
    kept: HashMap<Key, Rc<Fib>>,
}

impl<'d> Forwarding<'d> {
    /// For a topology whose addresses are known.
    pub(crate) fn new(topology: Topology<'d>) -> Forwarding<'d> {
        let data = topology.data;
        let mut announced: Vec<(Prefix, u32)> = Vec::new();
        for (router, row) in data.routers.iter().enumerate() {
            let prefixes = row.bgp.map_or(&[][..], |b| &data.bgp[b as usize].originate);
            announced.extend(prefixes.iter().map(|p| (*p, router as u32)));
        }
        announced.sort_unstable();
        announced.dedup();
        let mut origins: Vec<(Prefix, Vec<u32>)> = Vec::new();
        for (prefix, router) in announced {
            match origins.last_mut() {
                Some((last, routers)) if *last == prefix => routers.push(router),
                _ => origins.push((prefix, vec![router])),
            }
        }
        let mut lengths: Vec<u8> = origins.iter().map(|(p, _)| p.len()).collect();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        lengths.dedup();
        let ospf = |r: u32| topology.interface_ids(r).any(|i| topology.interface(i).ospf.is_some());
        let has_static = (0..data.routers.len() as u32).any(|r| data.routers[r as usize].bgp.is_none() && !ospf(r));
        Forwarding {
            sessions: Sessions::of(&topology),
            origin_ids: origins.iter().enumerate().map(|(id, (p, _))| (*p, id as u32)).collect(),
            origins,
            lengths,
            bgp_trees: HashMap::new(),
            interior: HashMap::new(),
            has_static,
            has_ospf: data.interfaces.iter().any(|i| i.ospf.is_some()),
            defaults: None,
            kept: HashMap::new(),
            topology,
        }
    }

    /// The prefixes that are announced by BGP, with their routers.
    pub(crate) fn origins(&self) -> &[(Prefix, Vec<u32>)] {
        &self.origins
    }

    pub(crate) fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// The table for packets to an address on a network.
    pub(crate) fn table(&mut self, on: On, ip: u32) -> Rc<Fib> {
        let attached = self.topology.attached(on);
        let area = |r: &u32| {
            let interface = self.topology.interface_on(*r, on)?;
            Some(self.topology.interface(interface).ospf?.area)
        };
        let mut signature: Vec<(u32, Option<u32>)> = attached.iter().map(|r| (*r, area(r))).collect();
        signature.sort_unstable();
        let announced: Vec<u32> =
            self.lengths.iter().filter_map(|len| self.origin_ids.get(&Prefix::new(ip, *len)).copied()).collect();
        let external = matches!(on, On::External(_));
        let key = Key { attached: signature, announced, external };
        if let Some(table) = self.kept.get(&key) {
            return table.clone();
        }
        if (self.kept.len() + 1).saturating_mul(self.topology.routers()) > MAX_KEPT {
            self.kept.clear();
        }
        let table = Rc::new(self.make(&key));
        self.kept.insert(key, table.clone());
        table
    }

    fn make(&mut self, key: &Key) -> Fib {
        let data = self.topology.data;
        let mut table = vec![Hop::None; self.topology.routers()];
        let roots: Vec<(u32, u64)> = key.attached.iter().map(|(r, _)| (*r, 0)).collect();
        for (router, _) in &roots {
            table[*router as usize] = Hop::Attached;
        }
        if self.has_static {
            let tree = self.topology.tree(&roots, |_, _| true);
            self.fill(&mut table, &tree, |r| data.is_static(r));
        }
        if self.has_ospf && !key.external {
            let announced: Vec<(u32, u32)> = key.attached.iter().filter_map(|(r, a)| Some((*r, (*a)?))).collect();
            let tree = ospf::tree(&self.topology, &announced);
            self.fill(&mut table, &tree, |r| data.speaks_ospf(r));
        }
        for id in &key.announced {
            self.fill_bgp(&mut table, *id);
        }
        let defaults = self.default_table();
        for (hop, default) in table.iter_mut().zip(&*defaults) {
            if *hop == Hop::None {
                *hop = *default;
            }
        }
        table
    }

    fn fill(&self, table: &mut Fib, tree: &Tree, takes: impl Fn(u32) -> bool) {
        for (router, (out, far)) in tree.hop.iter().enumerate() {
            if *out != NONE && table[router] == Hop::None && takes(router as u32) {
                table[router] = Hop::Via { out: *out, far: *far };
            }
        }
    }

    /// The tree of an announced prefix.
    pub(crate) fn bgp_tree(&mut self, origin: u32) -> Rc<Vec<BgpHop>> {
        if let Some(tree) = self.bgp_trees.get(&origin) {
            return tree.clone();
        }
        if (self.bgp_trees.len() + 1).saturating_mul(self.topology.routers()) > MAX_KEPT {
            self.bgp_trees.clear();
        }
        let tree = Rc::new(self.sessions.tree(&self.origins[origin as usize].1));
        self.bgp_trees.insert(origin, tree.clone());
        tree
    }

    fn fill_bgp(&mut self, table: &mut Fib, origin: u32) {
        let tree = self.bgp_tree(origin);
        for (router, hop) in tree.iter().enumerate() {
            if table[router] != Hop::None {
                continue;
            }
            match *hop {
                BgpHop::Out(out, far) => table[router] = Hop::Via { out, far },
                BgpHop::Colleague(exit) => {
                    let tree = self.interior(exit);
                    let (out, far) = tree.hop[router];
                    if out != NONE {
                        table[router] = Hop::Via { out, far };
                    }
                }
                BgpHop::None | BgpHop::Origin => {}
            }
        }
    }

    /// Least-cost ways to a router that do not leave its AS.
    fn interior(&mut self, exit: u32) -> Rc<Tree> {
        if let Some(tree) = self.interior.get(&exit) {
            return tree.clone();
        }
        let data = self.topology.data;
        let asn = |r: u32| data.routers[r as usize].bgp.map(|b| data.bgp[b as usize].asn);
        let own = asn(exit);
        let inside = |r: u32| asn(r).is_none_or(|a| Some(a) == own);
        let tree = Rc::new(self.topology.tree(&[(exit, 0)], |r, edge| inside(r) && inside(edge.router)));
        self.interior.insert(exit, tree.clone());
        tree
    }

    /// Default routes: to one's own gateway outside, else what OSPF announces, else (static) the nearest gateway.
    fn default_table(&mut self) -> Rc<Fib> {
        if let Some(table) = &self.defaults {
            return table.clone();
        }
        let data = self.topology.data;
        let mut table = vec![Hop::None; self.topology.routers()];
        let mut gateways = Vec::new();
        for (id, interface) in data.interfaces.iter().enumerate().filter(|(_, i)| i.gateway.is_some()) {
            let slot = &mut table[interface.router as usize];
            if *slot == Hop::None {
                *slot = Hop::Leave { out: id as u32 };
                gateways.push((interface.router, 0));
            }
        }
        if self.has_static && !gateways.is_empty() {
            let tree = self.topology.tree(&gateways, |_, _| true);
            self.fill(&mut table, &tree, |r| data.is_static(r));
        }
        let mut announced = Vec::new();
        for router in (0..data.routers.len() as u32).filter(|r| data.routers[*r as usize].originates_default) {
            let ospf = self.topology.interface_ids(router).filter_map(|i| self.topology.interface(i).ospf);
            let mut areas: Vec<u32> = ospf.map(|o| o.area).collect();
            areas.sort_unstable();
            areas.dedup();
            announced.extend(areas.into_iter().map(|a| (router, a)));
        }
        if !announced.is_empty() {
            let tree = ospf::tree(&self.topology, &announced);
            self.fill(&mut table, &tree, |r| data.speaks_ospf(r));
        }
        let table = Rc::new(table);
        self.defaults = Some(table.clone());
        table
    }
}
