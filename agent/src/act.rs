//! Stop, start, reboot, pause, resume, snapshot and restore VMs.

use std::sync::Arc;

use fleet_proto::v1::{Action, Progress};
use futures::StreamExt;
use tokio::sync::watch;

use crate::admit::{self, Demand};
use crate::agent::Agent;
use crate::experiment::{Experiment, Slots};
use crate::progress::{Ended, Report};
use crate::room;
use crate::slot::Slot;

/// VMs acted on at once; how many of them may be starting is for the gate to say.
const CONCURRENCY: usize = 256;

/// What is to be done.
pub struct Act {
    /// What.
    pub action: Action,
    /// Stop without asking the guest.
    pub force: bool,
    /// Name of the snapshot.
    pub name: String,
}

/// Acts on VMs by name and reports. A caller that goes away does not stop it: the VMs are few and the acts are short.
pub async fn act(
    agent: &Arc<Agent>,
    experiment: &Arc<Experiment>,
    names: Vec<String>,
    act: &Act,
    report: &Report,
) -> Progress {
    let _busy = experiment.busy();
    let _operation = experiment.operation.lock().await;
    report.targets(names.iter().cloned());
    let slots = experiment.slots();
    let refused = if act.action == Action::Start { refusal(agent, &slots, &names) } else { None };
    let mut acts = futures::stream::iter(names)
        .map(|name| {
            let slot = slots.get(&name).cloned();
            let refused = refused.clone().filter(|_| slot.as_ref().is_some_and(|slot| slot.machine().is_none()));
            async move {
                let ended = match slot {
                    Some(_) if let Some(reason) = refused => Ended::Failed { reason, retryable: true },
                    Some(slot) => one(experiment, &slot, act).await,
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

/// Why VMs that are down cannot be started: this host has no room for all of them.
fn refusal(agent: &Agent, slots: &Slots, names: &[String]) -> Option<String> {
    let down = names.iter().filter_map(|name| slots.get(name)).filter(|slot| slot.machine().is_none());
    let starting: Vec<_> = down.map(|slot| Demand::of(&slot.wanted())).collect();
    admit::admit(&agent.config.host, &starting, &room::room(agent, &[])).err().map(|error| error.to_string())
}

async fn one(experiment: &Experiment, slot: &Arc<Slot>, act: &Act) -> Ended {
    let around = &experiment.around;
    let force = act.force;
    match act.action {
        Action::Stop => slot.stop(around, force).await,
        Action::Start => start(experiment, slot).await,
        Action::Reboot => match slot.stop(around, force).await {
            Ended::Ok | Ended::AlreadySo => start(experiment, slot).await,
            failed @ Ended::Failed { .. } => failed,
        },
        Action::Pause => slot.pause(around, true).await,
        Action::Resume => slot.pause(around, false).await,
        Action::Snapshot => slot.snapshot(around, &act.name).await,
        Action::Restore => slot.restore(around, &act.name).await,
        Action::Unspecified => Ended::Failed { reason: "no action was named".into(), retryable: false },
    }
}

/// Starts a VM when the host's gate lets it through. Whoever wants the experiment gone does not wait for tries to come.
async fn start(experiment: &Experiment, slot: &Arc<Slot>) -> Ended {
    let around = &experiment.around;
    let (stop, mut stopped) = watch::channel(false);
    let up = async {
        let place = tokio::select! {
            biased;
            _ = stopped.wait_for(|stop| *stop) => {
                return Ended::Failed { reason: "the experiment is being removed".into(), retryable: false };
            }
            place = around.gate.enter() => place,
        };
        slot.bring_up(around, &around.gate, place, stopped).await
    };
    tokio::pin!(up);
    tokio::select! {
        ended = &mut up => return ended,
        () = experiment.interrupted() => {}
    }
    stop.send_replace(true);
    up.await
}
