//! What must hold. Counts of waves and answers, and that no operation is done twice and no VM stopped unasked, are
//! judged when they happen; here is what is true of the whole fleet.

use std::collections::{BTreeMap, HashSet};

use fleet_core::Phase;

use crate::controller::Look;
use crate::fleet::{Fleet, State, name};
use crate::ranges::vms as vms_of;

/// What must hold at any time.
///
/// # Errors
/// The first thing that does not.
pub fn always(fleet: &Fleet, look: Option<&Look>) -> Result<(), String> {
    let state = fleet.state();
    if let Some(first) = state.violations.first() {
        return Err(format!("{first} ({} violations)", state.violations.len()));
    }
    if let Some(problem) = look.and_then(|look| look.problems.first()) {
        return Err(problem.clone());
    }
    runs_twice(&state, false)
}

/// What must hold once faults have stopped and the controller is idle.
///
/// # Errors
/// The first thing that does not.
pub fn converged(fleet: &Fleet, look: &Look) -> Result<(), String> {
    let state = fleet.state();
    if let Some(number) = state.users.unanswered() {
        return Err(format!("the operation op{number} was never answered"));
    }
    let specs: BTreeMap<&str, _> =
        look.experiments.iter().map(|(name, spec, phase)| (name.as_str(), (spec, phase))).collect();
    let mut expected = HashSet::new();
    for (experiment, vms) in state.users.wanted() {
        let Some(vms) = vms else {
            if specs.contains_key(experiment) {
                return Err(format!("{experiment} is taken down, and the controller still has it"));
            }
            continue;
        };
        let Some((spec, phase)) = specs.get(experiment) else {
            let why = state.users.refused(experiment).unwrap_or("it does not know it");
            return Err(format!("{experiment} is wanted, and the controller does not have it: {why}"));
        };
        if let Some(why) = state.users.refused(experiment) {
            return Err(format!("{experiment} was refused although all hosts are there: {why}"));
        }
        if **phase != Phase::Up {
            return Err(format!("{experiment} is {phase:?} when nothing is left to do"));
        }
        let mut placed = 0;
        for place in &spec.hosts {
            let host = crate::fleet::number(&place.host).and_then(|host| state.hosts.get(host));
            let held = host.and_then(|host| host.holds.get(experiment));
            if held.is_none_or(|held| held.ranges != place.ranges) {
                return Err(format!("{} does not run what it is to run of {experiment}", place.host));
            }
            placed += vms_of(&place.ranges);
            expected.extend(crate::fleet::number(&place.host).map(|host| (experiment, host)));
        }
        if placed != vms {
            return Err(format!("{experiment} has {placed} of {vms} VMs"));
        }
    }
    for (number, host) in state.hosts.iter().enumerate() {
        for (experiment, held) in &host.holds {
            if !expected.contains(&(experiment.as_str(), number)) && !held.ranges.is_empty() {
                return Err(format!("{} still runs {experiment}", name(number)));
            }
        }
    }
    runs_twice(&state, true)
}

/// A VM runs on two hosts only while it moves off one that a user has left, or when one of them has not heard yet that
/// it was taken down before it was started anew.
fn runs_twice(state: &State, at_rest: bool) -> Result<(), String> {
    let mut all: Vec<(&str, &str, u32, u32, usize)> = Vec::new();
    for (number, host) in state.hosts.iter().enumerate().filter(|(_, host)| at_rest || !host.left_once) {
        for (experiment, held) in &host.holds {
            let kept = if at_rest { u32::MAX } else { state.users.fewest_since(experiment, held.asked) };
            let ranges = held.ranges.iter().filter(|range| range.first < kept);
            all.extend(
                ranges.map(|r| (experiment.as_str(), r.group.as_str(), r.first, r.count.min(kept - r.first), number)),
            );
        }
    }
    all.sort_unstable();
    for pair in all.windows(2) {
        let [a, b] = pair else { continue };
        if (a.0, a.1) == (b.0, b.1) && a.2 + a.3 > b.2 {
            return Err(format!("{}.{}[{}] runs on {} and {}", b.0, b.1, b.2, name(a.4), name(b.4)));
        }
    }
    Ok(())
}

/// How many VMs run on hosts that are part of the fleet.
pub fn running(fleet: &Fleet) -> u64 {
    let state = fleet.state();
    let held = state.hosts.iter().filter(|host| !host.removed).flat_map(|host| host.holds.values());
    held.map(|held| u64::from(vms_of(&held.ranges))).sum()
}
