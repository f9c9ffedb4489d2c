//! The hosts of the fleet: who they are, whether they are there, and how one joins and leaves.
//!
//! ```text
//!  Join, Registry (remote.rs) ──► registry.rs ──► records.rs: tables of the controller's store
//!  `fleet host …` (asks.rs)   ──►     │
//!                                     └──► authority of fleet-pki; the list of revoked certificates, pushed to all
//! ```
//!
//! A host is known by its key. Its name is given at joining and no two have the same. What it has and where it is it
//! says itself, at every start and whenever that changes; then it sends a beat every few seconds, and is `unknown` after
//! some without. `unknown` says nothing of its VMs.

mod address;
mod asks;
mod listen;
mod records;
mod registry;
mod remote;

pub use address::{parse_listen, with_port};
pub use listen::{ListenError, listen};
pub use records::own_host;
pub use registry::{Hosts, HostsError, Settings};

/// What a backup has of the registry.
pub mod tables {
    #[cfg(test)]
    pub use super::records::create;
    pub use super::records::{HOSTS, REVOKED, TOKENS};
    pub use super::registry::PKI_DIR;
}

/// The controller's port for hosts.
pub const CONTROLLER_PORT: u16 = 7117;
/// The agents' port.
pub const AGENT_PORT: u16 = 7118;
