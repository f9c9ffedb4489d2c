//! Which segments and routers hang together: a prefix must be unique there.

use crate::plan::rows::{Data, On};
use crate::sets::Sets;

/// Which segments and routers hang together over routers and links.
#[derive(Debug, Clone)]
pub(crate) struct Domains {
    root: Vec<u32>,
    routers: usize,
}

impl Domains {
    /// The domains of a plan.
    pub(crate) fn of(data: &Data) -> Domains {
        let routers = data.routers.len();
        let mut sets = Sets::new(routers + data.segments.len());
        for row in &data.interfaces {
            let other = match row.on {
                On::Segment(s) => routers as u32 + s,
                On::Link(l) => data.links[l as usize].routers[0],
                On::External(_) => continue,
            };
            sets.join(row.router, other);
        }
        Domains { root: sets.into_roots(), routers }
    }

    /// The domain of a segment.
    pub(crate) fn of_segment(&self, segment: u32) -> u32 {
        self.root[self.routers + segment as usize]
    }

    /// The domain of a router.
    pub(crate) fn of_router(&self, router: u32) -> u32 {
        self.root[router as usize]
    }
}
