//! Proofs of BGP that need no paths: sessions that there are not, transit in a circle, prefixes of others.

use super::World;
use crate::address::prefix::Prefix;
use crate::diag::{Diagnostic, codes};
use crate::plan::rows::{On, Relation};
use crate::source::Span;
use hashbrown::HashMap;
use std::collections::BTreeMap;

/// Autonomous systems that a cycle's message names.
const MAX_NAMED: usize = 6;

impl World<'_> {
    /// Checks all that speak BGP, and all links that say who buys transit.
    pub(crate) fn bgp_checks(&mut self) {
        self.transit_without_bgp();
        if self.data.bgp.is_empty() {
            return;
        }
        self.bgp_alone();
        self.transit_cycles();
        self.originated_twice();
        self.originated_of_others();
    }

    /// `->` says something only between BGP routers of unlike AS.
    fn transit_without_bgp(&mut self) {
        for id in 0..self.data.links.len() {
            let link = &self.data.links[id];
            if link.relation != Relation::Transit {
                continue;
            }
            let (routers, stmt) = (link.routers, link.stmt);
            let asns = routers.map(|r| self.data.asn_of(r));
            let (why, silent) = match asns {
                [Some(a), Some(b)] if a != b => continue,
                [Some(asn), Some(_)] => (format!("both are of AS {asn}"), routers[1]),
                [None, _] => (format!("`{}` does not speak BGP", self.data.router_name(routers[0])), routers[0]),
                [_, None] => (format!("`{}` does not speak BGP", self.data.router_name(routers[1])), routers[1]),
            };
            let row = self.data.routers[silent as usize];
            let decl = self.data.names.decl(row.instance, row.decl).span;
            self.sink.push(
                Diagnostic::warning(
                    codes::TRANSIT_MEANS_NOTHING,
                    "`->` means nothing on this link",
                    self.tree.head_span(stmt),
                )
                .label(why)
                .also(decl, "this router")
                .note("who buys transit from whom is of interest between BGP routers of different autonomous systems only")
                .help("`--`, or `bgp { asn … }` for both routers"),
            );
        }
    }

    /// A BGP router that has nobody to speak to.
    fn bgp_alone(&mut self) {
        let mut members: HashMap<u32, u32> = HashMap::new();
        for row in &self.data.bgp {
            *members.entry(row.asn).or_default() += 1;
        }
        for router in 0..self.data.routers.len() as u32 {
            let Some(bgp) = self.data.routers[router as usize].bgp else { continue };
            let (asn, span) = (self.data.bgp[bgp as usize].asn, self.data.bgp[bgp as usize].span);
            if members.get(&asn).is_some_and(|n| *n > 1) || self.data.external_sessions(router).next().is_some() {
                continue;
            }
            let name = self.data.router_name(router);
            self.sink.push(
                Diagnostic::warning(codes::BGP_ALONE, format!("`{name}` speaks BGP with nobody"), span)
                    .label(format!("no link leads to another AS, and AS {asn} has no other router"))
                    .help(format!("`link {name} -- …` or `link {name} -> …` to a BGP router, or leave `bgp` out")),
            );
        }
    }

    /// Nobody can buy transit from itself by way of others: all of the circle would pay for their own packets.
    fn transit_cycles(&mut self) {
        // Who buys from whom, and by which link.
        let mut sellers: BTreeMap<u32, Vec<(u32, u32)>> = BTreeMap::new();
        for (id, link) in (0u32..).zip(&self.data.links) {
            if let (Relation::Transit, [Some(buyer), Some(seller)]) =
                (link.relation, link.routers.map(|r| self.data.asn_of(r)))
                && buyer != seller
            {
                sellers.entry(buyer).or_default().push((seller, id));
            }
        }
        let Some(cycle) = find_cycle(&sellers) else { return };
        let names: Vec<String> = cycle.iter().map(|link| self.as_name(*link)).collect();
        let mut path = names.iter().take(MAX_NAMED).map(|n| format!("{n} buys from ")).collect::<String>();
        if names.len() > MAX_NAMED {
            path.push_str(&format!("{} more, the last of them from ", names.len() - MAX_NAMED));
        }
        path.push_str(&names[0]);
        let mut spans: Vec<Span> =
            cycle.iter().map(|l| self.tree.head_span(self.data.links[*l as usize].stmt)).collect();
        spans.sort_unstable();
        spans.dedup();
        // A cycle has two links at least.
        let Some(last) = spans.pop() else { return };
        let mut it = Diagnostic::error(codes::TRANSIT_CYCLE, "transit is bought in a circle", last)
            .label("this arrow closes the circle")
            .note(path);
        for span in spans.into_iter().take(3) {
            it = it.also(span, "a part of it");
        }
        self.sink.push(it.help("turn one of the arrows, or let two of them peer: `--`"));
    }

    /// The AS on the left of a link, with the router that buys.
    fn as_name(&self, link: u32) -> String {
        let router = self.data.links[link as usize].routers[0];
        let asn = self.data.asn_of(router).unwrap_or(0);
        format!("AS {asn} (`{}`)", self.data.router_name(router))
    }

    /// One prefix, two origins: half of the world would send to the wrong one.
    fn originated_twice(&mut self) {
        let mut all: Vec<(Prefix, u32, u32)> = Vec::new();
        for router in 0..self.data.routers.len() as u32 {
            if let Some(bgp) = self.data.routers[router as usize].bgp {
                let row = &self.data.bgp[bgp as usize];
                all.extend(row.originate.iter().map(|p| (*p, row.asn, router)));
            }
        }
        all.sort_unstable();
        let same: Vec<_> = all
            .windows(2)
            .filter(|w| w[0].0 == w[1].0 && w[0].1 != w[1].1)
            .map(|w| (w[0].0, [w[0].1, w[1].1], [w[0].2, w[1].2]))
            .collect();
        for (prefix, asns, routers) in same {
            let mut places = [0, 1].map(|i: usize| (self.originate_span(routers[i]), asns[i], routers[i]));
            places.sort_unstable();
            let [(first, first_asn, first_router), (second, asn, router)] = places;
            let mut it = Diagnostic::warning(
                codes::ORIGINATED_TWICE,
                format!("AS {first_asn} and AS {asn} both announce {prefix} as their own"),
                second,
            )
            .label(format!("by `{}`", self.data.router_name(router)));
            if first != second {
                it = it.also(first, format!("by `{}`", self.data.router_name(first_router)));
            }
            self.sink.push(
                it.note("each router sends to the nearer of the two; if both have the hosts, that is anycast")
                    .help("let only one of them originate it"),
            );
        }
    }

    /// A prefix in which the AS has no network at all.
    fn originated_of_others(&mut self) {
        let mut own: Vec<(u32, u32, u32)> = Vec::new();
        for row in &self.data.interfaces {
            let asn = self.data.asn_of(row.router);
            if let (Some(asn), On::Segment(_) | On::External(_)) = (asn, row.on) {
                let (prefix, ..) = self.data.network_of(row.on);
                own.push((asn, prefix.first(), prefix.last()));
            }
        }
        own.sort_unstable();
        for router in 0..self.data.routers.len() as u32 {
            let Some(bgp) = self.data.routers[router as usize].bgp else { continue };
            let row = &self.data.bgp[bgp as usize];
            let asn = row.asn;
            // Networks do not overlap, so the first that ends behind the prefix's start decides.
            let empty = row.originate.iter().find(|prefix| {
                let at = own.partition_point(|(other, _, last)| (*other, *last) < (asn, prefix.first()));
                own.get(at).is_none_or(|(other, first, _)| *other != asn || *first > prefix.last())
            });
            let Some(prefix) = empty.copied() else { continue };
            let name = self.data.router_name(router);
            self.sink.push(
                Diagnostic::warning(
                    codes::ORIGINATES_OTHERS,
                    format!("no lan of AS {asn} is in {prefix}, which `{name}` announces"),
                    self.originate_span(router),
                )
                .label("packets for it would come here and be dropped")
                .help(format!("originate the prefix of a lan of `{name}`")),
            );
        }
    }

    /// Where a router says what it originates.
    fn originate_span(&self, router: u32) -> Span {
        let row = self.data.routers[router as usize];
        let decl = self.data.names.decl(row.instance, row.decl);
        let block = self.part(decl.stmt, "bgp").map(|(block, _)| block);
        let stmt = block.and_then(|b| self.child(b, "originate"));
        stmt.map_or(decl.span, |s| self.tree.head_span(s))
    }
}

/// The links of a cycle, in its order; `sellers` has (AS, link) for each AS that buys.
fn find_cycle(sellers: &BTreeMap<u32, Vec<(u32, u32)>>) -> Option<Vec<u32>> {
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum State {
        Open,
        Done,
    }
    let mut states: HashMap<u32, State> = HashMap::new();
    for start in sellers.keys() {
        if states.contains_key(start) {
            continue;
        }
        // The way from `start`: each AS with the link that led to it and the number of its sellers looked at.
        let mut way: Vec<(u32, u32, usize)> = vec![(*start, u32::MAX, 0)];
        states.insert(*start, State::Open);
        while let Some((asn, _, next)) = way.last_mut() {
            let asn = *asn;
            let Some((seller, link)) = sellers.get(&asn).and_then(|s| s.get(*next)).copied() else {
                states.insert(asn, State::Done);
                way.pop();
                continue;
            };
            *next += 1;
            match states.get(&seller) {
                Some(State::Done) => {}
                Some(State::Open) => {
                    let from = way.iter().position(|(a, ..)| *a == seller).unwrap_or(0);
                    let mut cycle: Vec<u32> = way[from + 1..].iter().map(|(_, link, _)| *link).collect();
                    cycle.push(link);
                    return Some(cycle);
                }
                None => {
                    states.insert(seller, State::Open);
                    way.push((seller, link, 0));
                }
            }
        }
    }
    None
}
