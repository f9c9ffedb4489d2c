//! USB cameras of this host, and those that its VMs have.
//!
//! ```text
//!   ports, usbredir servers ──► Host: the list ──► Own ─────┐
//!                                   │                       ├──► Lease: Keeper ──► Port of a VM
//!   another host ◄── lend ──────────┘    borrow ────────────┘        │
//!      └────────────────────────────────────┘                      Store
//! ```
//!
//! | task | started by | ends with |
//! |---|---|---|
//! | one that keeps the list of this host's cameras ([`host`]) | [`Cameras::start`] | [`Cameras::stop`] |
//! | one a lease of a VM of this host ([`lease`]), and one a conversation of it ([`bring`]) | an order, or [`Cameras::start`] | the lease, or [`Cameras::stop`] |
//! | one a camera of another host that a VM here has ([`borrow`]) | its lease | its lease |
//! | one a camera that is given to another host ([`lend`]), two a conversation of it | the borrower | the borrower, a newer lease, or [`Cameras::stop`] |

mod borrow;
mod bring;
mod config;
mod course;
mod host;
mod lease;
mod lend;
mod meter;
mod port;
mod refusal;
mod register;
mod source;
mod store;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fleet_pki::Connector;
use fleet_proto::v1::{AttachCamera, CameraSample, CamerasReply, DetachCamera, VmState};
use fleet_usb::lease::{CameraId, Keeper};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

pub use config::CamerasConfig;
pub use lend::service;
pub use refusal::Refusal;
pub use store::StoreError;

use crate::agent::Agent;
use crate::hub::{Hub, now_ms};
use borrow::{Borrow, Ways};
use host::Host;
use lease::{Around, Command, Lease};
use lend::Loans;
use port::{OfAgent, Vms};
use source::{Own, Seen, Sight, Source};
use store::{Record, Store};

/// For a VM that comes up to be there for its camera.
const VM_UP: Duration = Duration::from_secs(180);
/// For a camera's host to say how it is.
const HEARD: Duration = Duration::from_secs(15);
/// For a camera to be in its VM, or out of it, before an order is answered without it.
const DONE: Duration = Duration::from_secs(90);

/// The agent's part that looks after cameras.
pub struct Cameras {
    around: Around,
    host: Arc<Host>,
    loans: Loans,
    ways: watch::Sender<Option<Ways>>,
    /// One change at a time of which VM has a camera.
    changes: tokio::sync::Mutex<()>,
    tasks: Mutex<Vec<AbortOnDropHandle<()>>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Only whole values are exchanged under it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cameras {
    /// Starts to look after cameras, and goes on with the leases of an earlier agent.
    ///
    /// # Errors
    /// When what it knew of leases cannot be read.
    pub async fn start(agent: &Arc<Agent>) -> Result<Arc<Self>, StoreError> {
        let vms = Arc::new(OfAgent::new(agent));
        Self::over(&agent.config.host, &agent.config.state_dir, &agent.config.cameras, &agent.hub, vms).await
    }

    /// The same over any VMs.
    async fn over(
        name: &str,
        state_dir: &Path,
        config: &CamerasConfig,
        hub: &Arc<Hub>,
        vms: Arc<dyn Vms>,
    ) -> Result<Arc<Self>, StoreError> {
        let store = Arc::new(Store::open(state_dir)?);
        let host = Host::open(config, store.shared(), Arc::clone(hub), Arc::clone(&vms)).await;
        let noting = Arc::clone(&store);
        let following = host.follow(move |shared| {
            if let Err(error) = noting.share(shared) {
                tracing::error!(%error, "a serial number that two cameras say cannot be noted");
            }
        });
        let around = Around { host: name.to_owned(), store, hub: Arc::clone(hub), vms, leases: Arc::default() };
        let cameras = Self {
            around,
            host,
            loans: Loans::default(),
            ways: watch::Sender::new(None),
            changes: tokio::sync::Mutex::default(),
            tasks: Mutex::new(vec![following]),
        };
        for record in cameras.around.store.leases() {
            let source = cameras.source(&record.camera, &record.address, record.keeper.epoch, &record.holder());
            Lease::start(&cameras.around, record, source, None);
        }
        Ok(Arc::new(cameras))
    }

    /// This host belongs to a fleet: cameras of other hosts are reached. `controller` is where it calls the controller.
    pub fn joined(&self, connector: Connector, controller: &str) {
        self.ways.send_replace(Some(Ways { connector, controller: controller.to_owned() }));
    }

    /// This host joins another fleet, whose leases count for themselves.
    pub async fn another_fleet(&self) {
        self.release(|_, _| true, "this host joins another fleet").await;
        if let Err(error) = self.around.store.reset() {
            tracing::error!(%error, "what an earlier fleet lent cannot be forgotten");
        }
    }

    /// This host's cameras, and the leases of its VMs.
    pub async fn list(&self) -> CamerasReply {
        let cameras = match self.host.look().await {
            Ok(cameras) => cameras,
            Err(error) => {
                tracing::warn!(%error, "cameras are told as they were seen before");
                self.host.cameras()
            }
        };
        let epoch = |id: &str| self.around.store.given(id);
        let cameras = cameras.values().map(|camera| camera.message(&self.around.host, epoch(&camera.id))).collect();
        let leases = self.leases().iter().map(|lease| lease.message(&self.around.host)).collect();
        CamerasReply { cameras, leases }
    }

    /// What went to VMs and back.
    pub fn samples(&self) -> Vec<CameraSample> {
        self.leases().iter().filter_map(|lease| lease.sample(&self.around.host)).collect()
    }

    fn leases(&self) -> Vec<Arc<Lease>> {
        locked(&self.around.leases).values().cloned().collect()
    }

    fn lease(&self, camera: &CameraId) -> Option<Arc<Lease>> {
        locked(&self.around.leases).get(camera).cloned()
    }

    fn source(&self, camera: &CameraId, address: &str, epoch: u64, holder: &str) -> Arc<dyn Source> {
        if camera.host == self.around.host {
            Arc::new(Own::new(Arc::clone(&self.host), &camera.host, &camera.camera))
        } else {
            Arc::new(Borrow::start(camera, address, epoch, holder, self.ways.subscribe()))
        }
    }

    /// Brings a camera into a VM of this host and keeps it there; returns when the VM has it, proved.
    ///
    /// # Errors
    /// Why not; then a lease that begins with this order is none.
    pub async fn attach(&self, order: &AttachCamera) -> Result<(), Refusal> {
        let host = if order.host.is_empty() { self.around.host.clone() } else { order.host.clone() };
        let camera = CameraId { host, camera: order.camera.clone() };
        self.up(&order.experiment, &order.vm).await?;
        let lease = {
            let _change = self.changes.lock().await;
            self.begin(order, camera).await?
        };
        done(lease.order(Command::Attach), "the camera was not brought into its VM").await
    }

    /// Finds the lease of an order, or begins it.
    async fn begin(&self, order: &AttachCamera, camera: CameraId) -> Result<Arc<Lease>, Refusal> {
        let epoch = order.epoch;
        let holder = format!("{}.{}", order.experiment, order.vm);
        let over = self.around.store.over(&camera);
        if over >= epoch {
            return Err(Refusal::Stale { asked: epoch, known: over });
        }
        if let Some(lease) = self.lease(&camera) {
            if epoch < lease.epoch {
                return Err(Refusal::Stale { asked: epoch, known: lease.epoch });
            }
            if epoch == lease.epoch {
                if lease.holder() != holder {
                    return Err(Refusal::Taken { holder: lease.holder(), epoch });
                }
                lease.source.moved(&order.address);
                return Ok(lease);
            }
            let reason = format!("the camera was lent anew, to {holder}");
            done(lease.order(|answer| Command::End(reason, answer)), "the earlier lease was not ended").await?;
        }
        let own = camera.host == self.around.host;
        let mut label = camera.camera.clone();
        if own {
            let cameras = self.host.cameras();
            let known = cameras.get(&camera.camera);
            let unknown = || Refusal::Unknown { host: camera.host.clone(), camera: camera.camera.clone() };
            label = known.ok_or_else(unknown)?.label();
            self.give(&camera.camera, epoch).await?;
        } else if self.ways.borrow().is_none() {
            return Err(Refusal::NoMember);
        } else if order.address.is_empty() || order.address.starts_with("unix:") {
            return Err(Refusal::LocalOnly { host: camera.host });
        }
        let source = self.source(&camera, &order.address, epoch, &holder);
        let sight = heard(&*source, &camera).await?;
        let record = Record {
            camera,
            address: if own { String::new() } else { order.address.clone() },
            experiment: order.experiment.clone(),
            vm: order.vm.clone(),
            usb_id: sight.usb_id,
            label,
            keeper: Keeper::new(holder, epoch, sight.persona),
            first: true,
            pid: None,
            since_ms: now_ms(),
        };
        self.around.store.put(&record).map_err(|error| Refusal::Store(error.to_string()))?;
        Ok(Lease::start(&self.around, record, source, Some(sight)))
    }

    /// Waits until a VM can take a camera.
    async fn up(&self, experiment: &str, name: &str) -> Result<(), Refusal> {
        let label = || format!("{experiment}.{name}");
        let mut moved = self.around.vms.moved();
        let ready = async {
            loop {
                moved.mark_unchanged();
                let vm = self.around.vms.vm(experiment, name).ok_or_else(|| Refusal::NoVm { vm: label() })?;
                if let Some(refusal) = vm.refusal {
                    return Err(Refusal::Vm(refusal));
                }
                match vm.state {
                    VmState::Running | VmState::Paused => return Ok(()),
                    VmState::Pending | VmState::Starting | VmState::Booting => {}
                    state => {
                        return Err(Refusal::VmDown { vm: label(), state: lease::word(Some(state)) });
                    }
                }
                if moved.changed().await.is_err() {
                    return Err(Refusal::Ended("the agent ends".to_owned()));
                }
            }
        };
        let late = Refusal::Late("the VM did not come up", VM_UP.as_secs());
        tokio::time::timeout(VM_UP, ready).await.unwrap_or(Err(late))
    }

    /// A camera of this host is given out with this epoch: whoever has it with an earlier one has it no more.
    pub(super) async fn give(&self, camera: &str, epoch: u64) -> Result<(), Refusal> {
        let newer = self.around.store.give(camera, epoch).map_err(|error| Refusal::Store(error.to_string()))?;
        if let Some(known) = newer {
            return Err(Refusal::Stale { asked: epoch, known });
        }
        self.loans.end(camera, epoch).await;
        let id = CameraId { host: self.around.host.clone(), camera: camera.to_owned() };
        if let Some(lease) = self.lease(&id).filter(|lease| lease.epoch < epoch) {
            let reason = format!("the camera was lent anew, with epoch {epoch}");
            done(lease.order(|answer| Command::End(reason, answer)), "the earlier lease was not ended").await?;
        }
        Ok(())
    }

    /// Takes a camera out of its VM. Without `hold` its lease ends; whether there was one.
    ///
    /// # Errors
    /// Why not; it is gone on with then.
    pub async fn detach(&self, order: &DetachCamera) -> Result<bool, Refusal> {
        let host = if order.host.is_empty() { self.around.host.clone() } else { order.host.clone() };
        let camera = CameraId { host, camera: order.camera.clone() };
        let _change = self.changes.lock().await;
        let lease = self.lease(&camera);
        if let Some(lease) = lease.as_ref().filter(|lease| order.epoch < lease.epoch) {
            return Err(Refusal::Stale { asked: order.epoch, known: lease.epoch });
        }
        if !order.hold {
            // Also one that was not heard of: its order may be under way.
            self.around.store.end(&camera, order.epoch).map_err(|error| Refusal::Store(error.to_string()))?;
        }
        let hold = order.hold;
        match lease {
            Some(lease) => {
                let outcome = lease.order(|answer| Command::Detach { hold, answer });
                done(outcome, "the camera was not taken out of its VM").await?;
                Ok(true)
            }
            None if hold => Err(Refusal::NotLent),
            None => Ok(false),
        }
    }

    /// VMs are gone for good: so are their leases.
    pub async fn release(&self, gone: impl Fn(&str, &str) -> bool, reason: &str) {
        let leases = self.leases().into_iter().filter(|lease| gone(&lease.experiment, &lease.vm));
        let ends = leases.map(|lease| async move {
            let ended = lease.order(|answer| Command::End(reason.to_owned(), answer));
            if let Err(refusal) = done(ended, "the lease was not ended").await {
                tracing::warn!(camera = lease.camera.camera, %refusal, "the lease of a VM that is gone goes on for now");
            }
        });
        futures::future::join_all(ends).await;
    }

    /// Ends its tasks. Leases stay, and VMs keep what they have by themselves.
    pub async fn stop(&self) {
        let leases = std::mem::take(&mut *locked(&self.around.leases));
        for lease in leases.values() {
            lease.stop().await;
        }
        self.loans.stop().await;
        let tasks = std::mem::take(&mut *locked(&self.tasks));
        for task in tasks {
            task.abort();
            drop(task.await);
        }
        self.host.stop().await;
    }
}

/// The outcome of an order, if it comes in time.
async fn done(outcome: impl Future<Output = Result<(), Refusal>>, late: &'static str) -> Result<(), Refusal> {
    tokio::time::timeout(DONE, outcome).await.unwrap_or(Err(Refusal::Late(late, DONE.as_secs())))
}

/// How a camera is that is to be lent for the first time: it has to be there.
async fn heard(source: &dyn Source, camera: &CameraId) -> Result<Sight, Refusal> {
    use futures::StreamExt;
    let mut sights = source.sights();
    let seen = tokio::time::timeout(HEARD, sights.next()).await;
    let host = camera.host.clone();
    match seen {
        Ok(Some(Seen::As(sight))) if sight.present => Ok(sight),
        Ok(Some(Seen::As(_))) => Err(Refusal::Absent { host }),
        Ok(Some(Seen::Nowhere)) => Err(Refusal::Unknown { host, camera: camera.camera.clone() }),
        Ok(Some(Seen::Unreached(refusal))) => Err(refusal),
        Ok(Some(Seen::Over(reason))) => Err(Refusal::Ended(reason)),
        Ok(None) | Err(_) => {
            Err(Refusal::Unreached { host, reason: format!("it said nothing within {} s", HEARD.as_secs()) })
        }
    }
}
