//! Rules that need addresses: overlapping prefixes, duplicate addresses, hosts outside of their prefix, bridge ports.

use super::World;
use crate::address::prefix::Prefix;
use crate::diag::{Diagnostic, codes};
use crate::plan::rows::On;
use crate::proof::Domains;
use crate::source::Span;
use crate::text::thousands;
use hashbrown::{HashMap, HashSet};
use std::net::Ipv4Addr;

/// Ports of a Linux bridge: BR_MAX_PORTS of the kernel, less the one it cannot use.
pub(crate) const MAX_PORTS: u64 = 1023;

/// Who has host numbers `from..until` on a segment.
#[derive(Debug, Clone, Copy)]
struct Claim {
    from: u32,
    until: u32,
    /// Each VM has a number of its own.
    injective: bool,
    owner: Owner,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Interface(u32),
    Nic(u32),
}

impl World<'_> {
    /// Checks all that addresses must fulfil.
    pub(crate) fn verify(&mut self) {
        self.overlaps();
        self.router_hosts();
        self.verify_externals();
        let full = self.bridge_ports();
        self.duplicates(&full);
    }

    /// Prefixes must not overlap where packets could take either.
    fn overlaps(&mut self) {
        let domains = Domains::of(&self.data);
        let mut prefixes: Vec<(u32, Prefix, On)> = Vec::new();
        for (id, segment) in self.data.segments.iter().enumerate() {
            prefixes.push((domains.of_segment(id as u32), segment.prefix, On::Segment(id as u32)));
        }
        for (id, link) in self.data.links.iter().enumerate() {
            prefixes.push((domains.of_router(link.routers[0]), link.prefix, On::Link(id as u32)));
        }
        let mut seen = HashSet::new();
        for attach in &self.attaches {
            if let On::External(external) = attach.on {
                let prefix = self.data.externals[external as usize].prefix;
                let domain = domains.of_router(attach.router);
                if prefix != super::externals::UNKNOWN && seen.insert((domain, external)) {
                    prefixes.push((domain, prefix, attach.on));
                }
            }
        }
        prefixes.sort_by_key(|(domain, prefix, _)| (*domain, prefix.first(), prefix.len()));
        let mut widest: Option<(u32, Prefix, On)> = None;
        for it in prefixes {
            if let Some(before) = widest
                && before.0 == it.0
                && before.1.overlaps(it.1)
                && !self.sink.is_flooded()
            {
                self.overlap((before.1, before.2), (it.1, it.2));
            }
            if widest.is_none_or(|w| w.0 != it.0 || it.1.last() > w.1.last()) {
                widest = Some(it);
            }
        }
        self.domains();
    }

    /// Name of a network, and where the file makes it: of an instance's lans the instance's own declaration.
    fn network_place(&self, on: On) -> (String, Span) {
        let names = &self.data.names;
        match on {
            On::Segment(id) => {
                let row = self.data.segments[id as usize];
                let span = match row.instance {
                    0 => names.decl(row.instance, row.decl).span,
                    instance => {
                        let at = &names.instances[instance as usize];
                        names.decl(at.parent, at.decl).span
                    }
                };
                (names.path(row.instance, row.decl, row.index), span)
            }
            On::Link(id) => (self.data.link_name(id), self.tree.head_span(self.data.links[id as usize].stmt)),
            On::External(id) => {
                let decl = self.data.externals[id as usize].decl;
                (names.path(0, decl, None), names.decl(0, decl).span)
            }
        }
    }

    fn overlap(&mut self, before: (Prefix, On), it: (Prefix, On)) {
        let (mut a, mut b) = ((self.network_place(before.1), before.0), (self.network_place(it.1), it.0));
        if a.0.1 > b.0.1 {
            std::mem::swap(&mut a, &mut b);
        }
        let ((first_name, first_span), first_prefix) = a;
        let ((name, span), prefix) = b;
        let relation = match (first_prefix == prefix, prefix.len() > first_prefix.len()) {
            (true, _) => "the same",
            (_, true) => "inside it",
            (_, false) => "around it",
        };
        self.sink.push(
            Diagnostic::error(codes::OVERLAP, "overlapping subnets on one routed domain", span)
                .label(format!("`{name}` is {prefix}, {relation}"))
                .also(first_span, format!("`{first_name}` is {first_prefix}"))
                .note("routers join both, so a packet to such an address could go either way")
                .help("give one of them another prefix, or leave it out to have one chosen"),
        );
    }

    /// Lans that overlap in separate domains get different MAC addresses, for whoever sees both.
    fn domains(&mut self) {
        let mut order: Vec<u32> = (0..self.data.segments.len() as u32).collect();
        order.sort_by_key(|s| {
            let row = &self.data.segments[*s as usize];
            (row.prefix.first(), row.prefix.len(), row.vni)
        });
        let mut last: Option<u32> = None;
        for id in order {
            let row = self.data.segments[id as usize];
            if last.is_some_and(|last| last >= row.prefix.first()) {
                self.data.segments[id as usize].domain = (row.vni % 255 + 1) as u8;
            }
            last = Some(last.map_or(row.prefix.last(), |l| l.max(row.prefix.last())));
        }
    }

    fn router_hosts(&mut self) {
        for attach in &self.attaches {
            let On::Segment(segment) = attach.on else { continue };
            let prefix = self.data.segments[segment as usize].prefix;
            if attach.host == 0 || u64::from(attach.host) > prefix.max_host_number() {
                let span = self.tree.span(attach.word);
                self.sink.push(
                    Diagnostic::error(
                        codes::OUTSIDE_PREFIX,
                        format!("{prefix} has no host number {}", attach.host),
                        span,
                    )
                    .label(format!("host numbers go from 1 to {}", thousands(prefix.max_host_number()))),
                );
            }
        }
    }

    /// No address twice on a segment. Those with too many ports are wrong already, and would take long.
    fn duplicates(&mut self, full: &HashSet<u32>) {
        for segment in (0..self.data.segments.len() as u32).filter(|s| !full.contains(s)) {
            let mut claims = self.claims(segment);
            claims.sort_by_key(|c| (c.from, c.until));
            let mut until = 0;
            let mut doubtful = claims.iter().any(|c| !c.injective);
            for claim in &claims {
                doubtful |= claim.from < until;
                until = until.max(claim.until);
            }
            if doubtful {
                self.exact_duplicates(segment, &claims);
            }
        }
    }

    fn claims(&self, segment: u32) -> Vec<Claim> {
        let mut claims = Vec::new();
        for interface in self.data.segment_interfaces.of(segment) {
            let host =
                self.data.interfaces[*interface as usize].ip - self.data.segments[segment as usize].prefix.first();
            let owner = Owner::Interface(*interface);
            claims.push(Claim { from: host, until: host + 1, injective: true, owner });
        }
        for nic in self.data.segment_nics.of(segment) {
            if self.poisoned_nics.contains(nic) {
                continue;
            }
            let row = self.data.nics[*nic as usize];
            let indices = self.data.indices(row.group);
            let Some((low, high)) = self.data.forms.bounds(row.host, &indices) else { continue };
            let injective = self.data.forms.is_injective([row.segment, row.host], &indices);
            claims.push(Claim { from: low, until: high + 1, injective, owner: Owner::Nic(*nic) });
        }
        claims
    }

    /// Finds the first duplicate of each claim, by looking at every port. Bridges have few of them.
    fn exact_duplicates(&mut self, segment: u32, claims: &[Claim]) {
        let mut hosts: Vec<(u32, usize, u32)> = Vec::new();
        for (number, claim) in claims.iter().enumerate() {
            match claim.owner {
                Owner::Interface(_) => hosts.push((claim.from, number, 0)),
                Owner::Nic(nic) => {
                    let host = self.data.nics[nic as usize].host;
                    for index in self.data.indices_on(nic, segment).flatten() {
                        hosts.extend(self.data.forms.value(host, index).map(|host| (host, number, index)));
                    }
                }
            }
        }
        hosts.sort_unstable();
        let mut reported: HashMap<usize, Span> = HashMap::new();
        for pair in hosts.windows(2) {
            let [(host, a, first), (other, b, second)] = *pair else { continue };
            if host != other {
                continue;
            }
            match reported.get(&b) {
                Some(span) => self.sink.push_again(codes::DUPLICATE_ADDRESS, *span),
                None => {
                    let span = self.duplicate(segment, host, (claims[a].owner, first), (claims[b].owner, second));
                    reported.insert(b, span);
                }
            }
        }
    }

    /// Reports two of the same address; gives the place that it was reported for.
    fn duplicate(&mut self, segment: u32, host: u32, a: (Owner, u32), b: (Owner, u32)) -> Span {
        let describe = |(owner, index): (Owner, u32)| match owner {
            Owner::Interface(i) => {
                let row = self.data.routers[self.data.interfaces[i as usize].router as usize];
                let name = self.data.names.path(row.instance, row.decl, row.index);
                (self.tree.span(self.interface_words[i as usize]), name)
            }
            Owner::Nic(nic) => {
                let group = self.data.groups[self.data.nics[nic as usize].group as usize];
                let source = self.nic_sources[nic as usize];
                let span = self.tree.span(source.at.unwrap_or(source.lan));
                (span, self.data.names.path(group.instance, group.decl, group.is_array.then_some(index)))
            }
        };
        let (mut first, mut second) = (describe(a), describe(b));
        if first.0 > second.0 {
            std::mem::swap(&mut first, &mut second);
        }
        let ip = Ipv4Addr::from(self.data.segments[segment as usize].prefix.first() + host);
        let mut it = Diagnostic::error(
            codes::DUPLICATE_ADDRESS,
            format!("`{}` and `{}` have the same address {ip}", first.1, second.1),
            second.0,
        )
        .label(format!("host number {host}"));
        if first.0 != second.0 {
            it = it.also(first.0, "the same here");
        }
        let help = match (a.0, b.0) {
            (Owner::Interface(_), Owner::Interface(_)) => format!("`at {}` for one of them", host + 1),
            _ => "another number after `at`, or none to have one chosen".to_owned(),
        };
        self.sink.push(it.help(help));
        second.0
    }

    /// Reports bridges with too many ports and gives their segments.
    fn bridge_ports(&mut self) -> HashSet<u32> {
        let mut full = HashSet::new();
        let mut ports: Vec<u64> =
            (0..self.data.segments.len()).map(|s| self.data.segment_interfaces.of(s as u32).len() as u64).collect();
        for nic in &self.data.nics {
            let indices = self.data.indices(nic.group);
            for segment in self.data.forms.values(nic.segment, &indices) {
                ports[segment as usize] += u64::from(self.data.forms.count(nic.segment, &indices, segment));
            }
        }
        let over: Vec<(usize, u64)> = ports.into_iter().enumerate().filter(|(_, p)| *p > MAX_PORTS).collect();
        for (segment, ports) in over {
            if self.most_on_a_host(segment as u32) <= MAX_PORTS {
                continue;
            }
            full.insert(segment as u32);
            let row = self.data.segments[segment];
            let decl = *self.data.names.decl(row.instance, row.decl);
            let name = self.data.names.path(row.instance, row.decl, row.index);
            let mut it = Diagnostic::error(
                codes::BRIDGE_PORTS,
                format!("{} ports on one bridge, the kernel's limit is {}", thousands(ports), thousands(MAX_PORTS)),
                decl.span,
            )
            .label(format!("`{name}` is one bridge"));
            let widest = self.data.segment_nics.of(segment as u32).iter().map(|n| self.data.nics[*n as usize].group);
            if let Some(group) = widest.map(|g| self.data.groups[g as usize]).max_by_key(|g| g.count) {
                let group_decl = self.data.names.decl(group.instance, group.decl);
                it = it.also(group_decl.span, format!("{} of them", thousands(u64::from(group.count))));
                let path = self.data.names.path(group.instance, group.decl, None);
                it = it.help(format!("or spread it over several hosts: `place {path} {{ per host 1000 }}`"));
            }
            it.help.insert(
                0,
                format!("split the lan: `lan part[i in 0..{}]`, and `on part[i mod {0}]`", ports.div_ceil(MAX_PORTS)),
            );
            self.sink.push(it);
        }
        full
    }

    /// How many ports of a segment one host can come to have, as `apart` and `per host` bound it.
    fn most_on_a_host(&self, segment: u32) -> u64 {
        let routers = self.data.segment_interfaces.of(segment).len() as u64;
        let nics = self.data.segment_nics.of(segment).iter().map(|nic| {
            let nic = &self.data.nics[*nic as usize];
            let count = self.data.forms.count(nic.segment, &self.data.indices(nic.group), segment);
            let size = self.data.groups[nic.group as usize].count;
            let rules = self.data.places.iter().filter_map(|place| place.rule.most_per_host().zip(Some(place)));
            let whole = rules.filter(|(_, place)| {
                let of_group = place.ranges.iter().filter(|range| range.group.0 == nic.group);
                of_group.map(|range| range.count).sum::<u32>() == size
            });
            u64::from(whole.map(|(most, _)| most).min().map_or(count, |most| count.min(most)))
        });
        routers + nics.sum::<u64>()
    }
}
