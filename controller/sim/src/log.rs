//! The event log, as a digest: two runs were the same if their digests are. The order of events counts.
//!
//! The hash is FNV-1a (<http://www.isthe.com/chongo/tech/comp/fnv/>), the same on every machine and for every version of
//! the compiler: a seed that failed elsewhere fails here.

use std::fmt::Debug;
use std::hash::{Hash, Hasher};

/// A log.
#[derive(Debug, Default)]
pub struct Log {
    digest: Fnv,
    events: u64,
}

impl Log {
    /// Something happened at a virtual time in µs.
    pub fn add(&mut self, micros: u64, event: impl Hash + Debug) {
        tracing::trace!("{micros} {event:?}");
        (micros, event).hash(&mut self.digest);
        self.events += 1;
    }

    /// The digest of all that happened.
    pub fn digest(&self) -> u64 {
        self.digest.finish()
    }

    /// How much happened.
    pub fn events(&self) -> u64 {
        self.events
    }
}

/// FNV-1a of 64 bits.
#[derive(Clone, Copy, Debug)]
pub struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_fnv_1a_and_the_order_of_events_counts() {
        let mut fnv = Fnv::default();
        fnv.write(b"foobar");
        assert_eq!(fnv.finish(), 0x8594_4171_f739_67e8);
        let digest = |events: [&str; 2]| {
            let mut log = Log::default();
            events.iter().for_each(|event| log.add(7, event));
            log.digest()
        };
        assert_ne!(digest(["a", "b"]), digest(["b", "a"]));
        assert_eq!(digest(["a", "b"]), digest(["a", "b"]));
    }
}
