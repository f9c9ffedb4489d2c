//! Stopping a VM, holding it where it is, and removing it.

use std::sync::Arc;
use std::time::Duration;

use fleet_proto::v1::VmState;

use super::{STOPPED_MARK, Slot, word};
use crate::experiment::Surroundings;
use crate::progress::Ended;

/// For a guest to power off when asked, before it is killed.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);

impl Slot {
    /// Stops it; it stays down until it is started.
    pub async fn stop(self: &Arc<Self>, around: &Arc<Surroundings>, force: bool) -> Ended {
        self.no_more_tries();
        let _gate = self.gate.lock().await;
        let Some(machine) = self.machine() else {
            return if self.state() == VmState::Stopped {
                Ended::AlreadySo
            } else {
                self.set(around, VmState::Stopped, "", &[]);
                Ended::Ok
            };
        };
        // Before its end, so that no reader takes that for a failure; the mark is for a later agent.
        self.set(around, VmState::Stopping, "", &[]);
        let mark = machine.paths().dir.join(STOPPED_MARK);
        if let Err(error) = std::fs::write(&mark, "") {
            tracing::warn!(path = %mark.display(), %error, "cannot note that a VM was stopped on request");
        }
        let was_paused = machine.is_paused();
        let ended = if force || was_paused { machine.kill().await } else { machine.shutdown(SHUTDOWN_GRACE).await };
        match ended {
            Ok(_) => {
                self.set(around, VmState::Stopped, "", &[]);
                Ended::Ok
            }
            Err(error) => self.stuck(around, &error.to_string(), error.is_retryable()),
        }
    }

    /// Ends it while it comes up, without waiting for whoever starts it: that one is told at once.
    pub async fn interrupt(&self, around: &Surroundings) {
        let Some(machine) = self.machine() else { return };
        // Before its end, so that nobody takes that for a failure.
        self.set(around, VmState::Stopping, "", &[]);
        if let Err(error) = machine.kill().await {
            tracing::warn!(vm = self.name, %error, "a VM that was coming up could not be ended at once");
        }
    }

    /// Holds it where it is, or lets it go on.
    pub async fn pause(&self, around: &Surroundings, pause: bool) -> Ended {
        let _gate = self.gate.lock().await;
        let state = self.state();
        let (from, to) = if pause { (VmState::Running, VmState::Paused) } else { (VmState::Paused, VmState::Running) };
        if state == to {
            return Ended::AlreadySo;
        }
        let Some(machine) = self.machine().filter(|_| state == from) else {
            let wish = if pause { "paused" } else { "resumed" };
            let reason = format!("it is {}, so it cannot be {wish}", word(state));
            return Ended::Failed { reason, retryable: false };
        };
        let done = if pause { machine.pause().await } else { machine.resume().await };
        match done {
            Ok(()) => {
                self.set(around, to, "", &[]);
                Ended::Ok
            }
            Err(error) => Ended::Failed { reason: error.to_string(), retryable: error.is_retryable() },
        }
    }

    /// Ends it and removes all that is left of it.
    pub async fn remove(self: &Arc<Self>, around: &Arc<Surroundings>) -> Ended {
        self.no_more_tries();
        let _gate = self.gate.lock().await;
        self.set(around, VmState::Stopping, "", &[]);
        match self.end(around).await {
            Ok(()) => {
                self.set(around, VmState::Stopped, "", &[]);
                Ended::Ok
            }
            Err(error) => self.stuck(around, &error.to_string(), true),
        }
    }
}
