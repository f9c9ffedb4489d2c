//! What can go wrong, and how each error is told: which device of which experiment, why, and what mends it.

use std::{io, path::PathBuf, time::Duration};

use crate::check::SpecError;

/// Why an operation on an experiment's network failed.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The desired network cannot exist; nothing was changed.
    #[error("the network of experiment {experiment} cannot be built: {}", list(.problems))]
    Spec {
        /// The experiment.
        experiment: String,
        /// Every problem that was found.
        problems: Vec<SpecError>,
    },
    /// The desired network is another experiment's.
    #[error("the network of experiment {opened} cannot be made that of experiment {wanted}; open the latter")]
    OtherExperiment {
        /// The experiment that was opened.
        opened: String,
        /// The experiment that is wanted.
        wanted: String,
    },
    /// The configuration is unusable.
    #[error("network prefix {prefix:?}: use 1 to 16 letters and digits")]
    Prefix {
        /// The prefix that was given.
        prefix: String,
    },
    /// The kernel refused a request.
    #[error("cannot {doing} (experiment {experiment}): {source}{}", mend(.source))]
    Kernel {
        /// The experiment.
        experiment: String,
        /// What was being done, with the device's name.
        doing: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A file or namespace could not be made, entered or removed.
    #[error("cannot {doing} {}: {source}{}", path.display(), mend(.source))]
    Path {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel did not answer.
    #[error("the kernel did not answer within {} s when asked to {doing} (experiment {experiment}); look into dmesg for a stuck task", after.as_secs())]
    Deadline {
        /// The experiment.
        experiment: String,
        /// What was being done.
        doing: String,
        /// How long was waited.
        after: Duration,
    },
    /// The port has no tap.
    #[error("port {port} of experiment {experiment} does not exist; reconcile the network first")]
    NoSuchPort {
        /// The experiment.
        experiment: String,
        /// The port's id.
        port: String,
    },
    /// The port's tap is held by another process.
    #[error("port {port} of experiment {experiment} is in use by another process; stop the VM that holds it")]
    PortInUse {
        /// The experiment.
        experiment: String,
        /// The port's id.
        port: String,
    },
    /// Something keeps changing the network back, or the kernel ignores a setting.
    #[error(
        "the network of experiment {experiment} does not settle: {what} is still wanted after {rounds} rounds; is another program changing it?"
    )]
    Unsettled {
        /// The experiment.
        experiment: String,
        /// The first thing that is still to be done.
        what: String,
        /// Rounds that were made.
        rounds: usize,
    },
    /// The caller gave up; what was done so far stays and the next reconcile goes on from it.
    #[error("the operation on the network of experiment {experiment} was cancelled")]
    Cancelled {
        /// The experiment.
        experiment: String,
    },
    /// The worker thread could not be started, or it died.
    #[error("the network's worker thread failed: {source}{}", mend(.source))]
    Thread {
        /// Why.
        source: io::Error,
    },
}

impl NetError {
    pub(crate) fn path(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Path { doing, path, source }
    }

    pub(crate) fn thread(source: io::Error) -> Self {
        Self::Thread { source }
    }

    /// The kernel's errno, where the kernel gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Kernel { source, .. } | Self::Path { source, .. } | Self::Thread { source } => source.raw_os_error(),
            _ => None,
        }
    }
}

fn list(problems: &[SpecError]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// What a person can do about an errno of the network code, as the end of a sentence.
fn mend(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "; run as root (CAP_NET_ADMIN and CAP_SYS_ADMIN are needed)",
        Some(libc::EXFULL) => "; a bridge takes 1,023 ports: split the lan",
        Some(libc::EMFILE) => "; raise the limit of open files (ulimit -n, LimitNOFILE=)",
        Some(libc::ENFILE) => "; raise the host's limit of open files (sysctl fs.file-max)",
        Some(libc::ENOSPC) => "; free space, or raise sysctl user.max_net_namespaces and fs.mount-max",
        Some(libc::ENOMEM | libc::ENOBUFS) => "; the host is out of memory",
        Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT) => "; the kernel lacks this device type: modprobe bridge veth tun",
        Some(libc::EADDRINUSE) => "; another program of this host uses that UDP port: configure another for all hosts",
        Some(libc::EROFS) => "; mount it writable",
        _ => "",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_device_the_experiment_and_the_mend() {
        let error = NetError::Kernel {
            experiment: "hello".into(),
            doing: "plug port web[3]/eth0 into lan lan0".into(),
            source: io::Error::from_raw_os_error(libc::EXFULL),
        };
        let text = error.to_string();
        for part in ["web[3]/eth0", "hello", "1,023"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
