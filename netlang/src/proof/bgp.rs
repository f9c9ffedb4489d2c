//! Routes by BGP, with the policy that the arrows of the file mean (Gao and Rexford, 2001): a network learnt from a
//! customer is told to everybody, one learnt from a peer or provider only to customers; customers' routes are
//! preferred to peers', peers' to providers'; then the shorter AS path, a route of one's own session before one of a
//! colleague, and the lowest neighbour. So every path goes up, at most once across, and down: it has no valley.
//!
//! The tree towards an origin grows in that order: up from customers to providers, across to peers, down to customers.
//! Routers of one AS tell one another (iBGP, full mesh) what they learnt from outside.

use super::topology::{NONE, Topology};
use crate::plan::rows::{On, Relation};
use hashbrown::HashMap;

/// What the far side of a session is to a router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Provider,
    Peer,
    Customer,
}

/// A session with a router of another AS.
#[derive(Debug, Clone, Copy)]
struct Session {
    side: Side,
    router: u32,
    out: u32,
    far: u32,
}

/// All sessions of a topology.
#[derive(Debug, Clone)]
pub(crate) struct Sessions {
    /// Sorted by router: `ends[r]..ends[r + 1]` of `sessions`.
    ends: Vec<u32>,
    sessions: Vec<Session>,
    /// Other routers of the same AS, for ASes of several.
    colleagues: HashMap<u32, Vec<u32>>,
}

/// How a router reaches an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BgpHop {
    None,
    /// It announces the network itself.
    Origin,
    /// Over a session: its own interface and the far one.
    Out(u32, u32),
    /// By this router of the same AS.
    Colleague(u32),
}

impl Sessions {
    /// The sessions over links between BGP routers of unlike AS.
    pub(crate) fn of(topology: &Topology<'_>) -> Sessions {
        let data = topology.data;
        let asn = |r: u32| data.routers[r as usize].bgp.map(|b| data.bgp[b as usize].asn);
        let mut ends = vec![0];
        let mut sessions = Vec::new();
        let mut members: HashMap<u32, Vec<u32>> = HashMap::new();
        for router in 0..topology.routers() as u32 {
            if let Some(own) = asn(router) {
                members.entry(own).or_default().push(router);
                topology.neighbours(router, |edge| {
                    let On::Link(link) = topology.interface(edge.out).on else { return };
                    if asn(edge.router).is_none_or(|other| other == own) {
                        return;
                    }
                    let row = &data.links[link as usize];
                    let side = match (row.relation, row.routers[0] == router) {
                        (Relation::Peer, _) => Side::Peer,
                        (Relation::Transit, true) => Side::Provider,
                        (Relation::Transit, false) => Side::Customer,
                    };
                    sessions.push(Session { side, router: edge.router, out: edge.out, far: edge.far });
                });
            }
            ends.push(sessions.len() as u32);
        }
        let mut colleagues = HashMap::new();
        for routers in members.into_values().filter(|m| m.len() > 1) {
            for router in &routers {
                colleagues.insert(*router, routers.iter().copied().filter(|r| r != router).collect());
            }
        }
        Sessions { ends, sessions, colleagues }
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.sessions.is_empty() && self.colleagues.is_empty()
    }

    fn of_router(&self, router: u32) -> &[Session] {
        &self.sessions[self.ends[router as usize] as usize..self.ends[router as usize + 1] as usize]
    }

    /// Routers that a router tells something over some session, or could.
    pub(crate) fn neighbours(&self, router: u32) -> impl Iterator<Item = u32> + '_ {
        let colleagues = self.colleagues.get(&router).into_iter().flatten().copied();
        self.of_router(router).iter().map(|s| s.router).chain(colleagues)
    }

    /// The tree towards the routers that announce a network.
    pub(crate) fn tree(&self, origins: &[u32]) -> Vec<BgpHop> {
        let mut grow = Grow { sessions: self, hop: vec![BgpHop::None; self.ends.len() - 1], len: Vec::new() };
        grow.len.resize(grow.hop.len(), NONE);
        for origin in origins {
            grow.hop[*origin as usize] = BgpHop::Origin;
            grow.len[*origin as usize] = 0;
        }
        // Up: each step is one AS further from the origin.
        let mut frontier = origins.to_vec();
        frontier.sort_unstable();
        grow.tell_colleagues(&mut frontier, 0);
        let mut known = frontier.clone();
        let mut len = 0;
        while !frontier.is_empty() {
            len += 1;
            let mut next = grow.step(&frontier, Side::Provider, len);
            grow.tell_colleagues(&mut next, len);
            known.extend(&next);
            frontier = next;
        }
        // Across: once, the shortest first.
        let mut by_len = grow.buckets(&known);
        let mut learnt = Vec::new();
        for (len, from) in by_len.iter().enumerate() {
            let mut next = grow.step(from, Side::Peer, len as u32 + 1);
            grow.tell_colleagues(&mut next, len as u32 + 1);
            learnt.extend(next);
        }
        // Down, the shortest first; what arrives there is told on to customers.
        known.extend(&learnt);
        by_len = grow.buckets(&known);
        let mut at = 0;
        while at < by_len.len() {
            let from = std::mem::take(&mut by_len[at]);
            let mut next = grow.step(&from, Side::Customer, at as u32 + 1);
            grow.tell_colleagues(&mut next, at as u32 + 1);
            if !next.is_empty() {
                if by_len.len() == at + 1 {
                    by_len.push(Vec::new());
                }
                by_len[at + 1].extend(next);
                by_len[at + 1].sort_unstable();
            }
            at += 1;
        }
        grow.hop
    }
}

/// A tree in the making.
struct Grow<'s> {
    sessions: &'s Sessions,
    hop: Vec<BgpHop>,
    /// ASes on the way.
    len: Vec<u32>,
}

impl Grow<'_> {
    /// Tells all of one side of some routers, lowest first; gives those that heard it for the first time.
    fn step(&mut self, from: &[u32], side: Side, len: u32) -> Vec<u32> {
        let mut heard = Vec::new();
        for router in from {
            for session in self.sessions.of_router(*router).iter().filter(|s| s.side == side) {
                if self.hop[session.router as usize] == BgpHop::None {
                    self.hop[session.router as usize] = BgpHop::Out(session.far, session.out);
                    self.len[session.router as usize] = len;
                    heard.push(session.router);
                }
            }
        }
        heard.sort_unstable();
        heard
    }

    fn tell_colleagues(&mut self, heard: &mut Vec<u32>, len: u32) {
        if self.sessions.colleagues.is_empty() {
            return;
        }
        for at in 0..heard.len() {
            let router = heard[at];
            for colleague in self.sessions.colleagues.get(&router).into_iter().flatten() {
                if self.hop[*colleague as usize] == BgpHop::None {
                    self.hop[*colleague as usize] = BgpHop::Colleague(router);
                    self.len[*colleague as usize] = len;
                    heard.push(*colleague);
                }
            }
        }
        heard.sort_unstable();
    }

    /// Routers by the length of their paths.
    fn buckets(&self, routers: &[u32]) -> Vec<Vec<u32>> {
        let most = routers.iter().map(|r| self.len[*r as usize]).max().unwrap_or(0);
        let mut buckets = vec![Vec::new(); most as usize + 1];
        for router in routers {
            buckets[self.len[*router as usize] as usize].push(*router);
        }
        buckets.iter_mut().for_each(|b| b.sort_unstable());
        buckets
    }
}
