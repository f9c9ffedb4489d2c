//! Records what a regulator sees on this host while it works, as a trace for the tests of the decision:
//! `cargo run -p fleet-ksm --example record -- VMS SECONDS > agent/ksm/tests/traces/NAME.jsonl`. To be started when
//! processes that may be merged have just been started; it regulates them (as `ksm aggressive`) and puts everything
//! back. A line of the trace is one [`Input`](fleet_ksm::Input) as JSON.

use std::io::Write;
use std::time::{Duration, Instant};

use fleet_ksm::{Custody, HostReader, Input, KsmConfig, Mode, State, Sysfs, Wave, decide};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1).map(|word| word.parse::<u32>());
    let (Some(Ok(vms)), Some(Ok(seconds))) = (args.next(), args.next()) else {
        return Err("usage: record VMS SECONDS".into());
    };
    let config = KsmConfig::default();
    let (sysfs, host) = (Sysfs::new(&config.sysfs), HostReader::new(&config.proc));
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let mut custody = Custody::take(&config.state_dir, boot_id.trim())?;
    let found = sysfs.settings()?;
    custody.keep(found)?;
    let (start, mut looked, mut state) = (Instant::now(), Instant::now(), State::default());
    let mut out = std::io::stdout().lock();
    while start.elapsed() < Duration::from_secs(seconds.into()) {
        let input = Input {
            elapsed: looked.elapsed(),
            mode: Mode::Aggressive,
            vms,
            wave: Wave { ended: 1, ago: start.elapsed(), under_way: false },
            pressure: host.pressure(),
            counters: sysfs.counters()?,
            ksmd_cpu: host.ksmd_cpu(),
            found,
            now: sysfs.settings()?,
        };
        looked = Instant::now();
        serde_json::to_writer(&mut out, &input)?;
        writeln!(out)?;
        let decision = decide(&state, &input);
        sysfs.set(&decision.settings)?;
        state = decision.state;
        std::thread::sleep(decision.next.unwrap_or(Duration::from_secs(1)));
    }
    custody.put_back(&sysfs)?;
    Ok(())
}
