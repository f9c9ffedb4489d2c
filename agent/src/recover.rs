//! What an agent does first: it finds what an earlier one left, and goes on with it. VMs that run are adopted, what
//! ended while nobody watched is told, an apply that was under way is gone on with, and what belongs to no experiment
//! is removed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use fleet_net::Network;
use fleet_vm::{Adopted, VmError};

use crate::agent::{Agent, AgentError};
use crate::apply;
use crate::choose::Chooser;
use crate::experiment::{Experiment, Remembered, Slots, remembered};
use crate::progress::Report;
use crate::slice::Slice;
use crate::slot::{Slot, Wanted};
use crate::wave;

/// Finds everything again.
///
/// # Errors
/// When the folders of VMs or namespaces cannot be read at all.
pub async fn recover(agent: &Arc<Agent>) -> Result<(), AgentError> {
    wave::end_left(&agent.config.run_dir).await;
    let mut found = find_vms(agent).await?;
    let mut specs: BTreeMap<String, Remembered> = BTreeMap::new();
    for entry in std::fs::read_dir(&agent.config.run_dir).into_iter().flatten().flatten() {
        if let Some(remembered) = remembered(&entry.path()) {
            specs.insert(remembered.spec.experiment.clone(), remembered);
        }
    }
    let networks: BTreeSet<String> = Network::list(&agent.net_config()).await?.into_iter().collect();
    for (name, remembered) in &specs {
        let vms = found.remove(name).unwrap_or_default();
        let experiment = agent.experiment_or_new(name)?;
        match resume(agent, &experiment, remembered, vms).await {
            Ok(()) => tracing::info!(experiment = name, "found again"),
            Err(reason) => tracing::error!(
                experiment = name,
                reason,
                "an experiment could not be found again; `fleet down` removes it"
            ),
        }
        if remembered.applying {
            go_on(agent, remembered);
        }
    }
    // VMs and networks without a spec: their experiment was being removed, or its folder was lost.
    for (name, vms) in found {
        for (dir, vm) in vms {
            // A newer fleet's, or damaged: its process may run, and its experiment is known. Nothing is lost.
            if let Err(error) = &vm
                && specs.keys().any(|known| dir.starts_with(agent.config.experiment_dir(known)))
            {
                tracing::error!(dir = %dir.display(), %error, "a VM's record cannot be read; the VM is left alone");
                continue;
            }
            tracing::warn!(experiment = name, dir = %dir.display(), "removing a VM of no known experiment");
            if let Err(error) = agent.vms().remove_dir(&dir).await {
                tracing::error!(dir = %dir.display(), %error, "it could not be removed");
            }
        }
    }
    agent.generations().found(|name| specs.contains_key(name))?;
    for name in networks.iter().filter(|name| !specs.contains_key(*name)) {
        tracing::warn!(experiment = name, "removing a network of no known experiment");
        for error in Network::open(agent.net_config(), name)?.remove().await {
            tracing::error!(experiment = name, %error, "a part of it could not be removed");
        }
    }
    Ok(())
}

type Found = Vec<(PathBuf, Result<Adopted, VmError>)>;

/// All VMs of the run folder, by experiment; those whose record is damaged are under an empty name.
async fn find_vms(agent: &Agent) -> Result<BTreeMap<String, Found>, AgentError> {
    let mut by_experiment: BTreeMap<String, Found> = BTreeMap::new();
    for (dir, adopted) in agent.vms().adopt_all().await? {
        let name = match &adopted {
            Ok(Adopted::Running(machine)) => machine.spec().experiment.clone(),
            Ok(Adopted::Ended { spec, .. } | Adopted::NeverStarted { spec }) => spec.experiment.clone(),
            Err(_) => String::new(),
        };
        by_experiment.entry(name).or_default().push((dir, adopted));
    }
    Ok(by_experiment)
}

/// Puts an experiment together from its spec and its VMs.
async fn resume(
    agent: &Arc<Agent>,
    experiment: &Arc<Experiment>,
    remembered: &Remembered,
    vms: Found,
) -> Result<(), String> {
    let slice = Slice::compile(&remembered.spec, &agent.config.host)?;
    let mut adopted = BTreeMap::new();
    for (dir, vm) in vms {
        let (name, spec) = match &vm {
            Ok(Adopted::Running(machine)) => (machine.spec().name.clone(), machine.spec().clone()),
            Ok(Adopted::Ended { spec, .. } | Adopted::NeverStarted { spec }) => (spec.name.clone(), (**spec).clone()),
            Err(error) => {
                tracing::error!(dir = %dir.display(), %error, "a VM's record cannot be read");
                continue;
            }
        };
        adopted.insert(name, (spec, dir, vm));
    }
    let around = &experiment.around;
    // Only what was never begun needs to know what this host can run: finding that out takes a while.
    let all_begun = slice.vms().all(|vm| adopted.contains_key(&vm.vm.name));
    let probed = if all_begun { None } else { Some(agent.probed().await.clone()) };
    let preferred = agent.config.hypervisor.as_deref().and_then(crate::choose::hypervisor_kind);
    let mut chooser = probed.as_ref().map(|probed| Chooser::new(&agent.images, probed, preferred, agent.config.ksm));
    let mut slots = Vec::new();
    for vm in slice.vms() {
        let name = vm.vm.name.clone();
        let Some((spec, dir, found)) = adopted.remove(&name) else {
            // Never begun: what it is to be is worked out, so that `ps` can show it.
            let chosen = chooser.as_mut().map(|chooser| chooser.choose(&remembered.spec.experiment, vm));
            match chosen {
                Some(Ok(wanted)) => slots.push(Slot::new(wanted)),
                Some(Err(error)) => {
                    tracing::warn!(vm = name, %error, "this VM cannot be shown until the next `fleet up`");
                }
                None => {} // all were begun
            }
            continue;
        };
        let slot = Slot::new(Wanted { vm, spec });
        match found {
            Ok(Adopted::Running(machine)) => slot.adopt(around, machine),
            Ok(Adopted::Ended { exit, .. }) => slot.adopt_ended(around, &exit),
            Ok(Adopted::NeverStarted { .. }) => {
                if let Err(error) = agent.vms().remove_dir(&dir).await {
                    tracing::error!(dir = %dir.display(), %error, "a half-made VM could not be removed");
                }
            }
            Err(_) => {} // sorted out above
        }
        slots.push(slot);
    }
    // In the folder but not in the plan: they were about to be stopped.
    for (name, (_, dir, _)) in adopted {
        if let Err(error) = agent.vms().remove_dir(&dir).await {
            tracing::error!(vm = name, %error, "a VM that nobody wants could not be removed");
        }
    }
    experiment.set_slots(Slots::new(slots));
    experiment.set_slice(slice);
    experiment.look_at_routers().await;
    Ok(())
}

/// Goes on with an apply that was under way when the earlier agent ended.
fn go_on(agent: &Arc<Agent>, remembered: &Remembered) {
    let spec = remembered.spec.clone();
    tracing::info!(experiment = spec.experiment, "going on with an interrupted apply");
    let applying = Arc::clone(agent);
    let task = tokio::spawn(async move {
        let (report, mut steps) = Report::new();
        let reading = async { while steps.recv().await.is_some() {} };
        let apply = async {
            let generation = applying.generations().newest(&spec.experiment);
            apply::apply(&applying, &spec, apply::Why::Wanted(generation), &report).await;
            drop(report);
        };
        tokio::join!(apply, reading);
        applying.tell_held();
    });
    agent.keep(task);
}
