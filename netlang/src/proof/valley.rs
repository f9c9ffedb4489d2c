//! Whether every AS hears of every network that is announced, along paths without a valley.

use super::bgp::BgpHop;
use super::fib::Forwarding;
use super::topology::{NONE, Topology};
use crate::plan::rows::Data;

/// A network that some routers never hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unreached {
    /// A router that announces it.
    pub(crate) origin: u32,
    /// The first router that does not hear of it.
    pub(crate) deaf: u32,
    /// How many do not.
    pub(crate) count: u32,
    /// How many routers hang together over sessions with the origin.
    pub(crate) of: u32,
}

/// The announced networks that do not reach all routers that hang together with their origin over BGP sessions.
pub(crate) fn unreached(data: &Data) -> Vec<Unreached> {
    let mut forwarding = Forwarding::new(Topology::new(data, Vec::new()));
    if forwarding.sessions().is_empty() {
        return Vec::new();
    }
    let component = components(&forwarding, data);
    let mut sizes = vec![0u32; data.routers.len()];
    component.iter().filter(|c| **c != NONE).for_each(|c| sizes[*c as usize] += 1);
    let mut found = Vec::new();
    for id in 0..forwarding.origins().len() as u32 {
        let origin = forwarding.origins()[id as usize].1[0];
        let own = component[origin as usize];
        let tree = forwarding.bgp_tree(id);
        let deaf = |r: &usize| component[*r] == own && tree[*r] == BgpHop::None;
        let mut all = (0..tree.len()).filter(deaf);
        if let Some(first) = all.next() {
            let count = 1 + all.count() as u32;
            found.push(Unreached { origin, deaf: first as u32, count, of: sizes[own as usize] });
        }
    }
    found
}

/// For each BGP router the lowest one that it hangs together with over sessions.
fn components(forwarding: &Forwarding<'_>, data: &Data) -> Vec<u32> {
    let mut component = vec![NONE; data.routers.len()];
    for start in 0..data.routers.len() as u32 {
        if component[start as usize] != NONE || data.routers[start as usize].bgp.is_none() {
            continue;
        }
        let mut open = vec![start];
        component[start as usize] = start;
        while let Some(router) = open.pop() {
            for next in forwarding.sessions().neighbours(router) {
                if component[next as usize] == NONE {
                    component[next as usize] = start;
                    open.push(next);
                }
            }
        }
    }
    component
}
