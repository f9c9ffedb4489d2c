//! What users want: experiments up and down, hosts drained and removed. Each makes a new generation where something
//! is to change, and is answered when all hosts that can be reached have been told.

use std::collections::BTreeMap;

use fleet_proto::v1::{ExperimentRecord, HostIntent, LeavingHost, Options, Outcome, Spec, UserOperation};
use netlang::PlaceError;

use crate::core::Core;
use crate::experiment::{self, Experiment, Retries};
use crate::host::HostId;
use crate::output::{Action, Answer};
use crate::place::{self, Placed};
use crate::records::Dirty;
use crate::tally::Tally;

/// Why nobody was told.
pub(crate) const SILENT: &str = "its host does not answer; it is told when it comes back";
/// What is said of a target before anything is known.
const NOT_TOLD: &str = "its host was not told yet";

impl Core {
    pub(crate) fn up(&mut self, op_id: String, mut spec: Spec) {
        spec.hosts = Vec::new();
        let name = spec.experiment.clone();
        if self.is_under_way(&name, &op_id) {
            return;
        }
        let plan = match experiment::compile(&spec) {
            Ok(plan) => plan,
            Err(text) => return self.answer(op_id, Answer::Refused(text)),
        };
        let options = spec.options.clone().unwrap_or_default();
        let before = self.experiments.get(&name);
        let placed = match place::place(&plan, &options, before, &self.hosts, self.sizes.as_ref()) {
            Ok(placed) => placed,
            Err(error) => return self.answer(op_id, Answer::Refused(self.refusal(&error))),
        };
        self.overtake(&name);
        let wanted = self.experiments.get(&name).filter(|e| !e.record.removing);
        let previous = wanted.filter(|_| options.rollback).map(|before| before.spec.clone());
        let record = ExperimentRecord {
            name: name.clone(),
            op: Some(UserOperation { op_id, since_ms: self.now }),
            previous,
            ..ExperimentRecord::default()
        };
        self.begin(record, spec, placed, plan);
        self.begin_tally(&name);
        self.reopen(&name);
    }

    pub(crate) fn down(&mut self, op_id: String, name: &str) {
        if self.is_under_way(name, &op_id) {
            return;
        }
        let known = |e: &&Experiment| !e.record.removing || !e.standing.is_empty();
        if self.experiments.get(name).filter(known).is_none() {
            let up: Vec<&str> =
                self.experiments.values().filter(|e| !e.record.removing).map(|e| e.record.name.as_str()).collect();
            let up = if up.is_empty() { "nothing is up".to_owned() } else { format!("up are: {}", up.join(", ")) };
            return self.answer(op_id, Answer::Refused(format!("no experiment `{name}`\nhelp: {up}")));
        }
        self.overtake(name);
        self.begin_removal(name, Some(UserOperation { op_id, since_ms: self.now }));
        self.begin_tally(name);
        self.reopen(name);
    }

    pub(crate) fn drain(&mut self, op_id: String, names: &[String]) {
        let Some(ids) = self.known(&op_id, names) else { return };
        let before: Vec<(HostId, i32)> = self.set_intent(&ids, HostIntent::Draining);
        match self.place_without(&ids) {
            Ok(placements) => {
                for id in &ids {
                    self.dirty.insert(Dirty::Host(*id));
                }
                let moving = placements.len();
                for (name, placed) in placements {
                    self.move_to(&name, placed, String::new());
                }
                for id in &ids {
                    self.host_is_empty(*id);
                }
                let text = format!("{} experiments move off {}", moving, names.join(", "));
                self.answer(op_id, Answer::Done(text));
            }
            Err((experiment, error)) => {
                for (id, intent) in before {
                    if let Some(host) = self.hosts.get_mut(id) {
                        host.record.intent = intent;
                    }
                }
                let text = format!(
                    "{} cannot be drained: VMs of {experiment} find no other host: {}",
                    names.join(", "),
                    self.refusal(&error)
                );
                self.answer(op_id, Answer::Refused(text));
            }
        }
    }

    pub(crate) fn undrain(&mut self, op_id: String, names: &[String]) {
        let Some(ids) = self.known(&op_id, names) else { return };
        self.set_intent(&ids, HostIntent::Active);
        self.dirty.extend(ids.iter().map(|id| Dirty::Host(*id)));
        self.room_appeared();
        self.answer(op_id, Answer::Done(format!("{} may be used again", names.join(", "))));
    }

    pub(crate) fn remove(&mut self, op_id: String, names: &[String]) {
        let Some(ids) = self.known(&op_id, names) else { return };
        self.set_intent(&ids, HostIntent::Removed);
        self.dirty.extend(ids.iter().map(|id| Dirty::Host(*id)));
        for name in self.users_of(&ids) {
            match self.place_one(&name) {
                Ok(placed) => self.move_to(&name, placed, String::new()),
                Err(error) => {
                    let reason = self.refusal(&error);
                    self.note(&name, format!("some VMs have no host: {reason}"));
                    let placed = self.without(&name, &ids);
                    self.move_to(&name, placed, reason);
                }
            }
        }
        for id in &ids {
            self.host_is_empty(*id);
        }
        self.answer(op_id, Answer::Done(format!("{} removed", names.join(", "))));
    }

    /// Looks again for hosts for VMs that have none, or writes a changed address into the spec.
    pub(crate) fn replace_when_due(&mut self, name: &str) {
        let Some(experiment) = self.experiments.get_mut(name) else { return };
        if experiment.replace_at.is_none_or(|at| at > self.now) {
            return;
        }
        experiment.replace_at = None;
        if experiment.record.removing {
            return;
        }
        match self.place_one(name) {
            Ok(placed) => self.move_to(name, placed, String::new()),
            Err(error) => {
                let reason = self.refusal(&error);
                self.note(name, format!("some VMs still have no host: {reason}"));
            }
        }
    }

    /// Goes back to what was before an operation that failed.
    pub(crate) fn roll_back(&mut self, name: &str) {
        let Some(experiment) = self.experiments.get_mut(name) else { return };
        let Some(mut spec) = experiment.record.previous.take() else { return self.begin_removal(name, None) };
        spec.hosts = Vec::new();
        let options = spec.options.clone().unwrap_or_default();
        let placed = experiment::compile(&spec).and_then(|plan| {
            let before = self.experiments.get(name);
            let placed = place::place(&plan, &options, before, &self.hosts, self.sizes.as_ref());
            placed.map(|placed| (plan, placed)).map_err(|error| self.refusal(&error))
        });
        match placed {
            Ok((plan, placed)) => {
                let record = ExperimentRecord { name: name.to_owned(), ..ExperimentRecord::default() };
                self.begin(record, spec, placed, plan);
            }
            Err(reason) => self.note(name, format!("cannot go back to what was before: {reason}")),
        }
    }

    /// Begins a generation: what hosts are to have from now on.
    fn begin(
        &mut self,
        mut record: ExperimentRecord,
        mut spec: Spec,
        placed: Placed,
        plan: std::sync::Arc<netlang::Plan>,
    ) {
        let name = record.name.clone();
        let before = self.experiments.remove(&name);
        spec.hosts = placed.hosts;
        record.generation = self.next_generation();
        record.memory = placed.memory;
        let mut experiment = Experiment::new(record, spec, plan, &self.hosts);
        if let Some(before) = before {
            self.commit(&before, false);
            self.inherit(&mut experiment, before);
        }
        self.commit(&experiment, true);
        self.experiments.insert(name.clone(), experiment);
        self.dirty.extend([Dirty::Experiment(name.clone()), Dirty::Spec(name.clone())]);
        self.look_at_all(&name);
    }

    /// Begins the generation that is nothing at all.
    fn begin_removal(&mut self, name: &str, op: Option<UserOperation>) {
        let generation = self.next_generation();
        let Some(mut experiment) = self.experiments.remove(name) else { return };
        self.commit(&experiment, false);
        self.land_all(&mut experiment);
        // What is on a host counts there until the host has confirmed that it is gone.
        for (id, at) in &experiment.places {
            if let Some(bytes) = experiment.record.memory.get_mut(*at)
                && !experiment.standing.contains_key(id)
            {
                *bytes = 0;
            }
        }
        self.commit(&experiment, true);
        let record = &mut experiment.record;
        (record.generation, record.attempt, record.removing, record.op) = (generation, 0, true, op);
        record.homeless = String::new();
        record.previous = None;
        record.leaving = Vec::new();
        experiment.tries.clear();
        experiment.retries = Retries::default();
        experiment.replace_at = None;
        self.experiments.insert(name.to_owned(), experiment);
        self.dirty.insert(Dirty::Experiment(name.to_owned()));
        self.look_at_all(name);
        self.room_appeared();
    }

    /// What a new generation takes over from the one before: what hosts have, and what they leave.
    fn inherit(&mut self, experiment: &mut Experiment, mut before: Experiment) {
        self.land_all(&mut before);
        let mut leaving: BTreeMap<HostId, LeavingHost> =
            std::mem::take(&mut before.record.leaving).into_iter().map(|l| (l.host, l)).collect();
        for id in before.standing.keys() {
            let ranges = before.place_of(*id).map(|place| place.ranges.clone());
            let entry = leaving.entry(*id).or_insert_with(|| LeavingHost {
                host: *id,
                // Of a tombstone nothing has to be kept.
                anything: ranges.is_none() && !before.record.removing,
                ranges: Vec::new(),
            });
            for range in ranges.into_iter().flatten() {
                if !entry.ranges.contains(&range) {
                    entry.ranges.push(range);
                }
            }
        }
        // Also of hosts that stay: until one has confirmed the new generation it may have what it had, and then leave.
        leaving.retain(|id, _| before.standing.contains_key(id));
        experiment.record.leaving = leaving.into_values().collect();
        experiment.standing = before.standing;
        experiment.tally = before.tally;
    }

    /// Follows the waves of an experiment no longer.
    fn land_all(&mut self, experiment: &mut Experiment) {
        for op_id in std::mem::take(&mut experiment.flights).into_keys() {
            self.flights.remove(&op_id);
            self.dirty.insert(Dirty::Wave(op_id.clone()));
            self.actions.push(Action::Abandon { op_id });
        }
        experiment.busy.clear();
    }

    /// A new generation of the same file with another placement. A user's operation that waits goes on waiting.
    fn move_to(&mut self, name: &str, placed: Placed, homeless: String) {
        let Some(experiment) = self.experiments.get(name) else { return };
        let same = experiment.spec.hosts == placed.hosts && experiment.record.memory == placed.memory;
        if same && experiment.record.homeless == homeless {
            return;
        }
        let before = &experiment.record;
        let record = ExperimentRecord {
            name: name.to_owned(),
            op: before.op.clone(),
            previous: before.previous.clone(),
            homeless,
            ..ExperimentRecord::default()
        };
        let (spec, plan) = (experiment.spec.clone(), experiment.plan.clone());
        self.begin(record, spec, placed, plan);
        self.reopen(name);
    }

    /// Placements of all experiments that have something on hosts which are not to be used any more; one after the
    /// other, since what one takes another cannot have.
    fn place_without(&mut self, ids: &[HostId]) -> Result<Vec<(String, Placed)>, (String, PlaceError)> {
        let committed: Vec<(HostId, u64)> = self.hosts.iter().map(|(id, host)| (id, host.committed)).collect();
        let mut placements = Vec::new();
        let mut failed = None;
        for name in self.users_of(ids) {
            match self.place_one(&name) {
                Ok(placed) => {
                    for (place, memory) in placed.hosts.iter().zip(&placed.memory) {
                        let own = self.own_bytes(&name, &place.host);
                        let host = self.hosts.find(&place.host).and_then(|id| self.hosts.get_mut(id));
                        if let Some(host) = host {
                            host.committed = (host.committed + memory).saturating_sub(own);
                        }
                    }
                    placements.push((name, placed));
                }
                Err(error) => {
                    failed = Some((name, error));
                    break;
                }
            }
        }
        for (id, bytes) in committed {
            if let Some(host) = self.hosts.get_mut(id) {
                host.committed = bytes;
            }
        }
        failed.map_or(Ok(placements), Err)
    }

    fn own_bytes(&self, experiment: &str, host: &str) -> u64 {
        let experiment = self.experiments.get(experiment);
        let at = experiment.zip(self.hosts.find(host)).and_then(|(e, id)| e.places.get(&id).copied());
        at.and_then(|at| experiment?.record.memory.get(at).copied()).unwrap_or(0)
    }

    fn place_one(&self, name: &str) -> Result<Placed, PlaceError> {
        let Some(experiment) = self.experiments.get(name) else { return Err(PlaceError::NoHosts) };
        let options = experiment.spec.options.clone().unwrap_or_else(Options::default);
        place::place(&experiment.plan, &options, Some(experiment), &self.hosts, self.sizes.as_ref())
    }

    /// The placement that there is, without these hosts.
    fn without(&self, name: &str, ids: &[HostId]) -> Placed {
        let Some(experiment) = self.experiments.get(name) else {
            return Placed { hosts: Vec::new(), memory: Vec::new() };
        };
        let kept = experiment.spec.hosts.iter().zip(&experiment.record.memory);
        let kept = kept.filter(|(place, _)| !self.hosts.find(&place.host).is_some_and(|id| ids.contains(&id)));
        let (hosts, memory) = kept.map(|(place, memory)| (place.clone(), *memory)).unzip();
        Placed { hosts, memory }
    }

    fn users_of(&self, ids: &[HostId]) -> Vec<String> {
        let uses = |e: &&Experiment| ids.iter().any(|id| e.wants(*id));
        self.experiments.values().filter(uses).map(|e| e.record.name.clone()).collect()
    }

    fn set_intent(&mut self, ids: &[HostId], intent: HostIntent) -> Vec<(HostId, i32)> {
        let mut before = Vec::new();
        for id in ids {
            if let Some(host) = self.hosts.get_mut(*id) {
                before.push((*id, host.record.intent));
                host.record.intent = intent.into();
            }
        }
        before
    }

    /// Whether this very operation waits for its answer already.
    fn is_under_way(&self, name: &str, op_id: &str) -> bool {
        let op = self.experiments.get(name).and_then(|experiment| experiment.record.op.as_ref());
        op.is_some_and(|op| op.op_id == op_id)
    }

    fn next_generation(&mut self) -> u64 {
        let generation = self.numbers.next_generation;
        self.numbers.next_generation += 1;
        self.dirty.insert(Dirty::Core);
        generation
    }

    pub(crate) fn refusal(&self, error: &PlaceError) -> String {
        let silent = self.hosts.iter().filter(|(_, host)| host.is_used() && !host.record.contact).count();
        match silent {
            0 => error.to_string(),
            1 => format!("{error} (1 host does not answer and gets nothing new)"),
            _ => format!("{error} ({silent} hosts do not answer and get nothing new)"),
        }
    }

    /// All targets of the operation that begins: every VM, and every host that has only routers.
    fn begin_tally(&mut self, name: &str) {
        let Some(experiment) = self.experiments.get_mut(name) else { return };
        let mut tally = Tally::default();
        let removing = experiment.record.removing;
        for (id, at) in &experiment.places {
            let Some(place) = experiment.spec.hosts.get(*at) else { continue };
            let (outcome, reason) = match self.hosts.get(*id) {
                _ if removing && !experiment.standing.contains_key(id) => (Outcome::AlreadySo, ""),
                Some(host) if host.record.contact => (Outcome::NotReached, NOT_TOLD),
                _ => (Outcome::NotReached, SILENT),
            };
            for range in &place.ranges {
                tally.add(range, outcome, reason);
            }
            if place.ranges.is_empty() {
                tally.add_host(*id, outcome, reason);
            }
        }
        if !removing {
            for range in experiment.homeless() {
                tally.add(&range, Outcome::NotReached, "it has no host");
            }
        }
        experiment.tally = Some(tally);
        self.dirty.insert(Dirty::Tally(name.to_owned()));
    }

    /// The hosts that an operation waits for: those that are to be told and can be.
    pub(crate) fn reopen(&mut self, name: &str) {
        let Some(experiment) = self.experiments.get_mut(name) else { return };
        if experiment.record.op.is_none() {
            return;
        }
        let removing = experiment.record.removing;
        let concerned: Vec<HostId> = if removing {
            experiment.standing.keys().copied().collect()
        } else {
            experiment.places.keys().copied().collect()
        };
        let hosts = &self.hosts;
        let waits = |id: &HostId| {
            let reachable = hosts.in_contact(*id) || experiment.busy.contains(id);
            reachable && hosts.get(*id).is_some_and(|host| experiment.errand(*id, host, hosts).is_some())
        };
        experiment.open = concerned.into_iter().filter(waits).collect();
    }

    /// Answers the operation that waits, because another takes its place.
    fn overtake(&mut self, name: &str) {
        if self.experiments.get(name).is_some_and(|experiment| experiment.record.op.is_some()) {
            self.answer_now(name);
        }
    }
}
