//! Stop, start, reboot, pause and resume VMs.

use std::sync::Arc;

use fleet_proto::v1::{Action, Progress};
use futures::StreamExt;

use crate::experiment::Experiment;
use crate::progress::{Ended, Report};
use crate::slot::Slot;

/// VMs acted on at once.
const CONCURRENCY: usize = 16;

/// Acts on VMs by name and reports. A caller that goes away does not stop it: the VMs are few and the acts are short.
pub async fn act(
    experiment: &Arc<Experiment>,
    names: Vec<String>,
    action: Action,
    force: bool,
    report: &Report,
) -> Progress {
    let _busy = experiment.busy();
    let _operation = experiment.operation.lock().await;
    report.targets(names.iter().cloned());
    let slots = experiment.slots();
    let mut acts = futures::stream::iter(names)
        .map(|name| {
            let slot = slots.get(&name).cloned();
            async move {
                let ended = match slot {
                    Some(slot) => one(experiment, &slot, action, force).await,
                    None => Ended::Failed { reason: "this host does not know it".into(), retryable: false },
                };
                (name, ended)
            }
        })
        .buffer_unordered(CONCURRENCY);
    while let Some((name, ended)) = acts.next().await {
        report.ended(&name, ended, || slots.counts()).await;
    }
    report.finish(slots.counts()).await
}

async fn one(experiment: &Experiment, slot: &Arc<Slot>, action: Action, force: bool) -> Ended {
    let around = &experiment.around;
    match action {
        Action::Stop => slot.stop(around, force).await,
        Action::Start => slot.start(around).await,
        Action::Reboot => match slot.stop(around, force).await {
            Ended::Ok | Ended::AlreadySo => slot.start(around).await,
            failed @ Ended::Failed { .. } => failed,
        },
        Action::Pause => slot.pause(around, true).await,
        Action::Resume => slot.pause(around, false).await,
        Action::Unspecified => Ended::Failed { reason: "no action was named".into(), retryable: false },
    }
}
