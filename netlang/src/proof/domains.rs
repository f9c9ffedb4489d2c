//! Which segments and routers hang together: a prefix must be unique there.

use crate::plan::rows::{Data, On};

/// Which segments and routers hang together over routers and links.
#[derive(Debug, Clone)]
pub(crate) struct Domains {
    root: Vec<u32>,
    routers: usize,
}

impl Domains {
    /// Union-find over routers and segments.
    pub(crate) fn of(data: &Data) -> Domains {
        let routers = data.routers.len();
        let mut domains = Domains { root: (0..(routers + data.segments.len()) as u32).collect(), routers };
        for row in &data.interfaces {
            let other = match row.on {
                On::Segment(s) => routers as u32 + s,
                On::Link(l) => data.links[l as usize].routers[0],
                On::External(_) => continue,
            };
            domains.join(row.router, other);
        }
        for node in 0..domains.root.len() as u32 {
            let root = domains.find(node);
            domains.root[node as usize] = root;
        }
        domains
    }

    fn find(&mut self, mut node: u32) -> u32 {
        while self.root[node as usize] != node {
            let above = self.root[self.root[node as usize] as usize];
            self.root[node as usize] = above;
            node = above;
        }
        node
    }

    fn join(&mut self, a: u32, b: u32) {
        let (a, b) = (self.find(a), self.find(b));
        self.root[a.max(b) as usize] = a.min(b);
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
