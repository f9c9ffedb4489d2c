//! The processes of a session, for those that have no control group.

use std::io;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::time::timeout;

use crate::error::VmError;
use crate::machine::{KILL_DEADLINE, pidfd_kill};
use crate::procs::{self, Stat};
use crate::record::ProcessId;

/// A session (setsid(2)), named for good, until the host boots, by the process that leads it, or led it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    leader: ProcessId,
}

impl Session {
    /// The session of a process that leads it. Its number must be its own: a child that was not waited for.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn led_by(pid: i32) -> io::Result<Session> {
        let start = Stat::read(pid)?.start;
        Ok(Session::of(ProcessId { pid, start }))
    }

    pub(crate) fn of(leader: ProcessId) -> Session {
        Session { leader }
    }

    /// Kills those of its processes that are seen in one look at /proc, without waiting.
    pub fn kill(self) {
        for member in self.members() {
            let _ = pidfd_kill(&member);
        }
    }

    fn members(self) -> Vec<OwnedFd> {
        let ProcessId { pid: session, start } = self.leader;
        // A session's number is not given to a new process while it has members. So where the number belongs to another
        // process now, the session is gone.
        if Stat::read(session).is_ok_and(|stat| stat.start != start) {
            return Vec::new();
        }
        let open = |pid: i32| {
            let pidfd = procs::pidfd_open(pid).ok()?;
            // The number may have become another process's before it was opened.
            Stat::read(pid).is_ok_and(|stat| stat.session == session).then_some(pidfd)
        };
        procs::session_members(session).into_iter().filter_map(open).collect()
    }

    /// Kills all of its processes, by looking for them until there are none. Nothing is left of it then but what made a
    /// session of its own.
    ///
    /// # Errors
    /// When they are not gone in time.
    pub async fn end(self) -> Result<(), VmError> {
        let ending = async {
            loop {
                let members = tokio::task::spawn_blocking(move || self.members()).await.unwrap_or_default();
                if members.is_empty() {
                    return;
                }
                for member in members {
                    let _ = pidfd_kill(&member);
                    if let Ok(member) = procs::async_fd(member, Interest::READABLE) {
                        let _ = member.readable().await;
                    }
                }
            }
        };
        timeout(KILL_DEADLINE, ending).await.map_err(|_| VmError::Deadline {
            doing: format!("ending the processes of session {}", self.leader.pid),
            deadline: KILL_DEADLINE,
        })
    }
}
