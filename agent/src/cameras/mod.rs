//! USB cameras of this host, and those that its VMs have.
//!
//! | task | started by | ends with |
//! |---|---|---|
//! | one that keeps the list of this host's cameras ([`host`]) | [`Cameras::start`] | [`Cameras::stop`] |

mod config;
mod host;
mod port;
mod register;

use std::sync::{Arc, Mutex, PoisonError};

use fleet_proto::v1::CamerasReply;
use tokio_util::task::AbortOnDropHandle;

pub use config::{CamerasConfig, camera_server};
pub use port::OfAgent;

use crate::agent::Agent;
use host::Host;

/// The agent's part that looks after cameras.
pub struct Cameras {
    name: String,
    host: Arc<Host>,
    tasks: Mutex<Vec<AbortOnDropHandle<()>>>,
}

impl Cameras {
    /// Starts to look after cameras.
    pub async fn start(agent: &Arc<Agent>) -> Self {
        let vms = Arc::new(OfAgent(Arc::downgrade(agent)));
        let host = Host::open(&agent.config.cameras, Vec::new(), Arc::clone(&agent.hub), vms).await;
        let following = host.follow(|_| {});
        Self { name: agent.config.host.clone(), host, tasks: Mutex::new(vec![following]) }
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
        let cameras = cameras.values().map(|camera| camera.message(&self.name, 0)).collect();
        CamerasReply { cameras, leases: Vec::new() }
    }

    /// Ends its tasks. VMs keep their cameras.
    pub async fn stop(&self) {
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            task.abort();
            drop(task.await);
        }
    }
}
