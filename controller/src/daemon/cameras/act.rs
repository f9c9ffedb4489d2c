//! Carrying steps out, and the orders to hosts that users' requests need as well.

use std::sync::Arc;
use std::time::Duration;

use fleet_proto::AT_THE_CONTROLLER;
use fleet_proto::v1::{AttachCamera, DetachCamera, Outcome};
use fleet_usb::lease::{CameraId, Lease};

use super::ledger::LedgerError;
use super::locks::Held;
use super::picture::{in_words, parts};
use super::plan::Step;
use super::{Cameras, LOCAL, locked};
use crate::daemon::fleet::Ended;

/// How long a host may take to bring a camera into a VM, when nobody says.
pub const ATTACH: Duration = Duration::from_secs(60);
/// How long a host may take to take one out.
pub const DETACH: Duration = Duration::from_secs(30);

impl Cameras {
    /// Does a step, then looks at what came of it; until then nothing else is done with the camera.
    pub(super) async fn step(self: Arc<Self>, camera: CameraId, step: Step, held: Held) {
        let (host, work) = match &step {
            Step::Release { .. } => (None, "release"),
            Step::Detach { at, .. } => (Some(at.clone()), "detach"),
            Step::Hold { at, .. } => (Some(at.clone()), "hold"),
            Step::Attach { at, .. } => (Some(at.clone()), "attach"),
            Step::Give { at, .. } => (Some(at.clone()), "give"),
        };
        let done = tokio::select! {
            done = self.carry_out(&camera, step) => done,
            () = self.stop.cancelled() => return,
        };
        if let Err(error) = done {
            tracing::warn!(camera = camera.camera, host = camera.host, work, %error, "the leases of cameras");
        }
        let hosts: Vec<&str> = host.iter().map(String::as_str).chain([camera.host.as_str()]).collect();
        self.look_at(Some(&hosts)).await;
        drop(held);
        self.woken.notify_one();
    }

    async fn carry_out(&self, camera: &CameraId, step: Step) -> Result<(), LedgerError> {
        match step {
            Step::Release { epoch } => {
                if self.book.change(|ledger| Ok(ledger.leases.release(camera, epoch)))? {
                    tracing::info!(camera = camera.camera, host = camera.host, "a lease ended: its VM is gone");
                }
            }
            Step::Detach { at, epoch } => {
                let ended = self.take_out(&new_op(), camera, &at, epoch, false).await;
                self.note(camera, &at, &ended);
            }
            Step::Hold { at, lease } => {
                let ended = self.take_out(&new_op(), camera, &at, lease.epoch, true).await;
                self.note(camera, &lease.holder, &ended);
            }
            Step::Attach { at, lease } => {
                let keeps = self.keeps(camera, &lease, &at);
                let told = self.book.change(|ledger| ledger.leases.send(camera, lease.epoch, &at, keeps))?;
                if let Some(lease) = told {
                    let ended = self.bring(&new_op(), camera, &lease, ATTACH).await;
                    self.note(camera, &lease.holder, &ended);
                }
            }
            Step::Give { at, holder } => {
                let lease = self.lend(camera, &holder, 0, false, &at)?;
                let ended = self.bring(&new_op(), camera, &lease, ATTACH).await;
                self.note(camera, &holder, &ended);
                if !ended.is_ok() && ended.outcome != Outcome::Unknown {
                    self.book.change(|ledger| Ok(ledger.leases.release(camera, lease.epoch)))?;
                }
            }
        }
        Ok(())
    }

    /// Whether a host says that it keeps a lease.
    pub(super) fn keeps(&self, camera: &CameraId, lease: &Lease, at: &str) -> bool {
        let picture = locked(&self.picture);
        picture.reports(camera).any(|report| report.vm_host == at && report.epoch == lease.epoch)
    }

    /// A new lease, for a VM on a host. `expected` is the epoch of the lease that is taken, 0 for none.
    pub(super) fn lend(
        &self,
        camera: &CameraId,
        holder: &str,
        expected: u64,
        steal: bool,
        at: &str,
    ) -> Result<Lease, LedgerError> {
        self.book.change(|ledger| {
            let lease = ledger.leases.acquire(camera, holder, expected, steal)?;
            ledger.waived.remove(holder);
            Ok(ledger.leases.send(camera, lease.epoch, at, false)?.unwrap_or(lease))
        })
    }

    /// Has the host that a lease was sent to bring the camera into its VM.
    pub(super) async fn bring(&self, op_id: &str, camera: &CameraId, lease: &Lease, within: Duration) -> Ended {
        let (experiment, vm) = parts(&lease.holder);
        let Some(member) = self.member(&lease.at) else { return silent(&lease.at) };
        let address = match self.hosts.address(&camera.host) {
            _ if camera.host == lease.at => String::new(),
            Some(address) if !address.starts_with(LOCAL) => address,
            Some(_) if self.own_host_is_reached => AT_THE_CONTROLLER.to_owned(),
            _ => return Ended { outcome: Outcome::Failed, reason: format!("{} is not to be reached", camera.host) },
        };
        let order = AttachCamera {
            op: None,
            host: camera.host.clone(),
            address,
            camera: camera.camera.clone(),
            experiment: experiment.to_owned(),
            vm: vm.to_owned(),
            epoch: lease.epoch,
        };
        let ended = self.fleet.attach_camera(op_id, member, order, within).await;
        tracing::info!(
            camera = camera.camera,
            host = camera.host,
            vm = in_words(&lease.holder),
            outcome = ended.outcome.as_str_name(),
            reason = ended.reason,
            "a camera for a VM"
        );
        ended
    }

    /// Has a host take a camera out of its VM.
    pub(super) async fn take_out(&self, op_id: &str, camera: &CameraId, at: &str, epoch: u64, hold: bool) -> Ended {
        let Some(member) = self.member(at) else { return silent(at) };
        let order = DetachCamera { op: None, host: camera.host.clone(), camera: camera.camera.clone(), epoch, hold };
        self.fleet.detach_camera(op_id, member, order, DETACH).await
    }

    /// Remembers what came to nothing, for the next try and for users.
    pub(super) fn note(&self, camera: &CameraId, who: &str, ended: &Ended) {
        let mut tries = locked(&self.tries);
        if ended.is_ok() { tries.done(camera, who) } else { tries.failed(camera, who, &ended.reason) }
    }
}

fn silent(host: &str) -> Ended {
    Ended { outcome: Outcome::NotReached, reason: format!("{host} does not answer") }
}

/// An operation that nobody asked for by a number.
pub fn new_op() -> String {
    uuid::Uuid::new_v4().to_string()
}
