//! Probes: real packets, sent by the guests themselves.

use std::net::Ipv4Addr;
use std::time::Duration;

use fleet_proto::v1::{ProbeResult, ProveReply, ProveRequest};
use fleet_wire::ProbeTarget;
use futures::StreamExt;

use crate::experiment::Experiment;

/// Guests that probe at once.
const CONCURRENCY: usize = 32;
/// Targets that a guest takes at once.
const TARGETS: usize = 1024;
/// What an answer may take beyond the probes' own time.
const SLACK: Duration = Duration::from_secs(10);
/// Longest time for one answer, and most tries, that a caller may ask for.
const MAX_TIMEOUT_MS: u32 = 60_000;
const MAX_ATTEMPTS: u32 = 10;

/// Lets guests send echo requests. What could not be sent is in the results, not an error.
pub async fn prove(experiment: &Experiment, request: ProveRequest) -> ProveReply {
    let timeout = Duration::from_millis(request.timeout_ms.clamp(1, MAX_TIMEOUT_MS).into());
    let attempts = request.attempts.clamp(1, MAX_ATTEMPTS);
    let probes = futures::stream::iter(request.probes).map(|probe| async move {
        let mut results = Vec::with_capacity(probe.to.len());
        for targets in probe.to.chunks(TARGETS) {
            results.extend(from_one(experiment, &probe.from, targets, timeout, attempts).await);
        }
        results
    });
    let results: Vec<Vec<ProbeResult>> = probes.buffered(CONCURRENCY).collect().await;
    ProveReply { results: results.into_iter().flatten().collect() }
}

async fn from_one(
    experiment: &Experiment,
    from: &str,
    targets: &[String],
    timeout: Duration,
    attempts: u32,
) -> Vec<ProbeResult> {
    let result = |to: &String, rtt: Option<Duration>, error: &str| ProbeResult {
        from: from.to_owned(),
        to: to.clone(),
        answered: rtt.is_some(),
        rtt_us: rtt.map_or(0, |rtt| u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX)),
        error: error.to_owned(),
    };
    match send(experiment, from, targets, timeout, attempts).await {
        Ok(rtts) => targets.iter().zip(rtts).map(|(to, rtt)| result(to, rtt, "")).collect(),
        Err(error) => targets.iter().map(|to| result(to, None, &error)).collect(),
    }
}

async fn send(
    experiment: &Experiment,
    from: &str,
    targets: &[String],
    timeout: Duration,
    attempts: u32,
) -> Result<Vec<Option<Duration>>, String> {
    let slots = experiment.slots();
    let slot = slots.get(from).ok_or_else(|| format!("no VM `{from}` on this host"))?;
    let machine = slot.machine().ok_or_else(|| format!("`{from}` does not run"))?;
    let parse =
        |to: &String| Ok(ProbeTarget { ip: to.parse::<Ipv4Addr>().map_err(|_| format!("`{to}` is no address"))? });
    let targets: Vec<ProbeTarget> = targets.iter().map(parse).collect::<Result<_, String>>()?;
    let deadline = timeout * attempts + SLACK;
    machine.control().probe(&targets, timeout, attempts, deadline).await.map_err(|error| error.to_string())
}
