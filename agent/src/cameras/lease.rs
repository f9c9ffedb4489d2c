//! The task of one lease: it takes orders, sees what becomes of camera and VM, notes where the lease is, and acts.
//!
//! ```text
//!   orders ─────────────┐
//!   sights of camera ───┤                       record first
//!   states of VMs ──────┼──► Course, Keeper ──► then the act ──► bring / take out ──┐
//!   conversation ended ─┤                                                           │
//!   time to try again ──┘ ◄──────────── done, or why not ───────────────────────────┘
//! ```
//!
//! One act at a time: a newer order drops the one under way, which is undone by the VM's own task, and QEMU takes them in
//! turn. What was in the VM and got lost is tried again for as long as the lease is, with growing waits; whatever changes
//! meanwhile is tried at once. The task ends with the lease, or with the agent: then the VM keeps what QEMU has by itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fleet_proto::v1::{CameraLease, CameraSample, CameraState, VmState};
use fleet_usb::lease::{Act, CameraId, Event, Order, Phase};
use futures::StreamExt;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::bring::{Bring, Brought, Relay, bring, device_id};
use super::course::{Course, Visible};
use super::meter::Meter;
use super::port::{Port, Vms};
use super::refusal::Refusal;
use super::source::{Seen, Sight, Source};
use super::store::{Record, Store};
use crate::hub::{Hub, now_ms};
use crate::membership::Waits;

/// Orders that wait for their turn.
const ORDERS: usize = 16;
/// A camera that was in its VM for so long was there in good order: the next failure is the first one.
const CLEAN_SLATE: Duration = Duration::from_secs(10);

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
        let course = Task {
            id: device_id(&record.camera.host, &record.camera.camera),
            around: around.clone(),
            moved: around.vms.moved(),
            record,
            source,
            shown,
            meter,
            course: Course::default(),
            seen: seen.map(Seen::As),
            port: None,
            vm_state: None,
            acting: None,
            relay: None,
            attached_at: Instant::now(),
            waiting: Vec::new(),
            why: None,
            failed: None,
            ending: None,
            again: None,
            broken: false,
            waits: Waits::default(),
        };
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
        let (to_guest_bytes, from_guest_bytes) = self.meter.read();
        (to_guest_bytes + from_guest_bytes > 0).then(|| CameraSample {
            host: vm_host.to_owned(),
            camera_host: self.camera.host.clone(),
            camera: self.camera.camera.clone(),
            experiment: self.experiment.clone(),
            vm: self.vm.clone(),
            to_guest_bytes,
            from_guest_bytes,
        })
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

/// What an act came to.
enum Acted {
    Brought(Result<Brought, Refusal>),
    Out(Result<(), String>),
}

/// What the task owns.
struct Task {
    id: String,
    around: Around,
    moved: watch::Receiver<u64>,
    record: Record,
    source: Arc<dyn Source>,
    shown: Arc<Mutex<(Shown, u64)>>,
    meter: Arc<Meter>,
    course: Course,
    /// What was heard of the camera last; nothing yet.
    seen: Option<Seen>,
    port: Option<Arc<dyn Port>>,
    /// `None`: there is no such VM.
    vm_state: Option<VmState>,
    acting: Option<(Order, BoxFuture<'static, Acted>)>,
    relay: Option<Relay>,
    attached_at: Instant,
    /// Who waits for an answer, and whether for its coming (or for its going).
    waiting: Vec<(bool, oneshot::Sender<Result<(), Refusal>>)>,
    /// Why it is not in its VM.
    why: Option<Refusal>,
    /// How its first attach failed.
    failed: Option<Refusal>,
    /// It is about to end, for this reason; not by an order to detach it.
    ending: Option<String>,
    /// When it is tried again.
    again: Option<Instant>,
    /// The conversation broke: it is not looked at again before `again`.
    broken: bool,
    waits: Waits,
}

impl Task {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>, restored: bool) {
        let mut sights = self.source.sights();
        if restored {
            // How a first attach ended nobody knows: it is meant to be there.
            self.record.first = false;
            self.look_at_vm();
            // What a camera of this host is like is known at once; another host is heard of in a while.
            if let Some(Some(seen)) = futures::FutureExt::now_or_never(sights.next()) {
                self.seen = Some(seen);
            }
            self.restart().await;
        }
        loop {
            self.look();
            self.answer();
            self.show();
            if self.record.keeper.phase() == Phase::Ended {
                return self.end();
            }
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.command(command),
                    // The list and whoever orders hold the other end; they end this task first.
                    None => return,
                },
                seen = sights.next() => match seen {
                    Some(seen) => self.sight(seen),
                    None => return,
                },
                moved = self.moved.changed() => {
                    if moved.is_err() {
                        return;
                    }
                }
                (order, acted) = acted(&mut self.acting) => {
                    self.acting = None;
                    self.acted(order, acted);
                }
                reason = relay_ended(&mut self.relay) => {
                    self.relay = None;
                    self.broke(&reason);
                }
                () = due(self.again) => {
                    self.again = None;
                    self.broken = false;
                    self.try_again();
                }
            }
        }
    }

    /// Goes on with what an earlier agent has begun.
    async fn restart(&mut self) {
        let devices = match &self.port {
            Some(port) => port.devices().await,
            None => Ok(Vec::new()),
        };
        let in_vm = match devices {
            Ok(devices) => devices.contains(&self.id),
            Err(reason) => {
                tracing::warn!(camera = self.record.label, reason, "what its VM has of a camera is not known");
                true
            }
        };
        // Sets what is compared with from now on.
        let now = self.visible();
        let _ = self.course.see(&self.record.keeper, now);
        self.step(Event::Restarted { present: now.map(|now| now.persona), in_vm });
    }

    fn look_at_vm(&mut self) {
        let vm = self.around.vms.vm(&self.record.experiment, &self.record.vm);
        self.vm_state = vm.as_ref().map(|vm| vm.state);
        self.port = vm.and_then(|vm| vm.port);
    }

    /// What could be brought where now.
    fn visible(&self) -> Option<Visible> {
        let port = self.port.as_ref()?;
        // A process that had it before is up, though this agent has not heard of its guest yet.
        let ready = match self.vm_state? {
            VmState::Running | VmState::Paused => true,
            VmState::Booting => self.record.pid == Some(port.pid()),
            _ => false,
        };
        let sight = self.present().filter(|_| ready && !self.broken)?;
        Some(Visible { persona: sight.persona, plugged: sight.plugged, pid: port.pid() })
    }

    fn present(&self) -> Option<&Sight> {
        match &self.seen {
            Some(Seen::As(sight)) if sight.present => Some(sight),
            _ => None,
        }
    }

    /// Compares with what was so before, and goes on from there.
    fn look(&mut self) {
        self.look_at_vm();
        let now = self.visible();
        // One that nobody has brought anywhere waits for its first order.
        if self.record.first && self.record.keeper.phase() == Phase::Leased && self.acting.is_none() {
            let _ = self.course.see(&self.record.keeper, now);
            return;
        }
        if let Some(event) = self.course.see(&self.record.keeper, now) {
            if matches!(event, Event::Gone | Event::Attach(None)) {
                self.why = None;
                self.waits.reset();
            }
            self.step(event);
        }
    }

    fn sight(&mut self, seen: Seen) {
        if let Seen::Over(reason) = &seen {
            self.finish(reason.clone(), None);
        }
        let before = self.seen.replace(seen);
        let plugged = |seen: &Option<Seen>| match seen {
            Some(Seen::As(sight)) if sight.present => Some((sight.plugged, sight.obstacle.clone())),
            _ => None,
        };
        let now = plugged(&self.seen);
        // Another plugging in, or what was in the way has gone: no reason to wait.
        if now.is_some() && now != plugged(&before) {
            self.broken = false;
            if self.again.is_some() {
                self.again = Some(Instant::now());
            }
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Attach(answer) => {
                self.waiting.push((true, answer));
                self.why = None;
                self.again = None;
                self.broken = false;
                self.look_at_vm();
                let now = self.visible();
                let _ = self.course.see(&self.record.keeper, now);
                self.step(Event::Attach(now.map(|now| now.persona)));
            }
            Command::Detach { hold, answer } => {
                self.waiting.push((false, answer));
                self.why = None;
                self.step(Event::Detach { hold });
            }
            Command::End(reason, answer) => self.finish(reason, Some(answer)),
        }
    }

    /// The lease is over.
    fn finish(&mut self, reason: String, answer: Option<oneshot::Sender<Result<(), Refusal>>>) {
        self.waiting.extend(answer.map(|answer| (false, answer)));
        if self.ending.is_none() {
            self.ending = Some(reason);
            self.step(Event::Detach { hold: false });
        }
    }

    fn try_again(&mut self) {
        match self.record.keeper.phase() {
            Phase::Leased if !self.record.first => {
                let now = self.visible();
                let _ = self.course.see(&self.record.keeper, now);
                self.step(Event::Attach(now.map(|now| now.persona)));
            }
            Phase::Detaching { hold } => self.step(Event::Detach { hold }),
            // What broke is looked at again.
            _ => {}
        }
    }

    fn broke(&mut self, reason: &str) {
        if self.attached_at.elapsed() >= CLEAN_SLATE {
            self.waits.reset();
        }
        self.broken = true;
        self.again = Some(Instant::now() + self.waits.next());
        let event = self.course.broke();
        self.why = Some(Refusal::Broke { camera: self.record.label.clone(), reason: reason.to_owned() });
        self.step(event);
    }

    fn acted(&mut self, order: Order, acted: Acted) {
        match acted {
            Acted::Brought(Ok(brought)) => {
                self.relay = brought.relay;
                self.attached_at = Instant::now();
                self.record.first = false;
                self.record.pid = self.port.as_ref().map(|port| port.pid());
                self.why = None;
                let kind = match (brought.found, self.waiting.iter().any(|(coming, _)| *coming)) {
                    (true, _) => "camera.adopted",
                    (false, true) => "camera.attached",
                    (false, false) => "camera.reattached",
                };
                self.step_quietly(Event::Attached(order.number));
                let said = if brought.found { "was found in its VM" } else { "is in its VM" };
                self.event(kind, said);
            }
            Acted::Brought(Err(refusal)) => {
                // Told once, however often it is tried.
                if self.why.as_ref() != Some(&refusal) {
                    self.event("camera.refused", &refusal.to_string());
                }
                self.why = Some(refusal);
                self.step_quietly(Event::Failed(order.number));
                self.again = Some(Instant::now() + self.waits.next());
            }
            Acted::Out(Ok(())) => self.step(Event::Detached(order.number)),
            Acted::Out(Err(reason)) => {
                tracing::warn!(camera = self.record.label, reason, "a camera could not be taken out of its VM");
                if matches!(self.record.keeper.phase(), Phase::Detaching { .. }) {
                    self.why = Some(Refusal::Vm(reason));
                    self.again = Some(Instant::now() + self.waits.next());
                }
            }
        }
    }

    fn step(&mut self, event: Event) {
        let before = self.record.keeper.phase();
        self.step_quietly(event);
        let now = self.record.keeper.phase();
        if before != now && !matches!(event, Event::Restarted { .. }) {
            self.tell(now);
        }
    }

    /// Takes an event in, notes the outcome, and begins what is to be done.
    fn step_quietly(&mut self, event: Event) {
        let mut keeper = self.record.keeper.clone();
        let order = match keeper.step(keeper.epoch, event) {
            Ok(order) => order,
            Err(error) => {
                self.why = Some(Refusal::Ended(error.to_string()));
                return;
            }
        };
        let before = self.record.clone();
        if keeper.phase() != self.record.keeper.phase() {
            self.record.since_ms = now_ms();
        }
        self.record.keeper = keeper;
        // Noted when it ends, by being forgotten.
        if self.record.keeper.phase() != Phase::Ended
            && self.record != before
            && let Err(error) = self.around.store.put(&self.record)
        {
            tracing::error!(camera = self.record.label, %error, "a lease cannot be noted");
            // Nothing is brought anywhere that is not on record; what goes, goes all the same.
            if order.is_some_and(|order| order.act == Act::Attach) {
                self.record = before;
                self.why = Some(Refusal::Store(error.to_string()));
                self.again = Some(Instant::now() + self.waits.next());
                return;
            }
        }
        if let Some(order) = order {
            self.begin(order);
        }
    }

    fn begin(&mut self, order: Order) {
        let relay = self.relay.take();
        let port = self.port.clone();
        let id = self.id.clone();
        let act: BoxFuture<'static, Acted> = match order.act {
            Act::Attach => {
                let usb_id = self.present().map_or(self.record.usb_id, |sight| sight.usb_id);
                let (source, persona) = (Arc::clone(&self.source), self.record.keeper.persona);
                let (vm, camera, meter) = (self.record.holder(), self.record.label.clone(), Arc::clone(&self.meter));
                let down = Refusal::VmDown { vm: vm.clone(), state: word(self.vm_state) };
                Box::pin(async move {
                    if let Some(relay) = relay {
                        relay.end().await;
                    }
                    let Some(port) = port else { return Acted::Brought(Err(down)) };
                    Acted::Brought(bring(Bring { port, source, id, persona, usb_id, vm, camera, meter }).await)
                })
            }
            Act::Detach => Box::pin(async move {
                if let Some(relay) = relay {
                    relay.end().await;
                }
                // A VM without a process has nothing.
                Acted::Out(match port {
                    Some(port) => port.unplug(&id).await,
                    None => Ok(()),
                })
            }),
        };
        self.acting = Some((order, act));
    }

    /// Tells whoever waits, when there is something to tell.
    fn answer(&mut self) {
        let phase = self.record.keeper.phase();
        if phase == Phase::Ended {
            return; // when nothing of it is left
        }
        let here = match phase {
            Phase::Attached => Some(Ok(())),
            Phase::WrongMode(now) => {
                let (camera, lent) = (self.record.label.clone(), self.record.keeper.persona);
                Some(Err(Refusal::WrongMode { camera, now, lent }))
            }
            Phase::Lost => Some(Err(self.lost())),
            Phase::Detaching { .. } if self.record.first => None,
            Phase::Leased | Phase::Detaching { .. } => self.why.clone().map(Err),
            Phase::Held => Some(Err(Refusal::Ended("it is held".to_owned()))),
            Phase::Attaching | Phase::Reattaching | Phase::Ended => None,
        };
        let gone = match phase {
            Phase::Held => Some(Ok(())),
            Phase::Detaching { .. } => self.why.clone().map(Err),
            // An attach that came after it.
            Phase::Attaching | Phase::Attached => Some(Err(Refusal::Ended("it was attached again".to_owned()))),
            _ => None,
        };
        // A lease that begins with a failure is none.
        if self.record.first
            && matches!(phase, Phase::Leased | Phase::Lost | Phase::WrongMode(_))
            && let Some(Err(refusal)) = here
        {
            self.again = None;
            self.finish(refusal.to_string(), None);
            self.failed = Some(refusal);
            return;
        }
        let mut keep = Vec::new();
        for (coming, answer) in self.waiting.drain(..) {
            match if coming { &here } else { &gone } {
                // Who has gone needs no answer.
                Some(outcome) => drop(answer.send(outcome.clone())),
                None => keep.push((coming, answer)),
            }
        }
        self.waiting = keep;
    }

    /// Why it is lost.
    fn lost(&self) -> Refusal {
        let (vm, camera) = (self.record.holder(), self.record.label.clone());
        match (self.vm_state, &self.seen) {
            (None, _) => Refusal::NoVm { vm },
            (Some(state), _) if self.port.is_none() || !matches!(state, VmState::Running | VmState::Paused) => {
                Refusal::VmDown { vm, state: word(Some(state)) }
            }
            (_, Some(Seen::Unreached(refusal))) => refusal.clone(),
            (_, Some(Seen::As(sight))) if sight.present => match &self.why {
                Some(why) => why.clone(),
                None => Refusal::Broke { camera, reason: "its VM or it was gone for a moment".to_owned() },
            },
            (_, None) => Refusal::Unreached {
                host: self.record.camera.host.clone(),
                reason: "it has not been heard of yet".to_owned(),
            },
            _ => Refusal::Absent { host: self.record.camera.host.clone(), camera },
        }
    }

    fn show(&mut self) {
        let why = |why: &Option<Refusal>| why.as_ref().map(ToString::to_string).unwrap_or_default();
        let (state, detail) = match self.record.keeper.phase() {
            Phase::Leased => {
                let state = self.why.as_ref().map_or(CameraState::Leased, Refusal::state);
                (state, why(&self.why))
            }
            Phase::Attaching => (CameraState::Attaching, String::new()),
            Phase::Attached => (CameraState::Attached, String::new()),
            Phase::Lost => (CameraState::Lost, self.lost().to_string()),
            Phase::Reattaching => (CameraState::Reattaching, String::new()),
            Phase::WrongMode(now) => {
                let (camera, lent) = (self.record.label.clone(), self.record.keeper.persona);
                (CameraState::WrongMode, Refusal::WrongMode { camera, now, lent }.to_string())
            }
            Phase::Detaching { .. } | Phase::Ended => (CameraState::Detaching, why(&self.why)),
            Phase::Held => (CameraState::Held, "kept out of its VM; attach it again to bring it back".to_owned()),
        };
        *locked(&self.shown) = (Shown { state, detail }, self.record.since_ms);
    }

    /// The events of a new phase.
    fn tell(&self, phase: Phase) {
        let (kind, said) = match phase {
            Phase::Attaching => ("camera.attaching", String::new()),
            Phase::Reattaching => ("camera.reattaching", String::new()),
            Phase::Lost => ("camera.lost", self.lost().to_string()),
            Phase::WrongMode(now) => {
                let (camera, lent) = (self.record.label.clone(), self.record.keeper.persona);
                ("camera.wrong-mode", Refusal::WrongMode { camera, now, lent }.to_string())
            }
            Phase::Detaching { .. } => ("camera.detaching", String::new()),
            Phase::Held => ("camera.held", "it is kept out of its VM".to_owned()),
            // Told with their reasons where they come about.
            Phase::Leased | Phase::Attached | Phase::Ended => return,
        };
        self.event(kind, &said);
    }

    fn event(&self, kind: &str, said: &str) {
        let Record { camera, experiment, vm, label, .. } = &self.record;
        let of = if label.contains(&camera.camera) { label.clone() } else { format!("{label} ({})", camera.camera) };
        let message = format!("{of} of host {}", camera.host);
        let message = if said.is_empty() { message } else { format!("{message}: {said}") };
        self.around.hub.event(kind, experiment, vm, &message);
    }

    /// Nothing of it is left.
    fn end(mut self) {
        let (camera, epoch) = (&self.record.camera, self.record.keeper.epoch);
        if let Err(error) = self.around.store.remove(camera, epoch, self.ending.is_none()) {
            tracing::error!(camera = self.record.label, %error, "that a lease is over cannot be noted");
        }
        {
            let mut leases = locked(&self.around.leases);
            if leases.get(camera).is_some_and(|lease| lease.epoch == epoch) {
                leases.remove(camera);
            }
        }
        match &self.ending {
            // It never was one.
            Some(_) if self.record.first => {}
            Some(reason) => self.event("camera.released", reason),
            None => self.event("camera.detached", "it can be lent again"),
        }
        let why = self.ending.clone().unwrap_or_else(|| "it was detached".to_owned());
        let why = self.failed.clone().unwrap_or(Refusal::Ended(why));
        for (coming, answer) in self.waiting.drain(..) {
            drop(answer.send(if coming { Err(why.clone()) } else { Ok(()) }));
        }
    }
}

/// "stopped": a state of a VM in a word.
pub fn word(state: Option<VmState>) -> String {
    state.map_or_else(|| "gone".to_owned(), |state| state.as_str_name().trim_start_matches("VM_STATE_").to_lowercase())
}

/// The end of the act under way; never, when there is none.
async fn acted(acting: &mut Option<(Order, BoxFuture<'static, Acted>)>) -> (Order, Acted) {
    match acting {
        Some((order, act)) => (*order, act.await),
        None => std::future::pending().await,
    }
}

/// The end of the conversation; never, when there is none.
async fn relay_ended(relay: &mut Option<Relay>) -> String {
    match relay {
        Some(relay) => relay.ended().await,
        None => std::future::pending().await,
    }
}

/// When it is time; never, without a time.
async fn due(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
