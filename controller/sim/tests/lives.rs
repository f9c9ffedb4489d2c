//! Random lives of fleets of all sizes: the invariants hold whatever happens, and a seed is a run.

#![allow(missing_docs, clippy::unwrap_used)]

use std::time::Duration;

use fleet_sim::{Params, Report, SimError, run};

fn params(hosts: u32, vms: u32, seed: u64) -> Params {
    Params { hosts, vms, latency: Duration::from_millis(1), fail: 0.3, seed, steps: 40 }
}

fn play(params: &Params) -> Report {
    // The error has the command that replays the run.
    run(params, &mut |_| {}).unwrap_or_else(|error| panic!("seed {}: {error}", params.seed))
}

#[test]
fn invariants_hold_in_small_fleets_with_many_faults() {
    let mut faults = [0; 4];
    for seed in 1..=60 {
        let hosts = [1, 2, 5, 12, 30, 80][seed as usize % 6];
        let report = play(&params(hosts, hosts * 9, seed));
        assert!(report.vms > 0 && report.waves > 0 && report.operations >= 3, "nothing happened: {report:?}");
        let of_this = [report.kills, report.silences, report.partitions, report.controller_kills];
        faults.iter_mut().zip(of_this).for_each(|(sum, of_this)| *sum += of_this);
    }
    assert!(faults.iter().all(|count| *count > 60), "every kind of fault happens: {faults:?}");
}

#[test]
fn a_seed_is_a_run() {
    for (hosts, seed) in [(12, 7), (80, 8), (400, 9)] {
        let params = params(hosts, hosts * 9, seed);
        let mut runs = [play(&params), play(&params)];
        runs.iter_mut().for_each(|report| report.wall_ms = 0);
        assert_eq!(runs[0], runs[1], "the same seed is the same run, to the digest of its events");
        let other = play(&Params { seed: seed + 1, ..params });
        assert_ne!(other.digest, runs[0].digest, "another seed is another run");
    }
}

#[test]
fn ten_thousand_agents_come_up_while_some_die() {
    let report = play(&Params { fail: 0.01, steps: 3, ..params(10_000, 1_000_000, 3) });
    assert!(report.kills >= 50, "{report:?}");
    assert!(report.vms >= 800_000, "{report:?}");
    // What a controller sends does not grow with the hosts but for those that answer it themselves after a fault.
    assert!(report.controller_messages < report.messages / 10, "{report:?}");
}

#[test]
fn parameters_that_make_no_sense_are_refused() {
    for wrong in [params(0, 10, 1), params(5, 1, 1), params(1, 5_000, 1), Params { fail: f64::NAN, ..params(5, 50, 1) }]
    {
        assert!(matches!(run(&wrong, &mut |_| {}), Err(SimError::Params(_))), "{wrong:?}");
    }
}
