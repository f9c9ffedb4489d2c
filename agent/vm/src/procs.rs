//! What /proc says about processes.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The boot of the host: a process id means nothing after another boot.
pub(crate) fn boot_id() -> io::Result<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|text| text.trim().to_owned())
}

/// One line of `/proc/<pid>/stat`, as far as it is needed (proc_pid_stat(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    /// 'R', 'S', 'Z', …
    pub state: char,
    /// Session.
    pub session: i32,
    /// User and system time with that of reaped children, in ticks.
    pub cpu_ticks: u64,
    /// When it was started, in ticks since boot; with the process id it names a process of this boot for good.
    pub start: u64,
}

impl Stat {
    /// Reads the state of a process.
    pub(crate) fn read(pid: i32) -> io::Result<Stat> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        Stat::parse(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, text))
    }

    fn parse(text: &str) -> Option<Stat> {
        // The name, in parentheses, may hold anything; the last ')' ends it.
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |index: usize| fields.get(index - 3)?.parse::<u64>().ok();
        Some(Stat {
            state: fields.first()?.chars().next()?,
            session: fields.get(3)?.parse().ok()?,
            cpu_ticks: (14..=17).map(number).sum::<Option<u64>>()?,
            start: number(22)?,
        })
    }

    /// Time on the processors.
    pub(crate) fn cpu(&self) -> Duration {
        ticks(self.cpu_ticks)
    }
}

/// A number of clock ticks, as /proc counts time.
pub(crate) fn ticks(count: u64) -> Duration {
    // SAFETY: sysconf only reads a constant of the system.
    let per_second = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).unwrap_or(100).max(1);
    Duration::from_millis(count * 1000 / per_second)
}

/// The wait status of a process that has ended and was not reaped yet: the last field of its stat.
pub(crate) fn zombie_status(pid: i32) -> Option<i32> {
    parse_zombie_status(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_zombie_status(text: &str) -> Option<i32> {
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    (fields.first() == Some(&"Z")).then(|| fields.get(52 - 3)?.parse().ok())?
}

/// Processes that belong to a session, whoever their parent is. Reads all of /proc.
pub(crate) fn session_members(session: i32) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| Stat::read(*pid).is_ok_and(|stat| stat.session == session && stat.state != 'Z'))
        .collect()
}

/// Whether a process is one that its agent has not let go yet (see spawn): until then, and never afterwards, it blocks
/// all signals that a process can block.
pub(crate) fn waits_to_be_let_go(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| blocks_everything(&status))
}

fn blocks_everything(status: &str) -> bool {
    // Of 64 signals the kernel lets nobody block two, and the C library keeps two for itself (nptl(7)).
    const BLOCKABLE: u32 = 60;
    let mask = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigBlk:")?.trim(), 16).ok());
    mask.is_some_and(|mask| mask.count_ones() >= BLOCKABLE)
}

/// Time on the processors of a process and all of its descendants.
pub(crate) fn tree_cpu(pid: i32) -> io::Result<Duration> {
    let mut total = Stat::read(pid)?.cpu();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    for child in children.split_ascii_whitespace().filter_map(|child| child.parse().ok()) {
        total += tree_cpu(child).unwrap_or_default(); // it may have ended meanwhile
    }
    Ok(total)
}

/// Bytes of memory that a process has to itself or in files in RAM: anonymous and shared-memory pages that are present.
pub(crate) fn resident_bytes(pid: i32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(parse_resident(&status))
}

fn parse_resident(status: &str) -> u64 {
    let kib = |line: &str| line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok();
    status
        .lines()
        .filter(|line| line.starts_with("RssAnon:") || line.starts_with("RssShmem:"))
        .filter_map(kib)
        .sum::<u64>()
        * 1024
}

/// A pidfd of a process.
pub(crate) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: a plain system call without pointers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    owned(fd)
}

/// A copy of a descriptor of another process (`pidfd_getfd(2)`, needs ptrace rights over it).
pub(crate) fn pidfd_getfd(pidfd: &OwnedFd, fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: a plain system call without pointers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) };
    owned(fd)
}

/// Lets the runtime watch a descriptor.
pub(crate) fn async_fd(fd: impl Into<Arc<OwnedFd>>, interest: Interest) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: an Arc<OwnedFd> gives the same descriptor each time, and keeps it open as long as the AsyncFd has it.
    Ok(unsafe { AsyncFd::register_with_interest(fd.into(), interest) }?)
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the system call that gave it has just opened it, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_mislead() {
        let line = "7 (a) R (b) S 1 7 9 0 -1 4 0 0 0 0 11 22 1 2 20 0 1 0 333 0 0";
        assert_eq!(Stat::parse(line), Some(Stat { state: 'S', session: 9, cpu_ticks: 36, start: 333 }));
    }

    #[test]
    fn a_child_that_waits_to_be_reaped_has_its_status() {
        let mut child = std::process::Command::new("/bin/sh").args(["-c", "exit 5"]).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let id = nix::sys::wait::Id::Pid(nix::unistd::Pid::from_raw(pid));
        let flags = nix::sys::wait::WaitPidFlag::WEXITED | nix::sys::wait::WaitPidFlag::WNOWAIT;
        nix::sys::wait::waitid(id, flags).unwrap();
        assert_eq!(zombie_status(pid), Some(5 << 8));
        child.wait().unwrap();
        assert_eq!(zombie_status(pid), None);
        assert_eq!(zombie_status(i32::try_from(std::process::id()).unwrap()), None, "it runs");
    }

    #[test]
    fn this_process_is_found_in_its_session() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let session = Stat::read(pid).unwrap().session;
        assert!(session_members(session).contains(&pid));
    }

    #[test]
    fn a_process_that_blocks_some_signals_runs() {
        assert!(blocks_everything("Name:\tfleet\nSigBlk:\tfffffffe7ffbfeff\n"));
        assert!(!blocks_everything("SigBlk:\t0000000010002240\n"));
        assert!(!blocks_everything(""));
    }

    #[test]
    fn files_in_ram_count_and_mapped_programs_do_not() {
        let status = "VmRSS:\t 100 kB\nRssAnon:\t 10 kB\nRssFile:\t 70 kB\nRssShmem:\t 20 kB\n";
        assert_eq!(parse_resident(status), 30 * 1024);
    }
}
