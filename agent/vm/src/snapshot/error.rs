//! What can go wrong with a snapshot: what, where, and the mend.

use std::path::PathBuf;

use thiserror::Error;

use crate::control::ControlError;
use crate::error::VmError;

/// What can go wrong with a snapshot.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// Of the VM.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// Of its guest.
    #[error(transparent)]
    Guest(#[from] ControlError),
    /// There is none.
    #[error("there is no snapshot \"{name}\" of {vm}: {}", others(there))]
    NotFound {
        /// `experiment.vm`.
        vm: String,
        /// Its name.
        name: String,
        /// Names of those that the VM has.
        there: Vec<String>,
    },
    /// The hypervisor has none.
    #[error("{vm} runs on {hypervisor}, which has no snapshots: give it `hypervisor qemu`")]
    NotSupported {
        /// `experiment.vm`.
        vm: String,
        /// Its hypervisor.
        hypervisor: String,
    },
    /// A camera is in it.
    #[error(
        "{vm} has cameras in it ({cameras}), and what a camera holds cannot be in a snapshot: detach them first (`fleet usb \
         detach CAMERA`), and attach them again after"
    )]
    HasCameras {
        /// `experiment.vm`.
        vm: String,
        /// Their ids.
        cameras: String,
    },
    /// The VM is not what it was.
    #[error("{vm} has changed since its snapshot \"{name}\" was taken ({what}): it cannot go on from that")]
    Changed {
        /// `experiment.vm`.
        vm: String,
        /// Its name.
        name: String,
        /// What differs.
        what: &'static str,
    },
    /// The hypervisor is not what it was.
    #[error(
        "the snapshot \"{name}\" of {vm} was taken under {was}, and this host has {now}: the state of its devices cannot be \
         read by another; install what it was, or take a new snapshot"
    )]
    OtherPlatform {
        /// `experiment.vm`.
        vm: String,
        /// Its name.
        name: String,
        /// Hypervisor, version and machine that it was taken under.
        was: String,
        /// Those of today.
        now: String,
    },
    /// Something of it is damaged.
    #[error("the snapshot is damaged: {} {problem}; take a new one", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The disk is short.
    #[error(
        "no room for a snapshot of {vm}: it may take {needed} MiB, and {} has {free} MiB free, of which {reserve} are \
         left free; remove snapshots (`fleet vm snapshots EXPERIMENT --remove NAME`) or make room", dir.display()
    )]
    NoSpace {
        /// `experiment.vm`.
        vm: String,
        /// Where snapshots are.
        dir: PathBuf,
        /// MiB at most.
        needed: u64,
        /// MiB free.
        free: u64,
        /// MiB that stay free.
        reserve: u64,
    },
    /// All snapshots together would take more than they may.
    #[error(
        "no room for a snapshot of {vm}: it may take {needed} MiB, and the snapshots in {} take {used} of {quota} MiB at \
         most; remove some (`fleet vm snapshots EXPERIMENT --remove NAME`) or raise `snapshot_quota` in the host's \
         configuration", dir.display()
    )]
    OverQuota {
        /// `experiment.vm`.
        vm: String,
        /// Where snapshots are.
        dir: PathBuf,
        /// MiB at most.
        needed: u64,
        /// MiB that are taken, with those that are being taken.
        used: u64,
        /// MiB that they may take.
        quota: u64,
    },
    /// Another one on the same store takes too long.
    #[error("{vm}: the host's snapshots are busy with others, and it was not its turn within {} s; try it again", waited.as_secs())]
    Busy {
        /// `experiment.vm`.
        vm: String,
        /// How long it waited.
        waited: std::time::Duration,
    },
}

/// What there is in place of a snapshot that is not.
fn others(there: &[String]) -> String {
    if there.is_empty() {
        return "it has none; `fleet vm snapshot` takes one, and `fleet vm snapshots` lists those of all VMs"
            .to_owned();
    }
    let names: Vec<_> = there.iter().map(|name| format!("\"{name}\"")).collect();
    format!("it has {}; name one with --name", names.join(", "))
}
