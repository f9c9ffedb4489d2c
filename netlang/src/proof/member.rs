//! VMs by classes: those of a class are treated alike by every router and firewall, so one stands for all of them.
//!
//! Two VMs are alike when their lans hang on the same routers in the same way and no firewall tells their addresses
//! apart. Of each class up to three VMs are looked at, two on one lan and one on another, for those on one lan reach
//! each other without a router.

use crate::plan::form::Form;
use crate::plan::rows::{Data, On};
use crate::plan::{GroupId, Range};
use crate::text::mix64;
use hashbrown::HashMap;
use smallvec::SmallVec;

/// A representative of a class of VMs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) group: u32,
    pub(crate) index: u32,
    /// Segment and address of each NIC.
    pub(crate) nics: SmallVec<[(u32, u32); 2]>,
    /// What its lan is like; `None` when it is on several.
    lan_class: Option<u32>,
    /// It is the first of its class.
    first: bool,
}

impl Member {
    /// Whether a pair must be looked at. Of two classes whose lans have nothing to do with one another any pair is like
    /// that of the first ones.
    pub(crate) fn matters_with(&self, other: &Member) -> bool {
        let related = self.lan_class.is_none() || other.lan_class.is_none() || self.lan_class == other.lan_class;
        let same = (self.group, self.index) == (other.group, other.index);
        if related { !same } else { self.first && other.first }
    }
}

/// Where the sets of addresses that firewalls name begin and end.
#[derive(Debug, Clone, Default)]
struct Cuts {
    points: Vec<u32>,
    /// For the addresses below each point, and behind the last: a hash of the sets that they are in.
    signatures: Vec<u64>,
}

impl Cuts {
    fn of(data: &Data) -> Cuts {
        let mut events: Vec<(u32, u64)> = Vec::new();
        for (id, set) in data.zones.iter().enumerate() {
            let mark = mix64(id as u64 + 1);
            for (first, last) in set {
                events.push((*first, mark));
                if let Some(after) = last.checked_add(1) {
                    events.push((after, mark));
                }
            }
        }
        events.sort_unstable();
        let mut cuts = Cuts::default();
        let mut signature = 0;
        for run in events.chunk_by(|a, b| a.0 == b.0) {
            cuts.points.push(run[0].0);
            cuts.signatures.push(signature);
            signature = run.iter().fold(signature, |s, (_, mark)| s ^ mark);
        }
        cuts.signatures.push(signature);
        cuts
    }

    /// What sets an address is in.
    fn signature(&self, ip: u32) -> u64 {
        self.signatures[self.points.partition_point(|p| *p <= ip)]
    }

    /// Whether all addresses of an interval are in the same sets.
    fn is_uniform(&self, first: u32, last: u32) -> bool {
        self.points.partition_point(|p| *p <= first) == self.points.partition_point(|p| *p <= last)
    }
}

/// What makes VMs alike: for each NIC its lan, or what that is like, and the sets that its address is in.
type Key = SmallVec<[(u32, u64); 2]>;

/// Sorts VMs into classes.
pub(crate) struct Classes<'d> {
    data: &'d Data,
    cuts: Cuts,
    /// Segments that hang on the same routers in the same way have the same number.
    of_segment: Vec<u32>,
}

impl<'d> Classes<'d> {
    /// For a plan whose gateways are known.
    pub(crate) fn new(data: &'d Data) -> Classes<'d> {
        let mut ids: HashMap<Vec<u64>, u32> = HashMap::new();
        let mut of_segment = Vec::with_capacity(data.segments.len());
        let mut announced: Vec<_> = data.bgp.iter().flat_map(|b| b.originate.iter().copied()).collect();
        announced.sort_unstable();
        announced.dedup();
        for (id, row) in data.segments.iter().enumerate() {
            let mut key: Vec<u64> = Vec::new();
            for interface in data.segment_interfaces.of(id as u32) {
                let it = &data.interfaces[*interface as usize];
                key.push(u64::from(it.router) << 1 | u64::from(row.gateway == Some(*interface)));
                key.push(it.ospf.map_or(u64::MAX, |o| u64::from(o.area)));
            }
            key.push(u64::MAX - 1);
            let isolate = data.lan_policies.get(row.policy as usize).is_some_and(|p| p.isolate);
            key.push(u64::from(isolate));
            // Prefixes that are announced over the lan's own: those that start at or before it and reach it.
            let ip = row.prefix.first();
            key.extend((0..=32u8).filter_map(|len| {
                let prefix = crate::address::prefix::Prefix::new(ip, len);
                announced.binary_search(&prefix).ok().map(|n| n as u64)
            }));
            if data.segment_interfaces.of(id as u32).is_empty() {
                // Nothing joins it to others: it is like no other.
                key.push(id as u64);
            }
            let next = ids.len() as u32;
            of_segment.push(*ids.entry(key).or_insert(next));
        }
        Classes { data, cuts: Cuts::of(data), of_segment }
    }

    /// Representatives of all classes within some ranges.
    pub(crate) fn members(&self, ranges: &[Range]) -> Vec<Member> {
        let mut seen: HashMap<Key, SmallVec<[u32; 3]>> = HashMap::new();
        let mut members = Vec::new();
        for range in ranges {
            let GroupId(group) = range.group;
            for index in self.candidates(group, range) {
                let Some(mut member) = self.member(group, index) else { continue };
                // Only VMs with a single NIC are folded over lans: of others, each pair of lans is a case.
                let class = |segment: u32| member.lan_class.unwrap_or(segment);
                let key = member.nics.iter().map(|(s, ip)| (class(*s), self.cuts.signature(*ip))).collect();
                let lans = seen.entry(key).or_default();
                let lan = member.nics.first().map_or(u32::MAX, |n| n.0);
                if lans.len() < 3 && lans.iter().filter(|l| **l == lan).count() < 2 {
                    member.first = lans.is_empty();
                    lans.push(lan);
                    members.push(member);
                }
            }
        }
        members
    }

    pub(super) fn member(&self, group: u32, index: u32) -> Option<Member> {
        let row = self.data.groups.get(group as usize)?;
        let nics = row.first_nic..row.first_nic + u32::from(row.nic_count);
        let nics: SmallVec<[(u32, u32); 2]> = nics.filter_map(|n| self.data.nic_at(n, index)).collect();
        let lan_class = match nics.as_slice() {
            [(segment, _)] => Some(self.of_segment[*segment as usize]),
            _ => None,
        };
        Some(Member { group, index, nics, lan_class, first: false })
    }

    /// Indices of a range among which every class of it is found.
    fn candidates(&self, group: u32, range: &Range) -> Vec<u32> {
        let row = &self.data.groups[group as usize];
        let nics = row.first_nic..row.first_nic + u32::from(row.nic_count);
        let uniform = |segment: u32| {
            let prefix = self.data.segments[segment as usize].prefix;
            self.cuts.is_uniform(prefix.first(), prefix.last())
        };
        let mut spread = nics.clone().filter(|nic| match self.data.nics[*nic as usize].segment {
            Form::Const(segment) => !uniform(segment),
            _ => true,
        });
        let Some(nic) = spread.next() else { return range.indices().take(2).collect() };
        if spread.next().is_none() {
            return self.candidates_of(nic, range, uniform);
        }
        let mut seen: HashMap<Key, u8> = HashMap::new();
        let mut found = Vec::new();
        for index in range.indices() {
            let key = nics
                .clone()
                .filter_map(|n| self.data.nic_at(n, index))
                .map(|(segment, ip)| (segment, self.cuts.signature(ip)))
                .collect();
            let count = seen.entry(key).or_insert(0);
            if *count < 2 {
                *count += 1;
                found.push(index);
            }
        }
        found
    }

    /// Those of VMs of which only one NIC makes a difference: two on each of its lans that no set of addresses cuts.
    fn candidates_of(&self, nic: u32, range: &Range, uniform: impl Fn(u32) -> bool) -> Vec<u32> {
        let (forms, form, indices) = (&self.data.forms, self.data.nics[nic as usize].segment, range.indices());
        let mut found = Vec::new();
        for segment in forms.values(form, &indices) {
            let on_it = forms.runs(form, &indices, segment).flatten();
            if uniform(segment) {
                found.extend(on_it.take(2));
                continue;
            }
            let mut seen: HashMap<u64, u8> = HashMap::new();
            for index in on_it {
                let Some((_, ip)) = self.data.nic_at(nic, index) else { continue };
                let count = seen.entry(self.cuts.signature(ip)).or_insert(0);
                if *count < 2 {
                    *count += 1;
                    found.push(index);
                }
            }
        }
        found.sort_unstable();
        found
    }

    /// The first NIC's lan that has a gateway: segment, address there, router, its interface.
    pub(crate) fn default_route(&self, member: &Member) -> Option<(u32, u32, u32, u32)> {
        member.nics.iter().find_map(|(segment, ip)| {
            let gateway = self.data.segments[*segment as usize].gateway?;
            Some((*segment, *ip, self.data.interfaces[gateway as usize].router, gateway))
        })
    }

    /// What a lan is like: those that hang on the same routers in the same way have the same number.
    pub(crate) fn class_of(&self, segment: u32) -> u32 {
        self.of_segment[segment as usize]
    }

    /// Whether a lan keeps its members apart.
    pub(crate) fn isolates(&self, segment: u32) -> bool {
        let row = &self.data.segments[segment as usize];
        self.data.lan_policies.get(row.policy as usize).is_some_and(|p| p.isolate)
    }

    /// Whether somebody has an address of a segment.
    pub(crate) fn is_taken(&self, segment: u32, ip: u32) -> bool {
        let interfaces = self.data.segment_interfaces.of(segment).iter();
        let mut nics = self.data.segment_nics.of(segment).iter();
        interfaces.into_iter().any(|i| self.data.interfaces[*i as usize].ip == ip)
            || nics.any(|nic| {
                let row = &self.data.nics[*nic as usize];
                let host = ip.wrapping_sub(self.data.segments[segment as usize].prefix.first());
                let of_host = self.data.forms.runs(row.host, &self.data.indices(row.group), host);
                of_host.flatten().any(|i| self.data.nic_at(*nic, i) == Some((segment, ip)))
            })
    }

    /// The network that an address is in.
    pub(crate) fn network_of(&self, ip: u32) -> Option<On> {
        let segments = self.data.segments.iter().position(|s| s.prefix.contains(ip)).map(|s| On::Segment(s as u32));
        let link = || self.data.links.iter().position(|l| l.prefix.contains(ip)).map(|l| On::Link(l as u32));
        let external =
            || self.data.externals.iter().position(|e| e.prefix.contains(ip)).map(|e| On::External(e as u32));
        segments.or_else(link).or_else(external)
    }
}
