//! Proofs of firewalls that need no paths: rules that never match.
//!
//! A rule of a module stands for many routers. It is only reported if it is good for nothing on all of them.

use super::World;
use crate::diag::{Diagnostic, codes};
use crate::plan::routing::{RuleRow, Zone};
use crate::plan::rows::{Data, On};
use crate::proof::{Cuts, Part};
use crate::source::Span;
use hashbrown::HashMap;
use smallvec::SmallVec;
use std::collections::BTreeMap;

/// Networks that a zone is compared with; one that is in more is taken to be everywhere.
const MAX_NETWORKS: usize = 64;

/// Why a rule never matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Useless {
    /// An earlier rule, which stands here, covers it.
    Shadowed(Span),
    /// Nothing is `from` (or `to`) there.
    Nothing { from: bool },
    /// The router is not on the external network.
    NotOn { external: u32 },
    /// Nothing from (or to) there comes to the router at all.
    Apart { from: bool },
    /// Both are behind one interface.
    Elsewhere,
}

/// What became of a rule of the file on all of its routers.
#[derive(Debug, Clone, Copy)]
struct Tally {
    routers: u32,
    /// On how many it is good for nothing, the first of them, and why.
    useless: u32,
    first: Option<(u32, Useless)>,
}

impl World<'_> {
    /// Finds the rules that never match.
    pub(crate) fn firewall_checks(&mut self) {
        if self.data.rules.is_empty() || self.sink.has_errors() {
            return;
        }
        let mut tallies: BTreeMap<Span, Tally> = BTreeMap::new();
        let mut covered = Covered::new();
        let places = Places::of(&self.data);
        for router in 0..self.data.routers.len() as u32 {
            let Some(firewall) = self.data.routers[router as usize].firewall else { continue };
            let row = self.data.firewalls[firewall as usize];
            let rules = &self.data.rules[row.first_rule as usize..(row.first_rule + row.rule_count) as usize];
            for (at, rule) in rules.iter().enumerate() {
                let useless = places.useless(router, rule).or_else(|| {
                    let earlier = rules[..at].iter().find(|r| covered.rule(&self.data, r, rule))?;
                    Some(Useless::Shadowed(earlier.span))
                });
                let tally = tallies.entry(rule.span).or_insert(Tally { routers: 0, useless: 0, first: None });
                tally.routers += 1;
                tally.useless += u32::from(useless.is_some());
                tally.first = tally.first.or(useless.map(|u| (router, u)));
            }
        }
        for (span, tally) in tallies {
            if let Some((router, why)) = tally.first.filter(|_| tally.useless == tally.routers) {
                self.useless_rule(span, router, why, tally.routers);
            }
        }
    }

    fn useless_rule(&mut self, span: Span, router: u32, why: Useless, routers: u32) {
        let name = self.data.router_name(router);
        let row = self.data.routers[router as usize];
        let decl = self.data.names.decl(row.instance, row.decl).span;
        let end = |from: bool| if from { "from" } else { "to" };
        let it = match why {
            Useless::Shadowed(earlier) => {
                let text = earlier.text(self.text);
                Diagnostic::warning(codes::RULE_SHADOWED, "this rule never matches", span)
                    .label(format!("`{text}` comes first and covers it"))
                    .also(earlier, "all that the other matches, this one has matched")
                    .help("put the narrower rule first, or remove it")
            }
            Useless::Nothing { from } => Diagnostic::warning(codes::RULE_UNUSED, "this rule matches nothing", span)
                .label(format!("there are no addresses after `{}`", end(from)))
                .help("remove it, or name something that has addresses"),
            Useless::NotOn { external } => {
                let external = self.data.externals.get(external as usize).map_or(0, |e| e.decl);
                let external = self.data.names.path(0, external, None);
                Diagnostic::warning(codes::RULE_UNUSED, "this rule matches nothing", span)
                    .label(format!("`{name}` has no interface on `{external}`"))
                    .also(decl, "this router")
                    .help("packets of another router's external network can be matched by their addresses: `outside`")
            }
            Useless::Apart { from } => Diagnostic::warning(codes::RULE_UNUSED, "this rule matches nothing", span)
                .label(format!("nothing {} there ever passes `{name}`: no way joins them", end(from)))
                .also(decl, "this router")
                .help("remove it, or join the two by a link or lan"),
            Useless::Elsewhere => Diagnostic::warning(
                codes::RULE_ELSEWHERE,
                format!("`{name}` does not lie between the two ends of this rule"),
                span,
            )
            .label("packets from one to the other never come through here")
            .also(decl, "both are behind one interface of this router")
            .help("put the rule into a router on the way, or remove it"),
        };
        let more = routers - 1;
        self.sink.push(match more {
            0 => it,
            1 => it.note("and 1 more instance"),
            more => it.note(format!("and {} more instances", crate::text::thousands(u64::from(more)))),
        });
    }
}

/// Which zones are within which, remembered.
struct Covered(HashMap<(u32, u32), bool>);

impl Covered {
    fn new() -> Covered {
        Covered(HashMap::new())
    }

    /// Whether all that `inner` matches is matched by `outer`.
    fn rule(&mut self, data: &Data, outer: &RuleRow, inner: &RuleRow) -> bool {
        let protocol = outer.protocol.is_none() || outer.protocol == inner.protocol;
        let within = |port: &(u16, u16)| outer.ports.iter().any(|o| o.0 <= port.0 && port.1 <= o.1);
        let ports = outer.ports.is_empty() || (!inner.ports.is_empty() && inner.ports.iter().all(within));
        protocol && ports && self.zone(data, outer.from, inner.from) && self.zone(data, outer.to, inner.to)
    }

    fn zone(&mut self, data: &Data, outer: Zone, inner: Zone) -> bool {
        match (outer, inner) {
            (Zone::Any, _) => true,
            (Zone::Addresses(o), Zone::Addresses(i)) if o != i => *self.0.entry((o, i)).or_insert_with(|| {
                let outer = data.zones.intervals(o);
                data.zones.intervals(i).iter().all(|(first, last)| {
                    let at = outer.partition_point(|(_, end)| end < first);
                    outer.get(at).is_some_and(|(start, end)| start <= first && last <= end)
                })
            }),
            _ => outer == inner,
        }
    }
}

type Parts = SmallVec<[Part; 4]>;

/// Where addresses are, as seen from routers.
struct Places<'d> {
    data: &'d Data,
    cuts: Cuts<'d>,
    /// All networks but external ones: first and last address, in this order.
    networks: Vec<(u32, u32, On)>,
    /// Routers with an interface on an external network.
    outside: Vec<(u32, u32)>,
}

impl<'d> Places<'d> {
    fn of(data: &'d Data) -> Places<'d> {
        let segments = data.segments.iter().enumerate().map(|(id, s)| (s.prefix, On::Segment(id as u32)));
        let links = data.links.iter().enumerate().map(|(id, l)| (l.prefix, On::Link(id as u32)));
        let mut networks: Vec<_> = segments.chain(links).map(|(p, on)| (p.first(), p.last(), on)).collect();
        networks.sort_unstable_by_key(|n| (n.0, n.1));
        let outside = data.interfaces.iter().filter_map(|i| match i.on {
            On::External(e) => Some((i.router, e)),
            On::Segment(_) | On::Link(_) => None,
        });
        Places { data, cuts: Cuts::of(data), networks, outside: outside.collect() }
    }

    fn useless(&self, router: u32, rule: &RuleRow) -> Option<Useless> {
        for (from, zone) in [(true, rule.from), (false, rule.to)] {
            match zone {
                Zone::Addresses(id) if self.data.zones.intervals(id).is_empty() => {
                    return Some(Useless::Nothing { from });
                }
                Zone::External(external) if !self.outside.contains(&(router, external)) => {
                    return Some(Useless::NotOn { external });
                }
                _ => {}
            }
        }
        let (from, to) = (self.parts(router, rule.from), self.parts(router, rule.to));
        for (is_from, parts) in [(true, &from), (false, &to)] {
            if parts.as_ref().is_some_and(|p| p.is_empty()) {
                return Some(Useless::Apart { from: is_from });
            }
        }
        let (from, to) = (from?, to?);
        let part = from[0];
        let one = from.iter().chain(&to).all(|p| *p == part);
        (one && self.is_dead_end(router, part)).then_some(Useless::Elsewhere)
    }

    /// The parts in which a zone has addresses; `None` for those of which there is no knowing, or too many.
    fn parts(&self, router: u32, zone: Zone) -> Option<Parts> {
        let id = match zone {
            Zone::Any => return None,
            Zone::External(external) => return Some(SmallVec::from_slice(&[Part::Outside(external)])),
            Zone::Addresses(id) => id,
        };
        let mut parts = Parts::new();
        let mut seen = 0;
        let mut elsewhere = false;
        for (first, last) in self.data.zones.intervals(id) {
            // Up to where the interval's addresses are those of networks.
            let mut known = u64::from(*first);
            let start = self.networks.partition_point(|(begin, ..)| begin <= first).saturating_sub(1);
            for (begin, end, on) in &self.networks[start..] {
                if begin > last {
                    break;
                }
                seen += 1;
                if seen > MAX_NETWORKS {
                    return None;
                }
                if end < first || !self.cuts.joined(router, *on) {
                    continue;
                }
                elsewhere |= u64::from(*begin) > known;
                known = known.max(u64::from(*end) + 1);
                for part in self.cuts.parts_of(router, *on).into_iter().flatten() {
                    if !parts.contains(&part) {
                        parts.push(part);
                    }
                }
            }
            elsewhere |= known <= u64::from(*last);
        }
        if elsewhere {
            // What is on no network of the file comes and goes by external networks.
            for (other, external) in &self.outside {
                let part = match *other == router {
                    true => Part::Outside(*external),
                    false if self.cuts.together(*other, router) => self.cuts.part(router, *other),
                    false => continue,
                };
                if !parts.contains(&part) {
                    parts.push(part);
                }
            }
        }
        Some(parts)
    }

    /// Whether nothing can come from a part and go back to it through the router: it has one interface there, and is
    /// not the gateway of a lan that has another router.
    fn is_dead_end(&self, router: u32, part: Part) -> bool {
        let mut behind =
            self.data.interfaces_of(router).iter().filter(|i| self.cuts.behind(router, i.on) == Some(part));
        let (Some(only), None) = (behind.next(), behind.next()) else { return false };
        match only.on {
            On::Segment(s) => {
                let gateway = self.data.segments[s as usize].gateway;
                let is_gateway = gateway.is_some_and(|g| self.data.interfaces[g as usize].router == router);
                !(is_gateway && self.data.segment_interfaces.of(s).len() > 1)
            }
            On::Link(_) | On::External(_) => true,
        }
    }
}
