//! How a run ended.

use serde::Serialize;
use thiserror::Error;

use crate::params::ParamsError;

/// Why there is no report.
#[derive(Debug, Error)]
pub enum SimError {
    /// The parameters make no sense.
    #[error(transparent)]
    Params(#[from] ParamsError),
    /// No runtime.
    #[error("the runtime does not start: {0}")]
    Runtime(std::io::Error),
    /// An invariant does not hold.
    #[error("{what}\nhelp: this replays the run: {replay}")]
    Violation {
        /// Which, and where.
        what: String,
        /// The command.
        replay: String,
    },
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What happens now.
    pub stage: &'static str,
    /// Steps that are done.
    pub step: u32,
    /// Steps in all.
    pub steps: u32,
    /// Virtual time since the beginning, in ms.
    pub virtual_ms: u64,
}

/// What a run did. Times without `wall` are virtual.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Hosts.
    pub hosts: u32,
    /// VMs that run at the end.
    pub vms: u64,
    /// Seed.
    pub seed: u64,
    /// Digest of the event log.
    pub digest: String,
    /// Events in the log.
    pub events: u64,
    /// Agents that were killed.
    pub kills: u64,
    /// Hosts that fell silent, or were cut off from the controller.
    pub silences: u64,
    /// Networks that were cut in two.
    pub partitions: u64,
    /// Controllers that were killed.
    pub controller_kills: u64,
    /// Waves that controllers sent.
    pub waves: u64,
    /// Operations of users.
    pub operations: u64,
    /// Messages of all hosts and of controllers.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Messages of controllers.
    pub controller_messages: u64,
    /// Their bytes.
    pub controller_bytes: u64,
    /// The first `up` to its answer, in ms.
    pub first_up_ms: u64,
    /// From the last fault until all is as it is wanted, in ms.
    pub convergence_ms: u64,
    /// The whole run, in ms.
    pub virtual_ms: u64,
    /// The whole run on this machine, in ms.
    pub wall_ms: u64,
}
