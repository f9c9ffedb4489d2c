//! The brain of a controller over many hosts: what is wanted, what each host has of it, and what to send next.
//!
//! It does no I/O and has no clock. [`Core::handle`] takes one [`Input`] and the time, and gives back records and
//! actions. **Records are to be stored, in one transaction, before any action is done**; a core that is restored from
//! the records goes on where the old one was killed, also in the middle of an `up`.
//!
//! ```text
//!  hosts seen, lost ─┐                       ┌─► records ─► the store
//!  up, down, drain  ─┼─► Input ─► Core ─► Output            │ then
//!  ends of waves    ─┘    ▲                  └─► actions ──► waves, answers, notes
//!  the time ──────────────┘ `wake_at` says when it wants to be asked again
//! ```
//!
//! It is level-triggered: for each experiment and host there is what the host is to have (its part of the spec of the
//! present generation, or nothing) and what it was told and has confirmed. Wherever the two differ and the host is in
//! contact, a wave goes out. Lost contact, a restarted agent, a broken-off wave, a late joiner and a killed controller
//! are all this one case.
//!
//! Rules that hold always:
//! - Lost contact moves nothing: a host that is cut off keeps its VMs and its placement. Only `drain` and `rm` move.
//! - A host that is left has its VMs removed only when those that take them over have confirmed them.
//! - A generation is used once; the op id of a wave is made of experiment, generation and attempt, so an agent that
//!   gets one twice knows it. An agent refuses a generation older than one it has acted on.
//! - Only what is retryable or unknown is tried again, later each time, with jitter, within a budget of the fleet.
//! - An experiment that is taken down stays on record until no host can have it any more.

mod answers;
mod core;
mod experiment;
mod host;
mod input;
mod names;
mod output;
mod pace;
mod place;
mod records;
mod tally;
mod view;
mod waves;
mod wishes;

pub use core::Core;
pub use host::{HostId, HostState};
pub use input::{HostEnd, HostFacts, Input, host_ends, host_ends_of};
pub use output::{Action, Answer, Output, Record, Wave, WaveTask};
pub use records::{RestoreError, renewed};
pub use tally::Tally;
pub use view::{ExperimentView, Held, HostView, Phase, Preview};

use fleet_proto::v1::Options;
use netlang::VmShape;

/// Bytes that a VM may come to use on its host, under an experiment's options.
pub trait Sizes: Send + Sync {
    /// Memory and the process around it.
    fn bytes(&self, options: &Options, vm: &VmShape<'_>) -> u64;
}

impl<F: Fn(&Options, &VmShape<'_>) -> u64 + Send + Sync> Sizes for F {
    fn bytes(&self, options: &Options, vm: &VmShape<'_>) -> u64 {
        self(options, vm)
    }
}

/// Times, in ms, and bounds.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a wave may take: the slowest host boots all its VMs in that time.
    pub wave_ms: u64,
    /// How much longer the core waits for the end of a wave before it does without.
    pub grace_ms: u64,
    /// Hosts that come back within this time of one another go into one wave.
    pub gather_ms: u64,
    /// Waves of one experiment under way at once.
    pub waves: usize,
    /// Wait before the first retry, at most.
    pub retry_first_ms: u64,
    /// Wait before any retry, at most.
    pub retry_most_ms: u64,
    /// Tries of a host that an operation waits for before it is answered; trying goes on behind it.
    pub patience: u32,
    /// Retries of hosts that may be made at once, in the whole fleet.
    pub retry_burst: u32,
    /// Retries of hosts a second in the long run, in the whole fleet.
    pub retries_per_second: u32,
    /// Seed of the jitter.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            wave_ms: 15 * 60 * 1000,
            grace_ms: 30_000,
            gather_ms: 50,
            waves: 16,
            retry_first_ms: 1_000,
            retry_most_ms: 60_000,
            patience: 3,
            retry_burst: 1_000,
            retries_per_second: 200,
            seed: 0,
        }
    }
}
