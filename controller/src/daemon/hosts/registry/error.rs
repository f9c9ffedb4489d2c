//! Why something about hosts could not be done.

use fleet_pki::{NameError, PkiError};
use thiserror::Error;

use super::CERTIFICATES;
use crate::daemon::store::StoreError;

/// Why something about hosts could not be done. The messages go to the user.
#[derive(Debug, Error)]
pub enum HostsError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Keys and certificates.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// A name that no host can have.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The name is taken.
    #[error(
        "there is a host `{0}` already, with another key\nhelp: `--name` gives another name; `fleet host rm {0}` frees this one"
    )]
    Taken(String),
    /// The key is taken.
    #[error("this host is `{0}` in this fleet already\nhelp: `fleet host rm {0}` first, then join with a new token")]
    Renamed(String),
    /// A token is needed.
    #[error("no host of this fleet has this key\nhelp: `fleet host token` gives a token to join with")]
    NoToken,
    /// It was removed.
    #[error("`{0}` was removed from this fleet\nhelp: a new token (`fleet host token`) lets it in again")]
    Removed(String),
    /// Nobody knows the token, or its secret is another.
    #[error(
        "the token `{0}` is not known here, or its secret is wrong\nhelp: `fleet host token` on the controller's host gives one"
    )]
    BadToken(String),
    /// Its time is over.
    #[error("the token `{0}` has expired\nhelp: `fleet host token --ttl TIME` gives one that lives longer")]
    Expired(String),
    /// It let as many in as it may.
    #[error(
        "the token `{0}` was used {1} times, and that is all it was for\nhelp: `fleet host token --uses N` gives one for N hosts"
    )]
    UsedUp(String, u32),
    /// No such host.
    #[error("no host `{0}`\nhelp: `fleet host ls` lists them")]
    Unknown(String),
    /// What a host says of itself makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The host runs VMs.
    #[error(
        "`{0}` runs {1} VMs\nhelp: `fleet host drain {0}` moves them to other hosts; with `--force` they go on running there, and \
         no fleet knows of them"
    )]
    Runs(String, u32),
    /// The host is to run what is up.
    #[error(
        "`{host}` is to run VMs of {experiments}\nhelp: `fleet host drain {host}` moves them to other hosts; with `--force` \
         they go on running there, and no fleet knows of them"
    )]
    Wanted {
        /// The host.
        host: String,
        /// The experiments.
        experiments: String,
    },
    /// The controller's own host.
    #[error("`{0}` is the controller's own host, and stays as long as the controller does")]
    Own(String),
    /// The agent of the controller's own host calls it otherwise than the fleet.
    #[error(
        "the controller's own host is `{known}` in this fleet, and its agent calls it `{said}`\nhelp: \
         `host = \"{known}\"` in the agent's configuration: what the fleet has there is known by that name"
    )]
    OwnName {
        /// In the fleet.
        known: String,
        /// By its agent.
        said: String,
    },
    /// More certificates than anybody needs.
    #[error("`{0}` has {CERTIFICATES} valid certificates already; wait until the first of them ends")]
    TooMany(String),
}
