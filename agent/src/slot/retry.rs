//! What becomes of a VM that failed: it is tried again, some times, each time after a longer wait, or stays failed.
//!
//! Who waits for a try holds no place among the VMs that are starting. A wait is twice as long as the one before it,
//! and a part of it is left to chance, so that VMs that failed together do not come back together. The chance is
//! arithmetic on the VM's name: the same on each run.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use fleet_proto::v1::VmState;
use tokio::sync::watch;

use super::{Slot, locked};
use crate::experiment::Surroundings;
use crate::pace::{Gate, Place};
use crate::progress::Ended;

/// Before the first try after a failure, and at most.
const WAIT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// A VM that ran for so long has a clean slate: its next failure is its first.
pub(super) const CLEAN_SLATE: Duration = Duration::from_secs(600);

/// The wait before a try, counted from 0. `seed` stands for the VM.
fn wait(seed: u64, tried: u32) -> Duration {
    let whole = WAIT.0.saturating_mul(1 << tried.min(16)).min(WAIT.1);
    let mut hasher = DefaultHasher::new();
    (seed, tried).hash(&mut hasher);
    // Between a half and the whole: 2^53 steps fit into the number exactly.
    let part = (hasher.finish() >> 11) as f64 / (1u64 << 53) as f64;
    whole.mul_f64(0.5 + part / 2.0)
}

/// Says that somebody waits for the VM and tries it again if need be, until dropped.
struct Attending<'a>(&'a Slot);

impl<'a> Attending<'a> {
    fn new(slot: &'a Slot) -> Self {
        locked(&slot.view).attending += 1;
        Self(slot)
    }
}

impl Drop for Attending<'_> {
    fn drop(&mut self) {
        locked(&self.0.view).attending -= 1;
    }
}

impl Slot {
    /// Starts it with a place that was given, and again as its policy says, until it is up, has failed for good, or
    /// `stop` becomes true.
    pub async fn bring_up(
        self: &Arc<Self>,
        around: &Arc<Surroundings>,
        gate: &Arc<Gate>,
        place: Place,
        mut stop: watch::Receiver<bool>,
    ) -> Ended {
        self.no_more_tries(); // but these
        let _attending = Attending::new(self);
        locked(&self.view).tried = 0;
        self.try_on(around, gate, place, &mut stop).await
    }

    async fn try_on(
        self: &Arc<Self>,
        around: &Arc<Surroundings>,
        gate: &Arc<Gate>,
        place: Place,
        stop: &mut watch::Receiver<bool>,
    ) -> Ended {
        let mut place = place;
        loop {
            let ended = self.start(around).await;
            if ended == Ended::Ok {
                place.booted();
            }
            drop(place);
            if self.state() != VmState::Pending {
                return ended;
            }
            let tried = locked(&self.view).tried;
            let next = async {
                tokio::time::sleep(wait(self.seed(around), tried.saturating_sub(1))).await;
                gate.enter().await
            };
            tokio::select! {
                next = next => place = next,
                // An error means that nobody is left who could say so.
                Ok(_) = stop.wait_for(|stop| *stop) => {
                    self.give_up(around);
                    return ended;
                }
            }
        }
    }

    /// Tries it again in a task of its own: nobody waits for it.
    pub(super) fn try_again_later(self: &Arc<Self>, around: &Arc<Surroundings>) {
        let (slot, around) = (Arc::clone(self), Arc::clone(around));
        let task = tokio::spawn(async move {
            let _attending = Attending::new(&slot);
            let tried = locked(&slot.view).tried;
            tokio::time::sleep(wait(slot.seed(&around), tried.saturating_sub(1))).await;
            let place = around.gate.enter().await;
            let (_never, mut stop) = watch::channel(false);
            slot.try_on(&around, &around.gate, place, &mut stop).await;
        });
        if let Some(earlier) = locked(&self.again).replace(task.abort_handle()) {
            earlier.abort();
        }
    }

    /// Nobody tries it again by itself from now on.
    pub(super) fn no_more_tries(&self) {
        if let Some(task) = locked(&self.again).take() {
            task.abort();
        }
    }

    /// It waited for another try, and gets none.
    fn give_up(&self, around: &Surroundings) {
        let (reason, lines) = {
            let view = locked(&self.view);
            (view.failure.clone(), view.last_lines.clone())
        };
        self.set(around, VmState::Failed, &reason, &lines);
    }

    fn seed(&self, around: &Surroundings) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&around.experiment, &self.name).hash(&mut hasher);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute_and_differ_from_vm_to_vm() {
        for tried in 0..20 {
            let whole = Duration::from_millis(500 << tried.min(16)).min(Duration::from_secs(60));
            for seed in 0..100 {
                let wait = wait(seed, tried);
                assert!(wait >= whole / 2 && wait <= whole, "{tried}: {wait:?}");
            }
        }
        let different: std::collections::BTreeSet<_> = (0..100).map(|seed| wait(seed, 0)).collect();
        assert!(different.len() > 90);
        assert_eq!(wait(7, 3), wait(7, 3));
        assert!(wait(1, u32::MAX) <= WAIT.1);
    }
}
