//! What a user is told of a camera: one state, from what was seen and from its lease.

use std::fmt;
use std::path::PathBuf;

use crate::device::Persona;
use crate::holder::{Access, Holder};
use crate::inventory::Camera;
use crate::lease::{Keeper, Phase};

/// The state of a camera on its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Not plugged in, and lent to nobody.
    Absent,
    /// Can be lent.
    Available,
    /// Lent, not in its VM.
    Leased,
    /// On its way into its VM.
    Attaching,
    /// In its VM.
    Attached,
    /// Was in its VM, and is not plugged in.
    Lost,
    /// Came back, on its way into its VM.
    Reattaching,
    /// On its way out of its VM.
    Detaching,
    /// Lent, and kept out of its VM on purpose.
    Held,
    /// Somebody else on the host holds it.
    Busy(Holder),
    /// The agent may not open it.
    Denied {
        /// The node.
        path: PathBuf,
        /// The udev rule that would let it.
        rule: String,
    },
    /// It has no device node.
    NoNode {
        /// Where it should be.
        path: PathBuf,
    },
    /// Its descriptors cannot be used.
    Malformed {
        /// Why.
        reason: String,
    },
    /// It is in another mode than it was lent in.
    WrongMode {
        /// The mode.
        persona: Persona,
    },
}

impl State {
    /// Of a camera with its lease, if it has one that has not ended. `own` are the processes through which the fleet holds
    /// it: the VM's, or the exporter's.
    pub fn of(camera: &Camera, lease: Option<&Keeper>, own: &[u32]) -> Self {
        let phase = lease.map(Keeper::phase).filter(|phase| *phase != Phase::Ended);
        match phase {
            Some(Phase::Attached) => return Self::Attached,
            Some(Phase::Lost) => return Self::Lost,
            Some(Phase::Reattaching) => return Self::Reattaching,
            Some(Phase::Attaching) => return Self::Attaching,
            Some(Phase::Detaching { .. }) => return Self::Detaching,
            Some(Phase::Held) => return Self::Held,
            Some(Phase::WrongMode(persona)) => return Self::WrongMode { persona },
            Some(Phase::Leased | Phase::Ended) | None => {}
        }
        if camera.present
            && let Some(obstacle) = obstacle(camera, own)
        {
            return obstacle;
        }
        match (phase.is_some(), camera.present) {
            (true, _) => Self::Leased,
            (false, true) => Self::Available,
            (false, false) => Self::Absent,
        }
    }
}

/// Why a camera that is plugged in could not be attached now.
fn obstacle(camera: &Camera, own: &[u32]) -> Option<State> {
    let seen = &camera.seen;
    if let Some(reason) = &seen.device.malformed {
        return Some(State::Malformed { reason: reason.clone() });
    }
    match &seen.access {
        Access::Granted => {}
        Access::Denied { path, rule } => return Some(State::Denied { path: path.clone(), rule: rule.clone() }),
        Access::NoNode { path } => return Some(State::NoNode { path: path.clone() }),
    }
    let foreign = |holder: &&Holder| !matches!(holder, Holder::Process { pid, .. } if own.contains(pid));
    seen.holders.iter().find(foreign).cloned().map(State::Busy)
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("absent"),
            Self::Available => f.write_str("available"),
            Self::Leased => f.write_str("leased"),
            Self::Attaching => f.write_str("attaching"),
            Self::Attached => f.write_str("attached"),
            Self::Lost => f.write_str("lost"),
            Self::Reattaching => f.write_str("reattaching"),
            Self::Detaching => f.write_str("detaching"),
            Self::Held => f.write_str("held"),
            Self::Busy(holder) => write!(f, "busy: {holder}; free it with `{}`", holder.frees()),
            Self::Denied { path, rule } => {
                write!(
                    f,
                    "denied: {} may not be opened; add to /etc/udev/rules.d/70-fleet.rules: {rule}",
                    path.display()
                )
            }
            Self::NoNode { path } => write!(f, "no node: {} is not there; is devtmpfs mounted?", path.display()),
            Self::Malformed { reason } => write!(f, "malformed: {reason}"),
            Self::WrongMode { persona } => write!(f, "wrong mode: it is plugged in as {persona}; switch it back"),
        }
    }
}
