#![allow(missing_docs, clippy::unwrap_used)]
use fleet_sim::{Params, run};
use std::time::Duration;

#[test]
fn probe() {
    let env = |name: &str, other: u32| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(other);
    let params = Params { hosts: env("HOSTS", 12), vms: env("VMS", 200), latency: Duration::from_millis(1), fail: f64::from(env("FAIL", 30)) / 100.0, seed: 1, steps: env("STEPS", 40) };
    if std::env::var_os("TRACE").is_some() { tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(std::io::stderr).without_time().init(); }
    for seed in env("FIRST", 1)..env("FIRST", 1) + env("SEEDS", 20) {
        let seed = u64::from(seed);
        let a = run(&Params { seed, ..params.clone() }, &mut |_| {});
        match a {
            Ok(r) => println!("{seed} {r:?}"),
            Err(e) => println!("{seed} FAIL {e}"),
        }
    }
}
