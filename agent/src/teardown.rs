//! Taking an experiment down: nothing of it remains on this host. Goes on past every error and reports them all.

use std::sync::Arc;

use fleet_proto::v1::Progress;
use futures::StreamExt;
use tonic::Status;

use crate::agent::Agent;
use crate::experiment::{Experiment, Slots};
use crate::merging;
use crate::progress::{Ended, Report};

/// VMs removed at once: each waits for the kernel to give its memory back.
pub const REMOVING: usize = 64;
/// The target that stands for everything of an experiment but its VMs: no VM can have such a name.
const NETWORK: &str = "(network)";

/// Removes every trace of an experiment from this host, unless something newer than `generation` was done. Gives the
/// last step; `None` when it was refused.
pub async fn remove(agent: &Arc<Agent>, name: &str, generation: u64, report: &Report) -> Option<Progress> {
    // Before its turn: an older apply that waits must not follow.
    if let Err(error) = agent.generations().admit(name, generation) {
        report.refuse(error.into()).await;
        return None;
    }
    // Whoever wants it gone does not want to wait until it is all up.
    let entered = match agent.enter(name, true).await {
        Ok(entered) => entered,
        Err(error) => {
            report.refuse(Status::internal(error.to_string())).await;
            return None;
        }
    };
    // Something newer may have come in between.
    if let Err(error) = agent.generations().admit(name, generation) {
        report.refuse(error.into()).await;
        return None;
    }
    Some(remove_entered(agent, &entered.experiment, report).await)
}

async fn remove_entered(agent: &Arc<Agent>, experiment: &Arc<Experiment>, report: &Report) -> Progress {
    let around = &experiment.around;
    let slots = experiment.slots();
    let counts = || experiment.slots().counts();
    // The experiment itself is a target: its network and its folder.
    report.targets(slots.iter().map(|slot| slot.name().to_owned()).chain([NETWORK.to_owned()]));
    let mut removals = futures::stream::iter(slots.iter().cloned())
        .map(|slot| async move { (slot.remove(around).await, slot) })
        .buffer_unordered(REMOVING);
    let mut stuck = Vec::new();
    while let Some((ended, slot)) = removals.next().await {
        if ended != Ended::Ok {
            stuck.push(Arc::clone(&slot));
        }
        report.ended(slot.name(), ended, counts).await;
    }
    drop(removals);
    let mut problems: Vec<String> = around.network.remove().await.iter().map(ToString::to_string).collect();
    if stuck.is_empty() {
        problems.extend(experiment.forget().err().map(|error| format!("its folder: {error}")));
    }
    merging::tell(agent);
    if let Some(cameras) = agent.cameras() {
        let left: Vec<&str> = stuck.iter().map(|slot| slot.name()).collect();
        let gone = |of: &str, vm: &str| of == experiment.name() && !left.contains(&vm);
        cameras.release(gone, "its VM is gone").await;
    }
    let gone = stuck.is_empty() && problems.is_empty();
    experiment.set_slots(Slots::new(stuck));
    let ended =
        if problems.is_empty() { Ended::Ok } else { Ended::Failed { reason: problems.join("; "), retryable: true } };
    report.ended(NETWORK, ended, counts).await;
    if gone {
        agent.forget(experiment.name());
        if let Err(error) = agent.generations().removed(experiment.name()) {
            tracing::warn!(experiment = experiment.name(), %error, "that an experiment is gone could not be noted");
        }
        around.hub.event("experiment.down", experiment.name(), "", "");
    }
    report.finish(counts()).await
}
