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

mod tell;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use fleet_proto::v1::VmState;
use fleet_usb::lease::{Act, Event, Order, Phase};
use futures::StreamExt;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::{Around, Command, Shown, word};
use crate::cameras::bring::{Bring, Brought, Relay, bring, device_id};
use crate::cameras::course::{Course, Visible};
use crate::cameras::meter::Meter;
use crate::cameras::port::Port;
use crate::cameras::refusal::Refusal;
use crate::cameras::source::{Seen, Sight, Source};
use crate::cameras::store::Record;
use crate::hub::now_ms;
use crate::membership::Waits;

/// A camera that was in its VM for so long was there in good order: the next failure is the first one.
const CLEAN_SLATE: Duration = Duration::from_secs(10);

/// What an act came to.
enum Acted {
    Brought(Result<Brought, Refusal>),
    Out(Result<(), String>),
}

/// What the task owns.
pub(super) struct Task {
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

/// What readers of a lease see.
pub(super) struct Told {
    pub(super) shown: Arc<Mutex<(Shown, u64)>>,
    pub(super) meter: Arc<Meter>,
}

impl Task {
    /// The task of a lease that is on record.
    pub(super) fn new(
        around: &Around,
        record: Record,
        source: Arc<dyn Source>,
        told: Told,
        seen: Option<Sight>,
    ) -> Self {
        let Told { shown, meter } = told;
        Self {
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
        }
    }

    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>, restored: bool) {
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
        self.measure();
        if self.attached_at.elapsed() >= CLEAN_SLATE {
            self.waits.reset();
        }
        self.broken = true;
        self.again = Some(Instant::now() + self.waits.next());
        let event = self.course.broke();
        self.why = Some(Refusal::Broke(reason.to_owned()));
        self.step(event);
    }

    fn acted(&mut self, order: Order, acted: Acted) {
        match acted {
            Acted::Brought(Ok(brought)) => {
                self.relay = brought.relay;
                self.measure();
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
        if relay.is_some() {
            self.measure();
        }
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
