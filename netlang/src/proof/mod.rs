//! Proofs on the plan: what reaches what, before anything runs.
//!
//! VMs of a group that are on the same segments are alike, so one representative of each such class is looked at.

mod reach;

pub(crate) use reach::{Domains, Member, Reach, Verdict};
