//! What is left on each host while VMs are placed, and which VMs are where.

use super::units::{Unit, Work};
use hashbrown::HashMap;

/// Virtual processors a core up to which a host is filled before the next one is begun. Small VMs idle most of the
/// time; a small network is better off on one host than spread over all.
const CPUS_PER_CORE: u64 = 4;

/// Some VMs of a unit on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) host: u32,
    pub(super) first: u32,
    pub(super) count: u32,
}

/// Hosts while they are filled.
pub(super) struct Room<'a> {
    work: &'a Work<'a>,
    /// Bytes left.
    pub(super) free: Vec<u64>,
    /// Virtual processors placed.
    pub(super) cpus: Vec<u64>,
    /// Virtual processors that are a host's share.
    pub(super) share: Vec<u64>,
    /// How much counts against a limit on a host.
    used: HashMap<(u32, u32), u32>,
    /// For each unit the VMs that have no host yet, ascending: (first, count).
    pub(super) open: Vec<Vec<(u32, u32)>>,
    /// For each unit where its VMs are, in the order in which they were placed.
    pub(super) placed: Vec<Vec<Piece>>,
}

impl<'a> Room<'a> {
    pub(super) fn new(work: &'a Work<'a>) -> Room<'a> {
        let hosts = work.hosts;
        let wanted: u128 = work.units.iter().map(|u| u128::from(u.count) * u128::from(u.cpu)).sum();
        let cores: u128 = hosts.iter().map(|h| u128::from(h.cores.max(1))).sum();
        let share = hosts.iter().map(|host| {
            let own = u128::from(host.cores.max(1));
            // Fits: at most 2^24 VMs of 256 processors.
            ((wanted * own).div_ceil(cores) as u64).max(u64::from(host.cores.max(1)) * CPUS_PER_CORE)
        });
        Room {
            work,
            free: hosts.iter().map(|host| host.memory).collect(),
            cpus: vec![0; hosts.len()],
            share: share.collect(),
            used: HashMap::new(),
            open: work.units.iter().map(|unit| vec![(unit.first, unit.count)]).collect(),
            placed: vec![Vec::new(); work.units.len()],
        }
    }

    fn used(&self, limit: u32, host: u32) -> u32 {
        self.used.get(&(limit, host)).copied().unwrap_or(0)
    }

    /// Of the VMs from `first` on, at most `most`, how many a host can take, were it not for its share.
    pub(super) fn fits(&self, unit: &Unit, host: u32, first: u32, most: u32) -> u32 {
        let by_memory = self.free[host as usize] / unit.memory;
        let mut fits = u64::from(most).min(by_memory) as u32;
        for (limit, weight) in &unit.limits {
            let left = self.work.limits[*limit as usize].most.saturating_sub(self.used(*limit, host));
            fits = fits.min(left / weight);
        }
        if unit.nics.is_empty() || fits == 0 {
            return fits;
        }
        // Which segment depends on the index: one VM after the other, until a bridge is full.
        let mut more: HashMap<u32, u32> = HashMap::new();
        for index in first..first + fits {
            for limit in self.limits_of(unit, index) {
                let count = more.entry(limit).or_insert(0);
                *count += 1;
                if self.used(limit, host) + *count > self.work.limits[limit as usize].most {
                    return index - first;
                }
            }
        }
        fits
    }

    /// The limits that a VM counts against because of the segments it is on.
    fn limits_of(&self, unit: &'a Unit, index: u32) -> impl Iterator<Item = u32> + 'a {
        let work = self.work;
        unit.nics.iter().filter_map(move |nic| {
            let (segment, _) = work.plan.data.nic_at(*nic, index)?;
            work.limit_of_segment.get(&segment).copied()
        })
    }

    /// Puts VMs without a host on one that has room for them.
    pub(super) fn take(&mut self, id: u32, host: u32, first: u32, count: u32) {
        self.account(id, host, first, count, true);
        let open = &mut self.open[id as usize];
        // The range lies within one that is open.
        if let Some(at) = open.iter().position(|(f, n)| *f <= first && first < f + n) {
            let (from, n) = open[at];
            let after = (first + count, (from + n) - (first + count));
            let rest = [(from, first - from), after];
            open.splice(at..=at, rest.into_iter().filter(|(_, n)| *n > 0));
        }
        let pieces = &mut self.placed[id as usize];
        match pieces.last_mut() {
            Some(last) if last.host == host && last.first + last.count == first => last.count += count,
            _ => pieces.push(Piece { host, first, count }),
        }
    }

    /// Takes all VMs of a unit off their hosts, and says where they were.
    pub(super) fn give_back(&mut self, id: u32) -> Vec<Piece> {
        let pieces = std::mem::take(&mut self.placed[id as usize]);
        for piece in &pieces {
            self.account(id, piece.host, piece.first, piece.count, false);
        }
        if !pieces.is_empty() {
            let unit = &self.work.units[id as usize];
            self.open[id as usize] = vec![(unit.first, unit.count)];
        }
        pieces
    }

    fn account(&mut self, id: u32, host: u32, first: u32, count: u32, take: bool) {
        let work = self.work;
        let unit = &work.units[id as usize];
        let (memory, cpus) = (unit.memory * u64::from(count), u64::from(unit.cpu) * u64::from(count));
        let at = host as usize;
        if take {
            self.free[at] -= memory;
            self.cpus[at] += cpus;
        } else {
            self.free[at] += memory;
            self.cpus[at] -= cpus;
        }
        let mut add = |limit: u32, n: u32| {
            let used = self.used.entry((limit, host)).or_insert(0);
            *used = if take { *used + n } else { *used - n };
        };
        for (limit, weight) in &unit.limits {
            add(*limit, weight * count);
        }
        if !unit.nics.is_empty() {
            for index in first..first + count {
                for nic in &unit.nics {
                    if let Some((segment, _)) = work.plan.data.nic_at(*nic, index)
                        && let Some(limit) = work.limit_of_segment.get(&segment)
                    {
                        add(*limit, 1);
                    }
                }
            }
        }
    }

    /// How many of a unit's VMs have no host yet.
    pub(super) fn left(&self, id: u32) -> u64 {
        self.open[id as usize].iter().map(|(_, n)| u64::from(*n)).sum()
    }
}
