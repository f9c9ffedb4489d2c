//! What can be asked of a core: its hosts, its experiments, and where a VM is.

use std::sync::Arc;

use fleet_proto::v1::{HostEntry, Member, Range, Spec};
use netlang::Plan;

use crate::core::Core;
use crate::experiment::{self, Experiment};
use crate::host::{Host, HostId, HostState};
use crate::place;

/// Where an experiment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Some of its VMs have no host.
    Placing,
    /// Hosts are being told.
    Applying,
    /// All hosts have it as it is wanted.
    Up,
    /// It is being removed.
    Removing,
}

/// A host.
#[derive(Clone, Debug)]
pub struct HostView<'a> {
    /// What is on record.
    pub record: &'a HostEntry,
    /// Where it stands.
    pub state: HostState,
    /// VMs placed on it.
    pub vms: u64,
    /// Bytes that they may come to use.
    pub committed: u64,
    /// Whether it still may have something of an experiment.
    pub occupied: bool,
}

/// What a host has, or may have, of an experiment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held<'a> {
    /// The experiment's name.
    pub experiment: &'a str,
    /// VMs, as they are placed or were.
    pub vms: u64,
}

/// What an `up` would send.
#[derive(Clone, Debug)]
pub struct Preview {
    /// With its placement.
    pub spec: Spec,
    /// What its file means.
    pub plan: Arc<Plan>,
    /// To whom.
    pub members: Vec<Member>,
}

/// An experiment.
#[derive(Clone, Debug)]
pub struct ExperimentView<'a> {
    /// Its name.
    pub name: &'a str,
    /// Where it stands.
    pub phase: Phase,
    /// What is wanted, with its placement. Of one that is being removed: what was wanted last.
    pub spec: &'a Spec,
    /// What its file means.
    pub plan: &'a Arc<Plan>,
    /// Generation of what is wanted.
    pub generation: u64,
    /// Hosts that are to have something of it.
    pub hosts: usize,
    /// Of these, those that have confirmed it.
    pub confirmed: usize,
    /// Some host has, or may have, something of it and is to have nothing.
    pub moving: bool,
    /// Hosts that said they cannot have it, and why.
    pub failed: Vec<(&'a str, &'a str)>,
    /// Why some VMs have no host; empty: all have one.
    pub homeless: &'a str,
}

impl Core {
    /// All hosts, by number.
    pub fn hosts(&self) -> impl Iterator<Item = HostView<'_>> {
        self.hosts.iter().map(|(id, host)| {
            let places = self.experiments.values().filter(|e| e.wants(id)).filter_map(move |e| e.place_of(id));
            HostView {
                record: &host.record,
                state: host.state(),
                vms: places.flat_map(|place| &place.ranges).map(|range| u64::from(range.count)).sum(),
                committed: host.committed,
                occupied: self.experiments.values().any(|e| e.may_have(id)),
            }
        })
    }

    /// The host of a name.
    pub fn host(&self, name: &str) -> Option<&HostEntry> {
        Some(&self.hosts.get(self.hosts.find(name)?)?.record)
    }

    /// What an `up` of this spec would send, to whom: its placement is filled in. Those that would lose what they have
    /// are among the members. Nothing is changed.
    ///
    /// # Errors
    /// When it does not compile or does not fit: in words for the user.
    pub fn preview(&self, spec: &Spec) -> Result<Preview, String> {
        let mut spec = Spec { hosts: Vec::new(), ..spec.clone() };
        let plan = experiment::compile(&spec)?;
        let options = spec.options.clone().unwrap_or_default();
        let before = self.experiments.get(&spec.experiment);
        let placed = place::place(&plan, &options, before, &self.hosts, self.sizes.as_ref());
        spec.hosts = placed.map_err(|error| self.refusal(&error))?.hosts;
        let mut ids: Vec<HostId> = spec.hosts.iter().filter_map(|place| self.hosts.find(&place.host)).collect();
        ids.extend(before.iter().flat_map(|before| before.standing.keys()));
        Ok(Preview { spec, plan, members: self.members(ids) })
    }

    /// These hosts as members of a wave: once each, those of a rack together. Who is not in contact is left out.
    pub(crate) fn members(&self, mut ids: Vec<HostId>) -> Vec<Member> {
        ids.sort_unstable();
        ids.dedup();
        let mut hosts: Vec<_> = ids.into_iter().filter(|id| self.hosts.in_contact(*id)).collect();
        hosts.sort_by_key(|id| (self.hosts.get(*id).map(|host| host.record.rack.as_str()), *id));
        hosts.iter().filter_map(|id| self.hosts.get(*id)).map(Host::member).collect()
    }

    /// All hosts that can be told something, as members of a wave.
    pub fn reachable(&self) -> Vec<Member> {
        self.members(self.hosts.iter().map(|(id, _)| id).collect())
    }

    /// How many hosts there are, with those that are removed and may still have something.
    pub fn host_count(&self) -> usize {
        self.hosts.len()
    }

    /// All experiments, by name; also those that are being removed.
    pub fn experiments(&self) -> impl Iterator<Item = ExperimentView<'_>> {
        self.experiments.keys().filter_map(|name| self.experiment(name))
    }

    /// One experiment.
    pub fn experiment(&self, name: &str) -> Option<ExperimentView<'_>> {
        let (name, experiment) = self.experiments.get_key_value(name)?;
        let confirmed = experiment.confirmed(&self.hosts);
        let record = &experiment.record;
        let failed = experiment.places.keys().filter_map(|id| {
            let host = self.hosts.get(*id).filter(|host| experiment.is_failed(*id, host))?;
            Some((host.record.name.as_str(), experiment.standing.get(id)?.reason.as_str()))
        });
        let phase = match () {
            () if record.removing => Phase::Removing,
            () if !record.homeless.is_empty() => Phase::Placing,
            () if confirmed < experiment.places.len() || !record.leaving.is_empty() => Phase::Applying,
            () => Phase::Up,
        };
        Some(ExperimentView {
            name,
            phase,
            spec: &experiment.spec,
            plan: &experiment.plan,
            generation: record.generation,
            hosts: experiment.places.len(),
            confirmed,
            moving: experiment.standing.keys().any(|id| !experiment.wants(*id)),
            failed: failed.collect(),
            homeless: &record.homeless,
        })
    }

    /// The host that is to have a VM.
    pub fn host_of(&self, experiment: &str, group: &str, index: u32) -> Option<&HostEntry> {
        let id = self.experiments.get(experiment).filter(|e| !e.record.removing)?.owner(group, index)?;
        Some(&self.hosts.get(id)?.record)
    }

    /// Whether a host has said that it has all that it is to have of an experiment.
    pub fn has(&self, experiment: &str, host: &str) -> bool {
        let found = self.experiments.get(experiment).zip(self.hosts.find(host));
        found.is_some_and(|(experiment, id)| {
            experiment.wants(id) && self.hosts.get(id).is_some_and(|host| experiment.is_confirmed(id, host))
        })
    }

    /// Names of the experiments of which a host is to have something.
    pub fn wanted_on(&self, host: &str) -> Vec<String> {
        let id = self.hosts.find(host);
        let wants = |experiment: &Experiment| id.is_some_and(|id| experiment.wants(id));
        self.experiments.iter().filter(|(_, experiment)| wants(experiment)).map(|(name, _)| name.to_string()).collect()
    }

    /// What a host has, or may have, of experiments; also of those that are to be elsewhere.
    pub fn held_by(&self, host: &str) -> impl Iterator<Item = Held<'_>> {
        let id = self.hosts.find(host);
        self.experiments.iter().filter_map(move |(name, experiment)| {
            let id = id.filter(|id| experiment.may_have(*id) || experiment.wants(*id))?;
            let placed = experiment.place_of(id).filter(|_| experiment.wants(id)).map(|place| &place.ranges);
            let leaving = || experiment.record.leaving.iter().find(|leaving| leaving.host == id);
            let ranges = placed.or_else(|| leaving().map(|leaving| &leaving.ranges));
            let vms = ranges.into_iter().flatten().map(|range| u64::from(range.count)).sum();
            Some(Held { experiment: name, vms })
        })
    }

    /// The VMs of an experiment that have no host.
    pub fn homeless_of(&self, experiment: &str) -> Vec<Range> {
        self.experiments.get(experiment).map(Experiment::homeless).unwrap_or_default()
    }

    /// The hosts that are to have VMs of some ranges, with what each has of them. A range that has no host is left out.
    pub fn hosts_of(&self, experiment: &str, ranges: &[Range]) -> Vec<(&HostEntry, Vec<Range>)> {
        let Some(experiment) = self.experiments.get(experiment).filter(|e| !e.record.removing) else {
            return Vec::new();
        };
        let of_host = |id: &HostId| {
            let place = experiment.place_of(*id)?;
            let cut: Vec<Range> = place
                .ranges
                .iter()
                .flat_map(|own| ranges.iter().filter_map(move |asked| overlap(own, asked)))
                .collect();
            if cut.is_empty() { None } else { Some((&self.hosts.get(*id)?.record, cut)) }
        };
        experiment.places.keys().filter_map(of_host).collect()
    }
}

fn overlap(a: &Range, b: &Range) -> Option<Range> {
    if a.group != b.group {
        return None;
    }
    let first = a.first.max(b.first);
    let end = a.first.saturating_add(a.count).min(b.first.saturating_add(b.count));
    (first < end).then(|| Range { group: a.group.clone(), first, count: end - first })
}
