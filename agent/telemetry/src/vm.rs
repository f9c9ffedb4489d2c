//! CPU time and memory of VMs, each read from the cheapest place that knows it.
//!
//! A VM is a session of processes. Where it has a cgroup v2 of its own, one file gives its CPU time. Else its
//! processes are found by one pass over `/proc` for all VMs of the host together: the cost is that of the host's
//! processes, not VMs times processes.
//!
//! Memory of a session is that of its largest process, not the sum: a UML guest's helpers map the same memory file as
//! their leader, and a sum would count each page several times.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::procfs::{self, ProcessStat};

/// A VM to be measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmTarget {
    /// The experiment.
    pub experiment: String,
    /// The VM's name: `web[3]`.
    pub vm: String,
    /// Where its usage is read.
    pub source: VmSource,
}

/// Where the usage of a VM is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VmSource {
    /// All processes of the session led by this pid: the hypervisor and its helpers.
    Session {
        /// Pid of the session's leader.
        leader: u32,
    },
    /// A cgroup v2 of the VM's own. Where it has no memory controller, the leader's resident memory is taken.
    Cgroup {
        /// The cgroup's directory.
        directory: PathBuf,
        /// Pid of the VM's main process.
        leader: u32,
    },
    /// Measured by the caller.
    Given(Usage),
}

/// What a VM has used so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// CPU time since its start.
    pub cpu_time: Duration,
    /// Resident memory now, in bytes.
    pub memory: u64,
    /// When its process started, as time since boot. A change means a new process, so no rate is taken across it.
    pub started: Duration,
}

/// Percent of one core that was used between two readings.
///
/// With no earlier reading of the same process, the first one is its start, when it had used nothing: so a VM has a
/// true rate from its first sample on, over its life so far.
pub(crate) fn cpu_percent(before: Option<(Duration, Usage)>, now: Duration, usage: Usage) -> f64 {
    let (since, used) = match before {
        Some((then, earlier)) if earlier.started == usage.started => (then, earlier.cpu_time),
        _ => (usage.started, Duration::ZERO),
    };
    let elapsed = now.saturating_sub(since);
    if elapsed.is_zero() {
        return 0.0;
    }
    // Helpers that end unwaited take their time with them: then the difference may be negative, and none was used.
    usage.cpu_time.saturating_sub(used).as_secs_f64() / elapsed.as_secs_f64() * 100.0
}

/// Reads usages below a `/proc` root. Sizes of tick and page are those of the kernel that wrote the files.
#[derive(Debug)]
pub(crate) struct UsageReader {
    proc: PathBuf,
    ticks_per_second: u64,
    page_bytes: u64,
    path: String,
    text: Vec<u8>,
}

impl UsageReader {
    pub(crate) fn new(proc: &Path) -> Self {
        Self {
            proc: proc.to_owned(),
            ticks_per_second: rustix::param::clock_ticks_per_second().max(1),
            page_bytes: rustix::param::page_size() as u64,
            path: String::new(),
            text: vec![0; 2048],
        }
    }

    /// Usages of `targets`, in their order; `None` for one that could not be read: it has most likely just ended.
    pub(crate) fn read(&mut self, targets: &[VmTarget]) -> Vec<Option<Usage>> {
        let in_sessions = targets.iter().any(|target| matches!(target.source, VmSource::Session { .. }));
        let sessions = if in_sessions { self.sessions() } else { HashMap::new() };
        targets
            .iter()
            .map(|target| match &target.source {
                VmSource::Session { leader } => {
                    sessions.get(leader).and_then(|session| session.usage(self.ticks_per_second, self.page_bytes))
                }
                VmSource::Cgroup { directory, leader } => self.cgroup(directory, *leader),
                VmSource::Given(usage) => Some(*usage),
            })
            .collect()
    }

    fn cgroup(&mut self, directory: &Path, leader: u32) -> Option<Usage> {
        let cpu_time = procfs::cgroup_cpu_time(self.text_of(&directory.join("cpu.stat"))?).ok()?;
        let process = self.process(leader)?;
        let resident = process.resident_pages.saturating_mul(self.page_bytes);
        let memory = self
            .text_of(&directory.join("memory.current"))
            .and_then(|text| procfs::number(text).ok())
            .and_then(|bytes| u64::try_from(bytes).ok())
            .unwrap_or(resident);
        Some(Usage { cpu_time, memory, started: ticks(process.start_ticks, self.ticks_per_second) })
    }

    /// One pass over all processes, added up by session.
    fn sessions(&mut self) -> HashMap<u32, Session> {
        let mut sessions: HashMap<u32, Session> = HashMap::new();
        let Ok(entries) = std::fs::read_dir(&self.proc) else { return sessions };
        for entry in entries.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // Processes end while we look at them; that is no error.
            let Some(process) = self.process(pid) else { continue };
            sessions.entry(process.session).or_default().add(pid, process);
        }
        sessions
    }

    fn process(&mut self, pid: u32) -> Option<ProcessStat> {
        let mut path = std::mem::take(&mut self.path);
        path.clear();
        let _ = write!(path, "{}/{pid}/stat", self.proc.display());
        let process = self.text_of(Path::new(&path)).and_then(|text| procfs::process_stat(text).ok());
        self.path = path;
        process
    }

    /// The kernel writes these short files in one read; a longer buffer than their longest form is kept.
    fn text_of(&mut self, path: &Path) -> Option<&str> {
        let length = File::open(path).and_then(|mut file| file.read(&mut self.text)).ok()?;
        std::str::from_utf8(&self.text[..length]).ok()
    }
}

/// The processes of one session, added up.
#[derive(Debug, Default)]
struct Session {
    leader: Option<ProcessStat>,
    cpu_ticks: u64,
    largest_pages: u64,
}

impl Session {
    fn add(&mut self, pid: u32, process: ProcessStat) {
        if pid == process.session {
            self.leader = Some(process);
        }
        self.cpu_ticks = self.cpu_ticks.saturating_add(process.cpu_ticks);
        self.largest_pages = self.largest_pages.max(process.resident_pages);
    }

    /// A session whose leader is gone is no VM any more.
    fn usage(&self, ticks_per_second: u64, page_bytes: u64) -> Option<Usage> {
        let leader = self.leader?;
        Some(Usage {
            cpu_time: ticks(self.cpu_ticks, ticks_per_second),
            memory: self.largest_pages.saturating_mul(page_bytes),
            started: ticks(leader.start_ticks, ticks_per_second),
        })
    }
}

fn ticks(ticks: u64, per_second: u64) -> Duration {
    let nanos = (ticks % per_second).saturating_mul(1_000_000_000) / per_second;
    Duration::from_secs(ticks / per_second) + Duration::from_nanos(nanos)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn usage(cpu_ms: u64, started: Duration) -> Usage {
        Usage { cpu_time: Duration::from_millis(cpu_ms), memory: 0, started }
    }

    fn stat(proc: &Path, pid: u32, session: u32, cpu: u64, start: u64, pages: u64) {
        std::fs::create_dir_all(proc.join(pid.to_string())).unwrap();
        let text = format!("{pid} (linux) S 1 1 {session} 0 -1 0 0 0 0 0 {cpu} 0 0 0 20 0 1 0 {start} 0 {pages} 0\n");
        std::fs::write(proc.join(pid.to_string()).join("stat"), text).unwrap();
    }

    #[test]
    fn a_rate_is_taken_between_two_readings() {
        let before = Some((10 * SECOND, usage(1000, SECOND)));
        assert_eq!(cpu_percent(before, 12 * SECOND, usage(2000, SECOND)), 50.0);
    }

    #[test]
    fn the_first_rate_is_taken_from_the_start_of_the_process() {
        assert_eq!(cpu_percent(None, 12 * SECOND, usage(500, 10 * SECOND)), 25.0);
    }

    #[test]
    fn no_rate_is_taken_across_a_restart() {
        let before = Some((10 * SECOND, usage(90_000, SECOND)));
        assert_eq!(cpu_percent(before, 12 * SECOND, usage(100, 11 * SECOND)), 10.0);
    }

    #[test]
    fn lost_helpers_and_a_standing_clock_give_nought() {
        let before = Some((10 * SECOND, usage(5000, SECOND)));
        assert_eq!(cpu_percent(before, 12 * SECOND, usage(4000, SECOND)), 0.0);
        assert_eq!(cpu_percent(before, 10 * SECOND, usage(6000, SECOND)), 0.0);
    }

    #[test]
    fn a_session_is_added_up_and_its_memory_counted_once() {
        let proc = tempfile::tempdir().unwrap();
        stat(proc.path(), 50, 50, 300, 700, 4000);
        stat(proc.path(), 51, 50, 20, 710, 3900);
        stat(proc.path(), 60, 60, 1, 1, 1);
        let mut reader = UsageReader::new(proc.path());
        let hz = reader.ticks_per_second;
        let target = |leader| VmTarget { experiment: "e".into(), vm: "a".into(), source: VmSource::Session { leader } };
        let read = reader.read(&[target(50), target(99)]);
        let expected = Usage { cpu_time: ticks(320, hz), memory: 4000 * reader.page_bytes, started: ticks(700, hz) };
        assert_eq!(read, [Some(expected), None]);
    }

    #[test]
    fn a_session_without_its_leader_is_no_vm() {
        let proc = tempfile::tempdir().unwrap();
        stat(proc.path(), 51, 50, 20, 710, 3900);
        let target = VmTarget { experiment: "e".into(), vm: "a".into(), source: VmSource::Session { leader: 50 } };
        assert_eq!(UsageReader::new(proc.path()).read(&[target]), [None]);
    }

    #[test]
    fn a_cgroup_gives_time_and_memory_and_the_leader_stands_in_for_a_missing_controller() {
        let proc = tempfile::tempdir().unwrap();
        let cgroup = tempfile::tempdir().unwrap();
        stat(proc.path(), 50, 50, 300, 700, 10);
        std::fs::write(cgroup.path().join("cpu.stat"), "usage_usec 1500000\n").unwrap();
        let source = VmSource::Cgroup { directory: cgroup.path().to_owned(), leader: 50 };
        let target = [VmTarget { experiment: "e".into(), vm: "a".into(), source }];
        let mut reader = UsageReader::new(proc.path());
        let without = reader.read(&target)[0].unwrap();
        assert_eq!(without.cpu_time, Duration::from_millis(1500));
        assert_eq!(without.memory, 10 * reader.page_bytes);
        std::fs::write(cgroup.path().join("memory.current"), "7777\n").unwrap();
        assert_eq!(reader.read(&target)[0].unwrap().memory, 7777);
    }
}
