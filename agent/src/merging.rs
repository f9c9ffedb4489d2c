//! Between the VMs and the regulator of KSM (`fleet-ksm`), which know nothing of one another: how many VMs may be merged,
//! when a wave of boots begins and ends, and what `fleet ksm` and telemetry are told.

use std::collections::BTreeMap;
use std::sync::Arc;

use fleet_ksm::{Decision, Demand, Mode, Phase, Regulator};
use fleet_proto::v1::{KsmGroup, KsmHost, KsmSetting};
use fleet_tree::fold_names;
use fleet_vm::Merge;
use netlang::KsmMode;

use crate::agent::Agent;
use crate::experiment::Slots;
use crate::metric_definitions;
use crate::slot::{Slot, Wanted};

/// What the VMs that have a process want together.
pub fn demand(agent: &Agent) -> Demand {
    let mut demand = Demand::default();
    for experiment in agent.experiments() {
        for slot in experiment.slots().iter() {
            let Some(merge) = slot.machine().map(|machine| machine.spec().merge) else { continue };
            if merge != Merge::Off {
                demand.vms += 1;
                demand.mode = demand.mode.max(mode(merge));
            }
        }
    }
    demand
}

fn mode(merge: Merge) -> Mode {
    match merge {
        Merge::Off => Mode::Off,
        Merge::On => Mode::On,
        Merge::Aggressive => Mode::Aggressive,
    }
}

/// Tells the regulator what is wanted now.
pub fn tell(agent: &Agent) {
    if let Some(ksm) = agent.ksm() {
        ksm.want(demand(agent));
    }
}

/// A wave of boots, until dropped.
pub struct Boots<'a>(&'a Agent);

impl Drop for Boots<'_> {
    fn drop(&mut self) {
        tell(self.0);
        if let Some(ksm) = self.0.ksm() {
            ksm.wave_ended();
        }
    }
}

/// Says that these VMs are about to be started; `None` when none of them may be merged.
pub fn wave<'a>(agent: &'a Agent, start: &[Arc<Slot>]) -> Option<Boots<'a>> {
    let ksm = agent.ksm()?;
    start.iter().any(|slot| slot.wanted().spec.merge != Merge::Off).then(|| {
        ksm.wave_began();
        Boots(agent)
    })
}

/// What the user should know of the merging of these VMs before they are started.
pub fn notes(slots: &Slots, wanted: &[Wanted]) -> Vec<String> {
    let changed = wanted.iter().filter(|wanted| {
        let running = slots.get(&wanted.vm.vm.name).and_then(|slot| slot.machine());
        running.is_some_and(|machine| machine.spec().merge != wanted.spec.merge)
    });
    let asks = |wanted: &&Wanted| matches!(wanted.vm.vm.class.ksm, Some(KsmMode::On | KsmMode::Aggressive));
    let shared = wanted.iter().filter(asks).filter(|wanted| wanted.spec.merge == Merge::Off);
    let names = |list: Vec<&Wanted>| {
        (!list.is_empty()).then(|| fold_names(list.iter().map(|wanted| wanted.vm.vm.name.as_str())))
    };
    let changed = names(changed.collect())
        .map(|names| format!("{names}: another `ksm` needs a restart, since a process chooses it at its start"));
    let shared = names(shared.collect()).map(|names| {
        format!("{names}: `ksm` has no effect on uml, whose memory is a shared file; `hypervisor qemu` can be merged")
    });
    changed.into_iter().chain(shared).collect()
}

/// Tells the regulator what is wanted, and the metrics what it does. Reads a few files.
pub fn measure(agent: &Agent) {
    tell(agent);
    let Some(ksm) = agent.ksm() else { return };
    let status = ksm.status();
    metrics::gauge!(metric_definitions::KSM_SAVED).set(status.counters.saved_bytes() as f64);
    metrics::gauge!(metric_definitions::KSM_SHARE).set(status.share);
    for phase in [Phase::Off, Phase::Burst, Phase::Decay, Phase::Hold] {
        let labels = [("phase", phase.as_str())];
        metrics::gauge!(metric_definitions::KSM_PHASE, &labels).set(f64::from(u8::from(phase == status.phase)));
    }
}

/// Processor time of ksmd since boot, in ms; nought where it is out of sight.
pub fn cpu_ms(ksm: &Regulator) -> u64 {
    ksm.ksmd_cpu().map_or(0, |cpu| u64::try_from(cpu.as_millis()).unwrap_or(u64::MAX))
}

/// What `fleet ksm` shows of this host. Reads a file a VM.
pub fn host(agent: &Agent, dry_run: bool) -> KsmHost {
    let mut host =
        KsmHost { host: agent.config.host.clone(), phase: Phase::Off.as_str().to_owned(), ..KsmHost::default() };
    let Some(ksm) = agent.ksm() else {
        host.reason = "the agent is still looking for what runs".to_owned();
        return host;
    };
    let status = ksm.status();
    let would =
        dry_run.then(|| ksm.preview(if status.demand.mode == Mode::Off { Mode::On } else { status.demand.mode }));
    let would: Option<Decision> = match would {
        Some(Ok(decision)) => Some(decision),
        Some(Err(error)) => {
            host.would = error.to_string();
            None
        }
        None => None,
    };
    if let Some(decision) = &would {
        host.would = format!("{}: {}", decision.state.phase.as_str(), decision.reason);
    }
    let value = |settings: Option<&fleet_ksm::Settings>, name: &str| {
        settings.and_then(|settings| settings.entries().find(|(other, _)| *other == name)).map(|(_, value)| value)
    };
    let settings = status.settings.iter().flat_map(fleet_ksm::Settings::entries).map(|(name, now)| KsmSetting {
        name: name.to_owned(),
        now,
        found: value(status.found.as_ref(), name),
        would: value(would.as_ref().map(|decision| &decision.settings), name),
    });
    KsmHost {
        phase: status.phase.as_str().to_owned(),
        mode: status.demand.mode.as_str().to_owned(),
        vms: status.demand.vms,
        share_percent: status.share * 100.0,
        cpu_percent: status.ksmd_percent,
        cpu_ms: status.ksmd_since.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        saved_bytes: status.counters.saved_bytes(),
        pages_shared: status.counters.shared,
        pages_sharing: status.counters.sharing,
        pages_unshared: status.counters.unshared,
        pages_volatile: status.counters.volatile,
        pages_zero: status.counters.zero,
        full_scans: status.counters.full_scans,
        memory_available: status.pressure.available,
        memory_total: status.pressure.total,
        settings: settings.collect(),
        groups: groups(agent),
        reason: status.reason,
        problem: status.problem,
        ..host
    }
}

/// What merging saves in the VMs of each group that may be merged.
fn groups(agent: &Agent) -> Vec<KsmGroup> {
    let mut groups: BTreeMap<(String, String), (u32, i64)> = BTreeMap::new();
    for experiment in agent.experiments() {
        for slot in experiment.slots().iter() {
            let Some(machine) = slot.machine().filter(|machine| machine.spec().merge != Merge::Off) else { continue };
            let group = slot.name().rfind('[').map_or(slot.name(), |at| &slot.name()[..at]);
            let (vms, profit) = groups.entry((experiment.name().to_owned(), group.to_owned())).or_default();
            *vms += 1;
            *profit += profit_bytes(machine.pid());
        }
    }
    groups
        .into_iter()
        .map(|((experiment, group), (vms, profit_bytes))| KsmGroup { experiment, group, vms, profit_bytes })
        .collect()
}

/// What merging saves in one process (`ksm_process_profit` of its `ksm_stat`, Linux 6.1); nought where it is not told.
fn profit_bytes(pid: i32) -> i64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/ksm_stat")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("ksm_process_profit"));
    line.and_then(|line| line.trim_start_matches(':').trim().parse().ok()).unwrap_or(0)
}
