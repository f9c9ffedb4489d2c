//! The reconciler: makes what runs like what is wanted. The only place that knows the order of the mechanisms:
//! everything is looked at and refused first; then VMs that must go are stopped, the network is made, VMs are started.
//!
//! Level-triggered: it compares with what is there, not with what an earlier call meant to do, so it can be repeated,
//! and goes on where an interrupted one stopped.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use fleet_net::{NetReport, NetworkSpec};
use fleet_proto::v1::{Difference, Outcome, Progress, Spec, VmState};
use fleet_tree::fold_names;
use futures::StreamExt;
use tokio::sync::watch;
use tonic::Status;

use crate::admit::{self, Demand};
use crate::agent::Agent;
use crate::choose::{self, Chooser};
use crate::experiment::{Experiment, Slots};
use crate::merging;
use crate::pace::Gate;
use crate::progress::{Ended, Report};
use crate::room;
use crate::slice::Slice;
use crate::slot::{Slot, Wanted};
use crate::teardown::REMOVING;

/// What is to be done to which VM.
struct Work {
    start: Vec<Wanted>,
    restart: Vec<Wanted>,
    /// Runs as it should; its guest may have to be told something new.
    keep: Vec<Wanted>,
    stop: Vec<Arc<Slot>>,
    /// What the user should know.
    notes: Vec<String>,
}

impl Work {
    fn difference(&self, network: &NetReport) -> Difference {
        let folded = |names: Vec<&str>| if names.is_empty() { Vec::new() } else { vec![fold_names(names)] };
        let wanted = |list: &[Wanted]| folded(list.iter().map(|wanted| wanted.vm.vm.name.as_str()).collect());
        let verbs = [("make", &network.made), ("change", &network.changed), ("remove", &network.removed)];
        let lines =
            verbs.iter().filter(|(_, names)| !names.is_empty()).map(|(verb, names)| format!("{verb} {}", kinds(names)));
        Difference {
            start: wanted(&self.start),
            restart: wanted(&self.restart),
            stop: folded(self.stop.iter().map(|slot| slot.name()).collect()),
            network: lines.collect(),
            unchanged: u32::try_from(self.keep.len()).unwrap_or(u32::MAX),
            notes: self.notes.clone(),
        }
    }
}

/// Things of the network by their kind: "lan office, 2 ports".
fn kinds(labels: &[String]) -> String {
    let mut by_kind: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for label in labels {
        by_kind.entry(label.split(' ').next().unwrap_or_default()).or_default().push(label);
    }
    let words = by_kind.into_iter().map(|(kind, labels)| match labels.as_slice() {
        [one] => (*one).to_owned(),
        many => format!("{} {kind}s", many.len()),
    });
    words.collect::<Vec<_>>().join(", ")
}

/// Everything that was found out before anything is touched.
struct Prepared {
    slice: Slice,
    network: NetworkSpec,
    work: Work,
    difference: Difference,
}

/// Why an apply is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Only to say what would change.
    DryRun,
    /// The experiment is wanted so, in this generation; 0: in none.
    Wanted(u64),
}

/// Applies a spec and reports. The last step is also given back; `None` when it was refused before anything was done.
pub async fn apply(agent: &Arc<Agent>, spec: &Spec, why: Why, report: &Report) -> Option<Progress> {
    if why == Why::DryRun
        && let Some(experiment) = agent.experiment(&spec.experiment)
        && experiment.operation.try_lock().is_err()
    {
        return look(agent, &experiment, spec, report).await;
    }
    let entered = match agent.enter(&spec.experiment, false).await {
        Ok(entered) => entered,
        Err(error) => {
            report.refuse(Status::internal(error.to_string())).await;
            return None;
        }
    };
    let experiment = &entered.experiment;
    let is_new = experiment.is_new();
    let refused = match (prepare(agent, experiment, spec, why).await, why) {
        (Ok(prepared), Why::DryRun) => {
            report.difference(prepared.difference).await;
            forget_new(agent, experiment, is_new);
            return Some(report.finish(experiment.slots().counts()).await);
        }
        (Ok(prepared), Why::Wanted(generation)) => match begin(agent, experiment, spec, generation) {
            Ok(()) => {
                let last = carry_out(agent, experiment, prepared, report).await;
                if !last.folds.iter().any(|fold| fold.outcome() == Outcome::NotReached)
                    && let Err(error) = agent.generations().whole(experiment.name(), generation)
                {
                    tracing::warn!(experiment = experiment.name(), %error, "that a generation is whole could not be noted");
                }
                return Some(last);
            }
            Err(status) => status,
        },
        (Err(status), _) => status,
    };
    forget_new(agent, experiment, is_new);
    report.refuse(refused).await;
    None
}

/// Says what would change of an experiment that somebody is changing: who asks need not wait for the end of that.
async fn look(agent: &Arc<Agent>, experiment: &Arc<Experiment>, spec: &Spec, report: &Report) -> Option<Progress> {
    match prepare(agent, experiment, spec, Why::DryRun).await {
        Ok(Prepared { mut difference, .. }) => {
            difference.notes.push("an operation is under way on it; this is what is left at this moment".to_owned());
            report.difference(difference).await;
            Some(report.finish(experiment.slots().counts()).await)
        }
        Err(status) => {
            report.refuse(status).await;
            None
        }
    }
}

/// What is about to be done is on record first.
fn begin(agent: &Agent, experiment: &Experiment, spec: &Spec, generation: u64) -> Result<(), Status> {
    agent.generations().admit(experiment.name(), generation)?;
    experiment.remember(spec).map_err(|error| {
        Status::resource_exhausted(format!(
            "cannot write {}: {error}\nhelp: free some space there; nothing was changed",
            agent.config.experiment_dir(&spec.experiment).display()
        ))
    })
}

/// An experiment of which nothing came leaves no trace.
fn forget_new(agent: &Agent, experiment: &Experiment, is_new: bool) {
    if is_new {
        agent.forget(experiment.name());
        if let Err(error) = experiment.forget() {
            tracing::warn!(experiment = experiment.name(), %error, "the folder of a refused experiment stays");
        }
    }
}

/// Compiles, chooses, admits and compares. Touches nothing.
async fn prepare(agent: &Arc<Agent>, experiment: &Arc<Experiment>, spec: &Spec, why: Why) -> Result<Prepared, Status> {
    if let Why::Wanted(generation) = why {
        agent.generations().check(experiment.name(), generation)?;
    }
    let probed = agent.probed().await.clone();
    let options = spec.options.clone().unwrap_or_default();
    let preferred = match options.hypervisor.as_str() {
        "" => agent.config.hypervisor.as_deref().and_then(choose::hypervisor_kind),
        name => Some(choose::hypervisor_kind(name).ok_or_else(|| {
            Status::invalid_argument(format!("unknown hypervisor `{name}`\nhelp: fleet knows uml and qemu"))
        })?),
    };
    let blocking = {
        let (agent, spec) = (Arc::clone(agent), spec.clone());
        move || {
            let slice = Slice::compile(&spec, &agent.config.host).map_err(Status::invalid_argument)?;
            let mut chooser = Chooser::new(&agent.images, &probed, preferred, agent.config.ksm);
            let choose = |vm| chooser.choose(&spec.experiment, vm);
            let wanted: Result<Vec<Wanted>, _> = slice.vms().map(choose).collect();
            let wanted = wanted.map_err(|error| Status::failed_precondition(error.to_string()))?;
            let network = slice.network().map_err(Status::failed_precondition)?;
            Ok::<_, Status>((slice, wanted, network))
        }
    };
    let joined = tokio::task::spawn_blocking(blocking).await;
    let (slice, wanted, network) = joined.map_err(|error| Status::internal(error.to_string()))??;
    let planned = experiment.around.network.plan(&network).await;
    let planned = planned.map_err(|error| Status::failed_precondition(error.to_string()))?;
    let work = compare(&experiment.slots(), wanted, &planned);
    let starting: Vec<_> = work.start.iter().chain(&work.restart).map(Demand::of).collect();
    let slots = experiment.slots();
    let restarting = work.restart.iter().filter_map(|wanted| slots.get(&wanted.vm.vm.name));
    let going: Vec<_> = restarting.chain(&work.stop).cloned().collect();
    admit::admit(&agent.config.host, &starting, &room::room(agent, &going))
        .map_err(|error| Status::resource_exhausted(error.to_string()))?;
    let difference = work.difference(&planned);
    Ok(Prepared { slice, network, work, difference })
}

/// Sorts the wanted VMs by what is to be done, and finds those that nobody wants any more.
fn compare(slots: &Slots, wanted: Vec<Wanted>, network: &NetReport) -> Work {
    // A running VM whose port has to be made holds the end of one that somebody removed: it is deaf until restarted.
    let lost: HashSet<&str> = network.made.iter().filter_map(|made| made.strip_prefix("port ")).collect();
    let names: HashSet<String> = wanted.iter().map(|wanted| wanted.vm.vm.name.clone()).collect();
    let stop = slots.iter().filter(|slot| !names.contains(slot.name())).cloned().collect();
    let notes = merging::notes(slots, &wanted);
    let mut work = Work { start: Vec::new(), restart: Vec::new(), keep: Vec::new(), stop, notes };
    for wanted in wanted {
        let running = slots.get(&wanted.vm.vm.name).and_then(|slot| slot.running_spec());
        match running {
            None => work.start.push(wanted),
            // How fast the guest's delay loop runs is measured anew by each agent, and changes nothing.
            Some(running)
                if fleet_vm::VmSpec { lpj: wanted.spec.lpj, ..running.clone() } == wanted.spec
                    && !wanted.vm.ports.iter().any(|port| lost.contains(port.as_str())) =>
            {
                work.keep.push(wanted);
            }
            Some(_) => work.restart.push(wanted),
        }
    }
    work
}

async fn carry_out(agent: &Arc<Agent>, experiment: &Arc<Experiment>, prepared: Prepared, report: &Report) -> Progress {
    let Prepared { slice, network, work, difference } = prepared;
    let around = &experiment.around;
    // Templates are made for these, and those that are there outlast the VMs that are about to go.
    let _expected = around.vms.expect(work.start.iter().chain(&work.restart).map(|wanted| &wanted.spec));
    let concurrency = slice.spec.options.as_ref().map_or(0, |options| options.concurrency) as usize;
    around.hub.event("experiment.applying", experiment.name(), "", &slice.spec.source_name);

    let all = work.start.iter().chain(&work.restart).chain(&work.keep).map(|wanted| wanted.vm.vm.name.clone());
    report.targets(all.chain(work.stop.iter().map(|slot| slot.name().to_owned())));
    report.difference(difference).await;

    // 1. What must go, goes: its ports are about to.
    let old = experiment.slots();
    let restarting = work.restart.iter().filter_map(|wanted| old.get(&wanted.vm.vm.name).cloned());
    let counts = || experiment.slots().counts();
    let mut kept_wrong = Vec::new();
    let going: Vec<_> =
        work.stop.iter().cloned().map(|slot| (slot, true)).chain(restarting.map(|slot| (slot, false))).collect();
    let mut removals = futures::stream::iter(going)
        .map(|(slot, stop)| async move { (slot.remove(around).await, slot, stop) })
        .buffer_unordered(REMOVING);
    while let Some((ended, slot, stop)) = removals.next().await {
        if ended != Ended::Ok {
            kept_wrong.push(Arc::clone(&slot));
        } else if stop && let Some(cameras) = agent.cameras() {
            let gone = |of: &str, vm: &str| of == experiment.name() && vm == slot.name();
            cameras.release(gone, "its VM is not wanted any more").await;
        }
        if stop || ended != Ended::Ok {
            report.ended(slot.name(), ended, counts).await;
        }
    }
    drop(removals);

    // 2. The table of the new plan: slots that stay keep their history.
    let slot_of = |wanted: &Wanted| match old.get(&wanted.vm.vm.name) {
        Some(slot) => {
            slot.want(wanted.clone());
            Arc::clone(slot)
        }
        None => Slot::new(wanted.clone()),
    };
    let keep: Vec<_> = work.keep.iter().map(slot_of).collect();
    let start: Vec<_> = work.start.iter().chain(&work.restart).map(slot_of).collect();
    let order: std::collections::HashMap<String, usize> =
        slice.vms().enumerate().map(|(at, vm)| (vm.vm.name, at)).collect();
    let mut table: Vec<_> = keep.iter().chain(&start).cloned().collect();
    table.sort_by_key(|slot| order.get(slot.name()).copied().unwrap_or(usize::MAX));
    table.extend(kept_wrong.into_iter().filter(|slot| !order.contains_key(slot.name())));
    experiment.set_slots(Slots::new(table));
    experiment.set_slice(slice);

    // 3. The network.
    let made = around.network.reconcile(&network, |_| {}).await;
    experiment.look_at_routers().await;
    match made {
        Ok(_) => {
            tell_kept(&keep, experiment, report).await;
            let _wave = merging::wave(agent, &start);
            start_all(start, concurrency, experiment, report).await;
        }
        Err(error) => {
            let reason = format!("the network could not be made: {error}");
            tracing::error!(experiment = experiment.name(), reason, "an experiment cannot be brought up");
            for slot in &keep {
                report.ended(slot.name(), Ended::Failed { reason: reason.clone(), retryable: true }, counts).await;
            }
            for slot in &start {
                report.ended(slot.name(), slot.without_network(around, &reason), counts).await;
            }
        }
    }
    let last = report.finish(experiment.slots().counts()).await;
    let count =
        |outcome| last.folds.iter().filter(|fold| fold.outcome() == outcome).map(|fold| fold.count).sum::<u32>();
    let (failed, missed) = (count(Outcome::Failed), count(Outcome::NotReached));
    if missed == 0 || report.is_abandoned() {
        // An apply that its caller broke off is over too: only a dead agent's is gone on with.
        experiment.applied();
    }
    let said = format!("{} VMs, {failed} failed, {missed} not reached", last.targets);
    around.hub.event("experiment.applied", experiment.name(), "", &said);
    last
}

/// Tells guests that run what has changed for them.
async fn tell_kept(keep: &[Arc<Slot>], experiment: &Experiment, report: &Report) {
    let told = futures::stream::iter(keep.to_vec()).map(|slot| async move {
        let asleep = matches!(slot.state(), VmState::Paused | VmState::Starting | VmState::Booting);
        let ended = if asleep { Ended::AlreadySo } else { slot.reconfigure().await };
        (slot, if ended == Ended::Ok { Ended::AlreadySo } else { ended })
    });
    let mut told = told.buffer_unordered(REMOVING);
    while let Some((slot, ended)) = told.next().await {
        report.ended(slot.name(), ended, || experiment.slots().counts()).await;
    }
}

/// Starts VMs as the host's gate lets them through, or so many at a time as was asked for, until all are up or failed,
/// the caller goes away, or the experiment is to be removed.
async fn start_all(start: Vec<Arc<Slot>>, concurrency: usize, experiment: &Arc<Experiment>, report: &Report) {
    let around = &experiment.around;
    let gate = if concurrency == 0 { Arc::clone(&around.gate) } else { Gate::fixed(concurrency) };
    let (stop, stopped) = watch::channel(false);
    // One waits in line for all: VMs come up in the plan's order.
    let entering = futures::stream::iter(start).then(|slot| {
        let (gate, mut stopped) = (Arc::clone(&gate), stopped.clone());
        async move {
            tokio::select! {
                biased;
                _ = stopped.wait_for(|stop| *stop) => None,
                place = gate.enter() => Some((slot, place)),
            }
        }
    });
    let starts = entering.for_each_concurrent(None, |entered| {
        let (gate, stopped) = (&gate, stopped.clone());
        async move {
            let Some((slot, place)) = entered else { return };
            let ended = slot.bring_up(around, gate, place, stopped).await;
            report.ended(slot.name(), ended, || experiment.slots().counts()).await;
        }
    });
    tokio::pin!(starts);
    tokio::select! {
        () = &mut starts => return,
        () = report.abandoned() => {}
        () = experiment.interrupted() => {}
    }
    stop.send_replace(true);
    // Those that were begun come to their end: nothing half-made stays.
    starts.await;
}
