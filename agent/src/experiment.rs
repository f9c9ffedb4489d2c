//! One experiment on this host: its slice, its VMs, its network, and the file that remembers it.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use fleet_net::Network;
use fleet_proto::v1::{ExperimentStatus, RouterStatus, Spec, StateCount, VmState};
use fleet_vm::{SnapshotStore, VmHost};
use prost::Message;
use tokio::sync::watch;

use crate::hub::Hub;
use crate::pace::Gate;
use crate::slice::{Slice, address_text};
use crate::slot::Slot;

/// In the experiment's folder: the spec that is in force here.
const SPEC_FILE: &str = "spec.pb";
/// In the experiment's folder while an apply is under way: a new agent goes on with it.
const APPLYING_MARK: &str = "applying";

/// What the VMs of an experiment are surrounded by.
pub struct Surroundings {
    /// The experiment.
    pub experiment: String,
    /// This host.
    pub host: String,
    /// Where events go.
    pub hub: Arc<Hub>,
    /// What lets VMs start: the host's.
    pub gate: Arc<Gate>,
    /// The host's snapshots.
    pub snapshots: Arc<SnapshotStore>,
    /// What runs VMs.
    pub vms: VmHost,
    /// The experiment's network here.
    pub network: Network,
}

/// The VMs of an experiment in the plan's order. Replaced as a whole when the plan changes.
#[derive(Default)]
pub struct Slots {
    list: Vec<Arc<Slot>>,
    by_name: HashMap<String, usize>,
}

impl Slots {
    /// A table of these VMs.
    pub fn new(list: Vec<Arc<Slot>>) -> Self {
        let by_name = list.iter().enumerate().map(|(at, slot)| (slot.name().to_owned(), at)).collect();
        Self { list, by_name }
    }

    /// In the plan's order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Slot>> {
        self.list.iter()
    }

    /// One VM.
    pub fn get(&self, name: &str) -> Option<&Arc<Slot>> {
        self.by_name.get(name).map(|at| &self.list[*at])
    }

    /// VMs by state.
    pub fn counts(&self) -> Vec<StateCount> {
        let mut counts: BTreeMap<i32, u32> = BTreeMap::new();
        for slot in &self.list {
            *counts.entry(slot.state().into()).or_default() += 1;
        }
        counts.into_iter().map(|(state, count)| StateCount { state, count }).collect()
    }
}

/// One experiment.
pub struct Experiment {
    /// What its VMs need.
    pub around: Arc<Surroundings>,
    /// One operation at a time.
    pub operation: Arc<tokio::sync::Mutex<()>>,
    dir: PathBuf,
    waiting: AtomicUsize,
    removals: watch::Sender<u64>,
    slice: Mutex<Option<Slice>>,
    slots: Mutex<Arc<Slots>>,
    routers: Mutex<Vec<RouterStatus>>,
}

/// Counts an operation that is under way or waits, until dropped.
pub struct Busy(Arc<Experiment>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Only whole values are exchanged under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Experiment {
    /// An experiment with nothing in it yet; `dir` is its folder.
    pub fn new(around: Surroundings, dir: PathBuf) -> Arc<Self> {
        Arc::new(Self {
            around: Arc::new(around),
            operation: Arc::default(),
            dir,
            waiting: AtomicUsize::new(0),
            removals: watch::Sender::new(0),
            slice: Mutex::new(None),
            slots: Mutex::default(),
            routers: Mutex::default(),
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.around.experiment
    }

    /// Says that an operation is under way.
    pub fn busy(self: &Arc<Self>) -> Busy {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    /// Tells an apply that is under way to start nothing more, and ends the VMs that it is booting.
    pub async fn interrupt(&self) {
        self.removals.send_modify(|count| *count += 1);
        for slot in self.slots().iter().filter(|slot| slot.state() == VmState::Booting) {
            slot.interrupt(&self.around).await;
        }
    }

    /// Completes when somebody wants the experiment gone, from now on.
    pub async fn interrupted(&self) {
        // The sender lives in the experiment: the channel cannot close while we wait.
        drop(self.removals.subscribe().changed().await);
    }

    /// Its VMs now.
    pub fn slots(&self) -> Arc<Slots> {
        Arc::clone(&locked(&self.slots))
    }

    /// Exchanges its VMs.
    pub fn set_slots(&self, slots: Slots) {
        *locked(&self.slots) = Arc::new(slots);
        self.around.hub.move_on();
    }

    /// What is in force here; `None` before the first apply.
    pub fn slice(&self) -> Option<Slice> {
        locked(&self.slice).clone()
    }

    /// Puts a slice in force.
    pub fn set_slice(&self, slice: Slice) {
        *locked(&self.slice) = Some(slice);
    }

    /// Its routers as they were when last looked at.
    pub fn routers(&self) -> Vec<RouterStatus> {
        locked(&self.routers).clone()
    }

    /// Looks at its routers. The network's answer takes a while; `ps` reads what was seen last.
    pub async fn look_at_routers(&self) {
        let Some(slice) = self.slice() else { return };
        let seen = match self.around.network.routers().await {
            Ok(seen) => seen,
            Err(error) => {
                tracing::warn!(experiment = self.name(), %error, "cannot look at the routers");
                return;
            }
        };
        let status = slice.routers().map(|router| {
            let found = seen.iter().find(|state| state.name == router.name);
            let reason = match found {
                None => "its namespace is gone; `fleet up` makes it again".to_owned(),
                Some(state) if !state.forwarding => "it does not forward".to_owned(),
                Some(state) => {
                    let down: Vec<&str> =
                        state.interfaces.iter().filter(|(_, up)| !up).map(|(name, _)| name.as_str()).collect();
                    if down.is_empty() { String::new() } else { format!("down: {}", down.join(" ")) }
                }
            };
            RouterStatus {
                experiment: self.name().to_owned(),
                name: router.name.clone(),
                host: self.around.host.clone(),
                kind: "linux".to_owned(),
                up: reason.is_empty(),
                reason,
                addresses: router
                    .interfaces
                    .iter()
                    .map(|interface| address_text(interface.ip, interface.prefix_len))
                    .collect(),
            }
        });
        let status = status.collect();
        *locked(&self.routers) = status;
    }

    /// What `ps` shows of the whole.
    pub fn status(&self) -> ExperimentStatus {
        let slots = self.slots();
        let slice = self.slice();
        let count = |of: usize| u32::try_from(of).unwrap_or(u32::MAX);
        ExperimentStatus {
            experiment: self.name().to_owned(),
            counts: slots.counts(),
            vms: count(slots.list.len()),
            routers: slice.as_ref().map_or(0, |slice| count(slice.router_count())),
            segments: slice.as_ref().map_or(0, |slice| count(slice.segment_count())),
            busy: self.waiting.load(Ordering::Relaxed) > 0,
            source_name: slice.map(|slice| slice.spec.source_name.clone()).unwrap_or_default(),
        }
    }

    /// The VMs that have a process: how many, and their guest memory in bytes.
    pub fn committed(&self) -> (u32, u64) {
        let running =
            |slot: &&Arc<Slot>| !matches!(slot.state(), VmState::Stopped | VmState::Failed | VmState::Pending);
        let memory = |slot: &Arc<Slot>| slot.wanted().spec.memory_bytes;
        self.slots().iter().filter(running).fold((0, 0), |(vms, bytes), slot| (vms + 1, bytes + memory(slot)))
    }

    /// Whether nothing of it was ever here, also not of an earlier agent's.
    pub fn is_new(&self) -> bool {
        locked(&self.slice).is_none() && !self.dir.join(SPEC_FILE).exists()
    }

    /// Remembers a spec, and that it is being applied, before anything is done.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn remember(&self, spec: &Spec) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.dir)?;
        std::fs::write(self.dir.join(APPLYING_MARK), "")?;
        let new = self.dir.join("spec.pb.new");
        std::fs::write(&new, spec.encode_to_vec())?;
        std::fs::rename(&new, self.dir.join(SPEC_FILE))
    }

    /// The apply came to its end: a new agent has nothing to go on with.
    pub fn applied(&self) {
        match std::fs::remove_file(self.dir.join(APPLYING_MARK)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(experiment = self.name(), %error, "cannot note that an apply is done; it will be looked at again");
            }
            _ => {}
        }
    }

    /// Forgets everything: the folder goes.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn forget(&self) -> std::io::Result<()> {
        match std::fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }
}

/// A spec that an earlier agent remembered.
pub struct Remembered {
    /// The spec.
    pub spec: Spec,
    /// It was being applied when that agent ended.
    pub applying: bool,
}

/// Whether some experiment is remembered below a run folder: whether there is something for an agent to go on with.
pub fn any_remembered(run_dir: &std::path::Path) -> bool {
    let mut entries = std::fs::read_dir(run_dir).into_iter().flatten().flatten();
    entries.any(|entry| entry.path().join(SPEC_FILE).exists())
}

/// Reads what an earlier agent remembered in an experiment's folder; `None` when there is nothing, or nothing whole.
pub fn remembered(dir: &std::path::Path) -> Option<Remembered> {
    let bytes = std::fs::read(dir.join(SPEC_FILE)).ok()?;
    let spec = Spec::decode(bytes.as_slice())
        .inspect_err(|error| tracing::warn!(dir = %dir.display(), %error, "a remembered spec is damaged"))
        .ok()?;
    Some(Remembered { spec, applying: dir.join(APPLYING_MARK).exists() })
}
