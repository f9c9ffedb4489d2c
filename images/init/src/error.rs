//! What the init cannot go on after.

use nix::errno::Errno;
use thiserror::Error;

/// An error that ends the guest, with its reason on the console.
#[derive(Debug, Error)]
pub enum InitError {
    /// A system call that has no reason to fail.
    #[error("{action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: Errno,
    },
    /// No way to speak with the agent.
    #[error(
        "no control channel: neither a virtio-serial port named '{port}' nor, in user-mode Linux, {tty}: \
         {detail}; check how the machine was started"
    )]
    NoChannel {
        /// Name of the port.
        port: &'static str,
        /// Path of the line.
        tty: &'static str,
        /// What was found instead.
        detail: String,
    },
}

impl InitError {
    /// For `map_err`.
    pub fn system(action: &'static str) -> impl Fn(Errno) -> Self {
        move |source| Self::System { action, source }
    }
}
