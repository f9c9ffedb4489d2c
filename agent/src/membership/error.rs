//! Why this host is no member of a fleet, in words.

use std::net::SocketAddr;

use thiserror::Error;

/// What stands between this host and its fleet.
#[derive(Debug, Error)]
pub enum MembershipError {
    /// It is none, and has nothing to become one.
    #[error(
        "this host belongs to no fleet yet, and a token lets it join: `--token`, from `fleet host token` on the controller's host"
    )]
    NoToken,
    /// Nobody says where the controller is.
    #[error("nobody says where the controller is: `--join CONTROLLER[:PORT]`")]
    NoController,
    /// The name is for life.
    #[error(
        "this host is `{now}` in its fleet; to be `{wanted}`, `fleet host rm {now}` there and join with a new token"
    )]
    Renamed {
        /// Its name.
        now: String,
        /// What the command line says.
        wanted: String,
    },
    /// The address cannot be had.
    #[error("cannot listen for the fleet on {address}: {source}; give another address with `--listen`")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The controller is not reached.
    #[error("cannot join: {0}")]
    Unreachable(String),
    /// One side does not accept the other.
    #[error("cannot join: {0}")]
    Refused(String),
    /// What the controller gave is not what it should be.
    #[error("the controller's answer is wrong: {0}")]
    Answer(String),
    /// Keys and certificates.
    #[error(transparent)]
    Pki(#[from] fleet_pki::PkiError),
    /// The number of the newest controller.
    #[error(transparent)]
    Epoch(#[from] crate::epoch::EpochError),
    /// It was told to end.
    #[error("ended before it joined")]
    Stopped,
}

impl From<fleet_pki::NameError> for MembershipError {
    fn from(error: fleet_pki::NameError) -> Self {
        Self::Pki(error.into())
    }
}
