//! What the host itself tells of a load: memory and processor time.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::cgroup;

/// How long VMs are left alone until they count as idle. QEMU gives back what an idle guest does not need (the small one does)
/// when nothing was translated for 30 s, which it looks at every 30 s.
const REST: Duration = Duration::from_secs(75);

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

/// What VMs take of the host when nobody asks anything of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Taken {
    /// Bytes that are not available any more, of all.
    pub memory: f64,
    /// The same after a rest.
    pub memory_at_rest: f64,
    /// Share of one core that all take after the rest.
    pub idle: f64,
}

impl Taken {
    /// What the processes of these groups take now and after a rest, when `free` bytes were available before them.
    ///
    /// # Errors
    /// When /proc does not say, or a group is gone.
    pub fn measure(free: u64, groups: &[PathBuf]) -> Result<Self> {
        let memory = || Ok::<_, anyhow::Error>(free.saturating_sub(settled_available()?) as f64);
        let at_once = memory()?;
        std::thread::sleep(REST);
        let idle = idle_share(groups)?;
        Ok(Self { memory: at_once, memory_at_rest: memory()?, idle })
    }
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
fn idle_share(groups: &[PathBuf]) -> Result<f64> {
    let sum = || groups.iter().map(|group| cgroup::cpu_seconds(group)).sum::<Result<f64>>();
    let (begin, before) = (Instant::now(), sum()?);
    std::thread::sleep(IDLE);
    Ok((sum()? - before) / begin.elapsed().as_secs_f64())
}
