//! The hosts: what lives on after what, which VMs run where, and what a wave does to them.
//!
//! A host's VMs, its operation log and what it has seen outlive its agent. Its agent is a [`Node`] of the tree; it dies,
//! starts again with another incarnation, falls silent and comes back. Whatever stops a VM is judged here, at once: was
//! that asked for?

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use fleet_core::{HostFacts, Input};
use fleet_proto::v1::{Outcome, OutcomeFold, Range, Spec, task};
use fleet_tree::memory::Net;
use fleet_tree::{ClockWatch, Config, Hash, Job, Local, LocalEnd, MemoryLog, Node, Parts, Sink};
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant};

use crate::log::Log;

/// Memory of a VM, in bytes.
pub const VM_MEMORY: u64 = 16 << 20;
/// How long a host takes to act at all, and for each VM that it starts.
const ACT: Duration = Duration::from_millis(150);
const START: Duration = Duration::from_millis(4);
/// After how long a controller knows that a host does not answer: its keepalive.
pub const KEEPALIVE: Duration = Duration::from_secs(15);
/// Hosts of a rack.
const RACK: usize = 40;

/// VMs of one experiment on one host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Ranges that run.
    pub ranges: Vec<Range>,
}

/// What outlives an agent, and whether it lives.
#[derive(Debug, Default)]
pub struct Host {
    /// Which life of its agent this is.
    pub incarnation: u64,
    /// Its agent runs.
    pub alive: bool,
    /// Nobody reaches it.
    pub silent: bool,
    /// A user drained or removed it.
    pub left: bool,
    /// A user removed it.
    pub removed: bool,
    /// What runs on it, by experiment.
    pub holds: BTreeMap<String, Held>,
    /// Newest generation that it acted on, by experiment.
    seen: BTreeMap<String, u64>,
    /// Operations that it finished.
    finished: BTreeSet<String>,
    epoch: u64,
}

/// What users want.
#[derive(Debug, Default)]
pub struct Wish {
    /// VMs wanted now; none when it is taken down.
    pub vms: Option<u32>,
    /// The fewest that were ever wanted: a VM from here on may have been stopped on request.
    pub fewest: u32,
}

/// What changes.
#[derive(Default)]
pub struct State {
    /// Hosts by number.
    pub hosts: Vec<Host>,
    /// Experiments that were ever asked for.
    pub wishes: BTreeMap<String, Wish>,
    /// To the controller that lives.
    pub inbox: Option<mpsc::Sender<Input>>,
    /// Operations of users: whether they are answered.
    pub operations: BTreeMap<String, bool>,
    /// What the controllers stored.
    pub store: BTreeMap<String, Vec<u8>>,
    /// What does not hold.
    pub violations: Vec<String>,
    /// The event log.
    pub log: Log,
    /// Agents that were killed, and hosts that fell silent.
    pub kills: u64,
    pub silences: u64,
    /// Waves that controllers sent.
    pub waves: u64,
    /// Placements of specs, by the hash of the spec: all hosts read the same.
    specs: HashMap<Hash, Arc<HashMap<String, Vec<Range>>>>,
}

/// All hosts.
pub struct Fleet {
    /// The network between them.
    pub net: Net,
    /// Times and bounds of the tree.
    pub config: Config,
    /// The watch of this process.
    pub clock: Arc<ClockWatch>,
    /// When the run began.
    pub began: Instant,
    /// Bytes for VMs on a host.
    pub memory: u64,
    logs: Vec<Arc<MemoryLog>>,
    state: Mutex<State>,
    me: std::sync::Weak<Fleet>,
}

/// The name of a host, which is its address as well.
pub fn name(host: usize) -> String {
    format!("h{host}")
}

/// The number in a name.
pub fn number(name: &str) -> Option<usize> {
    name.strip_prefix('h')?.parse().ok()
}

impl Fleet {
    /// Hosts with so much memory, whose agents run.
    pub fn new(net: Net, hosts: usize, memory: u64) -> Arc<Fleet> {
        let state = State { hosts: (0..hosts).map(|_| Host::default()).collect(), ..State::default() };
        let clock = ClockWatch::start();
        // Specs are the same bytes on all hosts here; none has to keep its own.
        let config = Config { blob_bytes: 0, ..Config::default() };
        Arc::new_cyclic(|me| Fleet {
            net,
            config,
            clock,
            began: Instant::now(),
            memory,
            logs: (0..hosts).map(|_| Arc::new(MemoryLog::default())).collect(),
            state: Mutex::new(state),
            me: me.clone(),
        })
    }

    /// What changes, for a moment without await.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Virtual time since the beginning, in ms.
    pub fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Notes an event.
    pub fn note(&self, event: impl std::hash::Hash) {
        let micros = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.state().log.add(micros, event);
    }

    /// Starts the agent of a host.
    pub fn start(&self, host: usize) {
        {
            let mut state = self.state();
            let Some(it) = state.hosts.get_mut(host) else { return };
            it.alive = true;
            it.incarnation += 1;
        }
        let (Some(me), Some(log)) = (self.me.upgrade(), self.logs.get(host)) else { return };
        let parts = Parts {
            name: name(host),
            link: self.net.link(&name(host)),
            local: Arc::new(Work { host, fleet: Arc::downgrade(&me) }),
            log: log.clone(),
            config: self.config.clone(),
            clock: Arc::clone(&self.clock),
        };
        self.net.attach(&name(host), Node::new(parts));
        self.note(("start", host));
        self.says_hello(host);
    }

    /// Kills the agent of a host; its VMs run on.
    pub fn kill(&self, host: usize) {
        {
            let mut state = self.state();
            let Some(it) = state.hosts.get_mut(host).filter(|host| host.alive) else { return };
            it.alive = false;
            state.kills += 1;
        }
        self.net.kill(&name(host));
        self.note(("kill", host));
        self.is_missed(host);
    }

    /// Kills the agent at an address in a moment: not in the middle of what calls this.
    pub fn dies_soon(&self, address: &str) {
        let (Some(me), Some(host)) = (self.me.upgrade(), number(address)) else { return };
        tokio::spawn(async move { me.kill(host) });
    }

    /// Makes a host unreachable; all of it goes on.
    pub fn silence(&self, host: usize) {
        {
            let mut state = self.state();
            let Some(it) = state.hosts.get_mut(host).filter(|host| !host.silent) else { return };
            it.silent = true;
            state.silences += 1;
        }
        self.net.silence(&name(host));
        self.note(("silence", host));
        self.is_missed(host);
    }

    /// Makes a host reachable, with an agent that runs.
    pub fn heal(&self, host: usize) {
        let (silent, alive) = {
            let mut state = self.state();
            let Some(it) = state.hosts.get_mut(host) else { return };
            (std::mem::take(&mut it.silent), it.alive)
        };
        if silent {
            self.net.heal(&name(host));
            self.note(("heal", host));
        }
        if !alive {
            self.start(host);
        } else if silent {
            self.says_hello(host);
        }
    }

    /// The agent of a host tells the controller that it is there, if it is and can.
    pub fn says_hello(&self, host: usize) {
        let Some(me) = self.me.upgrade() else { return };
        tokio::spawn(async move {
            // Agents do not all call at once.
            tokio::time::sleep(Duration::from_micros(500 + 37 * (host as u64 % 1000))).await;
            let (input, inbox) = {
                let state = me.state();
                let Some(it) = state.hosts.get(host).filter(|it| it.alive && !it.silent) else { return };
                let facts = HostFacts {
                    name: name(host),
                    address: name(host),
                    rack: format!("r{}", host / RACK),
                    memory: me.memory,
                    cores: 16,
                    ..HostFacts::default()
                };
                let holds = it.holds.keys().cloned().collect();
                let input = Input::Seen { facts, incarnation: it.incarnation, holds, joined: false };
                (input, state.inbox.clone())
            };
            if let Some(inbox) = inbox {
                drop(inbox.send(input).await);
            }
        });
    }

    /// The controller notices that a host does not answer, if it still does not by then.
    pub fn is_missed(&self, host: usize) {
        let Some(me) = self.me.upgrade() else { return };
        tokio::spawn(async move {
            tokio::time::sleep(KEEPALIVE).await;
            let inbox = {
                let state = me.state();
                let gone = state.hosts.get(host).is_some_and(|it| !it.alive || it.silent);
                state.inbox.clone().filter(|_| gone)
            };
            if let Some(inbox) = inbox {
                drop(inbox.send(Input::Lost { host: name(host) }).await);
            }
        });
    }

    /// Something does not hold.
    pub fn violated(&self, what: String) {
        self.note(("violation", &what));
        self.state().violations.push(format!("at {} ms: {what}", self.now()));
    }
}

/// A host's part of waves.
struct Work {
    host: usize,
    fleet: std::sync::Weak<Fleet>,
}

/// What an operation makes of a host.
struct Change {
    experiment: String,
    generation: u64,
    after: Vec<Range>,
    removes: bool,
    starts: u32,
}

#[async_trait]
impl Local for Work {
    fn admit_epoch(&self, epoch: u64) -> Result<(), String> {
        let Some(fleet) = self.fleet.upgrade() else { return Ok(()) };
        let mut state = fleet.state();
        let Some(it) = state.hosts.get_mut(self.host) else { return Ok(()) };
        if epoch < it.epoch {
            return Err(format!("epoch {epoch} is over, {} was seen", it.epoch));
        }
        it.epoch = epoch;
        Ok(())
    }

    async fn run(&self, job: Job, _: Sink) -> LocalEnd {
        let Some(fleet) = self.fleet.upgrade() else { return LocalEnd::failed("the run is over", Vec::new()) };
        let change = match self.begin(&fleet, &job) {
            Ok(change) => change,
            Err(end) => return end,
        };
        tokio::time::sleep(ACT + START * change.starts).await;
        self.finish(&fleet, &job.op.op_id, change)
    }
}

impl Work {
    fn begin(&self, fleet: &Fleet, job: &Job) -> Result<Change, LocalEnd> {
        let failed = |reason: &str| Err(LocalEnd::failed(reason, Vec::new()));
        let mut state = fleet.state();
        let generation = job.op.generation;
        let (experiment, after, removes) = match &job.task.task {
            Some(task::Task::Apply(apply)) => {
                let Ok(hash) = Hash::try_from(apply.spec.as_slice()) else { return failed("no hash of a spec") };
                let Some(bytes) = job.content.get(&hash) else { return failed("no spec") };
                if !state.specs.contains_key(&hash) {
                    let Ok(spec) = Spec::decode(bytes.clone()) else { return failed("the spec does not decode") };
                    let mut places: HashMap<String, Vec<Range>> = HashMap::new();
                    places.insert(String::new(), vec![Range { group: spec.experiment, first: 0, count: 0 }]);
                    places.extend(spec.hosts.into_iter().map(|place| (place.host, place.ranges)));
                    state.specs.insert(hash, Arc::new(places));
                }
                let Some(places) = state.specs.get(&hash).cloned() else { return failed("no spec") };
                let experiment = places.get("").and_then(|named| named.first()).map(|named| named.group.clone());
                (experiment.unwrap_or_default(), places.get(&name(self.host)).cloned().unwrap_or_default(), false)
            }
            Some(task::Task::Remove(remove)) => (remove.experiment.clone(), Vec::new(), true),
            _ => return failed("this host cannot do that"),
        };
        let Some(it) = state.hosts.get_mut(self.host) else { return failed("no host") };
        if it.finished.contains(&job.op.op_id) {
            let what = format!("{} did {} twice", name(self.host), job.op.op_id);
            drop(state);
            fleet.violated(what);
            return failed("twice");
        }
        let newest = it.seen.entry(experiment.clone()).or_default();
        if generation < *newest {
            return failed("a newer operation was here first");
        }
        *newest = generation;
        let running = it.holds.get(&experiment).map_or(0, |held| vms(&held.ranges));
        let starts = vms(&after).saturating_sub(running);
        Ok(Change { experiment, generation, after, removes, starts })
    }

    fn finish(&self, fleet: &Fleet, op_id: &str, change: Change) -> LocalEnd {
        let Change { experiment, generation, after, removes, .. } = change;
        let mut state = fleet.state();
        let State { hosts, wishes, .. } = &mut *state;
        let Some(it) = hosts.get_mut(self.host) else { return LocalEnd::failed("no host", Vec::new()) };
        if it.seen.get(&experiment).is_some_and(|newest| *newest > generation) {
            return LocalEnd::failed("a newer operation was here first", Vec::new());
        }
        let before = it.holds.remove(&experiment).unwrap_or_default();
        let stopped = without(&before.ranges, &after);
        let wish = wishes.get(&experiment);
        let wrong = stopped.iter().find(|range| {
            let end = range.first + range.count;
            // Those that were once not wanted, and those of hosts that users have left, may stop.
            !it.left && wish.is_some_and(|wish| range.first < wish.fewest && end > range.first)
        });
        let wrong = wrong.map(|range| {
            format!("{op_id} stopped {experiment}.web[{}] on {}, and nobody asked for it", range.first, name(self.host))
        });
        if !removes {
            it.holds.insert(experiment.clone(), Held { ranges: after.clone() });
        }
        it.finished.insert(op_id.to_owned());
        drop(state);
        if let Some(wrong) = wrong {
            fleet.violated(wrong);
        }
        fleet.note(("done", self.host, op_id));
        let ended = if removes { &before.ranges } else { &after };
        let targets = ended.iter().map(|range| OutcomeFold {
            outcome: Outcome::Ok.into(),
            reason: String::new(),
            count: range.count,
            targets: format!("{}[{}-{}]", range.group, range.first, range.first + range.count - 1),
        });
        LocalEnd::ok(targets.collect())
    }
}

/// How many VMs some ranges have.
pub fn vms(ranges: &[Range]) -> u32 {
    ranges.iter().map(|range| range.count).sum()
}

/// What is in `a` and not in `b`. Neither has a VM twice.
fn without(a: &[Range], b: &[Range]) -> Vec<Range> {
    let mut left = Vec::new();
    for range in a {
        let (mut from, end) = (range.first, range.first + range.count);
        let mut same: Vec<&Range> = b.iter().filter(|other| other.group == range.group).collect();
        same.sort_unstable_by_key(|other| other.first);
        for other in same {
            let (first, last) = (other.first.max(from), (other.first + other.count).min(end));
            if first < last {
                if from < first {
                    left.push(Range { group: range.group.clone(), first: from, count: first - from });
                }
                from = last;
            }
        }
        if from < end {
            left.push(Range { group: range.group.clone(), first: from, count: end - from });
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_taken_from_ranges() {
        let range = |first, count| Range { group: "web".into(), first, count };
        assert_eq!(without(&[range(0, 10)], &[range(7, 2), range(2, 3)]), [range(0, 2), range(5, 2), range(9, 1)]);
        assert_eq!(without(&[range(0, 10)], &[range(0, 20)]), []);
        assert_eq!(vms(&[range(3, 4), range(0, 1)]), 5);
    }
}
