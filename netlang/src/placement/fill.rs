//! The order of placing: keep, then `together`, then fill.

use super::room::{Piece, Room};
use super::units::{Item, Work};
use super::{HostPlacement, PlaceError, PlacedRange, Placement, error, routers};
use crate::plan::{GroupId, Range};
use hashbrown::{HashMap, HashSet};

/// How far hosts are filled in one pass after another, in parts of a hundred of their share; then up to the memory.
const LEVELS: [u64; 10] = [100, 125, 150, 200, 300, 400, 800, 1600, 6400, u64::MAX];
/// A `together` that moves as a whole may leave room for another; so often that is tried.
const ROUNDS: usize = 3;

pub(super) struct Fill<'a> {
    work: &'a Work<'a>,
    room: Room<'a>,
    /// The least memory of a VM: a host with less is full.
    least: u64,
}

impl<'a> Fill<'a> {
    pub(super) fn new(work: &'a Work<'a>) -> Fill<'a> {
        let least = work.units.iter().map(|unit| unit.memory).min().unwrap_or(1);
        Fill { work, room: Room::new(work), least }
    }

    /// Leaves VMs where they were, as far as rules and memory let them.
    pub(super) fn keep(&mut self, previous: &Placement) {
        let work = self.work;
        let numbers: HashMap<&str, u32> = (0u32..).zip(work.hosts).map(|(id, host)| (&*host.name, id)).collect();
        for before in &previous.hosts {
            let Some(host) = numbers.get(&*before.host).copied() else { continue };
            for range in &before.ranges {
                let Some(group) = work.plan.find_group(&range.group) else { continue };
                let wanted = Range { group, first: range.first, count: range.count }.indices();
                for id in work.units_of_group.of(group.0) {
                    let unit = &work.units[*id as usize];
                    if !work.sets[unit.set as usize].has(host) {
                        continue;
                    }
                    for (first, count) in self.room.open[*id as usize].clone() {
                        let (mut at, end) = (first.max(wanted.start), (first + count).min(wanted.end));
                        // Beyond a VM whose bridge is full there may be others that fit.
                        while at < end {
                            let fits = self.room.fits(unit, host, at, end - at);
                            if fits > 0 {
                                self.room.take(*id, host, at, fits);
                            } else if unit.nics.is_empty() {
                                break;
                            }
                            at += fits.max(1);
                        }
                    }
                }
            }
        }
        for _ in 0..ROUNDS {
            let mut moved = false;
            for item in work.items.iter().filter(|item| item.together) {
                moved |= self.gather(item);
            }
            if !moved {
                break;
            }
        }
    }

    /// Brings VMs that are to be together, and are not, onto one host, if one has room.
    fn gather(&mut self, item: &Item) -> bool {
        let hosts = self.hosts_of(item);
        let whole = item.units.iter().all(|u| self.room.open[*u as usize].is_empty());
        if hosts.is_empty() || (hosts.len() == 1 && whole) {
            return false;
        }
        let before: Vec<(u32, Vec<Piece>)> = item.units.iter().map(|u| (*u, self.room.give_back(*u))).collect();
        if hosts.iter().any(|(host, _)| self.try_whole(item, *host)) || self.place_whole(item) {
            return true;
        }
        for (unit, pieces) in before {
            for piece in pieces {
                self.room.take(unit, piece.host, piece.first, piece.count);
            }
        }
        false
    }

    /// The hosts of an item's VMs, those with the most first.
    fn hosts_of(&self, item: &Item) -> Vec<(u32, u64)> {
        let mut counts: Vec<(u32, u64)> = Vec::new();
        for piece in item.units.iter().flat_map(|u| &self.room.placed[*u as usize]) {
            match counts.iter_mut().find(|(host, _)| *host == piece.host) {
                Some((_, count)) => *count += u64::from(piece.count),
                None => counts.push((piece.host, u64::from(piece.count))),
            }
        }
        counts.sort_by_key(|(host, count)| (std::cmp::Reverse(*count), *host));
        counts
    }

    /// Puts the whole item on one host, or nothing of it. None of it has a host before.
    fn try_whole(&mut self, item: &Item, host: u32) -> bool {
        if self.work.hosts[host as usize].closed || self.room.free[host as usize] < item.memory {
            return false;
        }
        let work = self.work;
        for (done, id) in item.units.iter().enumerate() {
            let unit = &work.units[*id as usize];
            let good = work.sets[unit.set as usize].has(host)
                && self.room.fits(unit, host, unit.first, unit.count) == unit.count;
            if !good {
                for id in &item.units[..done] {
                    self.room.give_back(*id);
                }
                return false;
            }
            self.room.take(*id, host, unit.first, unit.count);
        }
        true
    }

    /// Puts the whole item on the first host that has room for it within its share, or else on the one that is then
    /// loaded the least.
    fn place_whole(&mut self, item: &Item) -> bool {
        let work = self.work;
        let Some(first) = item.units.first() else { return true };
        let cpus: u64 = item
            .units
            .iter()
            .map(|u| &work.units[*u as usize])
            .map(|unit| u64::from(unit.cpu) * u64::from(unit.count))
            .sum();
        let candidates = &work.sets[work.units[*first as usize].set as usize].hosts;
        let within = |room: &Room<'_>, h: u32| room.cpus[h as usize] + cpus <= room.share[h as usize];
        for host in candidates {
            if within(&self.room, *host) && self.try_whole(item, *host) {
                return true;
            }
        }
        let mut rest: Vec<u32> =
            candidates.iter().copied().filter(|h| self.room.free[*h as usize] >= item.memory).collect();
        rest.sort_by_key(|h| {
            let load = u128::from(self.room.cpus[*h as usize] + cpus) * 1_000_000;
            load / u128::from(self.room.share[*h as usize])
        });
        rest.into_iter().any(|host| self.try_whole(item, host))
    }

    /// Places what has no host yet.
    pub(super) fn run(&mut self) -> Result<(), PlaceError> {
        let work = self.work;
        for batch in work.items.chunk_by(|a, b| a.choice == b.choice) {
            for item in batch.iter().filter(|item| item.together) {
                let untouched = item.units.iter().all(|u| self.room.placed[*u as usize].is_empty());
                if !(untouched && self.place_whole(item)) {
                    self.split(item);
                }
            }
            let rest: Vec<u32> = batch.iter().filter(|i| !i.together).flat_map(|i| i.units.iter().copied()).collect();
            self.levels(rest);
        }
        self.all_placed()
    }

    /// Spreads what no single host has room for over as few as the free memory allows.
    fn split(&mut self, item: &Item) {
        let work = self.work;
        let held: Vec<u32> = self.hosts_of(item).into_iter().map(|(host, _)| host).collect();
        let mut others: Vec<u32> = (0..work.hosts.len() as u32).filter(|h| !held.contains(h)).collect();
        others.sort_by_key(|h| (std::cmp::Reverse(self.room.free[*h as usize]), *h));
        for host in held.into_iter().chain(others) {
            if item.units.iter().all(|u| self.room.open[*u as usize].is_empty()) {
                return;
            }
            for id in &item.units {
                self.pour(*id, host, u64::MAX);
            }
        }
    }

    /// Puts as many VMs of a unit on a host as it takes, up to a part of its share; says whether all are placed.
    fn pour(&mut self, id: u32, host: u32, level: u64) -> bool {
        let work = self.work;
        let unit = &work.units[id as usize];
        if work.hosts[host as usize].closed || !work.sets[unit.set as usize].has(host) {
            return false;
        }
        let mut skip = 0;
        while let Some((first, count)) = self.room.open[id as usize].get(skip).copied() {
            let bound = limit(self.room.share[host as usize], level);
            let by_share = bound.saturating_sub(self.room.cpus[host as usize]) / u64::from(unit.cpu.max(1));
            let most = u64::from(count).min(by_share) as u32;
            let fits = self.room.fits(unit, host, first, most);
            if fits == 0 {
                // The next range may be on other segments.
                if most == 0 || unit.nics.is_empty() {
                    break;
                }
                skip += 1;
                continue;
            }
            self.room.take(id, host, first, fits);
        }
        self.room.open[id as usize].is_empty()
    }

    /// Fills hosts in order, and then again with higher limits until all is placed or nothing more fits.
    fn levels(&mut self, mut units: Vec<u32>) {
        let work = self.work;
        for level in LEVELS {
            // The first host of each set that is not full; filling only ever advances it.
            let mut starts: HashMap<u32, usize> = HashMap::new();
            units.retain(|id| {
                if self.room.open[*id as usize].is_empty() {
                    return false;
                }
                let near: Vec<u32> = self.near(*id);
                if near.into_iter().any(|host| self.pour(*id, host, level)) {
                    return false;
                }
                let set = work.units[*id as usize].set;
                let hosts = &work.sets[set as usize].hosts;
                let start = starts.entry(set).or_insert(0);
                while hosts.get(*start).is_some_and(|host| {
                    let h = *host as usize;
                    self.room.cpus[h] >= limit(self.room.share[h], level) || self.room.free[h] < self.least
                }) {
                    *start += 1;
                }
                let from = *start;
                for host in &hosts[from..] {
                    if self.pour(*id, *host, level) {
                        return false;
                    }
                }
                true
            });
            if units.is_empty() {
                return;
            }
        }
    }

    /// Hosts that have VMs of the same group already: those that were kept, for what was added.
    fn near(&self, id: u32) -> Vec<u32> {
        let mut seen = HashSet::new();
        let placed = self.room.placed[id as usize].iter().rev();
        placed.map(|piece| piece.host).filter(|host| seen.insert(*host)).collect()
    }

    fn all_placed(&self) -> Result<(), PlaceError> {
        let left: u64 = (0..self.work.units.len() as u32).map(|id| self.room.left(id)).sum();
        let first = (0u32..).zip(&self.work.units).find(|(id, _)| !self.room.open[*id as usize].is_empty());
        let Some((id, unit)) = first else { return Ok(()) };
        let (first, count) = self.room.open[id as usize][0];
        let range = Range { group: GroupId(unit.group), first, count };
        let set = &self.work.sets[unit.set as usize];
        let open = set.hosts.iter().filter(|h| !self.work.hosts[**h as usize].closed);
        let most = open.max_by_key(|h| (self.room.free[**h as usize], std::cmp::Reverse(**h)));
        let (free, host) = most.map_or((0, ""), |h| (self.room.free[*h as usize], &self.work.hosts[*h as usize].name));
        Err(PlaceError::NoRoom {
            what: self.work.plan.range_name(range).unwrap_or_default(),
            count: left,
            each: unit.memory,
            room: error::room(free, host, set.hosts.len()),
        })
    }

    /// The placement, with routers.
    pub(super) fn finish(self, previous: Option<&Placement>) -> Placement {
        let work = self.work;
        let mut of_host: Vec<Vec<Range>> = vec![Vec::new(); work.hosts.len()];
        for (unit, pieces) in work.units.iter().zip(&self.room.placed) {
            for piece in pieces {
                let range = Range { group: GroupId(unit.group), first: piece.first, count: piece.count };
                of_host[piece.host as usize].push(range);
            }
        }
        for ranges in &mut of_host {
            ranges.sort_unstable();
            ranges.dedup_by(|next, before| {
                let touches = next.group == before.group && next.first == before.indices().end;
                if touches {
                    before.count += next.count;
                }
                touches
            });
        }
        let ways = routers::Ways::of(work, &of_host);
        let mut routers = ways.routers(previous);
        let crossing_segments = ways.crossing(&routers);
        let mut router_names: Vec<Vec<String>> = vec![Vec::new(); work.hosts.len()];
        for (router, host) in routers.drain(..).enumerate() {
            router_names[host as usize].push(work.plan.data.router_name(router as u32));
        }
        let hosts = work.hosts.iter().enumerate().zip(of_host).zip(router_names);
        let hosts = hosts.map(|(((at, host), ranges), routers)| HostPlacement {
            host: host.name.clone(),
            vms: ranges.iter().map(|r| u64::from(r.count)).sum(),
            cpus: self.room.cpus[at],
            memory: host.memory - self.room.free[at],
            ranges: ranges
                .iter()
                .map(|range| {
                    let row = &work.plan.data.groups[range.group.0 as usize];
                    let group = work.plan.data.names.path(row.instance, row.decl, None);
                    PlacedRange { group, first: range.first, count: range.count }
                })
                .collect(),
            routers,
        });
        Placement { hosts: hosts.collect(), crossing_segments }
    }
}

/// A part of a share, in hundredths.
fn limit(share: u64, level: u64) -> u64 {
    if level == u64::MAX { u64::MAX } else { share.saturating_mul(level) / 100 }
}
