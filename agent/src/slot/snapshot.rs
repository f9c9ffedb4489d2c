//! Snapshots of a VM: taken while it runs or is paused; gone back to from any state.

use std::sync::Arc;
use std::time::Instant;

use fleet_proto::v1::VmState;
use fleet_vm::{Machine, SnapshotError};

use super::{Slot, StartError, locked, word};
use crate::experiment::Surroundings;
use crate::progress::Ended;

impl Slot {
    /// Takes a snapshot under this name. The guest stands still meanwhile.
    pub async fn snapshot(&self, around: &Surroundings, name: &str) -> Ended {
        let _gate = self.gate.lock().await;
        let state = self.state();
        let up = matches!(state, VmState::Running | VmState::Paused);
        let Some(machine) = self.machine().filter(|_| up) else {
            let reason =
                format!("it is {}: a snapshot is taken of a VM that runs or is paused; start it first", word(state));
            return Ended::Failed { reason, retryable: false };
        };
        match machine.snapshot(&around.snapshots, name).await {
            Ok(()) => {
                around.hub.event("vm.snapshot", &around.experiment, &self.name, name);
                Ended::Ok
            }
            Err(error) => Ended::Failed { reason: error.to_string(), retryable: false },
        }
    }

    /// Puts it back to its snapshot of this name: its process is ended, another one goes on. Whether that can be is
    /// looked at before anything is ended.
    pub async fn restore(self: &Arc<Self>, around: &Arc<Surroundings>, name: &str) -> Ended {
        let spec = self.wanted().spec.clone();
        if let Err(error) = around.snapshots.check(&spec, name).await {
            return Ended::Failed { reason: error.to_string(), retryable: false };
        }
        self.no_more_tries();
        let _gate = self.gate.lock().await;
        self.set(around, VmState::Starting, "", &[]);
        match self.go_back(around, name).await {
            Ok(machine) => {
                locked(&self.view).starts += 1;
                around.hub.event("vm.restored", &around.experiment, &self.name, name);
                self.set(around, VmState::Booting, "", &[]);
                self.live(around, machine, Instant::now());
                self.settled().await
            }
            Err(error) => self.stuck(around, &error.to_string(), false),
        }
    }

    async fn go_back(&self, around: &Surroundings, name: &str) -> Result<Machine, RestoreError> {
        let _kept = around.vms.expect([]);
        let taps = self.make_way(around).await?;
        Ok(around.vms.restore(self.wanted().spec.clone(), taps, &around.snapshots, name).await?)
    }
}

/// Why a VM could not go on from its snapshot.
#[derive(Debug, thiserror::Error)]
enum RestoreError {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}
