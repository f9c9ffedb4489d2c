//! VXLAN network identifiers of what crosses hosts, worked out alike on every host.
//!
//! The lock gives each lan an ordinal that never moves and is unique in its file. Experiments of different files have
//! the same ordinals, and hosts may run both, so an experiment's identifiers begin at a place of its own, the hash of its
//! name: lans go up from there by their ordinals, links go down by their rank in the order of their prefixes, which do
//! not move either. Within an experiment no two are alike. Of two experiments with a thousand each, one in some
//! eight thousand pairs has any in common; the network's check finds that where both are on one host.

use std::collections::HashMap;

use netlang::{LinkId, Plan};
use sha2::{Digest, Sha256};

/// How many there are: 24 bits (RFC 7348), without 0.
const SPACE: u32 = (1 << 24) - 1;

/// The identifiers of an experiment.
#[derive(Clone, Copy, Debug)]
pub struct Vnis {
    base: u32,
}

impl Vnis {
    /// Those of the experiment with this name.
    pub fn of(experiment: &str) -> Self {
        let [a, b, c, d, ..] = Sha256::digest(experiment).0;
        Self { base: u32::from_be_bytes([a, b, c, d]) % SPACE }
    }

    /// Of a lan with an ordinal.
    pub fn segment(self, ordinal: u32) -> u32 {
        self.at(ordinal % SPACE)
    }

    /// Of all links of a plan.
    ///
    /// # Errors
    /// When the plan has more lans and links than there are identifiers.
    pub fn links(self, plan: &Plan) -> Result<HashMap<LinkId, u32>, String> {
        let highest = plan.segments().map(|segment| segment.vni).max().unwrap_or(0);
        let mut links: Vec<_> = plan.links().map(|link| (link.prefix, link.prefix_len, link.id)).collect();
        let count = u32::try_from(links.len()).unwrap_or(u32::MAX);
        if highest.saturating_add(count) >= SPACE {
            return Err(format!("{count} links and lans up to number {highest} are more than the {SPACE} VNIs"));
        }
        links.sort_unstable();
        let ids = links.into_iter().map(|(_, _, id)| id);
        Ok(ids.zip((0..SPACE).rev().map(|down| self.at(down))).collect())
    }

    fn at(self, offset: u32) -> u32 {
        1 + (self.base + offset) % SPACE
    }
}
