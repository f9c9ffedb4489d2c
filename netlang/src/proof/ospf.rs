//! Routes by OSPF: within an area by least cost, between areas over the backbone (RFC 2328, section 16).
//!
//! The tree towards a network grows in three steps: within the area that the network is in; from the routers on that
//! area's border through the backbone, area 0; from the borders of the backbone into every other area. A router keeps
//! what an earlier step gave it: ways within an area come before ways between areas.

use super::topology::{Edge, NONE, Topology, Tree};
use crate::plan::OspfInterface;
use std::collections::BTreeSet;

/// The OSPF of an interface.
fn speaks(topology: &Topology<'_>, interface: u32) -> Option<OspfInterface> {
    topology.interface(interface).ospf
}

/// Whether two interfaces become neighbours: both speak, in one area, with the same timers.
pub(crate) fn adjacent(a: OspfInterface, b: OspfInterface) -> bool {
    !a.passive && !b.passive && a.area == b.area && a.hello == b.hello && a.dead == b.dead
}

fn adjacent_in(topology: &Topology<'_>, edge: Edge, area: u32) -> bool {
    match (speaks(topology, edge.out), speaks(topology, edge.far)) {
        (Some(a), Some(b)) => a.area == area && adjacent(a, b),
        _ => false,
    }
}

/// The areas of a router.
fn areas(topology: &Topology<'_>, router: u32) -> BTreeSet<u32> {
    topology.interface_ids(router).filter_map(|i| speaks(topology, i)).map(|o| o.area).collect()
}

/// The tree towards routers that announce something, each in an area.
pub(crate) fn tree(topology: &Topology<'_>, announced: &[(u32, u32)]) -> Tree {
    let mut whole = Tree { cost: vec![u64::MAX; topology.routers()], hop: vec![(NONE, NONE); topology.routers()] };
    let home: BTreeSet<u32> = announced.iter().map(|(_, area)| *area).collect();
    for area in &home {
        let roots: Vec<(u32, u64)> = announced.iter().filter(|(_, a)| a == area).map(|(r, _)| (*r, 0)).collect();
        merge(&mut whole, topology.tree(&roots, |_, edge| adjacent_in(topology, edge, *area)));
    }
    let borders = |whole: &Tree, area: u32| -> Vec<(u32, u64)> {
        let routers = 0..topology.routers() as u32;
        routers
            .filter(|r| whole.cost[*r as usize] != u64::MAX && areas(topology, *r).contains(&area))
            .map(|r| (r, whole.cost[r as usize]))
            .collect()
    };
    let all: BTreeSet<u32> = topology.data.interfaces.iter().filter_map(|i| i.ospf).map(|o| o.area).collect();
    if all.len() > 1 {
        if !home.contains(&0) {
            let roots = borders(&whole, 0);
            merge(&mut whole, topology.tree(&roots, |_, edge| adjacent_in(topology, edge, 0)));
        }
        // Only what the backbone knows is told to the other areas.
        let backbone = whole.clone();
        for area in all.iter().filter(|a| **a != 0 && !home.contains(*a)) {
            let roots: Vec<(u32, u64)> =
                borders(&backbone, *area).into_iter().filter(|(r, _)| areas(topology, *r).contains(&0)).collect();
            merge(&mut whole, topology.tree(&roots, |_, edge| adjacent_in(topology, edge, *area)));
        }
    }
    whole
}

/// Takes over what is not known yet.
fn merge(whole: &mut Tree, found: Tree) {
    for (router, cost) in found.cost.into_iter().enumerate() {
        if whole.cost[router] == u64::MAX {
            whole.cost[router] = cost;
            whole.hop[router] = found.hop[router];
        }
    }
}
