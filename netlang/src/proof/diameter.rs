//! How far apart the two furthest lans are, in hops from router to router along the routes that packets take.

use super::Proof;
use super::fib::{Fib, Hop};
use super::topology::Topology;
use crate::plan::rows::Data;
use hashbrown::HashSet;

/// The diameter of a plan, or why it has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Diameter {
    /// The most hops, and the segments between which they are.
    Hops { hops: u32, from: u32, to: u32 },
    /// Between these segments there is no way.
    NoWay { from: u32, to: u32 },
    /// No VMs are on lans that routers join.
    Empty,
}

/// Hops from every router to where a table leads; `None` where packets do not arrive.
pub(crate) fn hops(table: &Fib, topology: &Topology<'_>) -> Vec<Option<u32>> {
    const OPEN: u32 = u32::MAX - 1;
    const LOST: u32 = u32::MAX;
    let mut hops = vec![OPEN; table.len()];
    let mut way = Vec::new();
    for start in 0..table.len() {
        let mut at = start;
        way.clear();
        let end = loop {
            if hops[at] != OPEN {
                break hops[at];
            }
            match table[at] {
                Hop::Attached => {
                    hops[at] = 0;
                    break 0;
                }
                Hop::None | Hop::Leave { .. } => {
                    hops[at] = LOST;
                    break LOST;
                }
                Hop::Via { far, .. } => {
                    // Lost until it is known to arrive, so that a circle ends.
                    hops[at] = LOST;
                    way.push(at);
                    at = topology.interface(far).router as usize;
                }
            }
        };
        let mut count = end;
        for router in way.iter().rev() {
            count = if end == LOST { LOST } else { count + 1 };
            hops[*router] = count;
        }
    }
    hops.into_iter().map(|h| (h != LOST).then_some(h)).collect()
}

impl Proof<'_> {
    /// The most hops between lans with VMs, among those that hang together.
    pub(crate) fn diameter(&mut self) -> Diameter {
        let data = self.data;
        let domains = super::Domains::of(data);
        // Lans that hang on the same routers in the same way are equally far from everywhere.
        let mut seen = HashSet::new();
        let lans: Vec<u32> =
            lans_with_vms(data).into_iter().filter(|s| seen.insert(self.classes.class_of(*s))).collect();
        let mut most = Diameter::Empty;
        for to in &lans {
            let table = self.table_of(*to);
            let hops = hops(&table, &self.forwarding.topology);
            for from in lans.iter().filter(|f| domains.of_segment(**f) == domains.of_segment(*to)) {
                let Some(gateway) = data.segments[*from as usize].gateway else { continue };
                match hops[data.interfaces[gateway as usize].router as usize] {
                    None => return Diameter::NoWay { from: *from, to: *to },
                    Some(n) => match most {
                        Diameter::Hops { hops, .. } if hops >= n => {}
                        _ => most = Diameter::Hops { hops: n, from: *from, to: *to },
                    },
                }
            }
        }
        most
    }
}

/// Segments with VMs and a gateway.
fn lans_with_vms(data: &Data) -> Vec<u32> {
    let with_gateway = |s: &u32| data.segments[*s as usize].gateway.is_some();
    let lans = 0..data.segments.len() as u32;
    lans.filter(with_gateway).filter(|s| !data.segment_nics.of(*s).is_empty()).collect()
}
