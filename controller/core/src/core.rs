//! The core: one input after the other, hosts, and what follows for all experiments.

use std::collections::{BTreeMap, BTreeSet};

use fleet_proto::v1::{CoreRecord, HeldExperiment, HostEntry, HostIntent, Outcome};

use crate::experiment::Experiment;
use crate::host::{HostId, Hosts};
use crate::input::{HostFacts, Input};
use crate::output::{Action, Answer, Output};
use crate::pace::Budget;
use crate::records::Dirty;
use crate::wishes::SILENT;
use crate::{Settings, Sizes, waves};

/// The decisions of one controller.
pub struct Core {
    pub(crate) settings: Settings,
    pub(crate) sizes: Box<dyn Sizes>,
    pub(crate) epoch: u64,
    /// The newest time that was given, in ms.
    pub(crate) now: u64,
    pub(crate) numbers: CoreRecord,
    pub(crate) hosts: Hosts,
    pub(crate) experiments: BTreeMap<String, Experiment>,
    /// The experiment of each wave under way.
    pub(crate) flights: BTreeMap<String, String>,
    pub(crate) budget: Budget,
    pub(crate) dirty: BTreeSet<Dirty>,
    pub(crate) actions: Vec<Action>,
}

impl Core {
    /// A core that knows nothing yet. `epoch` is the controller's generation; `now` is in ms, from any beginning that
    /// stays the same over restarts.
    pub fn new(settings: Settings, sizes: Box<dyn Sizes>, epoch: u64, now: u64) -> Core {
        let budget = Budget::new(&settings, now, true);
        Core {
            settings,
            sizes,
            epoch,
            now,
            numbers: CoreRecord { next_host: 1, next_generation: 1 },
            hosts: Hosts::default(),
            experiments: BTreeMap::new(),
            flights: BTreeMap::new(),
            budget,
            dirty: BTreeSet::new(),
            actions: Vec::new(),
        }
    }

    /// Takes one input at a time in ms. A time before the last one counts as that.
    pub fn handle(&mut self, now: u64, input: Input) -> Output {
        self.now = self.now.max(now);
        match input {
            Input::Seen { facts, incarnation, holds, joined } => self.seen(facts, incarnation, &holds, joined),
            Input::Lost { host } => self.lost(&host),
            Input::Tags { op_id, host, tags } => self.tags(op_id, &host, tags),
            Input::Drain { op_id, hosts } => self.drain(op_id, &hosts),
            Input::Undrain { op_id, hosts } => self.undrain(op_id, &hosts),
            Input::Remove { op_id, hosts } => self.remove(op_id, &hosts),
            Input::Up { op_id, spec } => self.up(op_id, *spec),
            Input::Down { op_id, experiment } => self.down(op_id, &experiment),
            Input::WaveEnded { op_id, ends, targets } => self.wave_ended(&op_id, &ends, &targets),
            Input::Tick => {}
        }
        self.proceed()
    }

    /// When it wants to be asked again, at the latest, in ms: with [`Input::Tick`], if nothing else happened.
    pub fn wake_at(&self) -> Option<u64> {
        self.experiments.values().filter_map(|experiment| self.next_time(experiment)).min()
    }

    /// Does what has become due in all experiments, and gives what changed.
    pub(crate) fn proceed(&mut self) -> Output {
        let names: Vec<String> = self.experiments.keys().cloned().collect();
        for name in &names {
            self.overdue(name);
            self.replace_when_due(name);
            self.send(name);
            self.answer_when_settled(name);
            self.forget_when_gone(name);
        }
        Output { records: self.changed_records(), actions: std::mem::take(&mut self.actions) }
    }

    /// Continues after a restart: waves that were under way are sent again, and all hosts are looked at.
    pub(crate) fn resume(&mut self, now: u64) -> Output {
        self.now = self.now.max(now);
        let names: Vec<String> = self.experiments.keys().cloned().collect();
        for name in names {
            self.send_again(&name);
            self.look_at_all(&name);
            let Some(experiment) = self.experiments.get_mut(&name) else { continue };
            if !experiment.record.homeless.is_empty() {
                experiment.replace_at = Some(self.now + self.settings.gather_ms);
            }
            if experiment.record.op.is_some() {
                self.reopen(&name);
            }
        }
        self.proceed()
    }

    pub(crate) fn note(&mut self, about: &str, text: String) {
        self.actions.push(Action::Note { about: about.to_owned(), text });
    }

    pub(crate) fn answer(&mut self, op_id: String, answer: Answer) {
        self.actions.push(Action::Answer { op_id, answer });
    }

    fn seen(&mut self, facts: HostFacts, incarnation: u64, holds: &[HeldExperiment], joined: bool) {
        let known = self.hosts.find(&facts.name);
        let id = match known {
            Some(id) => id,
            None => {
                let id = self.numbers.next_host;
                self.numbers.next_host += 1;
                self.dirty.insert(Dirty::Core);
                let intent = HostIntent::Active.into();
                self.hosts.insert(HostEntry { id, name: facts.name.clone(), intent, ..HostEntry::default() });
                id
            }
        };
        let Some(host) = self.hosts.get_mut(id) else { return };
        let before = host.record.clone();
        let record = &mut host.record;
        record.address = facts.address;
        record.underlay = facts.underlay;
        record.rack = facts.rack;
        record.memory_bytes = facts.memory;
        record.cores = facts.cores;
        record.incarnation = incarnation;
        record.contact = true;
        if joined && record.intent() == HostIntent::Removed {
            record.intent = HostIntent::Active.into();
        }
        let record = record.clone();
        if record != before {
            self.dirty.insert(Dirty::Host(id));
        }
        let more_room = known.is_none()
            || !before.contact
            || before.intent != record.intent
            || record.memory_bytes > before.memory_bytes
            || record.rack != before.rack;
        if more_room {
            self.room_appeared();
        }
        let restarted = record.incarnation != before.incarnation;
        let moved = known.is_some() && record.underlay != before.underlay;
        let names: Vec<String> = self.experiments.keys().cloned().collect();
        for name in &names {
            let Some(experiment) = self.experiments.get_mut(name) else { continue };
            if restarted {
                experiment.tries.remove(&id);
            }
            let mut confirmed = false;
            if let Some(held) = holds.iter().find(|held| held.experiment == *name) {
                // Something of it is there that nobody remembers having sent: it is told to remove it, or gets its part
                // anew.
                let told = fleet_proto::v1::HostStanding { host: id, ..Default::default() };
                let is_new = !experiment.may_have(id);
                let standing = experiment.standing.entry(id).or_insert(told);
                // An agent that was started anew and has found all of it again need not be told.
                let found_again = standing.confirmed > 0 && standing.confirmed == held.generation;
                if found_again && standing.incarnation != incarnation {
                    standing.incarnation = incarnation;
                    experiment.has_it_still(id);
                    confirmed = true;
                }
                if is_new || found_again {
                    self.dirty.extend([Dirty::standing(name, id), Dirty::Tally(name.clone())]);
                }
            }
            if moved && experiment.wants(id) {
                experiment.replace_at = Some(self.now);
            }
            self.look_at(name, id, self.settings.gather_ms);
            if confirmed {
                self.look_at_leaving(name);
            }
        }
        let strangers = holds.iter().map(|held| &held.experiment).filter(|name| !self.experiments.contains_key(*name));
        for stranger in strangers.cloned().collect::<Vec<_>>() {
            let text = format!(
                "has something of an experiment `{stranger}` that this controller does not know; \
                 `fleet up` takes it over, `fleet down {stranger}` removes it"
            );
            self.note(&record.name, text);
        }
    }

    fn lost(&mut self, name: &str) {
        let Some(id) = self.hosts.find(name) else { return };
        let Some(host) = self.hosts.get_mut(id) else { return };
        if !host.record.contact {
            return;
        }
        host.record.contact = false;
        self.dirty.insert(Dirty::Host(id));
        for experiment in self.experiments.values_mut() {
            experiment.pending.remove(&id);
            // The end of a wave that it is in says more.
            if !experiment.busy.contains(&id)
                && experiment.open.remove(&id)
                && !experiment.tries.contains_key(&id)
                && let Some(mut tally) = experiment.tally.take()
            {
                waves::say(&mut tally, experiment, id, Outcome::NotReached, SILENT);
                experiment.tally = Some(tally);
                self.dirty.insert(Dirty::Tally(experiment.record.name.clone()));
            }
        }
    }

    fn tags(&mut self, op_id: String, name: &str, mut tags: Vec<String>) {
        let found = self.known(&op_id, &[name.to_owned()]);
        let Some(host) = found.and_then(|ids| self.hosts.get_mut(*ids.first()?)) else { return };
        tags.sort_unstable();
        tags.dedup();
        host.record.tags = tags;
        let id = host.record.id;
        self.dirty.insert(Dirty::Host(id));
        self.room_appeared();
        self.answer(op_id, Answer::Done(format!("the tags of {name} count from the next placement on")));
    }

    /// The hosts of these names, or an answer that there is none of one of them.
    pub(crate) fn known(&mut self, op_id: &str, names: &[String]) -> Option<Vec<HostId>> {
        let is_there =
            |id: &HostId| self.hosts.get(*id).is_some_and(|host| host.record.intent() != HostIntent::Removed);
        let mut ids = Vec::new();
        for name in names {
            match self.hosts.find(name).filter(is_there) {
                Some(id) => ids.push(id),
                None => {
                    let text = format!("no host `{name}`\nhelp: `fleet host ls` lists them");
                    self.answer(op_id.to_owned(), Answer::Refused(text));
                    return None;
                }
            }
        }
        Some(ids)
    }

    /// VMs without a host may find one now.
    pub(crate) fn room_appeared(&mut self) {
        let at = self.now + self.settings.gather_ms;
        for experiment in self.experiments.values_mut().filter(|e| !e.record.homeless.is_empty()) {
            experiment.replace_at = Some(experiment.replace_at.map_or(at, |known| known.min(at)));
        }
    }

    /// Counts what an experiment commits on hosts, or counts it no more.
    pub(crate) fn commit(&mut self, experiment: &Experiment, add: bool) {
        for (id, at) in &experiment.places {
            let bytes = experiment.record.memory.get(*at).copied().unwrap_or(0);
            if let Some(host) = self.hosts.get_mut(*id) {
                host.committed =
                    if add { host.committed.saturating_add(bytes) } else { host.committed.saturating_sub(bytes) };
            }
        }
    }

    /// Forgets hosts that are removed and can have nothing any more; says when a host is drained.
    pub(crate) fn host_is_empty(&mut self, id: HostId) {
        if self.experiments.values().any(|experiment| experiment.may_have(id) || experiment.wants(id)) {
            return;
        }
        let Some(host) = self.hosts.get(id) else { return };
        let name = host.record.name.clone();
        match host.record.intent() {
            HostIntent::Removed => {
                self.hosts.remove(id);
                self.dirty.insert(Dirty::Host(id));
            }
            HostIntent::Draining => self.note(&name, "is drained: nothing of any experiment is on it".to_owned()),
            _ => {}
        }
    }
}
