//! What the host itself tells of a load: memory and processor time.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::cgroup;

/// How long idle VMs are watched for the processor time that they take.
const IDLE: Duration = Duration::from_secs(10);

/// Longest wait for memory that was freed to come back.
const SETTLING: Duration = Duration::from_secs(30);

/// Bytes that the kernel would give to new processes.
///
/// # Errors
/// When /proc does not say.
pub fn available() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    Ok(kib.context("/proc/meminfo has no MemAvailable")? * 1024)
}

/// Bytes available once what was freed before has come back: the kernel frees some of it in the background.
///
/// # Errors
/// As [`available`].
pub fn settled_available() -> Result<u64> {
    let end = Instant::now() + SETTLING;
    let mut last = available()?;
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let now = available()?;
        if now.abs_diff(last) < 1 << 20 || Instant::now() > end {
            return Ok(now);
        }
        last = now;
    }
}

/// Share of one core that these groups take now, all together.
///
/// # Errors
/// When a group is gone.
pub fn idle_share(groups: &[PathBuf]) -> Result<f64> {
    let sum = || groups.iter().map(|group| cgroup::cpu_seconds(group)).sum::<Result<f64>>();
    let (begin, before) = (Instant::now(), sum()?);
    std::thread::sleep(IDLE);
    Ok((sum()? - before) / begin.elapsed().as_secs_f64())
}
