//! Reachability over segments, routers and links with static routes.
//!
//! Routers know a route to every prefix of their domain (the routers, lans and links that hang together), so a packet
//! that a guest hands to its gateway arrives if the destination is in the gateway's domain. A reply needs the same
//! in the other direction.

use crate::plan::rows::{Data, On};
use crate::plan::{GroupId, Range};

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

/// Whether packets get there and back, and if not, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// There and back.
    Reaches,
    /// The sender has no NIC.
    NoNic { group: u32, index: u32 },
    /// The sender's lans have no gateway, and the other is on none of them.
    NoGateway { group: u32, index: u32 },
    /// The gateway knows no way.
    NoRoute { segment: u32 },
}

/// A class of VMs: all on the same segments.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Class {
    segments: Vec<u32>,
}

/// A representative of a class of VMs.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) group: u32,
    pub(crate) index: u32,
    segments: Vec<u32>,
}

/// Answers questions about reachability.
pub(crate) struct Reach<'d> {
    data: &'d Data,
    domains: Domains,
}

impl<'d> Reach<'d> {
    /// For a plan whose gateways are known.
    pub(crate) fn new(data: &'d Data) -> Reach<'d> {
        Reach { data, domains: Domains::of(data) }
    }

    /// One VM for each class within some ranges.
    pub(crate) fn members(&self, ranges: &[Range]) -> Vec<Member> {
        let mut seen = hashbrown::HashSet::new();
        let mut members = Vec::new();
        for range in ranges {
            let GroupId(group) = range.group;
            let row = &self.data.groups[group as usize];
            let nics = row.first_nic..row.first_nic + u32::from(row.nic_count);
            let fixed =
                nics.clone().all(|n| matches!(self.data.nics[n as usize].segment, crate::plan::form::Form::Const(_)));
            for index in range.indices() {
                let segments: Vec<u32> =
                    nics.clone().filter_map(|n| self.data.nic_at(n, index)).map(|(s, _)| s).collect();
                if seen.insert(Class { segments: segments.clone() }) {
                    members.push(Member { group, index, segments });
                }
                if fixed {
                    break;
                }
            }
        }
        members
    }

    /// The first NIC's lan that has a gateway: segment and gateway's router.
    fn default_route(&self, member: &Member) -> Option<(u32, u32)> {
        member.segments.iter().find_map(|s| {
            let gateway = self.data.segments[*s as usize].gateway?;
            Some((*s, self.data.interfaces[gateway as usize].router))
        })
    }

    /// Whether a VM sends to another's eth0 and gets an answer.
    pub(crate) fn between(&self, from: &Member, to: &Member) -> Verdict {
        let Some(target) = to.segments.first().copied() else {
            return Verdict::NoNic { group: to.group, index: to.index };
        };
        let source = match self.forward(from, target) {
            Ok(source) => source,
            Err(verdict) => return verdict,
        };
        match self.forward(to, source) {
            Ok(_) => Verdict::Reaches,
            Err(verdict) => verdict,
        }
    }

    /// Whether a VM sends to an address on a segment, or a router's on a link, and gets an answer: the owner is a
    /// router of that domain, which knows the way back.
    pub(crate) fn to_router(&self, from: &Member, router: u32, segment: Option<u32>) -> Verdict {
        if from.segments.is_empty() {
            return Verdict::NoNic { group: from.group, index: from.index };
        }
        if segment.is_some_and(|s| from.segments.contains(&s)) {
            return Verdict::Reaches;
        }
        match self.default_route(from) {
            None => Verdict::NoGateway { group: from.group, index: from.index },
            Some((segment, gateway)) if self.domains.of_router(gateway) != self.domains.of_router(router) => {
                Verdict::NoRoute { segment }
            }
            Some(_) => Verdict::Reaches,
        }
    }

    /// The segment from which a packet to a segment leaves.
    fn forward(&self, from: &Member, target: u32) -> Result<u32, Verdict> {
        if from.segments.contains(&target) {
            return Ok(target);
        }
        if from.segments.is_empty() {
            return Err(Verdict::NoNic { group: from.group, index: from.index });
        }
        let Some((segment, router)) = self.default_route(from) else {
            return Err(Verdict::NoGateway { group: from.group, index: from.index });
        };
        if self.domains.of_router(router) == self.domains.of_segment(target) {
            Ok(segment)
        } else {
            Err(Verdict::NoRoute { segment })
        }
    }
}
