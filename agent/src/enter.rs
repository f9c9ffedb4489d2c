//! The right to change an experiment: one operation at a time, whoever asks for it.

use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;

use crate::agent::{Agent, AgentError};
use crate::experiment::{Busy, Experiment};

/// An experiment that nobody else changes until this is dropped.
pub struct Entered {
    /// The experiment.
    pub experiment: Arc<Experiment>,
    _busy: Busy,
    _operation: OwnedMutexGuard<()>,
}

impl Agent {
    /// Waits for an experiment's turn; it is new and empty when there was none. `interrupt`: whoever has it now is to
    /// start nothing more.
    ///
    /// # Errors
    /// When its network cannot be looked at.
    pub async fn enter(&self, name: &str, interrupt: bool) -> Result<Entered, AgentError> {
        loop {
            let experiment = self.experiment_or_new(name)?;
            let busy = experiment.busy();
            if interrupt {
                experiment.interrupt().await;
            }
            let operation = Arc::clone(&experiment.operation).lock_owned().await;
            // Who had it may have removed it: then this one is nobody's any more, and what is done to it would be lost.
            if self.experiment(name).is_some_and(|now| Arc::ptr_eq(&now, &experiment)) {
                return Ok(Entered { experiment, _busy: busy, _operation: operation });
            }
        }
    }
}
