//! Static routes: least-cost paths over routers, links and lans with several routers.
//!
//! Lans are nodes of the graph as well as routers, so that a lan with a thousand routers has a thousand edges, not a
//! million. Entering a lan costs [`LAN_COST`], a link its own cost. Every hop comes nearer to the destination by a
//! cost above zero, so routes computed for each router alone never loop.

use super::Route;
use super::rows::{Data, On};
use crate::address::prefix::Prefix;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::Ipv4Addr;

/// What a route over a lan costs, and over a link without `cost`: the usual cost of an OSPF interface.
pub(crate) const LAN_COST: u32 = 10;

/// Least costs from one router to every router and lan.
pub(crate) struct Paths {
    /// Cost, by node: routers first, then segments.
    cost: Vec<u64>,
    /// Interface of the first router on the way, by node.
    via: Vec<u32>,
    /// The node before, by node.
    before: Vec<u32>,
    routers: usize,
}

const FAR: u64 = u64::MAX;
const NONE: u32 = u32::MAX;

impl Paths {
    /// Dijkstra's algorithm from a router. Of equal costs the way with the lowest interface number wins, so the
    /// answer is the same wherever it is computed.
    pub(crate) fn from(data: &Data, source: u32) -> Paths {
        let routers = data.routers.len();
        let nodes = routers + data.segments.len();
        let mut paths = Paths { cost: vec![FAR; nodes], via: vec![NONE; nodes], before: vec![NONE; nodes], routers };
        let mut heap = BinaryHeap::new();
        paths.cost[source as usize] = 0;
        heap.push(Reverse((0u64, source)));
        while let Some(Reverse((cost, node))) = heap.pop() {
            if cost > paths.cost[node as usize] {
                continue;
            }
            let via = paths.via[node as usize];
            let mut relax = |next: u32, cost: u64, via: u32| {
                let known = (paths.cost[next as usize], paths.via[next as usize]);
                if (cost, via) < known {
                    let nearer = cost < known.0;
                    (paths.cost[next as usize], paths.via[next as usize]) = (cost, via);
                    paths.before[next as usize] = node;
                    if nearer {
                        heap.push(Reverse((cost, next)));
                    }
                }
            };
            if (node as usize) < routers {
                for row in data.interfaces_of(node) {
                    match row.on {
                        On::External(_) => {}
                        On::Segment(s) => relax(routers as u32 + s, cost + u64::from(LAN_COST), via),
                        On::Link(l) => {
                            let link = &data.links[l as usize];
                            let far = usize::from(link.routers[0] == node);
                            let first = if via == NONE { link.interfaces[far] } else { via };
                            relax(link.routers[far], cost + u64::from(link.cost), first);
                        }
                    }
                }
            } else {
                for interface in data.segment_interfaces.of(node - routers as u32) {
                    let first = if via == NONE { *interface } else { via };
                    relax(data.interfaces[*interface as usize].router, cost, first);
                }
            }
        }
        paths
    }

    /// Cost and first interface on the way to a router.
    pub(crate) fn to_router(&self, router: u32) -> Option<(u64, u32)> {
        self.node(router as usize)
    }

    /// Cost and first interface on the way to a segment.
    pub(crate) fn to_segment(&self, segment: u32) -> Option<(u64, u32)> {
        self.node(self.routers + segment as usize)
    }

    fn node(&self, node: usize) -> Option<(u64, u32)> {
        (self.cost[node] != FAR).then(|| (self.cost[node], self.via[node]))
    }
}

/// The static routes of a router, in the order of addresses: its own default to a gateway outside; and if it speaks no
/// protocol, routes to every prefix that is not on one of its interfaces, and to the nearest gateway outside.
pub(crate) fn static_routes(data: &Data, router: u32) -> Vec<Route> {
    let own = data.interfaces_of(router);
    let mut routes = Vec::new();
    let default = |via: u32| Route { to: Ipv4Addr::UNSPECIFIED, prefix_len: 0, via: Ipv4Addr::from(via) };
    let gateway = own.iter().find_map(|i| i.gateway);
    routes.extend(gateway.map(default));
    if !data.is_static(router) {
        return routes;
    }
    let paths = Paths::from(data, router);
    if gateway.is_none() {
        let outside = data.interfaces.iter().filter(|i| i.gateway.is_some());
        let nearest = outside.filter_map(|i| paths.to_router(i.router)).min();
        let next = nearest.and_then(|(_, via)| data.interfaces.get(via as usize));
        routes.extend(next.map(|i| default(i.ip)));
    }
    let mut push = |prefix: Prefix, via: u32| {
        if let Some(interface) = data.interfaces.get(via as usize) {
            routes.push(Route { to: prefix.network(), prefix_len: prefix.len(), via: Ipv4Addr::from(interface.ip) });
        }
    };
    for (id, segment) in data.segments.iter().enumerate() {
        let here = own.iter().any(|i| i.on == On::Segment(id as u32));
        if let Some((_, via)) = paths.to_segment(id as u32)
            && !here
        {
            push(segment.prefix, via);
        }
    }
    for link in data.links.iter().filter(|l| !l.routers.contains(&router)) {
        let nearer = link.routers.iter().filter_map(|r| paths.to_router(*r)).min();
        if let Some((_, via)) = nearer {
            push(link.prefix, via);
        }
    }
    routes.sort_unstable();
    routes
}
