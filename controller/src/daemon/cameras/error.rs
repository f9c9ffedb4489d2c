//! Why a camera is not attached or detached.

use thiserror::Error;
use tonic::Status;

use super::ledger::LedgerError;

/// Why a request came to nothing. A mend is on a line of its own that begins with `help: `.
#[derive(Debug, Error)]
pub enum CameraError {
    /// Nothing has that name.
    #[error("no camera is called `{word}`\nhelp: {there}")]
    NoCamera {
        /// As the user wrote it.
        word: String,
        /// What there is.
        there: String,
    },
    /// Neither a camera nor a VM has that name.
    #[error("`{word}` is no camera, and no VM that is up\nhelp: {there}")]
    Nothing {
        /// As the user wrote it.
        word: String,
        /// What there is.
        there: String,
    },
    /// No class of cameras.
    #[error("`{0}` is no class of cameras\nhelp: `ptp`, `uvc`, `mass-storage`, or `camera` for each")]
    Class(String),
    /// Both or none of a camera and a class.
    #[error("the request names {0}\nhelp: name one camera, or one class with `--any`")]
    Request(&'static str),
    /// Of a class, none is to be had.
    #[error(
        "no {class} is free: {there}\nhelp: `fleet usb ls` shows who has them; `--steal` with a camera's name takes it"
    )]
    NoneFree {
        /// "PTP camera".
        class: String,
        /// What there is of it.
        there: String,
    },
    /// The VM has no USB.
    #[error(
        "{vm} runs on user-mode Linux, which has no USB\nhelp: give it `hypervisor qemu` and `image camera` in its file, or \
         `needs camera`, and say `fleet up` again"
    )]
    NoUsb {
        /// The VM.
        vm: String,
    },
    /// Somebody else has it.
    #[error("{camera} is lent to {holder}\nhelp: `fleet usb detach {holder}` ends that, `--steal` takes it from there")]
    Taken {
        /// The camera.
        camera: String,
        /// Who has it.
        holder: String,
    },
    /// A host that is needed does not answer.
    #[error("{host}, the host of {of}, does not answer\nhelp: `fleet host ls` shows since when")]
    Silent {
        /// The host.
        host: String,
        /// The camera or the VM.
        of: String,
    },
    /// It is not plugged in.
    #[error("{camera} is not plugged in\nhelp: plug it in; `fleet usb watch` shows when it is seen")]
    Absent {
        /// The camera.
        camera: String,
    },
    /// Something on its host stands in the way.
    #[error("{camera} cannot be lent: it is {state}{}", colon(.detail))]
    Obstacle {
        /// The camera.
        camera: String,
        /// Its state.
        state: &'static str,
        /// What stands in the way, and the mend.
        detail: String,
    },
    /// The controller's own host lends no cameras and borrows none, as its agent is a process of its own.
    #[error(
        "{camera} and {vm} are on two hosts, one of which is the controller's own, whose agent is another process: it lends \
         and borrows no cameras\nhelp: run the controller without `--agent`, so that it has the agent inside, or have the VM \
         run on the camera's host (`place` in its file)"
    )]
    Unreachable {
        /// The camera.
        camera: String,
        /// The VM.
        vm: String,
    },
    /// The host of the VM did not do it.
    #[error("{camera} was not attached to {vm}: {reason}")]
    Failed {
        /// The camera.
        camera: String,
        /// The VM.
        vm: String,
        /// In the host's words.
        reason: String,
    },
    /// Nobody knows.
    #[error(
        "whether {vm} has {camera} is not known: {reason}\nhelp: the lease is kept, and attaching is gone on with; `fleet usb \
         watch` shows how it ends, `fleet usb detach` ends it"
    )]
    Unknown {
        /// The camera.
        camera: String,
        /// The VM.
        vm: String,
        /// In words.
        reason: String,
    },
    /// It is to be out of its VM, and is not.
    #[error("{camera} is not out of {vm} yet: {reason}\nhelp: that is tried again; `fleet usb ls` shows it")]
    NotOut {
        /// The camera.
        camera: String,
        /// The VM.
        vm: String,
        /// In words.
        reason: String,
    },
    /// Somebody else is at it.
    #[error("something else is being done with {camera}\nhelp: `fleet usb ls` shows what; try again")]
    Busy {
        /// The camera.
        camera: String,
    },
    /// The leases.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The VM that was named, or its host.
    #[error("{}", .0.message())]
    Target(Status),
    /// The controller ends.
    #[error("the controller ends; what was begun is gone on with when it is back")]
    Ending,
}

fn colon(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(": {detail}") }
}

impl From<CameraError> for Status {
    fn from(error: CameraError) -> Self {
        let text = error.to_string();
        match error {
            CameraError::NoCamera { .. } | CameraError::Nothing { .. } => Status::not_found(text),
            CameraError::Class(_) | CameraError::Request(_) => Status::invalid_argument(text),
            CameraError::Silent { .. } | CameraError::Ending => Status::unavailable(text),
            CameraError::Unknown { .. } | CameraError::Busy { .. } => Status::deadline_exceeded(text),
            CameraError::NotOut { .. } => Status::aborted(text),
            CameraError::Ledger(LedgerError::Lease(_)) => Status::failed_precondition(text),
            CameraError::Ledger(_) => Status::internal(text),
            CameraError::Target(status) => status,
            CameraError::NoneFree { .. }
            | CameraError::NoUsb { .. }
            | CameraError::Taken { .. }
            | CameraError::Absent { .. }
            | CameraError::Obstacle { .. }
            | CameraError::Unreachable { .. }
            | CameraError::Failed { .. } => Status::failed_precondition(text),
        }
    }
}
