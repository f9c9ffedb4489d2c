//! The decision on what a real kernel did: a trace of `examples/record.rs`, taken under Linux 6.18 on two busy cores with
//! thirty freshly started clones (QEMU, emulated, 32 MiB each).
#![allow(clippy::unwrap_used)]

mod common;

use fleet_ksm::{Decision, Input, Phase, State, decide};

fn trace() -> Vec<Input> {
    let text = include_str!("traces/thirty-clones.jsonl");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn replay(inputs: &[Input]) -> Vec<Decision> {
    let mut state = State::default();
    let decide_next = |input: &Input| {
        let decision = decide(&state, input);
        state = decision.state.clone();
        decision
    };
    inputs.iter().map(decide_next).collect()
}

#[test]
fn the_burst_ends_when_nearly_all_is_merged_and_not_before() {
    let inputs = trace();
    let decisions = replay(&inputs);
    let end = decisions.iter().position(|decision| decision.state.phase != Phase::Burst).unwrap();
    let most = inputs.iter().map(|input| input.counters.profit).max().unwrap();
    assert!(inputs[end].counters.profit * 10 > most * 9, "{} of {most}", inputs[end].counters.profit);
    assert!(inputs[end].counters.full_scans - inputs[0].counters.full_scans <= 4);
}

#[test]
fn after_the_burst_it_comes_to_hold_for_little_more() {
    let inputs = trace();
    let decisions = replay(&inputs);
    let last = decisions.last().unwrap();
    assert_eq!(last.state.phase, Phase::Hold, "{last:?}");
    assert!(last.state.share <= 0.004, "{last:?}");
    let cpu = |input: &Input| input.ksmd_cpu.unwrap();
    let spent = cpu(inputs.last().unwrap()) - cpu(&inputs[0]);
    assert!(spent.as_secs_f64() < 3.0, "{spent:?} of ksmd in all");
}

#[test]
fn every_decision_on_the_trace_gives_its_reason() {
    let decisions = replay(&trace());
    assert!(decisions.iter().all(|decision| !decision.reason.is_empty() && decision.next.is_some()));
    assert!(decisions[0].reason.contains("30 VMs"), "{}", decisions[0].reason);
}
