//! Which of a router's interfaces lead to what, when the router itself does not forward.
//!
//! Routers and lans are a graph. Without one router it may fall apart; the part behind an interface is what packets
//! can come from by it. One search in depth over the graph (Hopcroft and Tarjan, 1973) answers this for all routers:
//! what hangs below a router in the tree, without a way around it, is a part of its own; all else is one part.

use crate::plan::rows::{Data, On};

/// A part of the network, as seen from a router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Part {
    /// The external network on one of its own interfaces.
    Outside(u32),
    /// What can be come to only through the router and this neighbour below it.
    Below(u32),
    /// The rest of what hangs together with it.
    Rest,
}

/// The search tree over routers and segments; routers come first.
#[derive(Debug)]
pub(crate) struct Cuts<'d> {
    data: &'d Data,
    /// When a node was come to, and when the last node below it was.
    entered: Vec<u32>,
    left: Vec<u32>,
    /// The earliest node that can be come to from below without passing the node above.
    low: Vec<u32>,
    /// Nodes right below each router, in the order in which they were come to.
    below: Vec<Vec<u32>>,
    /// The node at the top of a node's tree.
    top: Vec<u32>,
}

impl<'d> Cuts<'d> {
    /// Searches a plan.
    pub(crate) fn of(data: &'d Data) -> Cuts<'d> {
        let nodes = data.routers.len() + data.segments.len();
        let mut cuts = Cuts {
            data,
            entered: vec![u32::MAX; nodes],
            left: vec![0; nodes],
            low: vec![0; nodes],
            below: vec![Vec::new(); data.routers.len()],
            top: vec![0; nodes],
        };
        let mut clock = 0;
        for root in 0..nodes as u32 {
            if cuts.entered[root as usize] == u32::MAX {
                cuts.search(root, &mut clock);
            }
        }
        cuts
    }

    /// The neighbours of a node. Two links to one neighbour are two ways, but lead to the same part.
    fn neighbours(&self, node: u32) -> Vec<u32> {
        let routers = self.data.routers.len() as u32;
        if node < routers {
            let of = |on| match on {
                On::Segment(s) => Some(routers + s),
                On::Link(l) => self.data.links[l as usize].routers.into_iter().find(|r| *r != node),
                On::External(_) => None,
            };
            self.data.interfaces_of(node).iter().filter_map(|i| of(i.on)).collect()
        } else {
            let interfaces = self.data.segment_interfaces.of(node - routers);
            interfaces.iter().map(|i| self.data.interfaces[*i as usize].router).collect()
        }
    }

    fn search(&mut self, root: u32, clock: &mut u32) {
        // (node, its neighbours, how many were looked at)
        let mut open: Vec<(u32, Vec<u32>, usize)> = Vec::new();
        let enter = |cuts: &mut Self, node: u32, clock: &mut u32, open: &mut Vec<(u32, Vec<u32>, usize)>| {
            cuts.entered[node as usize] = *clock;
            cuts.low[node as usize] = *clock;
            cuts.top[node as usize] = root;
            *clock += 1;
            let neighbours = cuts.neighbours(node);
            open.push((node, neighbours, 0));
        };
        enter(self, root, clock, &mut open);
        while let Some((node, neighbours, at)) = open.last_mut() {
            let node = *node;
            if let Some(next) = neighbours.get(*at).copied() {
                *at += 1;
                if self.entered[next as usize] == u32::MAX {
                    if let Some(below) = self.below.get_mut(node as usize) {
                        below.push(next);
                    }
                    enter(self, next, clock, &mut open);
                } else {
                    self.low[node as usize] = self.low[node as usize].min(self.entered[next as usize]);
                }
                continue;
            }
            open.pop();
            self.left[node as usize] = *clock - 1;
            if let Some((above, ..)) = open.last() {
                self.low[*above as usize] = self.low[*above as usize].min(self.low[node as usize]);
            }
        }
    }

    fn node(&self, on: On) -> Option<u32> {
        match on {
            On::Segment(s) => Some(self.data.routers.len() as u32 + s),
            On::Link(_) | On::External(_) => None,
        }
    }

    /// Whether a router and a network hang together.
    pub(crate) fn joined(&self, router: u32, on: On) -> bool {
        match on {
            On::Segment(_) => self.node(on).is_some_and(|n| self.together(n, router)),
            On::Link(l) => self.together(self.data.links[l as usize].routers[0], router),
            On::External(_) => false,
        }
    }

    /// Whether two nodes hang together.
    pub(crate) fn together(&self, a: u32, b: u32) -> bool {
        self.top[a as usize] == self.top[b as usize]
    }

    /// The part of a node, as seen from a router that it hangs together with; not of the router itself.
    pub(crate) fn part(&self, router: u32, node: u32) -> Part {
        let children = &self.below[router as usize];
        let entered = self.entered[node as usize];
        let at = children.partition_point(|c| self.entered[*c as usize] <= entered);
        match at.checked_sub(1).map(|at| children[at]) {
            Some(child) if entered <= self.left[child as usize] && self.is_apart(router, child) => Part::Below(child),
            _ => Part::Rest,
        }
    }

    /// Whether a node below a router has no way around it. The router at the top of the tree has nothing around it.
    fn is_apart(&self, router: u32, child: u32) -> bool {
        self.low[child as usize] >= self.entered[router as usize]
    }

    /// The parts that a network is in: of a link that of its ends, other than the router itself.
    pub(crate) fn parts_of(&self, router: u32, on: On) -> [Option<Part>; 2] {
        match on {
            On::Segment(_) => [self.node(on).map(|n| self.part(router, n)), None],
            On::Link(l) => self.data.links[l as usize].routers.map(|r| (r != router).then(|| self.part(router, r))),
            On::External(_) => [None, None],
        }
    }

    /// The part that an interface of a router leads to.
    pub(crate) fn behind(&self, router: u32, on: On) -> Option<Part> {
        match on {
            On::External(e) => Some(Part::Outside(e)),
            _ => self.parts_of(router, on).into_iter().flatten().next(),
        }
    }
}
