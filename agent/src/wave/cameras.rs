//! Waves about cameras: they go to one host, the VM's, or to all that are asked for their cameras.

use fleet_proto::v1::{AttachCamera, DetachCamera, Outcome, reply};
use fleet_tree::{LocalEnd, Sink};

use crate::agent::Agent;
use crate::cameras::Refusal;

/// What is said while the agent looks for what an earlier one left.
const STARTING: &str = "the agent is starting; try again";

/// The host's cameras, and the leases of its VMs.
pub async fn list(agent: &Agent, sink: &Sink) -> LocalEnd {
    let Some(cameras) = agent.cameras() else { return LocalEnd::failed(STARTING, Vec::new()) };
    sink.reply(reply::Reply::Cameras(cameras.list().await)).await;
    LocalEnd::ok(Vec::new())
}

/// Brings a camera into a VM.
pub async fn attach(agent: &Agent, order: &AttachCamera) -> LocalEnd {
    let Some(cameras) = agent.cameras() else { return LocalEnd::failed(STARTING, Vec::new()) };
    end(cameras.attach(order).await)
}

/// Takes one out.
pub async fn detach(agent: &Agent, order: &DetachCamera) -> LocalEnd {
    let Some(cameras) = agent.cameras() else { return LocalEnd::failed(STARTING, Vec::new()) };
    match cameras.detach(order).await {
        Ok(false) => LocalEnd { outcome: Outcome::AlreadySo, reason: String::new(), targets: Vec::new() },
        outcome => end(outcome.map(|_| ())),
    }
}

fn end(outcome: Result<(), Refusal>) -> LocalEnd {
    match outcome {
        Ok(()) => LocalEnd::ok(Vec::new()),
        // It goes on: how it ends, nobody can say yet.
        Err(refusal @ Refusal::Late(..)) => {
            LocalEnd { outcome: Outcome::Unknown, reason: refusal.to_string(), targets: Vec::new() }
        }
        Err(refusal) => LocalEnd::failed(refusal.to_string(), Vec::new()),
    }
}
