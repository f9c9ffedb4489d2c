//! The host itself: CPU, memory, pressure, load, KSM and the agent's own memory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use fleet_proto::v1::HostSample;

use crate::procfs::{self, CpuTicks};
use crate::sampler::SampleError;

/// Percent of all cores that was busy between two readings; the first difference is taken against boot, where both
/// counters stood at nought. `None` if no tick has passed.
pub(crate) fn cpu_percent(before: Option<CpuTicks>, now: CpuTicks) -> Option<f64> {
    let before = before.unwrap_or_default();
    let total = now.total.checked_sub(before.total).filter(|total| *total > 0)?;
    // The idle counters of some kernels step back a little; a share stays a share.
    Some((now.busy.saturating_sub(before.busy) as f64 / total as f64 * 100.0).min(100.0))
}

/// Reads the host's own figures below given roots.
#[derive(Debug)]
pub(crate) struct HostReader {
    proc: PathBuf,
    ksm: PathBuf,
    page_bytes: u64,
    before: Option<CpuTicks>,
    last_percent: f64,
}

impl HostReader {
    /// Takes the first reading, so that the first sample covers the time from here on.
    pub(crate) fn new(proc: &Path, sys: &Path) -> Result<Self, SampleError> {
        let mut reader = Self {
            proc: proc.to_owned(),
            ksm: sys.join("kernel/mm/ksm"),
            page_bytes: rustix::param::page_size() as u64,
            before: None,
            last_percent: 0.0,
        };
        reader.take_cpu_percent()?;
        Ok(reader)
    }

    /// Time since boot.
    pub(crate) fn uptime(&self) -> Result<Duration, SampleError> {
        self.read("uptime", procfs::uptime)
    }

    /// Everything of a host sample that the kernel knows. A kernel without PSI or KSM leaves those fields at nought.
    pub(crate) fn sample(&mut self) -> Result<HostSample, SampleError> {
        let memory = self.read("meminfo", procfs::memory)?;
        let ksm = |name: &str| {
            let text = std::fs::read_to_string(self.ksm.join(name)).ok();
            text.and_then(|text| procfs::number(&text).ok()).unwrap_or(0)
        };
        let count = |name: &str| u64::try_from(ksm(name)).unwrap_or(0);
        Ok(HostSample {
            memory_total: memory.total,
            memory_available: memory.available,
            psi_memory_some10: self.read("pressure/memory", procfs::pressure_some10).unwrap_or(0.0),
            psi_cpu_some10: self.read("pressure/cpu", procfs::pressure_some10).unwrap_or(0.0),
            load1: self.read("loadavg", procfs::load1)?,
            ksm_pages_shared: count("pages_shared"),
            ksm_pages_sharing: count("pages_sharing"),
            ksm_pages_volatile: count("pages_volatile"),
            ksm_pages_scanned: count("pages_scanned"),
            ksm_general_profit: ksm("general_profit"),
            agent_rss: self.read("self/stat", procfs::process_stat)?.resident_pages.saturating_mul(self.page_bytes),
            cpu_percent: self.take_cpu_percent()?,
            ..HostSample::default()
        })
    }

    fn take_cpu_percent(&mut self) -> Result<f64, SampleError> {
        let now = self.read("stat", procfs::cpu_ticks)?;
        // Two samples within one tick: the rate has not changed as far as anyone can tell.
        if let Some(percent) = cpu_percent(self.before, now) {
            self.last_percent = percent;
        }
        self.before = Some(now);
        Ok(self.last_percent)
    }

    fn read<T>(&self, name: &str, parse: impl FnOnce(&str) -> Result<T, procfs::ParseError>) -> Result<T, SampleError> {
        let path = self.proc.join(name);
        let text =
            std::fs::read_to_string(&path).map_err(|source| SampleError::Unreadable { path: path.clone(), source })?;
        parse(&text).map_err(|source| SampleError::Unknown { path, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_taken_of_the_ticks_that_passed() {
        let before = Some(CpuTicks { busy: 100, total: 1000 });
        assert_eq!(cpu_percent(before, CpuTicks { busy: 150, total: 1200 }), Some(25.0));
        assert_eq!(cpu_percent(None, CpuTicks { busy: 100, total: 1000 }), Some(10.0));
    }

    #[test]
    fn standing_and_stepping_back_counters_give_no_nonsense() {
        let before = Some(CpuTicks { busy: 100, total: 1000 });
        assert_eq!(cpu_percent(before, CpuTicks { busy: 100, total: 1000 }), None);
        assert_eq!(cpu_percent(before, CpuTicks { busy: 90, total: 990 }), None);
        assert_eq!(cpu_percent(before, CpuTicks { busy: 120, total: 1010 }), Some(100.0));
    }
}
