//! Proving `check` lines: real packets from real guests.
//!
//! A line means all pairs of a source and a target. Small lines are proved pair by pair. Of large ones every source
//! and every target takes part at least once: pair k is source k mod m with target k mod n, for k below max(m, n).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use fleet_proto::v1::{CheckResult, Probe, ProbeResult, ProveReply};
use netlang::{Check, CheckTarget, Expect, Plan, Range};

/// Lines with at most so many pairs are proved pair by pair.
const ALL_PAIRS: u64 = 1024;
/// Failures told in words; the others are counted.
const TOLD: usize = 5;

/// What is to be sent for one line.
pub struct Proof {
    /// Probes, one a source.
    pub probes: Vec<Probe>,
    pairs: u64,
    names: BTreeMap<String, String>,
}

/// Plans the probes of a line, of which these are the senders and targets.
pub fn plan(plan: &Plan, from: &[Range], to: &CheckTarget) -> Proof {
    let sources: Vec<String> = names(plan, from).map(|(name, _)| name).collect();
    let targets: Vec<(String, Ipv4Addr)> = match to {
        // A VM is reached at its first interface.
        CheckTarget::Vms(ranges) => {
            names(plan, ranges).filter_map(|(name, vm)| Some((name, vm.nics.first()?.ip))).collect()
        }
        CheckTarget::Addresses(addresses) => addresses.iter().map(|ip| (ip.to_string(), *ip)).collect(),
        CheckTarget::External(_) => Vec::new(),
    };
    let (m, n) = (sources.len() as u64, targets.len() as u64);
    let pairs = m * n;
    let mut by_source: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut pair = |source: &String, target: &(String, Ipv4Addr)| {
        if *source != target.0 {
            by_source.entry(source.clone()).or_default().push(target.1.to_string());
        }
    };
    if pairs <= ALL_PAIRS {
        sources.iter().for_each(|source| targets.iter().for_each(|target| pair(source, target)));
    } else {
        for k in 0..m.max(n) {
            pair(&sources[(k % m) as usize], &targets[(k % n) as usize]);
        }
    }
    let itself = sources.iter().filter(|source| targets.iter().any(|target| target.0 == **source)).count() as u64;
    Proof {
        probes: by_source.into_iter().map(|(from, to)| Probe { from, to }).collect(),
        pairs: pairs - itself,
        names: targets.iter().map(|(name, ip)| (ip.to_string(), name.clone())).collect(),
    }
}

/// The VMs of ranges with their names.
fn names<'a>(plan: &'a Plan, ranges: &'a [Range]) -> impl Iterator<Item = (String, netlang::Vm)> + 'a {
    ranges
        .iter()
        .flat_map(move |range| range.indices().filter_map(move |index| plan.vm(range.group, index)))
        .map(|vm| (vm.name.clone(), vm))
}

/// Judges the answers.
pub fn judge(check: &Check, expect: Expect, proof: &Proof, reply: &ProveReply) -> CheckResult {
    let wrong = |result: &&ProbeResult| match expect {
        Expect::Reaches => !result.answered,
        // A probe that could not even be sent proves nothing.
        Expect::CannotReach => result.answered || !result.error.is_empty(),
    };
    let failed: Vec<&ProbeResult> = reply.results.iter().filter(wrong).collect();
    let tell = |result: &&ProbeResult| {
        let name = proof.names.get(&result.to).map_or("", String::as_str);
        let what = match (expect, result.error.as_str()) {
            (_, error) if !error.is_empty() => format!("could not send: {error}"),
            (Expect::Reaches, _) => "no answer".to_owned(),
            (Expect::CannotReach, _) => format!("answered after {:.2} ms", f64::from(result.rtt_us) / 1000.0),
        };
        format!("{} -> {name} ({}): {what}", result.from, result.to)
    };
    let mut rtts: Vec<u32> =
        reply.results.iter().filter(|result| result.answered).map(|result| result.rtt_us).collect();
    rtts.sort_unstable();
    CheckResult {
        check: check.text.clone(),
        // A line that sent nothing has proved nothing.
        passed: failed.is_empty() && !reply.results.is_empty(),
        pairs: u32::try_from(proof.pairs).unwrap_or(u32::MAX),
        probed: u32::try_from(reply.results.len()).unwrap_or(u32::MAX),
        failed: u32::try_from(failed.len()).unwrap_or(u32::MAX),
        failures: failed.iter().take(TOLD).map(tell).collect(),
        rtt_us_median: rtts.get(rtts.len() / 2).copied().unwrap_or(0),
        line: check.line,
    }
}
