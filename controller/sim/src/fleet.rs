//! The hosts: what outlives their agents, how these die and come back, and what the controller hears of that.
//!
//! A host's VMs, its operation log and what it has seen outlive its agent. Its agent is a [`Node`] of the tree; it dies,
//! starts again with another incarnation, falls silent, is cut off from others or from the controller, and comes back.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fleet_core::{HostFacts, Input};
use fleet_proto::v1::{HeldExperiment, Range};
use fleet_tree::memory::Net;
use fleet_tree::{ClockWatch, Config, Hash, MemoryLog, Node, Parts};
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use crate::log::Log;
use crate::network::ROOT;
use crate::users::Users;
use crate::work::{Placed, Work};

/// Memory of a VM, in bytes.
pub const VM_MEMORY: u64 = 16 << 20;
/// After how long a controller knows that a host does not answer: its keepalive.
pub const KEEPALIVE: Duration = Duration::from_secs(15);
/// Hosts of a rack.
pub const RACK: usize = 40;

/// VMs of one experiment on one host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Ranges that run.
    pub ranges: Vec<Range>,
    /// The question of a user that they answer.
    pub asked: u64,
    /// The generation of what was applied.
    pub generation: u64,
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
    /// It and the controller do not reach one another.
    pub cut: bool,
    /// A user has drained or removed it at some time: VMs move off it.
    pub left_once: bool,
    /// A user removed it.
    pub removed: bool,
    /// What runs on it, by experiment.
    pub holds: BTreeMap<String, Held>,
    /// Newest generation that it acted on, by experiment.
    pub seen: BTreeMap<String, u64>,
    /// Operations that it finished, and in which life of its agent.
    pub finished: BTreeMap<String, u64>,
    /// Newest epoch that it has seen.
    pub epoch: u64,
}

impl Host {
    /// The controller and its agent can talk.
    pub fn in_reach(&self) -> bool {
        self.alive && !self.silent && !self.cut
    }
}

/// What changes.
#[derive(Default)]
pub struct State {
    /// Hosts by number.
    pub hosts: Vec<Host>,
    /// What users asked for.
    pub users: Users,
    /// To the controller that lives.
    pub inbox: Option<mpsc::Sender<Input>>,
    /// Kills the controller that lives.
    pub controller: CancellationToken,
    /// What the controllers stored.
    pub store: BTreeMap<String, Vec<u8>>,
    /// What does not hold.
    pub violations: Vec<String>,
    /// The event log.
    pub log: Log,
    /// Agents that were killed.
    pub kills: u64,
    /// Hosts that fell silent, or were cut off from the controller.
    pub silences: u64,
    /// Networks that were cut in two.
    pub partitions: u64,
    /// Waves that controllers sent.
    pub waves: u64,
    /// Placements of specs, by the hash of the spec: all hosts read the same.
    pub specs: HashMap<Hash, Arc<Placed>>,
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
    pub fn note(&self, event: impl std::hash::Hash + Debug) {
        let micros = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.state().log.add(micros, event);
    }

    /// Starts the agent of a host.
    pub fn start(&self, host: usize) {
        let incarnation = {
            let mut state = self.state();
            let Some(it) = state.hosts.get_mut(host) else { return };
            it.alive = true;
            it.incarnation += 1;
            it.incarnation
        };
        let (Some(me), Some(log)) = (self.me.upgrade(), self.logs.get(host)) else { return };
        let parts = Parts {
            name: name(host),
            link: self.net.link(&name(host)),
            local: Arc::new(Work { host, incarnation, fleet: Arc::downgrade(&me) }),
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

    /// Kills whoever is at an address in a moment: not in the middle of what calls this.
    pub fn dies_soon(&self, address: &str) {
        let Some(me) = self.me.upgrade() else { return };
        let host = number(address);
        tokio::spawn(async move {
            match host {
                Some(host) => me.kill(host),
                None => me.state().controller.cancel(),
            }
        });
    }

    /// Makes a host unreachable, for all or only for the controller; all of it goes on.
    pub fn silence(&self, host: usize, only_controller: bool) {
        {
            let mut state = self.state();
            let Some(it) = state.hosts.get_mut(host).filter(|host| !host.silent && !host.cut) else { return };
            (it.silent, it.cut) = (!only_controller, only_controller);
            state.silences += 1;
        }
        if only_controller {
            self.net.cut(ROOT, &name(host));
        } else {
            self.net.silence(&name(host));
        }
        self.note(("silence", host, only_controller));
        self.is_missed(host);
    }

    /// Cuts the network in two between some hosts and others; the controller reaches both sides.
    pub fn partition(&self, one: &[usize], other: &[usize]) {
        for a in one {
            other.iter().filter(|b| *b != a).for_each(|b| self.net.cut(&name(*a), &name(*b)));
        }
        self.state().partitions += 1;
        self.note(("partition", one, other));
    }

    /// Makes a host reachable for everybody, with an agent that runs.
    pub fn heal(&self, host: usize) {
        let (away, alive) = {
            let mut state = self.state();
            let Some(it) = state.hosts.get_mut(host) else { return };
            (std::mem::take(&mut it.silent) | std::mem::take(&mut it.cut), it.alive)
        };
        self.net.heal(&name(host));
        if away {
            self.note(("heal", host));
        }
        if !alive {
            self.start(host);
        } else if away {
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
                let Some(it) = state.hosts.get(host).filter(|it| it.in_reach()) else { return };
                let facts = HostFacts {
                    name: name(host),
                    address: name(host),
                    rack: format!("r{}", host / RACK),
                    memory: me.memory,
                    cores: 16,
                    ..HostFacts::default()
                };
                let held = |(experiment, held): (&String, &Held)| HeldExperiment {
                    experiment: experiment.clone(),
                    generation: held.generation,
                };
                let holds = it.holds.iter().map(held).collect();
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
                let gone = state.hosts.get(host).is_some_and(|it| !it.in_reach());
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
