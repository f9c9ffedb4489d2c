//! Why a camera is not given to a VM: what is so, and what to do about it. "It" is the camera, which is named by whoever
//! hands a refusal on.

use fleet_proto::v1::CameraState;
use fleet_usb::Persona;
use thiserror::Error;

use super::register::Obstacle;

/// Why a camera is not in its VM.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// An order of an older lease.
    #[error(
        "the order is of epoch {asked}, and the camera was lent with epoch {known} already; look again (`fleet usb ls`)"
    )]
    Stale {
        /// The order's.
        asked: u64,
        /// The newest that is known here.
        known: u64,
    },
    /// Another VM has it with this very lease.
    #[error("the lease of epoch {epoch} is that of {holder}; detach the camera there first")]
    Taken {
        /// `experiment.vm`.
        holder: String,
        /// Of the lease.
        epoch: u64,
    },
    /// No such lease.
    #[error("no VM of this host has the camera")]
    NotLent,
    /// No such camera.
    #[error("host {host} has no camera {camera}; `fleet usb ls` lists those that there are")]
    Unknown {
        /// The host.
        host: String,
        /// The identity.
        camera: String,
    },
    /// It is not plugged in.
    #[error("it is not plugged in on host {host}; plug it in and switch it on")]
    Absent {
        /// The host.
        host: String,
    },
    /// It is in another mode.
    #[error("it is plugged in as {now}, and was lent as {lent}; switch it back, or detach it and attach it anew")]
    WrongMode {
        /// What it is.
        now: Persona,
        /// What it was.
        lent: Persona,
    },
    /// Something on its host is in the way.
    #[error("{}", .0.detail)]
    InTheWay(Obstacle),
    /// Its node cannot be opened.
    #[error("{camera}: {path} cannot be opened: {reason}; is it still plugged in?")]
    Open {
        /// The camera.
        camera: String,
        /// The node.
        path: String,
        /// Why.
        reason: String,
    },
    /// No such VM.
    #[error("there is no VM {vm} on this host; `fleet ps` lists those that there are")]
    NoVm {
        /// `experiment.vm`.
        vm: String,
    },
    /// It does not run.
    #[error("{vm} is {state}; a camera goes into a VM that runs: `fleet vm start {vm}`")]
    VmDown {
        /// `experiment.vm`.
        vm: String,
        /// Its state, in a word.
        state: String,
    },
    /// The VM does not take it, in its words.
    #[error("{0}")]
    Vm(String),
    /// QEMU says that it has the device, and does not hold its node.
    #[error("{vm}: QEMU says that it has {camera}, but does not hold {path}; detach it and attach it anew")]
    NotHeld {
        /// `experiment.vm`.
        vm: String,
        /// The camera.
        camera: String,
        /// The node.
        path: String,
    },
    /// The device did not come up in QEMU.
    #[error("{camera} did not come up in {vm}: {reason}")]
    NotUp {
        /// `experiment.vm`.
        vm: String,
        /// The camera.
        camera: String,
        /// Why.
        reason: String,
    },
    /// It was in its VM, and the way to it broke.
    #[error("the conversation with it broke: {0}; it is tried again")]
    Broke(String),
    /// This host is on its own.
    #[error(
        "this host belongs to no fleet, so cameras of other hosts do not reach it: join it \
         (`fleet host token`, then `fleet agent --join CONTROLLER --token TOKEN` here)"
    )]
    NoMember,
    /// The camera's host is the controller's own.
    #[error(
        "host {host} is reached by its local socket only, so its cameras do not reach other hosts: run an agent there that \
         joins the fleet (`fleet host token`, then `fleet agent --join CONTROLLER --token TOKEN`)"
    )]
    LocalOnly {
        /// The host.
        host: String,
    },
    /// The camera's host does not answer.
    #[error("host {host}, which has the camera, is not reached: {reason}")]
    Unreached {
        /// The host.
        host: String,
        /// Why.
        reason: String,
    },
    /// What has to be on record cannot be written.
    #[error("the lease cannot be noted: {0}")]
    Store(String),
    /// The lease has ended meanwhile.
    #[error("the lease has ended: {0}")]
    Ended(String),
    /// Not in time.
    #[error("{0} within {1} s; it is gone on with, and `fleet usb ls` shows it")]
    Late(&'static str, u64),
}

impl Refusal {
    /// The state that it is told as.
    pub fn state(&self) -> CameraState {
        match self {
            Self::InTheWay(obstacle) => obstacle.state,
            Self::WrongMode { .. } => CameraState::WrongMode,
            Self::Absent { .. } | Self::Unreached { .. } | Self::Broke(_) => CameraState::Lost,
            _ => CameraState::Leased,
        }
    }
}
