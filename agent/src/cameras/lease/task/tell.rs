//! What a lease says: answers to who waits, its state for readers, events.

use fleet_proto::v1::{CameraState, TelemetryBatch, VmState};
use fleet_usb::lease::Phase;

use super::Task;
use crate::cameras::lease::{Shown, locked, word};
use crate::cameras::refusal::Refusal;
use crate::cameras::source::Seen;
use crate::cameras::store::Record;
use crate::hub::now_ms;

impl Task {
    /// Tells whoever waits, when there is something to tell.
    pub(super) fn answer(&mut self) {
        let phase = self.record.keeper.phase();
        if phase == Phase::Ended {
            return; // when nothing of it is left
        }
        let here = match phase {
            Phase::Attached => Some(Ok(())),
            Phase::WrongMode(now) => Some(Err(Refusal::WrongMode { now, lent: self.record.keeper.persona })),
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
    pub(super) fn lost(&self) -> Refusal {
        let vm = self.record.holder();
        match (self.vm_state, &self.seen) {
            (None, _) => Refusal::NoVm { vm },
            (Some(state), _) if self.port.is_none() || !matches!(state, VmState::Running | VmState::Paused) => {
                Refusal::VmDown { vm, state: word(Some(state)) }
            }
            (_, Some(Seen::Unreached(refusal))) => refusal.clone(),
            (_, Some(Seen::As(sight))) if sight.present => match &self.why {
                Some(why) => why.clone(),
                None => Refusal::Broke("its VM or it was gone for a moment".to_owned()),
            },
            (_, None) => Refusal::Unreached {
                host: self.record.camera.host.clone(),
                reason: "it has not been heard of yet".to_owned(),
            },
            _ => Refusal::Absent { host: self.record.camera.host.clone() },
        }
    }

    pub(super) fn show(&mut self) {
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
                let lent = self.record.keeper.persona;
                (CameraState::WrongMode, Refusal::WrongMode { now, lent }.to_string())
            }
            Phase::Detaching { .. } | Phase::Ended => (CameraState::Detaching, why(&self.why)),
            Phase::Held => (CameraState::Held, "kept out of its VM; attach it again to bring it back".to_owned()),
        };
        *locked(&self.shown) = (Shown { state, detail }, self.record.since_ms);
    }

    /// The events of a new phase.
    pub(super) fn tell(&self, phase: Phase) {
        let (kind, said) = match phase {
            Phase::Attaching => ("camera.attaching", String::new()),
            Phase::Reattaching => ("camera.reattaching", String::new()),
            Phase::Lost => ("camera.lost", self.lost().to_string()),
            Phase::WrongMode(now) => {
                let lent = self.record.keeper.persona;
                ("camera.wrong-mode", Refusal::WrongMode { now, lent }.to_string())
            }
            Phase::Detaching { .. } => ("camera.detaching", String::new()),
            Phase::Held => ("camera.held", "it is kept out of its VM".to_owned()),
            // Told with their reasons where they come about.
            Phase::Leased | Phase::Attached | Phase::Ended => return,
        };
        self.event(kind, &said);
    }

    pub(super) fn event(&self, kind: &str, said: &str) {
        let Record { camera, experiment, vm, label, .. } = &self.record;
        let of = if label.contains(&camera.camera) { label.clone() } else { format!("{label} ({})", camera.camera) };
        let message = format!("{of} of host {}", camera.host);
        let message = if said.is_empty() { message } else { format!("{message}: {said}") };
        self.around.hub.event(kind, experiment, vm, &message);
    }

    /// Publishes what went by: where an attachment begins and where it ends, so that none is too short to be measured.
    pub(super) fn measure(&self) {
        let Record { camera, experiment, vm, .. } = &self.record;
        let cameras: Vec<_> = self.meter.sample(&self.around.host, camera, experiment, vm).into_iter().collect();
        if !cameras.is_empty() {
            self.around.hub.publish(&TelemetryBatch { ts_ms: now_ms(), cameras, ..TelemetryBatch::default() });
        }
    }

    /// Nothing of it is left.
    pub(super) fn end(mut self) {
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
