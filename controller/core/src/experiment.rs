//! One experiment: what is wanted of it where, what hosts have of it, and what is under way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fleet_proto::v1::{ExperimentRecord, HostPlacement, HostStanding, Range, Spec, WaveRecord};
use netlang::{Lock, Plan, Source};
use prost::Message;
use sha2::{Digest, Sha256};

use crate::host::{Host, HostId, Hosts};
use crate::tally::Tally;

/// What a host is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Errand {
    /// To make its part of the spec so.
    Apply,
    /// To remove all of it.
    Remove,
}

/// A wave that is under way.
#[derive(Clone, Debug)]
pub struct Flight {
    /// What is stored of it.
    pub record: WaveRecord,
    /// When the core does without its end, in ms.
    pub until: u64,
}

/// Hosts that are tried again, by time and by number.
#[derive(Clone, Debug, Default)]
pub struct Retries {
    by_time: BTreeSet<(u64, HostId)>,
    times: BTreeMap<HostId, u64>,
}

impl Retries {
    /// Tries a host again at a time in ms, and not when it was to be tried before.
    pub fn set(&mut self, id: HostId, at: u64) {
        self.clear(id);
        self.by_time.insert((at, id));
        self.times.insert(id, at);
    }

    /// Does not try a host again.
    pub fn clear(&mut self, id: HostId) {
        if let Some(at) = self.times.remove(&id) {
            self.by_time.remove(&(at, id));
        }
    }

    /// Whether a host waits to be tried again.
    pub fn has(&self, id: HostId) -> bool {
        self.times.contains_key(&id)
    }

    /// The first time at which a host is tried again.
    pub fn next(&self) -> Option<u64> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// A host whose time has come; it waits no more.
    pub fn take_due(&mut self, now: u64) -> Option<HostId> {
        let (_, id) = self.by_time.first().copied().filter(|(at, _)| *at <= now)?;
        self.clear(id);
        Some(id)
    }
}

/// One experiment.
pub struct Experiment {
    /// What is stored of it.
    pub record: ExperimentRecord,
    /// What is wanted, as it goes to hosts.
    pub spec: Spec,
    /// What its file means.
    pub plan: Arc<Plan>,
    /// The encoded spec and its hash.
    pub blob: Arc<[u8]>,
    /// SHA-256 of the blob.
    pub hash: [u8; 32],
    /// For each host that is to have something, its entry of `spec.hosts`.
    pub places: BTreeMap<HostId, usize>,
    /// For each group the ranges that have a host: (first, count, host), ascending.
    owners: BTreeMap<String, Vec<(u32, u32, HostId)>>,
    /// What hosts have, as far as anybody knows. No entry: it was never told, or has confirmed that it has nothing.
    pub standing: BTreeMap<HostId, HostStanding>,
    /// Waves under way, by op id.
    pub flights: BTreeMap<String, Flight>,
    /// Their members.
    pub busy: BTreeSet<HostId>,
    /// Hosts to be told at [`Experiment::due`].
    pub pending: BTreeSet<HostId>,
    /// When, in ms.
    pub due: Option<u64>,
    /// Tries that came to nothing since the last success.
    pub tries: BTreeMap<HostId, u32>,
    /// When hosts are tried again, in ms.
    pub retries: Retries,
    /// Hosts that the user's operation waits for.
    pub open: BTreeSet<HostId>,
    /// What became of its targets.
    pub tally: Option<Tally>,
    /// When to look again for hosts for VMs that have none, in ms.
    pub replace_at: Option<u64>,
}

impl Experiment {
    /// An experiment as a record has it. Nothing is known of hosts yet.
    pub fn new(record: ExperimentRecord, spec: Spec, plan: Arc<Plan>, hosts: &Hosts) -> Experiment {
        let bytes = spec.encode_to_vec();
        let mut experiment = Experiment {
            record,
            spec,
            plan,
            hash: Sha256::digest(&bytes).into(),
            blob: bytes.into(),
            places: BTreeMap::new(),
            owners: BTreeMap::new(),
            standing: BTreeMap::new(),
            flights: BTreeMap::new(),
            busy: BTreeSet::new(),
            pending: BTreeSet::new(),
            due: None,
            tries: BTreeMap::new(),
            retries: Retries::default(),
            open: BTreeSet::new(),
            tally: None,
            replace_at: None,
        };
        for (at, entry) in experiment.spec.hosts.iter().enumerate() {
            let Some(id) = hosts.find(&entry.host) else { continue };
            experiment.places.insert(id, at);
            for range in &entry.ranges {
                experiment.owners.entry(range.group.clone()).or_default().push((range.first, range.count, id));
            }
        }
        for ranges in experiment.owners.values_mut() {
            ranges.sort_unstable();
        }
        experiment
    }

    /// What is to be on a host.
    pub fn place_of(&self, id: HostId) -> Option<&HostPlacement> {
        self.spec.hosts.get(*self.places.get(&id)?)
    }

    /// The host that is to have a VM.
    pub fn owner(&self, group: &str, index: u32) -> Option<HostId> {
        let ranges = self.owners.get(group)?;
        let (first, count, id) = ranges.get(ranges.partition_point(|(first, ..)| *first <= index).checked_sub(1)?)?;
        (index - first < *count).then_some(*id)
    }

    /// Whether a host is to have something.
    pub fn wants(&self, id: HostId) -> bool {
        !self.record.removing && self.places.contains_key(&id)
    }

    /// Whether a host has what it is to have, as this life of its agent has confirmed.
    pub fn is_confirmed(&self, id: HostId, host: &Host) -> bool {
        let here = |s: &HostStanding| s.confirmed == self.record.generation && s.incarnation == host.record.incarnation;
        self.standing.get(&id).is_some_and(here)
    }

    /// Whether a host has said that it cannot have what it is to have.
    pub fn is_failed(&self, id: HostId, host: &Host) -> bool {
        let here = |s: &HostStanding| s.failed == self.record.generation && s.incarnation == host.record.incarnation;
        self.standing.get(&id).is_some_and(here)
    }

    /// What a host is to be told now, whether or not it can be.
    pub fn errand(&self, id: HostId, host: &Host, hosts: &Hosts) -> Option<Errand> {
        if self.wants(id) {
            return (!self.is_confirmed(id, host) && !self.is_failed(id, host)).then_some(Errand::Apply);
        }
        (self.standing.contains_key(&id) && self.may_go(id, hosts)).then_some(Errand::Remove)
    }

    /// Whether a host may be told to remove what it has: those that take its VMs over have confirmed them.
    fn may_go(&self, id: HostId, hosts: &Hosts) -> bool {
        if self.record.removing {
            return true;
        }
        let has = |taker: HostId| hosts.get(taker).is_some_and(|host| self.is_confirmed(taker, host));
        let Some(leaving) = self.record.leaving.iter().find(|leaving| leaving.host == id) else {
            return self.places.keys().all(|taker| has(*taker));
        };
        if leaving.anything {
            return self.places.keys().all(|taker| has(*taker));
        }
        leaving.ranges.iter().all(|range| {
            let end = range.first.saturating_add(range.count);
            let wanted = self.plan.find_group(&range.group).and_then(|group| self.plan.group(group));
            let Some(wanted) = wanted else { return true };
            // VMs that the file has no more go with nobody to wait for.
            let (from, to) = (range.first.max(wanted.first), end.min(wanted.first.saturating_add(wanted.count)));
            self.taken(&range.group, from, to, &has)
        })
    }

    /// Whether all VMs `from..to` of a group are confirmed somewhere.
    fn taken(&self, group: &str, mut from: u32, to: u32, has: &dyn Fn(HostId) -> bool) -> bool {
        let Some(ranges) = self.owners.get(group) else { return from >= to };
        let mut at = ranges.partition_point(|(first, ..)| *first <= from).saturating_sub(1);
        while from < to {
            let Some((first, count, owner)) = ranges.get(at).copied() else { return false };
            let end = first.saturating_add(count);
            if first > from {
                return false;
            }
            if end > from {
                if !has(owner) {
                    return false;
                }
                from = end;
            }
            at += 1;
        }
        true
    }

    /// Whether a removed or drained host still may have something.
    pub fn may_have(&self, id: HostId) -> bool {
        self.standing.contains_key(&id)
    }

    /// How many of the hosts that are to have something have confirmed it.
    pub fn confirmed(&self, hosts: &Hosts) -> usize {
        let has = |id: &&HostId| hosts.get(**id).is_some_and(|host| self.is_confirmed(**id, host));
        self.places.keys().filter(has).count()
    }

    /// Ranges of VMs that have no host.
    pub fn homeless(&self) -> Vec<Range> {
        let mut left = Vec::new();
        for group in self.plan.groups() {
            let (mut from, end) = (group.first, group.first.saturating_add(group.count));
            let none = Vec::new();
            for (first, count, _) in self.owners.get(&group.path).unwrap_or(&none) {
                if *first > from {
                    left.push(Range { group: group.path.clone(), first: from, count: first - from });
                }
                from = from.max(first.saturating_add(*count));
            }
            if from < end {
                left.push(Range { group: group.path, first: from, count: end - from });
            }
        }
        left
    }
}

/// Compiles a spec.
///
/// # Errors
/// When its source or its lock is wrong: the diagnostics in words.
pub fn compile(spec: &Spec) -> Result<Arc<Plan>, String> {
    let lock = Lock::parse(&spec.lock).map_err(|error| format!("the lock: {error}"))?;
    let source = Source::new(spec.experiment.clone(), spec.source.clone());
    let compilation = netlang::compile(&source, &lock);
    compilation.plan.map(Arc::new).ok_or_else(|| {
        let options = netlang::RenderOptions { color: false, width: 100 };
        netlang::render(&compilation.diagnostics, &source, options)
    })
}
