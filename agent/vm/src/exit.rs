//! How a VM ended: its process's exit status, and what it said last.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::console::last_lines;
use crate::procs::zombie_status;

/// Console lines kept with an exit.
const KEPT_LINES: usize = 20;

/// Lines searched for a panic; a stack trace follows its first line.
const SEARCHED_LINES: usize = 200;

/// How a VM ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmExit {
    /// Exit code of its process.
    pub code: Option<i32>,
    /// Signal that ended its process. Without code and signal the status is unknown (the VM was adopted, and the
    /// kernel is older than 6.15).
    pub signal: Option<i32>,
    /// What the guest's kernel panicked about.
    pub panic: Option<String>,
    /// The last lines of console and hypervisor, oldest first.
    pub last_lines: Vec<String>,
}

impl VmExit {
    /// True when the guest powered off, or was told to.
    pub fn is_clean(&self) -> bool {
        self.code == Some(0) && self.panic.is_none()
    }

    /// Adds what the console says to a process's status.
    pub(crate) fn with_console(mut self, log: &Path) -> VmExit {
        self.last_lines = last_lines(log, SEARCHED_LINES).unwrap_or_default();
        self.panic = panic_reason(&self.last_lines);
        let surplus = self.last_lines.len().saturating_sub(KEPT_LINES);
        self.last_lines.drain(..surplus);
        self
    }
}

impl fmt::Display for VmExit {
    /// The reason in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.panic, self.code, self.signal) {
            (Some(panic), ..) => write!(f, "the guest's kernel panicked: {panic}"),
            (None, Some(0), _) => f.write_str("it powered off"),
            (None, Some(code), _) => write!(f, "its process ended with code {code}{}", Last(&self.last_lines)),
            (None, None, Some(signal)) => {
                let name = nix::sys::signal::Signal::try_from(signal).map_or("unknown", |signal| signal.as_str());
                write!(f, "its process was ended by signal {signal} ({name}){}", Last(&self.last_lines))
            }
            (None, None, None) => write!(f, "it ended, its status is unknown{}", Last(&self.last_lines)),
        }
    }
}

/// The last line, if there is one.
struct Last<'a>(&'a [String]);

impl fmt::Display for Last<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().rev().find(|line| !line.trim().is_empty()).map_or(Ok(()), |line| write!(f, "; last line: {line}"))
    }
}

/// The reason in the last "Kernel panic - not syncing: …" of these lines.
fn panic_reason(lines: &[String]) -> Option<String> {
    let said = |line: &String| line.split_once("Kernel panic - not syncing: ").map(|(_, reason)| reason.to_owned());
    lines.iter().rev().filter(|line| !line.contains("end Kernel panic")).find_map(said)
}

/// Waits until a process has ended, reaps it when it is a child of this process, and gives its status.
pub(crate) async fn wait(pidfd: &AsyncFd<Arc<OwnedFd>>, pid: i32) -> std::io::Result<VmExit> {
    pidfd.ready(Interest::READABLE).await?.retain_ready();
    loop {
        match waitid(Id::PIDFd(pidfd.get_ref().as_fd()), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(VmExit { code: Some(code), ..VmExit::default() }),
            Ok(WaitStatus::Signaled(_, signal, _)) => {
                return Ok(VmExit { signal: Some(signal as i32), ..VmExit::default() });
            }
            Err(Errno::EINTR) => {}
            // Not a child: it was adopted, or another handle of this process has reaped it.
            _ => break,
        }
    }
    // Until init reaps it, its status is in /proc; its number is not given to another process meanwhile. The pidfd has
    // it from then on: so one of the two answers, unless the kernel is old and init was faster.
    let status = exit_info(pidfd.get_ref()).or_else(|| zombie_status(pid)).or_else(|| exit_info(pidfd.get_ref()));
    Ok(status.map_or_else(VmExit::default, from_wait_status))
}

/// Code or signal of a status as wait(2) gives it.
fn from_wait_status(status: i32) -> VmExit {
    if libc::WIFEXITED(status) {
        VmExit { code: Some(libc::WEXITSTATUS(status)), ..VmExit::default() }
    } else {
        VmExit { signal: Some(libc::WTERMSIG(status)), ..VmExit::default() }
    }
}

/// `struct pidfd_info` of `linux/pidfd.h`, as of its first version (64 bytes).
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup_id: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// `PIDFD_INFO_EXIT`: the exit code is asked for, or given.
const PIDFD_INFO_EXIT: u64 = 1 << 3;

nix::ioctl_readwrite!(pidfd_get_info, 0xff, 11, PidfdInfo);

/// The wait status of a process that somebody else has reaped (Linux 6.15 and later).
fn exit_info(pidfd: &OwnedFd) -> Option<i32> {
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the ioctl's number carries the size of the structure; the kernel writes no more than that.
    unsafe { pidfd_get_info(pidfd.as_raw_fd(), &raw mut info) }.ok()?;
    (info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_the_reason_whatever_the_status() {
        let lines = [
            "x",
            "[ 1.0] Kernel panic - not syncing: VFS: no root",
            "---[ end Kernel panic - not syncing: VFS: no root ]---",
        ];
        let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
        assert_eq!(panic_reason(&lines), Some("VFS: no root".to_owned()));
        let exit = VmExit { code: Some(0), panic: Some("VFS: no root".to_owned()), ..VmExit::default() };
        assert!(!exit.is_clean());
        assert_eq!(exit.to_string(), "the guest's kernel panicked: VFS: no root");
    }

    #[test]
    fn a_status_without_a_panic_gives_the_last_line() {
        let exit =
            VmExit { code: Some(1), last_lines: vec!["no disk".to_owned(), " ".to_owned()], ..VmExit::default() };
        assert_eq!(exit.to_string(), "its process ended with code 1; last line: no disk");
    }
}
