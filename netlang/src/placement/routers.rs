//! Hosts of routers, and which segments cross hosts.
//!
//! A router runs where most of its traffic is: on the host with the most VMs of the groups on its lans, among those
//! that rules let it have. One with an external network runs on the host that has the network's interface.

use super::Placement;
use super::units::Work;
use crate::plan::Range;
use crate::plan::form::Form;
use crate::plan::rows::On;
use hashbrown::{HashMap, HashSet};

/// Where the VMs of groups are.
pub(super) struct Ways<'a> {
    work: &'a Work<'a>,
    /// For each group (host, first, count).
    of_group: Vec<Vec<(u32, u32, u32)>>,
}

impl<'a> Ways<'a> {
    pub(super) fn of(work: &'a Work<'a>, of_host: &[Vec<Range>]) -> Ways<'a> {
        let mut of_group = vec![Vec::new(); work.plan.data.groups.len()];
        for (host, ranges) in (0u32..).zip(of_host) {
            for range in ranges {
                of_group[range.group.0 as usize].push((host, range.first, range.count));
            }
        }
        Ways { work, of_group }
    }

    /// The host of every router.
    pub(super) fn routers(&self, previous: Option<&Placement>) -> Vec<u32> {
        let data = &self.work.plan.data;
        let numbers: HashMap<&str, u32> = (0u32..).zip(self.work.hosts).map(|(id, host)| (&*host.name, id)).collect();
        let mut before: HashMap<&str, u32> = HashMap::new();
        for host in previous.iter().flat_map(|p| &p.hosts) {
            if let Some(number) = numbers.get(&*host.host) {
                before.extend(host.routers.iter().map(|router| (&**router, *number)));
            }
        }
        let mut chosen: Vec<Option<u32>> = Vec::with_capacity(data.routers.len());
        for router in 0..data.routers.len() as u32 {
            let allowed =
                |host: u32| self.work.router_sets.get(&router).is_none_or(|s| self.work.sets[*s as usize].has(host));
            let external = data.interfaces_of(router).iter().find_map(|interface| match interface.on {
                On::External(e) => numbers.get(&*data.externals[e as usize].host).copied(),
                _ => None,
            });
            let kept = match before.is_empty() {
                true => None,
                false => before.get(&*data.router_name(router)).copied().filter(|h| allowed(*h)),
            };
            let open = |host: u32| allowed(host) && !self.work.hosts[host as usize].closed;
            chosen.push(external.or(kept).or_else(|| self.busiest(router, &open)));
        }
        self.others(chosen)
    }

    /// The host with the most VMs of the groups on a router's lans.
    fn busiest(&self, router: u32, allowed: &dyn Fn(u32) -> bool) -> Option<u32> {
        let data = &self.work.plan.data;
        let mut seen = HashSet::new();
        let mut counts: Vec<(u32, u64)> = Vec::new();
        for interface in data.interfaces_of(router) {
            let On::Segment(segment) = interface.on else { continue };
            for nic in data.segment_nics.of(segment).iter().filter(|nic| seen.insert(**nic)) {
                for (host, _, count) in &self.of_group[data.nics[*nic as usize].group as usize] {
                    match counts.iter_mut().find(|(h, _)| h == host) {
                        Some((_, sum)) => *sum += u64::from(*count),
                        None => counts.push((*host, u64::from(*count))),
                    }
                }
            }
        }
        let best = counts.into_iter().filter(|(host, _)| allowed(*host));
        best.max_by_key(|(host, count)| (*count, std::cmp::Reverse(*host))).map(|(host, _)| host)
    }

    /// Routers without VMs go to a neighbour's host, or to the first that they may have.
    fn others(&self, mut chosen: Vec<Option<u32>>) -> Vec<u32> {
        let data = &self.work.plan.data;
        let open = |host: &u32| !self.work.hosts[*host as usize].closed;
        let first = |router: u32| match self.work.router_sets.get(&router) {
            Some(set) => {
                let hosts = &self.work.sets[*set as usize].hosts;
                hosts.iter().copied().find(open).or(hosts.first().copied()).unwrap_or(0)
            }
            None => (0..self.work.hosts.len() as u32).find(open).unwrap_or(0),
        };
        for router in 0..data.routers.len() as u32 {
            if chosen[router as usize].is_some() {
                continue;
            }
            let neighbours = data.interfaces_of(router).iter().filter_map(|interface| match interface.on {
                On::Link(link) => data.links[link as usize].routers.iter().find(|r| **r != router),
                _ => None,
            });
            let allowed = |host: &u32| {
                open(host) && self.work.router_sets.get(&router).is_none_or(|s| self.work.sets[*s as usize].has(*host))
            };
            let near = neighbours.filter_map(|r| chosen[*r as usize]).find(allowed);
            chosen[router as usize] = Some(near.unwrap_or_else(|| first(router)));
        }
        chosen.into_iter().flatten().collect()
    }

    /// How many segments have ports on several hosts.
    pub(super) fn crossing(&self, routers: &[u32]) -> u64 {
        let data = &self.work.plan.data;
        let mut host_of: Vec<Option<u32>> = vec![None; data.segments.len()];
        let mut crossing = vec![false; data.segments.len()];
        let mut on = |segment: u32, host: u32| {
            let at = segment as usize;
            match host_of[at] {
                Some(other) => crossing[at] |= other != host,
                None => host_of[at] = Some(host),
            }
        };
        // A group on one host, or on one lan, is seen at a glance; of the others the ranges are looked at.
        for segment in 0..data.segments.len() as u32 {
            for nic in data.segment_nics.of(segment) {
                let row = data.nics[*nic as usize];
                let ranges = &self.of_group[row.group as usize];
                let one_host = ranges.windows(2).all(|pair| pair[0].0 == pair[1].0);
                if one_host || matches!(row.segment, Form::Const(_)) {
                    ranges.iter().for_each(|(host, ..)| on(segment, *host));
                }
            }
        }
        for nic in data.nics.iter().filter(|nic| !matches!(nic.segment, Form::Const(_))) {
            let ranges = &self.of_group[nic.group as usize];
            if ranges.windows(2).all(|pair| pair[0].0 == pair[1].0) {
                continue;
            }
            for (host, first, count) in ranges {
                for segment in data.forms.values(nic.segment, &(*first..first + count)) {
                    on(segment, *host);
                }
            }
        }
        for (router, host) in routers.iter().enumerate() {
            for interface in data.interfaces_of(router as u32) {
                if let On::Segment(segment) = interface.on {
                    on(segment, *host);
                }
            }
        }
        crossing.into_iter().filter(|c| *c).count() as u64
    }
}
