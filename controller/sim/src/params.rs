//! What is simulated.

use thiserror::Error;
use tokio::time::Duration;

/// Parameters of a run; they decide all of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Params {
    /// Hosts.
    pub hosts: u32,
    /// VMs, in three experiments.
    pub vms: u32,
    /// How long a message takes, at least; each pair of hosts has a time of its own, up to half as much again.
    pub latency: Duration,
    /// Share of the hosts that fail: during the first wave, and again over the steps.
    pub fail: f64,
    /// Where all chance comes from.
    pub seed: u64,
    /// Faults and users' operations after the first.
    pub steps: u32,
}

/// Parameters that make no sense.
#[derive(Debug, Error)]
pub enum ParamsError {
    /// Too few or too many hosts.
    #[error("{0} hosts cannot be simulated; give 1 to 1000000 with --hosts")]
    Hosts(u32),
    /// Too few or too many VMs.
    #[error("{0} VMs cannot be simulated; give 3 to 16000000 with --vms, at most 1000 a host")]
    Vms(u32),
    /// No share.
    #[error("{0} is no share of the hosts; give 0% to 50% with --fail")]
    Fail(f64),
}

impl Params {
    /// Whether they make sense.
    ///
    /// # Errors
    /// When they do not.
    pub fn check(&self) -> Result<(), ParamsError> {
        if !(1..=1_000_000).contains(&self.hosts) {
            return Err(ParamsError::Hosts(self.hosts));
        }
        if !(3..=16_000_000).contains(&self.vms) || u64::from(self.vms) > u64::from(self.hosts) * 1000 {
            return Err(ParamsError::Vms(self.vms));
        }
        if !(0.0..=0.5).contains(&self.fail) {
            return Err(ParamsError::Fail(self.fail));
        }
        Ok(())
    }

    /// The command that repeats the run.
    pub fn command(&self) -> String {
        format!(
            "fleet sim --hosts {} --vms {} --latency {}us --fail {}% --seed {} --steps {}",
            self.hosts,
            self.vms,
            self.latency.as_micros(),
            self.fail * 100.0,
            self.seed,
            self.steps
        )
    }
}
