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

/// Removes every trace of an experiment from this host. Gives the last step.
pub async fn remove(agent: &Arc<Agent>, name: &str, report: &Report) -> Option<Progress> {
    let experiment = match agent.experiment_or_new(name) {
        Ok(experiment) => experiment,
        Err(error) => {
            report.refuse(Status::internal(error.to_string())).await;
            return None;
        }
    };
    let _busy = experiment.busy();
    // Whoever wants it gone does not want to wait until it is all up.
    experiment.interrupt().await;
    let _operation = experiment.operation.lock().await;
    Some(remove_locked(agent, &experiment, report).await)
}

/// The same with the experiment's operation lock held.
async fn remove_locked(agent: &Arc<Agent>, experiment: &Arc<Experiment>, report: &Report) -> Progress {
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
    let gone = stuck.is_empty() && problems.is_empty();
    experiment.set_slots(Slots::new(stuck));
    let ended =
        if problems.is_empty() { Ended::Ok } else { Ended::Failed { reason: problems.join("; "), retryable: true } };
    report.ended(NETWORK, ended, counts).await;
    if gone {
        agent.forget(experiment.name());
        around.hub.event("experiment.down", experiment.name(), "", "");
    }
    report.finish(counts()).await
}
