//! The task that measures: every few seconds the host, each VM, each port, and each camera that is redirected.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fleet_proto::v1::TelemetryBatch;
use fleet_telemetry::{LinkCounters, PortTarget, Roots, Sampler, Usage, VmSource, VmTarget};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::agent::{Agent, AgentError};
use crate::hub::now_ms;
use crate::slot::Slot;
use crate::{merging, metric_definitions};

/// Of a console's log so much is kept at least; what is older is given back to the tmpfs.
const CONSOLE_KEPT: u64 = 1024 * 1024;
/// How long the network may take to tell its counters before a sample goes without them.
const COUNTERS_DEADLINE: Duration = Duration::from_secs(2);

/// Starts the task.
///
/// # Errors
/// When the host cannot be measured at all.
pub fn start(agent: &Arc<Agent>) -> Result<JoinHandle<()>, AgentError> {
    let mut sampler = Sampler::new(agent.config.host.clone(), Roots::default())?;
    let weak = Arc::downgrade(agent);
    let mut ticks = tokio::time::interval(agent.config.sample_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Ok(tokio::spawn(async move {
        loop {
            ticks.tick().await;
            let Some(agent) = weak.upgrade() else { return };
            match sample(&agent, sampler).await {
                Some(back) => sampler = back,
                None => return,
            }
        }
    }))
}

/// One sampling; gives the sampler back, `None` when the runtime ends.
async fn sample(agent: &Arc<Agent>, mut sampler: Sampler) -> Option<Sampler> {
    let mut ports = Vec::new();
    for experiment in agent.experiments() {
        let counters = tokio::time::timeout(COUNTERS_DEADLINE, experiment.around.network.counters()).await;
        // A network that is being made or removed has none; its next sample will.
        let Ok(Ok(counters)) = counters else { continue };
        ports.extend(counters.into_iter().map(|port| {
            let (owner, name) = port.port.rsplit_once('/').unwrap_or((port.port.as_str(), ""));
            PortTarget {
                experiment: experiment.name().to_owned(),
                owner: owner.to_owned(),
                port: name.to_owned(),
                segment: port.segment.clone().unwrap_or_default(),
                counters: LinkCounters {
                    rx_bytes: port.rx_bytes,
                    tx_bytes: port.tx_bytes,
                    rx_frames: port.rx_frames,
                    tx_frames: port.tx_frames,
                    rx_dropped: port.rx_drops,
                    tx_dropped: port.tx_drops,
                },
            }
        }));
    }
    let owner = Arc::clone(agent);
    let joined = tokio::task::spawn_blocking(move || {
        let mut vms = Vec::new();
        for experiment in owner.experiments() {
            let slots = experiment.slots();
            for count in slots.counts() {
                let labels =
                    [("experiment", experiment.name().to_owned()), ("state", count.state().as_str_name().to_owned())];
                metrics::gauge!(metric_definitions::VMS, &labels).set(f64::from(count.count));
            }
            vms.extend(slots.iter().filter_map(|slot| target(experiment.name(), slot)));
        }
        merging::measure(&owner);
        let sampled = sampler.sample(SystemTime::now(), &vms, &ports, owner.hub.dropped());
        (sampler, sampled)
    });
    let (sampler, sampled) = joined.await.ok()?;
    match sampled {
        Ok(sampled) => {
            metrics::counter!(metric_definitions::SAMPLES_MISSING).increment(sampled.missing.into());
            for mut batch in sampled.batches {
                for host in &mut batch.hosts {
                    host.agent_rss = agent.info().agent_rss_bytes;
                    host.ksm_cpu_ms = agent.ksm().map_or(0, merging::cpu_ms);
                }
                agent.hub.publish(&batch);
            }
        }
        Err(error) => tracing::warn!(%error, "a sample is missing"),
    }
    let cameras = agent.cameras().map(|cameras| cameras.samples()).unwrap_or_default();
    if !cameras.is_empty() {
        agent.hub.publish(&TelemetryBatch { ts_ms: now_ms(), cameras, ..TelemetryBatch::default() });
    }
    Some(sampler)
}

/// How a VM is measured. Its console's log is trimmed on the way.
fn target(experiment: &str, slot: &Slot) -> Option<VmTarget> {
    let machine = slot.machine()?;
    if let Err(error) = machine.trim_console(CONSOLE_KEPT) {
        tracing::debug!(vm = slot.name(), %error, "its console's log could not be trimmed");
    }
    let usage = machine.usage().ok()?;
    let source = VmSource::Given(Usage { cpu_time: usage.cpu, memory: usage.memory_bytes, started: machine.started() });
    Some(VmTarget { experiment: experiment.to_owned(), vm: slot.name().to_owned(), source })
}
