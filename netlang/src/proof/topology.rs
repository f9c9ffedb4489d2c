//! The routers and what joins them, with some links cut.

use crate::plan::route::LAN_COST;
use crate::plan::rows::{Data, InterfaceRow, On};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Marks a router or interface that there is not.
pub(crate) const NONE: u32 = u32::MAX;

/// A way from one router to the next.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Edge {
    /// Interface by which the first router sends.
    pub(crate) out: u32,
    /// Interface at which the next receives.
    pub(crate) far: u32,
    /// The next router.
    pub(crate) router: u32,
    /// What leaving by `out` costs.
    pub(crate) cost: u32,
}

/// A plan's routers, without the links that are cut.
#[derive(Debug, Clone)]
pub(crate) struct Topology<'d> {
    pub(crate) data: &'d Data,
    /// Links that are cut, sorted.
    cut: Vec<u32>,
}

impl<'d> Topology<'d> {
    /// The whole plan.
    pub(crate) fn new(data: &'d Data, mut cut: Vec<u32>) -> Topology<'d> {
        cut.sort_unstable();
        Topology { data, cut }
    }

    /// How many routers there are.
    pub(crate) fn routers(&self) -> usize {
        self.data.routers.len()
    }

    pub(crate) fn interface(&self, id: u32) -> &'d InterfaceRow {
        &self.data.interfaces[id as usize]
    }

    /// The interfaces of a router by number.
    pub(crate) fn interface_ids(&self, router: u32) -> std::ops::Range<u32> {
        let row = &self.data.routers[router as usize];
        row.first_interface..row.first_interface + row.interface_count
    }

    /// The interface of a router on a network.
    pub(crate) fn interface_on(&self, router: u32, on: On) -> Option<u32> {
        self.interface_ids(router).find(|i| self.interface(*i).on == on)
    }

    /// Calls `visit` for every router next to one, over links that are not cut and over lans.
    pub(crate) fn neighbours(&self, router: u32, mut visit: impl FnMut(Edge)) {
        for out in self.interface_ids(router) {
            match self.interface(out).on {
                On::Link(l) if self.cut.binary_search(&l).is_ok() => {}
                On::Link(l) => {
                    let link = &self.data.links[l as usize];
                    let end = usize::from(link.routers[0] == router);
                    visit(Edge { out, far: link.interfaces[end], router: link.routers[end], cost: link.cost });
                }
                On::Segment(s) => {
                    for far in self.data.segment_interfaces.of(s).iter().filter(|f| **f != out) {
                        let router = self.interface(*far).router;
                        visit(Edge { out, far: *far, router, cost: LAN_COST });
                    }
                }
                On::External(_) => {}
            }
        }
    }

    /// The routers on a network, without those at a link that is cut.
    pub(crate) fn attached(&self, on: On) -> Vec<u32> {
        match on {
            On::Segment(s) => self.data.segment_interfaces.of(s).iter().map(|i| self.interface(*i).router).collect(),
            On::Link(l) if self.cut.binary_search(&l).is_ok() => Vec::new(),
            On::Link(l) => self.data.links[l as usize].routers.to_vec(),
            On::External(_) => {
                let interfaces = self.data.interfaces.iter();
                interfaces.filter(|i| i.on == on).map(|i| i.router).collect()
            }
        }
    }

    /// The least-cost tree towards some routers, by Dijkstra's algorithm from them outwards: for every router its cost
    /// and first hop. `joins` decides which edges count; an edge is seen from the router that sends over it. Of equal
    /// costs the way with the lowest far interface wins, as for static routes.
    pub(crate) fn tree(&self, from: &[(u32, u64)], joins: impl Fn(u32, Edge) -> bool) -> Tree {
        let mut tree = Tree { cost: vec![u64::MAX; self.routers()], hop: vec![(NONE, NONE); self.routers()] };
        let mut heap = BinaryHeap::new();
        for (router, cost) in from {
            if *cost < tree.cost[*router as usize] {
                tree.cost[*router as usize] = *cost;
                heap.push(Reverse((*cost, *router)));
            }
        }
        while let Some(Reverse((cost, router))) = heap.pop() {
            if cost > tree.cost[router as usize] {
                continue;
            }
            self.neighbours(router, |edge| {
                // The same edge from the other side: traffic runs towards `router`.
                let back = Edge { out: edge.far, far: edge.out, router, cost: edge.cost };
                if !joins(edge.router, back) {
                    return;
                }
                let (total, at) = (cost + u64::from(back.cost), edge.router as usize);
                if (total, back.far) < (tree.cost[at], tree.hop[at].1) {
                    if total < tree.cost[at] {
                        heap.push(Reverse((total, edge.router)));
                    }
                    tree.cost[at] = total;
                    tree.hop[at] = (back.out, back.far);
                }
            });
        }
        tree
    }
}

/// Costs and first hops towards some routers.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    /// By router; `u64::MAX` where there is no way.
    pub(crate) cost: Vec<u64>,
    /// By router: the interface to send by, and the far one; [`NONE`] at the roots.
    pub(crate) hop: Vec<(u32, u32)>,
}
