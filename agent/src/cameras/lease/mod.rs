//! One lease of this host: what others see of it, and the way to its [`task`], which does everything.

mod task;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fleet_proto::v1::{CameraLease, CameraSample, CameraState, VmState};
use fleet_usb::lease::CameraId;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use super::meter::Meter;
use super::port::Vms;
use super::refusal::Refusal;
use super::source::{Sight, Source};
use super::store::{Record, Store};
use crate::hub::Hub;
use task::{Task, Told};

/// Orders that wait for their turn.
const ORDERS: usize = 16;

/// What is ordered.
pub enum Command {
    /// Bring it into the VM; answered when it is there, or why not.
    Attach(oneshot::Sender<Result<(), Refusal>>),
    /// Take it out; with `hold` the lease stays. Answered when that is done, or why not.
    Detach {
        /// Whether the lease stays.
        hold: bool,
        /// For the answer.
        answer: oneshot::Sender<Result<(), Refusal>>,
    },
    /// The lease is over, for this reason; answered when nothing of it is left.
    End(String, oneshot::Sender<Result<(), Refusal>>),
}

/// What readers see of a lease.
#[derive(Clone, Debug)]
struct Shown {
    state: CameraState,
    detail: String,
}

/// One lease.
pub struct Lease {
    /// The camera.
    pub camera: CameraId,
    /// The VM's experiment.
    pub experiment: String,
    /// The VM.
    pub vm: String,
    /// The fencing epoch.
    pub epoch: u64,
    /// The camera as it is reached.
    pub source: Arc<dyn Source>,
    persona: String,
    shown: Arc<Mutex<(Shown, u64)>>,
    meter: Arc<Meter>,
    commands: mpsc::Sender<Command>,
    task: Mutex<Option<AbortOnDropHandle<()>>>,
}

/// All leases of this host's VMs, by camera.
pub type Leases = Arc<Mutex<BTreeMap<CameraId, Arc<Lease>>>>;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Only whole values are exchanged under it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What every lease needs.
#[derive(Clone)]
pub struct Around {
    /// This host.
    pub host: String,
    /// Where leases are noted.
    pub store: Arc<Store>,
    /// Where events go.
    pub hub: Arc<Hub>,
    /// The VMs.
    pub vms: Arc<dyn Vms>,
    /// Where the lease is listed while it is.
    pub leases: Leases,
}

impl Lease {
    /// Starts the task of a lease that is on record, and lists it. `seen`: how the camera is that is lent anew; `None`: an
    /// earlier agent has begun the lease.
    pub fn start(around: &Around, record: Record, source: Arc<dyn Source>, seen: Option<Sight>) -> Arc<Self> {
        let restored = seen.is_none();
        let (commands, receiver) = mpsc::channel(ORDERS);
        let (meter, shown) = (Arc::new(Meter::default()), Shown { state: CameraState::Leased, detail: String::new() });
        let shown = Arc::new(Mutex::new((shown, record.since_ms)));
        let lease = Arc::new(Self {
            camera: record.camera.clone(),
            experiment: record.experiment.clone(),
            vm: record.vm.clone(),
            epoch: record.keeper.epoch,
            source: Arc::clone(&source),
            persona: record.keeper.persona.to_string(),
            shown: Arc::clone(&shown),
            meter: Arc::clone(&meter),
            commands,
            task: Mutex::new(None),
        });
        let course = Task::new(around, record, source, Told { shown, meter }, seen);
        // Listed before it runs: it takes itself off the list at its end.
        locked(&around.leases).insert(lease.camera.clone(), Arc::clone(&lease));
        let task = tokio::spawn(course.run(receiver, restored));
        *locked(&lease.task) = Some(AbortOnDropHandle::new(task));
        lease
    }

    /// Gives an order; waits for its outcome.
    pub async fn order(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<(), Refusal>>) -> Command,
    ) -> Result<(), Refusal> {
        let (answer, outcome) = oneshot::channel();
        let ended = || Refusal::Ended("it ended meanwhile".to_owned());
        self.commands.send(command(answer)).await.map_err(|_| ended())?;
        outcome.await.unwrap_or_else(|_| Err(ended()))
    }

    /// `experiment.vm`.
    pub fn holder(&self) -> String {
        format!("{}.{}", self.experiment, self.vm)
    }

    /// As others are told.
    pub fn message(&self, vm_host: &str) -> CameraLease {
        let (shown, since_ms) = locked(&self.shown).clone();
        let (to_guest_bytes, from_guest_bytes) = self.meter.read();
        CameraLease {
            host: self.camera.host.clone(),
            camera: self.camera.camera.clone(),
            experiment: self.experiment.clone(),
            vm: self.vm.clone(),
            epoch: self.epoch,
            state: shown.state.into(),
            detail: shown.detail,
            persona: self.persona.clone(),
            since_ms,
            to_guest_bytes,
            from_guest_bytes,
            vm_host: vm_host.to_owned(),
        }
    }

    /// What went by, if anything did.
    pub fn sample(&self, vm_host: &str) -> Option<CameraSample> {
        self.meter.sample(vm_host, &self.camera, &self.experiment, &self.vm)
    }

    /// Ends its task with the agent; the lease stays.
    pub async fn stop(&self) {
        let task = locked(&self.task).take();
        if let Some(task) = task {
            task.abort();
            drop(task.await);
        }
    }
}

/// "stopped": a state of a VM in a word.
pub fn word(state: Option<VmState>) -> String {
    state.map_or_else(|| "gone".to_owned(), |state| state.as_str_name().trim_start_matches("VM_STATE_").to_lowercase())
}
