//! A fleet of a few lists: hosts that do at once what a wave tells them, a store, and what must hold after every input.

use std::collections::{BTreeMap, BTreeSet};

use fleet_core::{Action, Answer, Core, HostEnd, HostFacts, Input, Output, Settings, Wave, WaveTask};
use fleet_proto::v1::{HeldExperiment, Options, Outcome, OutcomeFold, Range, Spec};
use netlang::VmShape;
use prost::Message;

pub const MIB: u64 = 1 << 20;

/// What an agent holds of an experiment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Held {
    pub generation: u64,
    pub vms: BTreeSet<(String, u32)>,
}

#[derive(Clone, Debug, Default)]
pub struct Agent {
    pub incarnation: u64,
    pub contact: bool,
    pub memory: u64,
    pub holds: BTreeMap<String, Held>,
    /// Newest generation it acted on.
    seen: BTreeMap<String, u64>,
    /// Outcomes of the waves it knows: it does none twice.
    done: BTreeMap<String, HostEnd>,
    pub acted: usize,
}

/// How a member of a wave fares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fate {
    Done,
    /// It acts, and its answer is lost.
    ActsUnheard,
    Untold,
    Fails,
    FailsForNow,
}

pub struct World {
    pub core: Core,
    pub store: BTreeMap<String, Vec<u8>>,
    pub agents: BTreeMap<String, Agent>,
    pub waves: BTreeMap<String, Wave>,
    pub answers: BTreeMap<String, Answer>,
    pub notes: Vec<String>,
    pub now: u64,
    sent: BTreeMap<String, (Vec<String>, Option<[u8; 32]>)>,
    /// The generation that took an experiment down, by its user or by a first `up` that rolled back: what hosts have of
    /// an earlier one may go.
    downed: BTreeMap<String, u64>,
    epoch: u64,
    ops: u32,
}

fn sizes() -> Box<dyn fleet_core::Sizes> {
    Box::new(|_: &Options, vm: &VmShape<'_>| vm.committed(vm.memory.unwrap_or(10 * MIB)))
}

pub fn settings() -> Settings {
    Settings { waves: 4, retry_burst: 5, retries_per_second: 10, ..Settings::default() }
}

pub fn spec(name: &str, source: &str) -> Spec {
    Spec { experiment: name.into(), source_name: format!("{name}.fleet"), source: source.into(), ..Spec::default() }
}

impl World {
    pub fn new() -> World {
        World {
            core: Core::new(settings(), sizes(), 1, 0),
            store: BTreeMap::new(),
            agents: BTreeMap::new(),
            waves: BTreeMap::new(),
            answers: BTreeMap::new(),
            notes: Vec::new(),
            now: 0,
            sent: BTreeMap::new(),
            downed: BTreeMap::new(),
            epoch: 1,
            ops: 0,
        }
    }

    pub fn op(&mut self) -> String {
        self.ops += 1;
        format!("op{}", self.ops)
    }

    pub fn give(&mut self, input: Input) {
        let output = self.core.handle(self.now, input);
        let held: BTreeSet<String> = self.agents.values().flat_map(|agent| agent.holds.keys().cloned()).collect();
        for name in held {
            if let Some(known) = self.core.experiment(&name).filter(|known| known.phase == fleet_core::Phase::Removing)
            {
                self.downed.insert(name, known.generation);
            }
        }
        self.take(output);
    }

    fn take(&mut self, output: Output) {
        for record in output.records {
            match record.value {
                Some(value) => drop(self.store.insert(record.key, value)),
                None => drop(self.store.remove(&record.key)),
            }
        }
        for action in output.actions {
            match action {
                Action::Wave(wave) => self.launch(wave),
                Action::Abandon { op_id } => drop(self.waves.remove(&op_id)),
                Action::Answer { op_id, answer } => {
                    if let Answer::Summary(summary) = &answer {
                        let sum: u32 = summary.folds.iter().map(|fold| fold.count).sum();
                        assert_eq!(sum, summary.targets, "counts of an answer do not add up: {summary:?}");
                    }
                    assert!(self.answers.insert(op_id.clone(), answer).is_none(), "{op_id} was answered twice");
                }
                Action::Note { about, text } => self.notes.push(format!("{about}: {text}")),
            }
        }
        self.check();
    }

    fn launch(&mut self, wave: Wave) {
        let names: Vec<String> = wave.members.iter().map(|member| member.name.clone()).collect();
        let hash = match &wave.task {
            WaveTask::Apply { hash, .. } => Some(*hash),
            WaveTask::Remove => None,
        };
        let same = self.sent.entry(wave.op_id.clone()).or_insert_with(|| (names.clone(), hash));
        assert_eq!((&same.0, same.1), (&names, hash), "op id {} was used for something else", wave.op_id);
        for other in
            self.waves.values().filter(|other| other.experiment == wave.experiment && other.op_id != wave.op_id)
        {
            let twice = other.members.iter().find(|member| names.contains(&member.name));
            assert!(twice.is_none(), "{twice:?} is in two waves of {}", wave.experiment);
        }
        self.waves.insert(wave.op_id.clone(), wave);
    }

    /// What holds after every input.
    fn check(&self) {
        for experiment in self.core.experiments() {
            let mut placed: BTreeSet<(&str, u32)> = BTreeSet::new();
            for place in &experiment.spec.hosts {
                for range in &place.ranges {
                    for index in range.first..range.first + range.count {
                        assert!(placed.insert((&range.group, index)), "{}[{index}] has two hosts", range.group);
                    }
                }
            }
            if experiment.homeless.is_empty() && experiment.phase != fleet_core::Phase::Removing {
                assert_eq!(placed.len() as u64, experiment.plan.total_vms(), "a VM of {} has no host", experiment.name);
            }
        }
        for host in self.core.hosts() {
            assert!(host.committed <= host.record.memory_bytes, "{host:?} has more VMs than memory");
        }
    }

    pub fn join(&mut self, name: &str, mib: u64) {
        let agent = self.agents.entry(name.to_owned()).or_default();
        agent.memory = mib * MIB;
        agent.incarnation += 1;
        self.see_as(name, true);
    }

    pub fn see(&mut self, name: &str) {
        self.see_as(name, false);
    }

    fn see_as(&mut self, name: &str, joined: bool) {
        let agent = self.agents.get_mut(name).unwrap();
        agent.contact = true;
        let facts = HostFacts {
            name: name.into(),
            address: format!("{name}:1"),
            rack: format!("r{}", name.len() % 2),
            memory: agent.memory,
            cores: 2,
            ..HostFacts::default()
        };
        let held =
            |(name, held): (&String, &Held)| HeldExperiment { experiment: name.clone(), generation: held.generation };
        let holds = agent.holds.iter().map(held).collect();
        let input = Input::Seen { facts, incarnation: agent.incarnation, holds, joined };
        self.give(input);
    }

    pub fn lose(&mut self, name: &str) {
        self.agents.get_mut(name).unwrap().contact = false;
        let specs: Vec<Spec> = self.core.experiments().map(|e| e.spec.clone()).collect();
        self.give(Input::Lost { host: name.into() });
        let after: Vec<Spec> = self.core.experiments().map(|e| e.spec.clone()).collect();
        // An `up` that rolls back may have failed by this, and what was before comes back.
        let rolls_back = |spec: &Spec| spec.options.as_ref().is_some_and(|options| options.rollback);
        for spec in specs.iter().filter(|spec| !rolls_back(spec)) {
            assert!(after.contains(spec), "lost contact moved something of {}: {after:#?}", spec.experiment);
        }
    }

    pub fn restart(&mut self, name: &str) {
        self.agents.get_mut(name).unwrap().incarnation += 1;
        if self.agents[name].contact {
            self.see(name);
        }
    }

    pub fn kill_controller(&mut self) {
        self.epoch += 1;
        self.waves.clear();
        let records = self.store.clone();
        let (core, output) = Core::restore(settings(), sizes(), self.epoch, self.now, records).unwrap();
        self.core = core;
        self.take(output);
    }

    pub fn tick(&mut self, ms: u64) {
        self.now += ms;
        self.give(Input::Tick);
    }

    /// Ends a wave, with a fate for each member.
    pub fn end(&mut self, op_id: &str, fate: &mut dyn FnMut(&str) -> Fate) {
        let Some(wave) = self.waves.remove(op_id) else { return };
        let (mut ends, mut targets) = (Vec::new(), Vec::new());
        for member in &wave.members {
            let fate = fate(&member.name);
            let fate = if self.agents[&member.name].contact { fate } else { Fate::Untold };
            let done = HostEnd {
                hosts: vec![member.name.clone()],
                outcome: Outcome::Ok,
                reason: String::new(),
                retryable: false,
            };
            let end = match fate {
                Fate::Done => {
                    let (end, vms) = self.act(&wave, &member.name);
                    targets.push(OutcomeFold { outcome: Outcome::Ok.into(), targets: vms, ..OutcomeFold::default() });
                    end
                }
                Fate::ActsUnheard => {
                    self.act(&wave, &member.name);
                    HostEnd { outcome: Outcome::Unknown, reason: "the connection broke".into(), ..done }
                }
                Fate::Untold => HostEnd { outcome: Outcome::NotReached, reason: "no connection".into(), ..done },
                Fate::Fails => HostEnd { outcome: Outcome::Failed, reason: "no such image".into(), ..done },
                Fate::FailsForNow => {
                    HostEnd { outcome: Outcome::Failed, reason: "busy".into(), retryable: true, ..done }
                }
            };
            ends.push(end);
        }
        self.give(Input::WaveEnded { op_id: op_id.to_owned(), ends, targets });
    }

    fn act(&mut self, wave: &Wave, name: &str) -> (HostEnd, String) {
        let ok =
            HostEnd { hosts: vec![name.to_owned()], outcome: Outcome::Ok, reason: String::new(), retryable: false };
        let before = self.agents[name].holds.get(&wave.experiment).cloned().unwrap_or_default();
        let agent = &self.agents[name];
        if let Some(known) = agent.done.get(&wave.op_id) {
            return (known.clone(), String::new());
        }
        if agent.seen.get(&wave.experiment).is_some_and(|seen| *seen > wave.generation) {
            return (HostEnd { outcome: Outcome::Failed, reason: "overtaken".into(), ..ok }, String::new());
        }
        let mut after = BTreeSet::new();
        let mut names = String::new();
        if let WaveTask::Apply { spec, .. } = &wave.task {
            let spec = Spec::decode(&spec[..]).unwrap();
            let place = spec.hosts.iter().find(|place| place.host == name).expect("told a spec that does not name it");
            for Range { group, first, count } in &place.ranges {
                after.extend((*first..first + count).map(|index| (group.clone(), index)));
                names += &format!("{group}[{first}-{}] ", first + count - 1);
            }
        }
        if self.downed.get(&wave.experiment).is_none_or(|downed| before.generation > *downed) {
            self.check_stopped(wave, name, &before.vms - &after);
        }
        let agent = self.agents.get_mut(name).unwrap();
        agent.acted += 1;
        agent.seen.insert(wave.experiment.clone(), wave.generation);
        agent.done.insert(wave.op_id.clone(), ok.clone());
        match wave.task {
            WaveTask::Apply { .. } => {
                agent.holds.insert(wave.experiment.clone(), Held { generation: wave.generation, vms: after });
            }
            WaveTask::Remove => drop(agent.holds.remove(&wave.experiment)),
        }
        (ok, names)
    }

    /// A VM stops only when its experiment is taken down, when the file has it no more, or when it has another host; by
    /// a removal only when it runs there.
    fn check_stopped(&self, wave: &Wave, name: &str, stopped: BTreeSet<(String, u32)>) {
        let Some(experiment) = self.core.experiment(&wave.experiment) else { return };
        if experiment.phase == fleet_core::Phase::Removing {
            return;
        }
        for (group, index) in stopped {
            let plan = experiment.plan;
            let known = plan.find_group(&group).and_then(|id| plan.group(id));
            let wanted = known.is_some_and(|known| (known.first..known.first + known.count).contains(&index));
            if !wanted || !experiment.homeless.is_empty() {
                continue;
            }
            let owner = self.core.host_of(&wave.experiment, &group, index).map(|host| host.name.clone());
            assert_ne!(owner.as_deref(), Some(name), "{group}[{index}] was stopped where it belongs");
            if matches!(wave.task, WaveTask::Remove) {
                let owner = owner.expect("a VM has no host");
                let held = self.agents[&owner].holds.get(&wave.experiment);
                assert!(
                    held.is_some_and(|held| held.vms.contains(&(group.clone(), index))),
                    "{group}[{index}] was removed from {name} before {owner} had it"
                );
            }
        }
    }

    /// No more faults: all hosts that are part of the fleet come back, and waves succeed until nothing is left to do.
    pub fn settle(&mut self) {
        for name in self.agents.keys().cloned().collect::<Vec<_>>() {
            if self.core.host(&name).is_some() {
                self.see(&name);
            }
        }
        for _ in 0..2_000 {
            if let Some(op_id) = self.waves.keys().next().cloned() {
                self.end(&op_id, &mut |_| Fate::Done);
            } else if let Some(at) = self.core.wake_at() {
                self.now = self.now.max(at);
                self.give(Input::Tick);
            } else {
                return;
            }
        }
        panic!("the fleet does not come to rest");
    }

    /// What every host holds is what is wanted.
    pub fn assert_converged(&self) {
        for experiment in self.core.experiments() {
            assert_ne!(experiment.phase, fleet_core::Phase::Removing, "{} is not gone", experiment.name);
            let failed: Vec<&str> = experiment.failed.iter().map(|(host, _)| *host).collect();
            for (name, agent) in &self.agents {
                let place = experiment.spec.hosts.iter().find(|place| place.host == *name);
                let held = agent.holds.get(experiment.name);
                // Where VMs have no host, the one that they leave keeps them.
                if failed.contains(&name.as_str()) || (place.is_none() && !experiment.homeless.is_empty()) {
                    continue;
                }
                let wanted: BTreeSet<(String, u32)> = place
                    .iter()
                    .flat_map(|place| &place.ranges)
                    .flat_map(|range| (range.first..range.first + range.count).map(|i| (range.group.clone(), i)))
                    .collect();
                let held = held.map(|held| held.vms.clone()).unwrap_or_default();
                let host = self.core.host(name);
                if host.is_some_and(|host| host.contact) && failed.is_empty() {
                    assert_eq!(wanted, held, "{name} holds something else of {}", experiment.name);
                }
            }
        }
        for (name, agent) in self.agents.iter().filter(|(name, _)| self.core.host(name).is_some_and(|h| h.contact)) {
            for experiment in agent.holds.keys() {
                assert!(self.core.experiment(experiment).is_some(), "{name} still has {experiment}");
            }
        }
        for experiment in self.core.experiments() {
            assert!(experiment.spec.experiment == experiment.name);
        }
    }
}
