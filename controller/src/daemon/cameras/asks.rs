//! What users ask: attach, detach; and what `up` says of VMs that need a camera.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use fleet_proto::v1::{AttachCameraRequest, CameraOutcome, CameraState, DetachCameraRequest, OpHeader, Outcome};
use fleet_usb::lease::{CameraId, Lease, LeaseError};

use super::act::{ATTACH, new_op};
use super::error::CameraError;
use super::ledger::LedgerError;
use super::locks::Held;
use super::picture::{Picture, holder, in_words, parts, stands_in_the_way};
use super::plan::free;
use super::word::{called, candidate, far_video, find};
use super::{Cameras, locked, state_word};
use crate::daemon::fleet::{Place, Wish};

/// How long a user waits for what is under way with a camera.
const TURN: Duration = Duration::from_secs(30);
/// Cameras, or VMs that need one, that are told one by one.
const LISTED: usize = 8;
/// How long an `up` waits for the cameras of its VMs.
const UP: Duration = Duration::from_secs(30);
/// Stands for each class of cameras.
const ANY: &str = "camera";
const CLASSES: [&str; 4] = [ANY, "ptp", "uvc", "mass-storage"];

/// A VM that is to have a camera.
struct Vm {
    holder: String,
    host: String,
    /// As users name it.
    name: String,
}

/// How it stands with the camera that a VM needs.
struct Standing {
    /// The VM has one.
    has: bool,
    /// There is nothing to wait for.
    settled: bool,
    text: String,
}

impl Standing {
    fn without(settled: bool, text: String) -> Self {
        Self { has: false, settled, text }
    }
}

/// A camera that a user may have, and nobody else touches now.
struct Chosen {
    camera: CameraId,
    /// In words.
    called: String,
    lease: Option<Lease>,
    _held: Held,
}

impl Cameras {
    /// Lends a camera to a VM and brings it there. A caller that goes away stops nothing.
    ///
    /// # Errors
    /// When it is refused, does not succeed, or its end is not known.
    pub async fn attach(self: &Arc<Self>, request: AttachCameraRequest) -> Result<CameraOutcome, CameraError> {
        let cameras = Arc::clone(self);
        let work = self.tasks.spawn(async move { cameras.attach_now(request).await });
        work.await.unwrap_or(Err(CameraError::Ending))
    }

    /// Ends leases, or holds their cameras out of their VMs.
    ///
    /// # Errors
    /// When nothing has that name, or a host could not take a camera out.
    pub async fn detach(self: &Arc<Self>, request: DetachCameraRequest) -> Result<CameraOutcome, CameraError> {
        let cameras = Arc::clone(self);
        let work = self.tasks.spawn(async move { cameras.detach_now(request).await });
        work.await.unwrap_or(Err(CameraError::Ending))
    }

    async fn attach_now(self: Arc<Self>, request: AttachCameraRequest) -> Result<CameraOutcome, CameraError> {
        let AttachCameraRequest { op, camera: word, any, vm, steal, timeout_ms } = request;
        match (word.is_empty(), any.is_empty()) {
            (true, true) => return Err(CameraError::Request("no camera")),
            (false, false) => return Err(CameraError::Request("a camera and a class")),
            (true, false) if !CLASSES.contains(&any.as_str()) => return Err(CameraError::Class(any)),
            _ => {}
        }
        let (experiment, name, host) = self.fleet.resolve_one(&vm).map_err(CameraError::Target)?;
        let vm = Vm { holder: holder(&experiment, &name), host, name: format!("{experiment}.{name}") };
        if self.fleet.is_without_usb(&experiment, &name) {
            return Err(CameraError::NoUsb { vm: vm.name });
        }
        self.look_at(None).await;
        let picture = locked(&self.picture).clone();
        if !picture.answers(&vm.host) {
            return Err(CameraError::Silent { host: vm.host, of: vm.name });
        }
        let chosen = if any.is_empty() {
            let found = self.named(&picture, &word);
            match found.as_slice() {
                [] => return Err(CameraError::NoCamera { word, there: self.there(&picture) }),
                [camera] => self.take(&picture, camera.clone(), &vm).await?,
                several => return Ok(self.ambiguous(&picture, several)),
            }
        } else {
            self.take_any(&picture, &any, &vm)?
        };
        let op = op.map(|OpHeader { op_id, .. }| op_id).filter(|id| !id.is_empty()).unwrap_or_else(new_op);
        let within = if timeout_ms == 0 { ATTACH } else { Duration::from_millis(timeout_ms.into()) };
        self.attach_chosen(&op, chosen, &vm, steal, within).await
    }

    /// The cameras that a user means.
    fn named(&self, picture: &Picture, word: &str) -> Vec<CameraId> {
        let ledger = self.book.now();
        find(picture, ledger.leases.iter().map(|(id, _)| id), word)
    }

    fn ambiguous(&self, picture: &Picture, several: &[CameraId]) -> CameraOutcome {
        let ledger = self.book.now();
        let holder = |id: &CameraId| ledger.leases.get(id).map(|lease| in_words(&lease.holder));
        let candidates = several.iter().map(|id| candidate(picture, id, holder(id).as_deref()));
        CameraOutcome { candidates: candidates.collect(), ..CameraOutcome::default() }
    }

    /// What there is, for whoever named what is not.
    fn there(&self, picture: &Picture) -> String {
        let there: Vec<CameraId> =
            picture.cameras().filter(|(id, _)| picture.answers(&id.host)).map(|(id, _)| id).collect();
        if there.is_empty() {
            return "no host that answers has a camera; `fleet usb watch` shows when one is plugged in".to_owned();
        }
        let mut names: Vec<String> = there.iter().take(LISTED).map(|id| called(picture, id)).collect();
        if there.len() > LISTED {
            names.push(format!("{} more", there.len() - LISTED));
        }
        format!("there are: {} (`fleet usb ls`)", names.join(", "))
    }

    /// The camera that a user named, if it can be had at all.
    async fn take(&self, picture: &Picture, camera: CameraId, vm: &Vm) -> Result<Chosen, CameraError> {
        let called = called(picture, &camera);
        let Some(held) = self.locks.for_user(&camera, TURN).await else {
            return Err(CameraError::Busy { camera: called });
        };
        let lease = self.book.lease(&camera);
        let is_theirs = lease.as_ref().is_some_and(|lease| lease.holder == vm.holder);
        if !picture.answers(&camera.host) {
            return Err(CameraError::Silent { host: camera.host, of: called });
        }
        if !self.reaches(&vm.host, &camera.host) {
            return Err(CameraError::Unreachable { camera: called, vm: vm.name.clone() });
        }
        let seen = picture.camera(&camera).filter(|seen| seen.present);
        let Some(seen) = seen else { return Err(CameraError::Absent { camera: called }) };
        if stands_in_the_way(seen.state()) && !is_theirs {
            let (state, detail) = (state_word(seen.state()), seen.detail.clone());
            return Err(CameraError::Obstacle { camera: called, state, detail });
        }
        Ok(Chosen { camera, called, lease, _held: held })
    }

    /// Some free camera of a class, on the VM's host if there is one.
    fn take_any(&self, picture: &Picture, class: &str, vm: &Vm) -> Result<Chosen, CameraError> {
        let is_one = |id: &CameraId| class == ANY || picture.camera(id).is_some_and(|camera| camera.persona == class);
        let mut free: Vec<CameraId> = free(&self.book.now(), picture).filter(is_one).collect();
        free.retain(|id| self.reaches(&vm.host, &id.host));
        free.sort_by_key(|id| id.host != vm.host);
        // Whoever is at one is about to lend it.
        let mut untouched = free.into_iter().filter_map(|id| Some((self.locks.try_for_step(&id)?, id)));
        let taken = untouched.find(|(_, id)| self.book.lease(id).is_none());
        if let Some((held, camera)) = taken {
            return Ok(Chosen { called: called(picture, &camera), camera, lease: None, _held: held });
        }
        let class = if class == ANY { "camera".to_owned() } else { format!("{class} camera") };
        let all: Vec<CameraId> =
            picture.cameras().filter(|(id, _)| picture.answers(&id.host) && is_one(id)).map(|(id, _)| id).collect();
        let ledger = self.book.now();
        let lent = all.iter().filter(|id| ledger.leases.get(id).is_some()).count();
        let there = match (all.len(), lent) {
            (0, _) => "no host that answers has one".to_owned(),
            (all, lent) => format!("of {all}, {lent} are lent, and the others are not to be had now"),
        };
        Err(CameraError::NoneFree { class, there })
    }

    async fn attach_chosen(
        &self,
        op: &str,
        chosen: Chosen,
        vm: &Vm,
        steal: bool,
        within: Duration,
    ) -> Result<CameraOutcome, CameraError> {
        let Chosen { camera, called, lease: before, _held } = chosen;
        let mut notes: Vec<String> = far_video(&locked(&self.picture), &camera, &vm.host).into_iter().collect();
        let is_new = before.as_ref().is_none_or(|lease| lease.holder != vm.holder);
        let lease = match before {
            Some(lease) if !is_new => {
                if self.has(&camera, &lease, &vm.host) {
                    let cameras = self.views(&[camera]);
                    return Ok(CameraOutcome { cameras, already_so: true, ..CameraOutcome::default() });
                }
                let keeps = self.keeps(&camera, &lease, &vm.host);
                let told = self.book.change(|ledger| {
                    ledger.leases.hold(&camera, lease.epoch, false);
                    ledger.leases.send(&camera, lease.epoch, &vm.host, keeps)
                })?;
                told.unwrap_or(lease)
            }
            Some(lease) if !steal => {
                return Err(CameraError::Taken { camera: called, holder: in_words(&lease.holder) });
            }
            other => {
                if let Some(other) = &other {
                    notes.extend(self.take_from(op, &camera, other).await);
                }
                self.lend(&camera, &vm.holder, other.map_or(0, |lease| lease.epoch), steal, &vm.host)?
            }
        };
        let ended = self.bring(op, &camera, &lease, within).await;
        if ended.is_ok() {
            locked(&self.tries).done(&camera, &vm.holder);
        } else if is_new && ended.outcome != Outcome::Unknown {
            self.book.change(|ledger| Ok(ledger.leases.release(&camera, lease.epoch)))?;
        } else {
            self.note(&camera, &vm.holder, &ended);
        }
        self.look_at(Some(&[vm.host.as_str(), camera.host.as_str()])).await;
        self.woken.notify_one();
        match ended.outcome {
            _ if ended.is_ok() => {
                let cameras = self.views(&[camera]);
                Ok(CameraOutcome { cameras, notes, ..CameraOutcome::default() })
            }
            Outcome::Unknown => Err(CameraError::Unknown { camera: called, vm: vm.name.clone(), reason: ended.reason }),
            Outcome::NotReached => Err(CameraError::Silent { host: vm.host.clone(), of: vm.name.clone() }),
            _ => Err(CameraError::Failed { camera: called, vm: vm.name.clone(), reason: ended.reason }),
        }
    }

    /// Whether the VM of a lease has its camera, as the VM's host said just now.
    fn has(&self, camera: &CameraId, lease: &Lease, at: &str) -> bool {
        let picture = locked(&self.picture);
        let mut reports = picture.reports(camera);
        !lease.held
            && reports.any(|report| {
                report.vm_host == at && report.epoch == lease.epoch && report.state() == CameraState::Attached
            })
    }

    /// Takes a camera from whoever has it; what the user should know of that.
    async fn take_from(&self, op: &str, camera: &CameraId, lease: &Lease) -> Option<String> {
        let at = self.host_of(lease)?;
        let ended = self.take_out(&format!("{op}/steal"), camera, &at, lease.epoch, false).await;
        let from = in_words(&lease.holder);
        (!ended.is_ok()).then(|| {
            format!(
                "{from} was not told ({at}: {}): the camera is not given to it any more, and it is taken out there when {at} \
                 answers",
                ended.reason
            )
        })
    }

    /// The host that has to do with a lease.
    fn host_of(&self, lease: &Lease) -> Option<String> {
        let (experiment, vm) = parts(&lease.holder);
        let place = || match self.fleet.place(experiment, vm) {
            Place::On { host, .. } => Some(host),
            Place::Gone | Place::Nowhere => None,
        };
        if lease.at.is_empty() { place() } else { Some(lease.at.clone()) }
    }

    async fn detach_now(self: Arc<Self>, request: DetachCameraRequest) -> Result<CameraOutcome, CameraError> {
        let DetachCameraRequest { op, camera: word, hold } = request;
        self.look_at(None).await;
        let picture = locked(&self.picture).clone();
        let ledger = self.book.now();
        let named = self.named(&picture, &word);
        let lent: Vec<CameraId> = named.iter().filter(|id| ledger.leases.get(id).is_some()).cloned().collect();
        let targets = match (lent.as_slice(), named.as_slice()) {
            ([one], _) => vec![one.clone()],
            ([], []) => self.of_vms(&picture, &word)?,
            ([], _) => Vec::new(),
            (several, _) => return Ok(self.ambiguous(&picture, several)),
        };
        if targets.is_empty() {
            let cameras = self.views(&named);
            return Ok(CameraOutcome { cameras, already_so: true, ..CameraOutcome::default() });
        }
        let op = op.map(|OpHeader { op_id, .. }| op_id).filter(|id| !id.is_empty()).unwrap_or_else(new_op);
        let mut notes = Vec::new();
        let mut failed = None;
        for (number, camera) in targets.iter().enumerate() {
            match self.detach_one(&format!("{op}/{number}"), &picture, camera, hold).await {
                Ok(note) => notes.extend(note),
                // The others are seen to all the same; the first is told.
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        self.look_at(None).await;
        self.woken.notify_one();
        match failed {
            Some(error) => Err(error),
            None => Ok(CameraOutcome { cameras: self.views(&targets), notes, ..CameraOutcome::default() }),
        }
    }

    /// The cameras that the VMs of a target have.
    fn of_vms(&self, picture: &Picture, word: &str) -> Result<Vec<CameraId>, CameraError> {
        let found = self.fleet.resolve(word).map_err(|_| CameraError::Nothing {
            word: word.to_owned(),
            there: format!("{}; `fleet ps` lists VMs", self.there(picture)),
        })?;
        let vms: BTreeSet<String> =
            self.fleet.with_hosts(&found).into_iter().map(|(vm, _)| holder(&found.experiment, &vm)).collect();
        let ledger = self.book.now();
        Ok(ledger.leases.iter().filter(|(_, lease)| vms.contains(&lease.holder)).map(|(id, _)| id).collect())
    }

    async fn detach_one(
        &self,
        op: &str,
        picture: &Picture,
        camera: &CameraId,
        hold: bool,
    ) -> Result<Option<String>, CameraError> {
        let called = called(picture, camera);
        let Some(_held) = self.locks.for_user(camera, TURN).await else {
            return Err(CameraError::Busy { camera: called });
        };
        let Some(lease) = self.book.lease(camera) else { return Ok(None) };
        let wishes = self.fleet.wishes();
        let needs = wishes.iter().find(|wish| holder(&wish.experiment, &wish.vm) == lease.holder);
        self.book.change(|ledger| {
            if hold {
                ledger.leases.hold(camera, lease.epoch, true);
            } else {
                ledger.leases.release(camera, lease.epoch);
                ledger.waived.extend(needs.map(|wish| (lease.holder.clone(), wish.generation)));
            }
            Ok(())
        })?;
        let at = self.host_of(&lease);
        let vm = in_words(&lease.holder);
        let ended = match &at {
            // It is in no VM, and is kept out of it.
            Some(at) if hold && picture.answers(at) && !self.keeps(camera, &lease, at) => return Ok(None),
            Some(at) => self.take_out(op, camera, at, lease.epoch, hold).await,
            None => return Ok(None),
        };
        let at = at.unwrap_or_default();
        match ended.outcome {
            _ if ended.is_ok() => {
                locked(&self.tries).done(camera, &lease.holder);
                let waived = needs.filter(|_| !hold);
                Ok(waived.map(|_| format!("{vm} needs a camera, and gets none by itself until it is brought up anew")))
            }
            Outcome::NotReached => Ok(Some(format!(
                "{at} does not answer: it takes {called} out of {vm} when it is back; until then it cannot be given to it anew"
            ))),
            _ => {
                self.note(camera, &lease.holder, &ended);
                Err(CameraError::NotOut { camera: called, vm, reason: ended.reason })
            }
        }
    }

    /// Waits, not for long, until the VMs of an experiment that need a camera have one, and says of each how it stands.
    pub async fn settle(&self, experiment: &str) -> Vec<String> {
        let wishes =
            || -> Vec<Wish> { self.fleet.wishes().into_iter().filter(|wish| wish.experiment == experiment).collect() };
        if wishes().is_empty() {
            return Vec::new();
        }
        let mut changes = self.view.subscribe();
        let until = tokio::time::Instant::now() + UP;
        loop {
            changes.mark_unchanged();
            let told: Vec<Standing> = wishes().iter().map(|wish| self.stands(wish)).collect();
            let settled = told.iter().all(|standing| standing.settled);
            let changed = tokio::time::timeout_at(until, changes.changed());
            if settled || self.stop.is_cancelled() || !matches!(changed.await, Ok(Ok(()))) {
                return shortened(told.into_iter().map(|standing| standing.text).collect());
            }
        }
    }

    /// VMs that need a camera and have none, each with the reason; those of one experiment, or of all.
    pub fn waiting(&self, experiment: &str) -> Vec<String> {
        let wishes = self.fleet.wishes().into_iter();
        let wishes = wishes.filter(|wish| experiment.is_empty() || wish.experiment == experiment);
        let standings = wishes.map(|wish| self.stands(&wish)).filter(|standing| !standing.has);
        shortened(standings.map(|standing| standing.text).collect())
    }

    fn stands(&self, wish: &Wish) -> Standing {
        let vm = format!("{}.{}", wish.experiment, wish.vm);
        let holder = holder(&wish.experiment, &wish.vm);
        let ledger = self.book.now();
        let picture = locked(&self.picture).clone();
        let lent = ledger.leases.iter().find(|(_, lease)| lease.holder == holder);
        if let Some((id, _)) = lent {
            let state = self.views(std::slice::from_ref(&id)).pop().map(|view| (view.state(), view.detail));
            let (state, detail) = state.unwrap_or((CameraState::Leased, String::new()));
            let called = called(&picture, &id);
            let colon = if detail.is_empty() { "" } else { ": " };
            let text = match state {
                CameraState::Attached => format!("{vm} has {called}"),
                state => format!("{vm}: {called} is {}{colon}{detail}", state_word(state)),
            };
            let has = state == CameraState::Attached;
            return Standing { has, settled: has || stands_in_the_way(state), text };
        }
        if ledger.waived.get(&holder) == Some(&wish.generation) {
            let mend = format!("`fleet usb attach --any camera {vm}` gives it one");
            return Standing::without(true, format!("{vm} has no camera: it was detached; {mend}"));
        }
        if wish.up_on.is_none() {
            return Standing::without(true, format!("{vm} waits for a camera: its host has not brought it up"));
        }
        let trouble = locked(&self.tries).trouble_of(&holder);
        if let Some((id, reason)) = trouble {
            return Standing::without(true, format!("{vm} has no camera: {}: {reason}", called(&picture, &id)));
        }
        let none = free(&ledger, &picture).next().is_none();
        Standing::without(none, format!("{vm} waits for a camera: none is free; `fleet usb ls` shows them"))
    }
}

/// A few of many lines.
fn shortened(mut lines: Vec<String>) -> Vec<String> {
    let more = lines.len().saturating_sub(LISTED);
    if more > 0 {
        lines.truncate(LISTED);
        lines.push(format!("{more} more VMs need cameras; `fleet usb ls` shows which have one"));
    }
    lines
}

impl From<LeaseError> for CameraError {
    fn from(error: LeaseError) -> Self {
        Self::Ledger(LedgerError::Lease(error))
    }
}
