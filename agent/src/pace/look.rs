//! What the kernel says of the host's processors and memory.

use std::time::Duration;

use fleet_telemetry::procfs;

use super::controller::Look;

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// Looks at the host. Pressure (PSI) is missing where the kernel does not measure it.
pub fn host() -> Option<Look> {
    let stat = read("/proc/stat")?;
    let wait = |path: &str| read(path).and_then(|text| procfs::pressure_some_total(&text).ok());
    Some(Look {
        at: Duration::ZERO,
        cpu: procfs::cpu_ticks(&stat).ok()?,
        cpu_wait: wait("/proc/pressure/cpu"),
        memory_wait: wait("/proc/pressure/memory"),
        memory: procfs::memory(&read("/proc/meminfo")?).ok()?,
        runnable: procfs::runnable(&stat).ok()?,
        ..Look::default()
    })
}
