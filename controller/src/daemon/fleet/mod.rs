//! The fleet as one: what is wanted of it is decided by fleet-core, told in waves, and remembered in the store.
//!
//! ```text
//!  up, down (ask.rs) ──┐                      ┌─► records ─► the store
//!  hosts (watch.rs) ───┼─► Input ─► Core ─────┤ then
//!  the time (watch.rs)─┤                      ├─► waves (waves.rs) ──► own agent, by its local socket
//!  ends of waves ──────┘                      │                   └──► the others, in a tree
//!                                             └─► answers ─► whoever follows (follow.rs), and the journal
//!  ps, act, prove, exec, cameras … (reads.rs, listing.rs, act.rs, cameras.rs) ──► waves of their own
//! ```
//!
//! The own host is told directly and is nobody's parent: others cannot reach it by its socket.

mod act;
mod ask;
mod cameras;
mod command;
mod drain;
mod follow;
mod listing;
mod push;
mod reads;
mod watch;
mod waves;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fleet_core::{Action, Answer, Core, Input, Output, Phase, RestoreError};
use fleet_proto::v1::{OpHeader, Spec};
use netlang::Plan;
use thiserror::Error;
use tokio::sync::{Notify, watch as latest};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;

use super::agents::Agents;
use super::hosts::Hosts;
use super::store::{Store, StoreError};
use super::targets::{self, Target};
pub use act::Act;
pub use cameras::{Ended, Place, Wish};
pub use command::On;
pub use waves::Word;

use crate::cli::now_ms;
use crate::commitments::Commitments;
use follow::Follows;
use waves::Waves;

/// Why the fleet cannot be gone on with.
#[derive(Debug, Error)]
pub enum FleetError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is in it.
    #[error(transparent)]
    Restore(#[from] RestoreError),
}

/// The fleet.
pub struct Fleet {
    core: Mutex<Core>,
    /// One input after the other, from its beginning to the start of what follows from it.
    order: Mutex<()>,
    store: Arc<Store>,
    hosts: Arc<Hosts>,
    waves: Waves,
    sizes: Arc<Commitments>,
    follows: Mutex<Follows>,
    /// Waves of the core that are under way: their experiment, and what ends the following of them.
    flights: Mutex<HashMap<String, (String, CancellationToken)>>,
    epoch: u64,
    /// Counts what the core was told.
    changes: latest::Sender<u64>,
    /// The core may want to be woken at another time.
    woken: Notify,
    tasks: TaskTracker,
    stop: CancellationToken,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that can panic runs between two changes that belong together.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What [`Fleet::start`] is made of.
pub struct Parts {
    /// Memory.
    pub store: Arc<Store>,
    /// The registry.
    pub hosts: Arc<Hosts>,
    /// The way to agents.
    pub agents: Agents,
    /// What VMs come to use.
    pub sizes: Commitments,
    /// Branches of a host in the tree at most; `None`: as many as their number asks for.
    pub k: Option<u32>,
    /// Ends everything here.
    pub stop: CancellationToken,
}

impl Fleet {
    /// Goes on where the controller before ended: what it had begun is begun again.
    ///
    /// # Errors
    /// When the store cannot be read, or holds what this version does not know.
    pub fn start(parts: Parts) -> Result<Arc<Self>, FleetError> {
        let Parts { store, hosts, agents, sizes, k, stop } = parts;
        let sizes = Arc::new(sizes);
        let epoch = hosts.epoch();
        let settings = fleet_core::Settings { seed: epoch, ..fleet_core::Settings::default() };
        let weigh = Arc::clone(&sizes);
        let weigh = move |options: &fleet_proto::v1::Options, vm: &netlang::VmShape<'_>| weigh.bytes(options, vm);
        let (core, output) = Core::restore(settings, Box::new(weigh), epoch, now_ms(), store.core()?)?;
        let fleet = Arc::new(Self {
            core: Mutex::new(core),
            order: Mutex::new(()),
            store,
            hosts,
            waves: Waves::new(agents, k),
            sizes,
            follows: Mutex::default(),
            flights: Mutex::default(),
            epoch,
            changes: latest::Sender::new(0),
            woken: Notify::new(),
            tasks: TaskTracker::new(),
            stop,
        });
        fleet.perform(output, true);
        fleet.tasks.spawn(Arc::clone(&fleet).watch_hosts());
        fleet.tasks.spawn(Arc::clone(&fleet).watch_time());
        Ok(fleet)
    }

    /// Waits until its tasks ended, which they do soon after their token was cancelled. Waves that change something go
    /// on at the agents.
    pub async fn ended(&self) {
        self.waves.stop().await;
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Gives the core an input, and does what follows from it.
    fn input(self: &Arc<Self>, input: Input) {
        let _order = locked(&self.order);
        let output = locked(&self.core).handle(now_ms(), input);
        self.perform(output, false);
    }

    /// Stores first, then acts. `again`: these waves may have been sent before, by a controller that died.
    fn perform(self: &Arc<Self>, output: Output, again: bool) {
        if !output.records.is_empty()
            && let Err(error) = self.store.put_core(&output.records)
        {
            // What is not on record must not be done; the next controller goes on from the record.
            tracing::error!(%error, "the controller ends: it cannot remember what it is about to do");
            self.stop.cancel();
            return;
        }
        for action in output.actions {
            match action {
                Action::Wave(wave) => self.follow_wave(wave, again),
                Action::Abandon { op_id } => {
                    if let Some((_, token)) = locked(&self.flights).remove(&op_id) {
                        token.cancel();
                    }
                }
                Action::Answer { op_id, answer } => self.answered(op_id, answer),
                Action::Note { about, text } => {
                    tracing::info!(about, "{text}");
                    locked(&self.follows).note(&about, &text);
                }
            }
        }
        self.release_answers();
        self.changes.send_modify(|count| *count += 1);
        self.woken.notify_one();
    }

    /// A new operation of this controller, for what is only read.
    fn reading(&self) -> OpHeader {
        OpHeader { op_id: uuid::Uuid::new_v4().to_string(), epoch: self.epoch, generation: 0 }
    }

    /// The header of a user's operation.
    fn header(&self, op_id: &str) -> OpHeader {
        OpHeader { op_id: op_id.to_owned(), epoch: self.epoch, generation: 0 }
    }

    // ---- what is up ----

    /// Names and plans of all experiments that are wanted.
    pub fn plans(&self) -> Vec<(String, Arc<Plan>)> {
        let core = locked(&self.core);
        let wanted = core.experiments().filter(|experiment| experiment.phase != Phase::Removing);
        wanted.map(|experiment| (experiment.name.to_owned(), Arc::clone(experiment.plan))).collect()
    }

    /// What is wanted of an experiment.
    pub fn spec(&self, name: &str) -> Option<(Spec, Arc<Plan>)> {
        let core = locked(&self.core);
        let wanted = core.experiment(name).filter(|experiment| experiment.phase != Phase::Removing);
        wanted.map(|experiment| (experiment.spec.clone(), Arc::clone(experiment.plan)))
    }

    /// Names of all experiments: those on record, and those that hosts have and nobody asked for.
    pub fn experiments(&self) -> Vec<String> {
        let mut names: Vec<String> = locked(&self.core).experiments().map(|e| e.name.to_owned()).collect();
        names.extend(self.hosts.held());
        names.sort();
        names.dedup();
        names
    }

    /// Names of the experiments of which a host is to have something.
    pub fn wanted_on(&self, host: &str) -> Vec<String> {
        locked(&self.core).wanted_on(host)
    }

    /// Finds what a user named.
    ///
    /// # Errors
    /// When nothing, or too much, has that name.
    pub fn resolve(&self, target: &str) -> Result<Target, Status> {
        targets::resolve(&self.plans(), target)
    }

    /// Names of the VMs of a target, in the plan's order, with their hosts where they have one.
    pub fn with_hosts(&self, target: &Target) -> Vec<(String, Option<String>)> {
        let core = locked(&self.core);
        let plan = &target.plan;
        let groups = target.ranges.iter().filter_map(|range| Some((range, plan.group(range.group)?.path)));
        let vms = groups.flat_map(|(range, path)| {
            let core = &core;
            range.indices().filter_map(move |index| {
                let host = core.host_of(&target.experiment, &path, index).map(|host| host.name.clone());
                Some((plan.vm_name(range.group, index)?, host))
            })
        });
        vms.collect()
    }

    /// Finds one VM that a user named: its experiment, its name and its host.
    ///
    /// # Errors
    /// When nothing, or more than one VM, has that name, or it has no host.
    pub fn resolve_one(&self, target: &str) -> Result<(String, String, String), Status> {
        let found = self.resolve(target)?;
        let (group, index, name) = found.one(target)?;
        let host = locked(&self.core).host_of(&found.experiment, &group, index).map(|host| host.name.clone());
        let host = host.ok_or_else(|| {
            Status::failed_precondition(format!("`{name}` has no host yet\nhelp: `fleet ps` says what it waits for"))
        })?;
        Ok((found.experiment, name, host))
    }
}

/// An answer as it goes to whoever asked for words.
fn in_words(answer: Answer) -> Result<String, Status> {
    match answer {
        Answer::Done(text) => Ok(text),
        Answer::Summary(_) => Ok(String::new()),
        Answer::Refused(text) => Err(refused(&text)),
    }
}

/// A refusal, whose mend is on a line of its own.
fn refused(text: &str) -> Status {
    Status::failed_precondition(text)
}
