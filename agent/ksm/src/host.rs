//! What the decision needs to know of the host beside KSM itself: memory, pressure, and ksmd's processor time.
//! Formats: proc(5), and accounting/psi.rst of the kernel's Documentation.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How short memory is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pressure {
    /// Percent of the last ten seconds in which some task waited for memory (PSI `some avg10`); 0 without PSI.
    pub some: f64,
    /// The same for all tasks at once (`full avg10`).
    pub full: f64,
    /// `MemAvailable`, bytes.
    pub available: u64,
    /// `MemTotal`, bytes; 0 when unknown.
    pub total: u64,
}

/// Reads below a `/proc`, or a folder that looks like it.
#[derive(Clone, Debug)]
pub struct HostReader {
    proc: PathBuf,
    ksmd: Option<u32>,
}

impl HostReader {
    /// Looks for ksmd once: it lives as long as the kernel. In a container it is often out of sight.
    pub fn new(proc: &Path) -> Self {
        let mut numbers: Vec<u32> = std::fs::read_dir(proc)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect();
        // Kernel threads are among the first.
        numbers.sort_unstable();
        let is_ksmd = |pid: &u32| {
            let comm = std::fs::read_to_string(proc.join(pid.to_string()).join("comm"));
            // A kernel thread has no memory: an empty command line. Anybody else may call itself so.
            comm.is_ok_and(|comm| comm.trim_end() == "ksmd")
                && std::fs::read(proc.join(pid.to_string()).join("cmdline")).is_ok_and(|line| line.is_empty())
        };
        Self { proc: proc.to_owned(), ksmd: numbers.into_iter().find(is_ksmd) }
    }

    /// Memory now. What cannot be read is no pressure.
    pub fn pressure(&self) -> Pressure {
        let meminfo = std::fs::read_to_string(self.proc.join("meminfo")).unwrap_or_default();
        let psi = std::fs::read_to_string(self.psi_file()).unwrap_or_default();
        let bytes = |key: &str| {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(key));
            let kib = line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<u64>().ok());
            kib.unwrap_or(0).saturating_mul(1024)
        };
        let percent = |key: &str| {
            let line = psi.lines().find_map(|line| line.strip_prefix(key));
            let word = line.and_then(|line| line.split_ascii_whitespace().find_map(|word| word.strip_prefix("avg10=")));
            word.and_then(|word| word.parse().ok()).filter(|value: &f64| value.is_finite()).unwrap_or(0.0)
        };
        Pressure {
            some: percent("some "),
            full: percent("full "),
            available: bytes("MemAvailable:"),
            total: bytes("MemTotal:"),
        }
    }

    /// Processor time of ksmd since boot (fields 14 and 15 of its stat file); `None` when it is out of sight.
    pub fn ksmd_cpu(&self) -> Option<Duration> {
        let stat = std::fs::read_to_string(self.proc.join(self.ksmd?.to_string()).join("stat")).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
        let ticks: u64 = fields.next()?.parse::<u64>().ok()?.saturating_add(fields.next()?.parse().ok()?);
        let hertz = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten();
        let hertz = hertz.and_then(|hertz| u32::try_from(hertz).ok()).filter(|hertz| *hertz > 0)?;
        Some(Duration::from_secs_f64(ticks as f64 / f64::from(hertz)))
    }

    /// Where a PSI trigger is set.
    pub(crate) fn psi_file(&self) -> PathBuf {
        self.proc.join("pressure/memory")
    }
}
