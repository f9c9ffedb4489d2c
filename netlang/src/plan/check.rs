//! What the `check` lines of a file say.

use serde::Serialize;
use std::net::Ipv4Addr;

use super::{ExternalId, LinkId, Protocol, Range};

/// What a check demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Expect {
    /// Packets must get there and back.
    Reaches,
    /// Packets must not get there and back.
    CannotReach,
}

/// Who sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckSource {
    /// VMs.
    Vms(Vec<Range>),
    /// The world outside, over an external network.
    External(ExternalId),
}

/// What a check is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckTarget {
    /// VMs: each is pinged at the address of its eth0.
    Vms(Vec<Range>),
    /// These addresses: those of routers, or one given in the file.
    Addresses(Vec<Ipv4Addr>),
    /// The world outside, over an external network.
    External(ExternalId),
}

/// A service, by protocol and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Service {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
}

/// What a check says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Claim {
    /// Packets get there and back, or do not.
    Reach {
        /// Who sends.
        from: CheckSource,
        /// What must be reached or not.
        to: CheckTarget,
        /// What is demanded.
        expect: Expect,
        /// Only this service; otherwise an echo that must get there, or anything at all that must not.
        service: Option<Service>,
        /// With these links cut.
        without: Vec<LinkId>,
    },
    /// No two lans are further apart than so many hops from router to router.
    Diameter {
        /// The most hops.
        most: u32,
    },
}

/// A `check` line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// The line as it is written, without comment.
    pub text: String,
    /// Its line in the file, from 1.
    pub line: u32,
    /// What it says.
    pub claim: Claim,
}

impl Check {
    /// Senders, targets and demand of a check that echo packets can prove on the network as it runs.
    pub fn echoes(&self) -> Option<(&[Range], &CheckTarget, Expect)> {
        match &self.claim {
            Claim::Reach { from: CheckSource::Vms(from), to, expect, service: None, without } if without.is_empty() => {
                (!matches!(to, CheckTarget::External(_))).then_some((from, to, *expect))
            }
            _ => None,
        }
    }
}
