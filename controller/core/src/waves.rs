//! Which hosts are told what, when, and what is learnt when a wave ends.

use std::collections::{BTreeMap, BTreeSet};

use fleet_proto::v1::{HostStanding, Outcome, OutcomeFold, WaveRecord};

use crate::core::Core;
use crate::experiment::{Errand, Experiment, Flight};
use crate::host::HostId;
use crate::input::HostEnd;
use crate::output::{Action, Wave, WaveTask};
use crate::pace;
use crate::records::Dirty;

/// What is said of VMs while their host has been told and has not answered.
const NO_ANSWER: &str = "its host was told and has not answered";
/// What is said of a host that a wave's end does not mention.
const NOT_MENTIONED: &str = "nothing was heard of it";

impl Core {
    /// Looks at one host of an experiment: it is told what it is to be told, `wait` ms from now at the latest.
    pub(crate) fn look_at(&mut self, name: &str, id: HostId, wait: u64) {
        let Some(experiment) = self.experiments.get_mut(name) else { return };
        let Some(host) = self.hosts.get(id) else { return };
        if !host.record.contact || experiment.busy.contains(&id) || experiment.errand(id, host, &self.hosts).is_none() {
            return;
        }
        experiment.retries.clear(id);
        experiment.pending.insert(id);
        let at = self.now + wait;
        experiment.due = Some(experiment.due.map_or(at, |known| known.min(at)));
    }

    /// Looks at all hosts of an experiment.
    pub(crate) fn look_at_all(&mut self, name: &str) {
        let Some(experiment) = self.experiments.get(name) else { return };
        let ids: BTreeSet<HostId> = experiment.places.keys().chain(experiment.standing.keys()).copied().collect();
        for id in ids {
            self.look_at(name, id, 0);
        }
    }

    /// Looks at the hosts that are to have nothing of an experiment any more: those that take over may have it now.
    pub(crate) fn look_at_leaving(&mut self, name: &str) {
        let leaves = |e: &Experiment, id: &HostId| !e.wants(*id) && !e.retries.has(*id);
        let Some(experiment) = self.experiments.get(name) else { return };
        let leaving: Vec<HostId> = experiment.standing.keys().copied().filter(|id| leaves(experiment, id)).collect();
        for id in leaving {
            self.look_at(name, id, 0);
        }
    }

    /// When an experiment wants to be looked at, in ms.
    pub(crate) fn next_time(&self, experiment: &Experiment) -> Option<u64> {
        let room = experiment.flights.len() < self.settings.waves;
        let due = experiment.due.filter(|_| room && !experiment.pending.is_empty());
        let retry = experiment.retries.next();
        let until = experiment.flights.values().map(|flight| flight.until).min();
        [due, retry, experiment.replace_at, until].into_iter().flatten().min()
    }

    /// Does without the end of waves that take far too long.
    pub(crate) fn overdue(&mut self, name: &str) {
        let Some(experiment) = self.experiments.get(name) else { return };
        let late = experiment.flights.iter().filter(|(_, flight)| flight.until <= self.now);
        for op_id in late.map(|(op_id, _)| op_id.clone()).collect::<Vec<_>>() {
            self.actions.push(Action::Abandon { op_id: op_id.clone() });
            self.wave_ended(&op_id, &[], &[]);
        }
    }

    /// Sends what is due.
    pub(crate) fn send(&mut self, name: &str) {
        let now = self.now;
        let Some(experiment) = self.experiments.get_mut(name) else { return };
        while let Some(id) = experiment.retries.take_due(now) {
            experiment.pending.insert(id);
            experiment.due = Some(experiment.due.map_or(now, |known| known.min(now)));
        }
        if experiment.pending.is_empty() || experiment.due.is_none_or(|due| due > now) {
            return;
        }
        let mut errands: BTreeMap<Errand, Vec<HostId>> = BTreeMap::new();
        let pending = std::mem::take(&mut experiment.pending);
        experiment.due = None;
        let (mut again, mut left) = (Vec::new(), BTreeSet::new());
        for id in pending {
            let Some(host) = self.hosts.get(id).filter(|host| host.record.contact) else { continue };
            if experiment.busy.contains(&id) {
                continue;
            }
            let Some(errand) = experiment.errand(id, host, &self.hosts) else { continue };
            if experiment.tries.get(&id).is_some_and(|tries| *tries > 0) {
                again.push((errand, id));
            } else {
                errands.entry(errand).or_default().push(id);
            }
        }
        let allowed = self.budget.take(now, again.len());
        left.extend(again.split_off(allowed).into_iter().map(|(_, id)| id));
        for (errand, id) in again {
            errands.entry(errand).or_default().push(id);
        }
        if !left.is_empty() {
            experiment.due = Some(now + self.budget.wait().max(1));
        }
        for (errand, mut members) in errands {
            let Some(experiment) = self.experiments.get_mut(name) else { return };
            if experiment.flights.len() >= self.settings.waves {
                // The end of a wave makes room.
                left.extend(members);
                experiment.due = Some(experiment.due.map_or(now, |known| known.min(now)));
                continue;
            }
            let hosts = &self.hosts;
            members.sort_by_key(|id| (hosts.get(*id).map(|host| host.record.rack.as_str()), *id));
            self.launch(name, errand, members);
        }
        if let Some(experiment) = self.experiments.get_mut(name) {
            experiment.pending.extend(left);
        }
    }

    /// Begins a wave: it is on record, and so is that its members may have been told.
    fn launch(&mut self, name: &str, errand: Errand, members: Vec<HostId>) {
        let Some(experiment) = self.experiments.get_mut(name) else { return };
        experiment.record.attempt += 1;
        let generation = experiment.record.generation;
        let op_id = format!("{name}.{generation}.{}", experiment.record.attempt);
        let incarnation = |id: &HostId| self.hosts.get(*id).map_or(0, |host| host.record.incarnation);
        let record = WaveRecord {
            op_id: op_id.clone(),
            experiment: name.to_owned(),
            generation,
            remove: errand == Errand::Remove,
            incarnations: members.iter().map(incarnation).collect(),
            members: members.clone(),
        };
        for id in &members {
            let standing =
                experiment.standing.entry(*id).or_insert_with(|| HostStanding { host: *id, ..HostStanding::default() });
            standing.told = generation;
        }
        let mut tally = experiment.tally.take();
        if let Some(tally) = &mut tally {
            let first = members.iter().filter(|id| !experiment.tries.contains_key(*id));
            for id in first {
                say(tally, experiment, *id, Outcome::Unknown, NO_ANSWER);
            }
            self.dirty.insert(Dirty::Tally(name.to_owned()));
        }
        experiment.tally = tally;
        experiment.busy.extend(&members);
        experiment.flights.insert(op_id.clone(), Flight { record, until: 0 });
        self.flights.insert(op_id.clone(), name.to_owned());
        self.dirty.extend([Dirty::Experiment(name.to_owned()), Dirty::Wave(op_id.clone())]);
        self.mark_standing(name, members);
        self.emit(name, &op_id, false);
    }

    /// Sends the waves of a core that was killed, as they were.
    pub(crate) fn send_again(&mut self, name: &str) {
        let Some(experiment) = self.experiments.get(name) else { return };
        for op_id in experiment.flights.keys().cloned().collect::<Vec<_>>() {
            self.emit(name, &op_id, true);
        }
    }

    fn emit(&mut self, name: &str, op_id: &str, again: bool) {
        let Some(experiment) = self.experiments.get_mut(name) else { return };
        let Some(flight) = experiment.flights.get_mut(op_id) else { return };
        flight.until = self.now.saturating_add(self.settings.wave_ms + self.settings.grace_ms);
        let members = flight.record.members.iter().filter_map(|id| self.hosts.get(*id));
        let task = match flight.record.remove {
            true => WaveTask::Remove,
            false => WaveTask::Apply { hash: experiment.hash, spec: experiment.blob.clone() },
        };
        self.actions.push(Action::Wave(Wave {
            op_id: op_id.to_owned(),
            experiment: name.to_owned(),
            epoch: self.epoch,
            generation: flight.record.generation,
            task,
            members: members.map(|host| host.member()).collect(),
            within_ms: self.settings.wave_ms,
            again,
        }));
    }

    /// Takes the end of a wave in. One that another has taken the place of is not followed any more.
    pub(crate) fn wave_ended(&mut self, op_id: &str, ends: &[HostEnd], targets: &[OutcomeFold]) {
        let Some(name) = self.flights.remove(op_id) else { return };
        self.dirty.insert(Dirty::Wave(op_id.to_owned()));
        let Some(experiment) = self.experiments.get_mut(&name) else { return };
        let Some(flight) = experiment.flights.remove(op_id) else { return };
        let mut by_name: BTreeMap<&str, &HostEnd> = BTreeMap::new();
        for end in ends {
            by_name.extend(end.hosts.iter().map(|host| (host.as_str(), end)));
        }
        let silent =
            HostEnd { hosts: Vec::new(), outcome: Outcome::Unknown, reason: NOT_MENTIONED.to_owned(), retryable: true };
        let members: Vec<(HostId, u64)> =
            flight.record.members.iter().copied().zip(flight.record.incarnations.iter().copied()).collect();
        let mut emptied = Vec::new();
        let mut tally = experiment.tally.take();
        for (id, incarnation) in &members {
            experiment.busy.remove(id);
            let named = self.hosts.get(*id).and_then(|host| by_name.get(host.record.name.as_str()).copied());
            let end = named.unwrap_or(&silent);
            if let Some(tally) = &mut tally {
                // That nobody got through this time does not undo that somebody may have before.
                let again = experiment.tries.contains_key(id) && end.outcome == Outcome::NotReached;
                if !again {
                    let (outcome, reason) = end.of_unnamed(targets);
                    say(tally, experiment, *id, outcome, reason);
                }
            }
            if experiment.take_in(*id, *incarnation, &flight.record, end) {
                emptied.push(*id);
            }
        }
        if let Some(tally) = &mut tally {
            targets.iter().for_each(|fold| tally.say_fold(fold));
            self.dirty.insert(Dirty::Tally(name.clone()));
        }
        experiment.tally = tally;
        self.dirty.insert(Dirty::Experiment(name.clone()));
        self.mark_standing(&name, members.iter().map(|(id, _)| *id));
        for (id, _) in &members {
            self.follow_up(&name, *id);
        }
        self.look_at_leaving(&name);
        for id in emptied {
            self.release(&name, id);
            self.host_is_empty(id);
        }
    }

    /// Counts what an experiment that is taken down had on a host no more.
    fn release(&mut self, name: &str, id: HostId) {
        let Some(experiment) = self.experiments.get_mut(name).filter(|e| e.record.removing) else { return };
        let bytes = experiment.places.get(&id).and_then(|at| experiment.record.memory.get_mut(*at)).map(std::mem::take);
        if let Some(host) = self.hosts.get_mut(id) {
            host.committed = host.committed.saturating_sub(bytes.unwrap_or(0));
        }
        self.room_appeared();
    }

    /// What comes next for a host that was in a wave: another try, later, or nothing.
    fn follow_up(&mut self, name: &str, id: HostId) {
        let Some(experiment) = self.experiments.get_mut(name) else { return };
        let Some(host) = self.hosts.get(id) else { return };
        let tries = experiment.tries.get(&id).copied().unwrap_or(0);
        let errand = experiment.errand(id, host, &self.hosts);
        if errand.is_none() || !host.record.contact || tries >= self.settings.patience {
            experiment.open.remove(&id);
        }
        if errand.is_none() || !host.record.contact {
            return;
        }
        if tries == 0 {
            return self.look_at(name, id, 0);
        }
        let salt = (u64::from(id) << 32) ^ experiment.record.generation;
        let at = self.now + pace::backoff(&self.settings, tries, salt);
        experiment.retries.set(id, at);
    }
}

impl Experiment {
    /// A host that was started anew has its part whole: nobody waits for it, unless a wave is under way that says more.
    pub(crate) fn has_it_still(&mut self, id: HostId) {
        if !self.wants(id) || self.busy.contains(&id) || self.record.generation != self.confirmed_by(id) {
            return;
        }
        self.tries.remove(&id);
        self.retries.clear(id);
        self.pending.remove(&id);
        if self.open.remove(&id)
            && let Some(mut tally) = self.tally.take()
        {
            say(&mut tally, self, id, Outcome::Ok, "");
            self.tally = Some(tally);
        }
    }

    fn confirmed_by(&self, id: HostId) -> u64 {
        self.standing.get(&id).map_or(0, |standing| standing.confirmed)
    }

    /// Takes in how a member of a wave ended; says whether it has nothing of the experiment now.
    fn take_in(&mut self, id: HostId, incarnation: u64, wave: &WaveRecord, end: &HostEnd) -> bool {
        let Some(standing) = self.standing.get_mut(&id) else { return false };
        match end.outcome {
            Outcome::Ok | Outcome::AlreadySo => {
                self.tries.remove(&id);
                if wave.remove {
                    self.standing.remove(&id);
                    self.record.leaving.retain(|leaving| leaving.host != id);
                    return true;
                }
                standing.confirmed = wave.generation;
                standing.incarnation = incarnation;
                standing.reason = String::new();
                self.record.leaving.retain(|leaving| leaving.host != id);
            }
            // What is to be removed is to be removed: that is tried as long as it takes.
            Outcome::Failed if !end.retryable && !wave.remove => {
                self.tries.remove(&id);
                standing.failed = wave.generation;
                standing.incarnation = incarnation;
                standing.reason.clone_from(&end.reason);
            }
            _ => *self.tries.entry(id).or_insert(0) += 1,
        }
        false
    }
}

/// Says of all targets on a host how they ended.
pub(crate) fn say(tally: &mut crate::Tally, experiment: &Experiment, id: HostId, outcome: Outcome, reason: &str) {
    let Some(place) = experiment.place_of(id) else { return };
    for range in &place.ranges {
        tally.say(&range.group, range.first, range.count, outcome, reason);
    }
    if place.ranges.is_empty() {
        tally.say_host(id, outcome, reason);
    }
}
