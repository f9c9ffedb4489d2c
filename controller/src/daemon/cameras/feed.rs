//! Events of agents that say that something of a camera, or of a VM that waits for one, has changed.

use std::sync::Arc;

use fleet_proto::v1::TelemetryRequest;

use super::picture::holder;
use super::{Cameras, locked};
use crate::daemon::agents::Agents;
use crate::daemon::telemetry::feeds::{Agent, Feeds};

/// Events about cameras begin so.
const CAMERA: &str = "camera.";
/// A VM has come up.
const RUNNING: &str = "vm.running";

/// Keeps a stream of events from each host that answers, until the end.
pub async fn of_all(cameras: Arc<Cameras>, agents: Agents) {
    let feeds = Feeds { agents, hosts: Arc::clone(&cameras.hosts) };
    let stop = cameras.stop.clone();
    feeds.of_all(stop, move |host, agent| follow(Arc::clone(&cameras), host, agent)).await;
}

async fn follow(cameras: Arc<Cameras>, host: String, mut agent: Agent) -> Result<(), tonic::Status> {
    let mut batches = agent.telemetry(TelemetryRequest { events_only: true }).await?.into_inner();
    // What happened before the stream began.
    cameras.hint(&host);
    while let Some(batch) = batches.message().await? {
        for event in batch.events {
            if event.kind.starts_with(CAMERA) {
                cameras.hint(&host);
            } else if event.kind == RUNNING && locked(&cameras.tries).vm_changed(&holder(&event.experiment, &event.vm))
            {
                cameras.woken.notify_one();
            }
        }
    }
    Ok(())
}
