//! The event log, as a hash: two runs were the same if their hashes are.
//!
//! What happens at the same virtual instant has no order: its hashes are added up, and each instant's sum is then mixed
//! into the whole.

use std::hash::{DefaultHasher, Hash, Hasher};

/// A log.
#[derive(Debug, Default)]
pub struct Log {
    whole: u64,
    instant: u64,
    sum: u64,
    events: u64,
}

impl Log {
    /// Something happened at a virtual time in µs.
    pub fn add(&mut self, micros: u64, event: impl Hash) {
        if micros != self.instant {
            self.whole = mix((self.whole, self.instant, self.sum));
            (self.instant, self.sum) = (micros, 0);
        }
        self.sum = self.sum.wrapping_add(mix(event));
        self.events += 1;
    }

    /// The hash of all that happened.
    pub fn hash(&self) -> u64 {
        mix((self.whole, self.instant, self.sum))
    }

    /// How much happened.
    pub fn events(&self) -> u64 {
        self.events
    }
}

/// `DefaultHasher::new` has fixed keys, so the same values have the same hash in every run.
fn mix(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
