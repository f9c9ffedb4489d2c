//! Waiting before another try: longer each time, and by chance, so that ten thousand hosts that have lost their
//! controller do not all come back at once.

use std::time::Duration;

/// The longest wait before the second try; it doubles with each further one.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait of all.
const LONGEST: Duration = Duration::from_secs(30);

/// Waits that grow.
#[derive(Debug, Default)]
pub struct Waits {
    tries: u32,
}

impl Waits {
    /// The next wait: anything up to a bound that doubles ("full jitter").
    pub fn next(&mut self) -> Duration {
        let bound = FIRST.saturating_mul(1 << self.tries.min(10)).min(LONGEST);
        self.tries = self.tries.saturating_add(1);
        by_chance(bound)
    }

    /// After something went well.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

/// Anything up to a bound.
pub fn by_chance(bound: Duration) -> Duration {
    // The low 32 bits of a UUID of version 4 are random (RFC 9562, section 5.4).
    let part = uuid::Uuid::new_v4().as_u128() & u128::from(u32::MAX);
    bound.mul_f64(f64::from(u32::try_from(part).unwrap_or(u32::MAX)) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_begin_anew() {
        let mut waits = Waits::default();
        assert!(waits.next() <= FIRST);
        for _ in 0..100 {
            assert!(waits.next() <= LONGEST);
        }
        waits.reset();
        assert!(waits.next() <= FIRST);
    }
}
