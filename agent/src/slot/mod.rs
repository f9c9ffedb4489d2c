//! One VM of an experiment on this host, through its lives.
//!
//! ```text
//!  PENDING ─start─► STARTING ─process─► BOOTING ─guest took its settings─► RUNNING ◄─resume─ PAUSED
//!     ▲                 │                  │                                 │  └──pause────────▲
//!     └──── start ──────┴──► FAILED ◄──────┴─────────── it ended ────────────┤
//!                            STOPPED ◄──────────── asked to stop, or powered off by itself
//! ```
//!
//! Who reads (`ps`, telemetry) takes a short lock and never waits for who acts. Who acts holds the gate, one at a
//! time. A task of its own follows the VM from the making of its process to its end and alone decides RUNNING and
//! FAILED; it ends with the slot, the VM does not.

mod halt;
mod life;
mod retry;
mod snapshot;

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fleet_proto::v1::{VmState, VmStatus};
use fleet_vm::{Machine, VmError, VmExit, VmSpec};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::experiment::Surroundings;
use crate::hub::now_ms;
use crate::metric_definitions;
use crate::progress::Ended;
use crate::slice::{WantedVm, address_text};

use retry::CLEAN_SLATE;

/// Console lines that go with a failure.
const TOLD_LINES: usize = 8;
/// In a VM's folder: it was stopped on request, and a new agent must not take its end for a failure.
const STOPPED_MARK: &str = "stopped";

/// What a VM is to be, ready to be started.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// What the plan says and what its guest is told.
    pub vm: WantedVm,
    /// Its process.
    pub spec: VmSpec,
}

/// What readers see.
struct View {
    state: VmState,
    reason: String,
    last_lines: Vec<String>,
    since_ms: u64,
    boot_ms: u64,
    starts: u32,
    /// Why it failed last, without what is said of further tries.
    failure: String,
    /// How often it was tried again in a row.
    tried: u32,
    /// Its present process came to run.
    ran: bool,
    /// How many wait for it, and try it again if need be.
    attending: u32,
    /// It was found running, so its first RUNNING is no news.
    adopted: bool,
}

/// The life of a VM's present process.
struct Life {
    machine: Machine,
    task: AbortHandle,
}

impl Drop for Life {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One VM.
pub struct Slot {
    name: String,
    wanted: Mutex<Arc<Wanted>>,
    view: Mutex<View>,
    state: watch::Sender<VmState>,
    life: Mutex<Option<Life>>,
    /// The task that tries it again when nobody waits for it.
    again: Mutex<Option<AbortHandle>>,
    gate: tokio::sync::Mutex<()>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that can panic runs between two changes that belong together.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One line of why, with the console's last lines behind it.
fn with_lines(reason: &str, lines: &[String]) -> String {
    let told = &lines[lines.len().saturating_sub(TOLD_LINES)..];
    std::iter::once(reason).chain(told.iter().map(String::as_str)).collect::<Vec<_>>().join("\n")
}

impl Slot {
    /// A VM that is wanted and was not started yet.
    pub fn new(wanted: Wanted) -> Arc<Self> {
        let view = View {
            state: VmState::Pending,
            reason: String::new(),
            last_lines: Vec::new(),
            since_ms: now_ms(),
            boot_ms: 0,
            starts: 0,
            failure: String::new(),
            tried: 0,
            ran: false,
            attending: 0,
            adopted: false,
        };
        Arc::new(Self {
            name: wanted.vm.vm.name.clone(),
            wanted: Mutex::new(Arc::new(wanted)),
            view: Mutex::new(view),
            state: watch::Sender::new(VmState::Pending),
            life: Mutex::new(None),
            again: Mutex::new(None),
            gate: tokio::sync::Mutex::new(()),
        })
    }

    /// Its name within the experiment.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is in its life.
    pub fn state(&self) -> VmState {
        locked(&self.view).state
    }

    /// What it is to be.
    pub fn wanted(&self) -> Arc<Wanted> {
        Arc::clone(&locked(&self.wanted))
    }

    /// Changes what it is to be; takes effect at the next start.
    pub fn want(&self, wanted: Wanted) {
        *locked(&self.wanted) = Arc::new(wanted);
    }

    /// Its machine, while it has a process.
    pub fn machine(&self) -> Option<Machine> {
        locked(&self.life).as_ref().map(|life| life.machine.clone()).filter(|machine| machine.exited().is_none())
    }

    /// What its present process was made from.
    pub fn running_spec(&self) -> Option<VmSpec> {
        self.machine().map(|machine| machine.spec().clone())
    }

    /// What `ps` shows.
    pub fn status(&self, experiment: &str, host: &str) -> VmStatus {
        let wanted = self.wanted();
        let pid = self.machine().and_then(|machine| u32::try_from(machine.pid()).ok()).unwrap_or(0);
        let view = locked(&self.view);
        VmStatus {
            experiment: experiment.to_owned(),
            name: self.name.clone(),
            host: host.to_owned(),
            state: view.state.into(),
            hypervisor: hypervisor_text(&wanted.spec),
            image: wanted.vm.vm.class.image.to_string(),
            pid,
            addresses: wanted.vm.vm.nics.iter().map(|nic| address_text(nic.ip, nic.prefix_len)).collect(),
            memory_bytes: wanted.spec.memory_bytes,
            reason: view.reason.clone(),
            last_lines: view.last_lines.clone(),
            since_ms: view.since_ms,
            boot_ms: view.boot_ms,
            starts: view.starts,
        }
    }

    fn set(&self, around: &Surroundings, state: VmState, reason: &str, last_lines: &[String]) {
        {
            let mut view = locked(&self.view);
            if view.state == state && view.reason == reason {
                return;
            }
            view.state = state;
            view.since_ms = now_ms();
            reason.clone_into(&mut view.reason);
            view.last_lines = last_lines.to_vec();
        }
        self.state.send_replace(state);
        around.hub.move_on();
        let kind = match state {
            VmState::Starting => "vm.starting",
            VmState::Booting => "vm.booting",
            VmState::Running => "vm.running",
            VmState::Paused => "vm.paused",
            VmState::Stopping => "vm.stopping",
            VmState::Stopped => "vm.stopped",
            VmState::Failed => "vm.failed",
            VmState::Pending => "vm.retrying",
            VmState::Unspecified | VmState::Unknown => return,
        };
        if state == VmState::Failed {
            metrics::counter!(metric_definitions::VM_FAILURES).increment(1);
        }
        around.hub.event(kind, &around.experiment, &self.name, &with_lines(reason, last_lines));
    }

    /// It failed: for good, or until it is tried again.
    fn fail(
        self: &Arc<Self>,
        around: &Arc<Surroundings>,
        reason: &str,
        last_lines: &[String],
        retryable: bool,
    ) -> Ended {
        let restart = self.wanted().vm.vm.class.restart;
        let (tried, tries, attended) = {
            let mut view = locked(&self.view);
            if view.ran && Duration::from_millis(now_ms().saturating_sub(view.since_ms)) >= CLEAN_SLATE {
                view.tried = 0;
            }
            reason.clone_into(&mut view.failure);
            let tries = if retryable { restart.tries(view.ran) } else { 0 };
            let again = view.tried < tries;
            view.tried += u32::from(again);
            (again.then_some(view.tried), tries, view.attending > 0)
        };
        match tried {
            Some(tried) => {
                metrics::counter!(metric_definitions::VM_RETRIES).increment(1);
                let said = format!("{reason}; to be tried again ({tried} of {tries})");
                self.set(around, VmState::Pending, &said, last_lines);
                if !attended {
                    self.try_again_later(around);
                }
            }
            None => self.set(around, VmState::Failed, reason, last_lines),
        }
        Ended::Failed { reason: with_lines(reason, last_lines), retryable }
    }

    /// It cannot be started: there is no network for it.
    pub fn without_network(self: &Arc<Self>, around: &Surroundings, reason: &str) -> Ended {
        self.set(around, VmState::Failed, reason, &[]);
        Ended::Failed { reason: reason.to_owned(), retryable: true }
    }

    /// Starts it and waits until its guest runs with its settings, or failed. Whatever an earlier life left is removed
    /// first.
    pub async fn start(self: &Arc<Self>, around: &Arc<Surroundings>) -> Ended {
        let _gate = self.gate.lock().await;
        match self.state() {
            VmState::Running | VmState::Paused => return Ended::AlreadySo,
            VmState::Starting | VmState::Booting if self.machine().is_some() => return self.settled().await,
            _ => {}
        }
        locked(&self.view).ran = false;
        self.set(around, VmState::Starting, "", &[]);
        match self.launch(around).await {
            Ok(machine) => {
                locked(&self.view).starts += 1;
                self.set(around, VmState::Booting, "", &[]);
                self.live(around, machine, Instant::now());
                self.settled().await
            }
            Err(error) => self.fail(around, &error.to_string(), &[], error.is_retryable()),
        }
    }

    async fn launch(&self, around: &Surroundings) -> Result<Machine, StartError> {
        // The template that its last life came from serves the next one.
        let _kept = around.vms.expect([]);
        let taps = self.make_way(around).await?;
        let machine = around.vms.launch(self.wanted().spec.clone(), taps).await?;
        if let Some(warning) = machine.warning() {
            around.hub.event("vm.warning", &around.experiment, &self.name, warning);
        }
        Ok(machine)
    }

    /// Removes what is left of an earlier life, and opens the taps for the next one.
    async fn make_way(&self, around: &Surroundings) -> Result<Vec<OwnedFd>, StartError> {
        self.end(around).await?;
        let wanted = self.wanted();
        let mut taps = Vec::with_capacity(wanted.vm.ports.len());
        for port in &wanted.vm.ports {
            taps.push(around.network.open_tap(port).await?);
        }
        Ok(taps)
    }

    /// Ends its process, if there is one, and removes all that is left of it. Its follower, who would write about the end,
    /// is sent home first.
    async fn end(&self, around: &Surroundings) -> Result<(), fleet_vm::RemoveError> {
        let life = locked(&self.life).take();
        // By the handle that watches it: a second one would have a watcher of its own, and the first would write down
        // how this process ended when the next one has the folder.
        let machine = life.as_ref().map(|life| life.machine.clone());
        drop(life);
        match machine {
            Some(machine) => machine.remove().await,
            None => around.vms.remove(&around.experiment, &self.name).await,
        }
    }

    /// Goes on with a VM that an earlier agent started. It is BOOTING until its guest has answered; that it runs since
    /// its process does is the best that is known.
    pub fn adopt(self: &Arc<Self>, around: &Arc<Surroundings>, machine: Machine) {
        around.hub.event("vm.adopted", &around.experiment, &self.name, "");
        let age = uptime().saturating_sub(machine.started());
        {
            let mut view = locked(&self.view);
            view.state = VmState::Booting;
            view.since_ms = now_ms().saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
            view.starts = 1;
            view.adopted = true;
        }
        self.state.send_replace(VmState::Booting);
        self.live(around, machine, Instant::now());
        around.hub.move_on();
    }

    /// Goes on with what is left of a VM that ended while no agent watched.
    pub fn adopt_ended(self: &Arc<Self>, around: &Arc<Surroundings>, exit: &VmExit) {
        let dir = around.vms.paths(&around.experiment, &self.name).dir;
        if dir.join(STOPPED_MARK).exists() {
            self.set(around, VmState::Stopped, "", &[]);
        } else {
            // Whether it came to run nobody knows; what did not, its experiment's apply starts again.
            locked(&self.view).ran = true;
            self.over(around, exit);
        }
    }

    /// Follows a process in a task of its own.
    fn live(self: &Arc<Self>, around: &Arc<Surroundings>, machine: Machine, since: Instant) {
        let (slot, around, watched) = (Arc::clone(self), Arc::clone(around), machine.clone());
        let task = tokio::spawn(async move { slot.follow(&around, &watched, since).await }).abort_handle();
        *locked(&self.life) = Some(Life { machine, task });
    }

    /// Gives a running guest its new settings without a restart.
    pub async fn reconfigure(&self) -> Ended {
        let _gate = self.gate.lock().await;
        let Some(machine) = self.machine() else { return Ended::AlreadySo };
        match self.settle(&machine).await {
            Ok(()) => Ended::Ok,
            Err(reason) => Ended::Failed { reason, retryable: true },
        }
    }

    /// Waits until the present life came to RUNNING or ended.
    async fn settled(&self) -> Ended {
        let mut state = self.state.subscribe();
        let waiting = |state: &VmState| !matches!(state, VmState::Starting | VmState::Booting);
        // The sender lives in the slot: the channel cannot close while we wait.
        drop(state.wait_for(waiting).await.map(|state| *state));
        let view = locked(&self.view);
        match view.state {
            VmState::Running | VmState::Paused => Ended::Ok,
            VmState::Failed | VmState::Pending => {
                Ended::Failed { reason: with_lines(&view.failure, &view.last_lines), retryable: true }
            }
            _ => Ended::Failed { reason: "it was stopped while it came up".into(), retryable: true },
        }
    }

    /// It could not be ended: a start is of no use.
    fn stuck(&self, around: &Surroundings, reason: &str, retryable: bool) -> Ended {
        self.set(around, VmState::Failed, reason, &[]);
        Ended::Failed { reason: reason.to_owned(), retryable }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.no_more_tries();
    }
}

/// "running": a state as `ps` has it.
fn word(state: VmState) -> String {
    state.as_str_name().trim_start_matches("VM_STATE_").to_lowercase()
}

/// "uml", "qemu/tcg".
pub fn hypervisor_text(spec: &VmSpec) -> String {
    match spec.accelerator {
        Some(accelerator) => format!("{}/{}", spec.hypervisor, accelerator.as_str()),
        None => spec.hypervisor.clone(),
    }
}

/// Why a VM's process could not be made.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Vm(#[from] VmError),
    #[error(transparent)]
    Net(#[from] fleet_net::NetError),
    #[error("what an earlier life left could not be removed: {0}")]
    Remove(#[from] fleet_vm::RemoveError),
}

impl StartError {
    fn is_retryable(&self) -> bool {
        match self {
            StartError::Vm(error) => error.is_retryable(),
            StartError::Net(_) | StartError::Remove(_) => true,
        }
    }
}

/// Since the host's boot.
fn uptime() -> Duration {
    let boottime = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
    boottime.map_or(Duration::ZERO, Duration::from)
}
