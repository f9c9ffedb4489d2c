//! What can go wrong with a virtual machine: each message says what, where and what to do.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

/// Anything that this crate refuses or fails at.
#[derive(Debug, Error)]
pub enum VmError {
    /// No such hypervisor is registered.
    #[error("unknown hypervisor \"{name}\": this fleet knows {known}")]
    UnknownHypervisor {
        /// What was asked for.
        name: String,
        /// What there is, separated by commas.
        known: String,
    },
    /// A program that the hypervisor needs is not installed.
    #[error("program \"{program}\" is not installed: run `apt-get install {package}`")]
    MissingProgram {
        /// Name looked for in PATH.
        program: String,
        /// Debian package that holds it.
        package: String,
    },
    /// The specification cannot be run.
    #[error("{vm}: {problem}")]
    BadSpec {
        /// `experiment.name`.
        vm: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The chosen hypervisor or accelerator does not work on this host.
    #[error("{choice} does not work on this host: {reason}")]
    NotUsable {
        /// "qemu/kvm", "uml", …
        choice: String,
        /// What the probe saw, and the mend.
        reason: String,
    },
    /// A VM of that name has a directory already.
    #[error("{vm} exists already in {}: remove it first", dir.display())]
    AlreadyExists {
        /// `experiment.name`.
        vm: String,
        /// Its directory.
        dir: PathBuf,
    },
    /// There is no such VM.
    #[error("{vm} is not on this host (no {})", dir.display())]
    NotFound {
        /// `experiment.name`.
        vm: String,
        /// Where its directory would be.
        dir: PathBuf,
    },
    /// The file system for the guests' RAM is too small.
    #[error(
        "{vm} needs {needed} bytes of memory in {}, which has {free} left: stop VMs, use less memory, \
         or enlarge it (mount -o remount,size=…)", path.display()
    )]
    NoSpace {
        /// `experiment.name`.
        vm: String,
        /// The directory on that file system.
        path: PathBuf,
        /// Bytes asked for.
        needed: u64,
        /// Bytes left.
        free: u64,
    },
    /// A Unix socket's path does not fit into a socket address.
    #[error(
        "socket path {} has {} bytes, the kernel takes at most {max}: use a run directory with a shorter path",
        path.display(), path.as_os_str().len()
    )]
    SocketPathTooLong {
        /// The path.
        path: PathBuf,
        /// Longest path the kernel takes.
        max: usize,
    },
    /// The operating system refused something.
    #[error("{doing} {}: {source}{}", path.display(), mend(source))]
    Io {
        /// "cannot create", …
        doing: &'static str,
        /// The file, directory or program.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A VM's record does not hold what this version understands.
    #[error("{} is damaged or of another version ({problem}): remove the VM to be rid of it", path.display())]
    BadRecord {
        /// The record.
        path: PathBuf,
        /// What serde said.
        problem: String,
    },
    /// A template cannot be made or used.
    #[error("the template {}: {problem}", dir.display())]
    Template {
        /// Its directory.
        dir: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The hypervisor's monitor answered with an error or not at all.
    #[error("{vm}: the monitor refused \"{command}\": {problem}")]
    Monitor {
        /// `experiment.name` or the monitor's path.
        vm: String,
        /// What was asked.
        command: String,
        /// Its answer.
        problem: String,
    },
    /// Something took longer than it may.
    #[error("{doing} took longer than {deadline:?}")]
    Deadline {
        /// What.
        doing: String,
        /// The time allowed.
        deadline: Duration,
    },
    /// The VM has ended.
    #[error("{vm} does not run any more: {reason}")]
    Ended {
        /// `experiment.name`.
        vm: String,
        /// How it ended.
        reason: String,
    },
}

impl VmError {
    /// For `map_err`: what was being done to which path.
    pub(crate) fn io(doing: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> VmError {
        let path = path.as_ref().to_owned();
        move |source| VmError::Io { doing, path, source }
    }

    /// True when a clone did not come up, which says nothing of a boot.
    pub(crate) fn is_of_a_clone(&self) -> bool {
        matches!(
            self,
            VmError::Template { .. } | VmError::Monitor { .. } | VmError::Deadline { .. } | VmError::Ended { .. }
        )
    }

    /// True when trying again later can succeed (resources were short, or time ran out).
    pub fn is_retryable(&self) -> bool {
        match self {
            VmError::NoSpace { .. } | VmError::Deadline { .. } => true,
            VmError::Io { source, .. } => matches!(
                source.raw_os_error(),
                Some(libc::ENOSPC | libc::EMFILE | libc::ENFILE | libc::EAGAIN | libc::ENOMEM | libc::EINTR)
            ),
            _ => false,
        }
    }
}

/// What to do about an error of the operating system, where something can be done.
fn mend(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOSPC) => ": the file system is full; stop VMs or enlarge it (mount -o remount,size=…)",
        Some(libc::EMFILE) => ": too many open files; raise LimitNOFILE of the agent (ulimit -n)",
        Some(libc::ENFILE) => ": too many open files on the host; raise sysctl fs.file-max",
        Some(libc::EAGAIN) => ": no process could be made; raise sysctl kernel.pid_max, or TasksMax and ulimit -u",
        Some(libc::EACCES | libc::EPERM) => ": the agent must run as root",
        Some(libc::EROFS) => ": the file system is read-only; use another directory",
        _ => "",
    }
}

/// Everything that went wrong while something was taken away; the rest was taken away nevertheless.
#[derive(Debug, Error)]
#[error("{} of the steps failed: {}", errors.len(), errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct RemoveError {
    /// Each failure, in the order in which they happened.
    pub errors: Vec<VmError>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_os_error_names_the_path_and_the_mend() {
        let error =
            VmError::io("cannot write", "/run/x/vm.json")(io::Error::from_raw_os_error(libc::ENOSPC)).to_string();
        assert!(error.contains("cannot write /run/x/vm.json"), "{error}");
        assert!(error.contains("file system is full"), "{error}");
    }
}
