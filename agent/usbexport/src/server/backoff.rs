//! Waiting before another try: longer each time, and by chance, so that many watchers do not come at once.

use std::time::Duration;

/// The longest wait before the second try; it doubles with each further one.
const FIRST: Duration = Duration::from_millis(50);
/// The longest wait for a server that is not there: it may be started any time, and its camera is to be listed within a
/// second.
const ABSENT: Duration = Duration::from_millis(800);
/// The longest wait for one that is there and cannot be used.
const USELESS: Duration = Duration::from_secs(20);

/// Waits that grow.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    tries: u32,
}

impl Backoff {
    /// The next wait: anything in the upper half of a bound that doubles.
    pub(super) fn next(&mut self, useless: bool) -> Duration {
        let longest = if useless { USELESS } else { ABSENT };
        let bound = FIRST.saturating_mul(1 << self.tries.min(16)).min(longest);
        self.tries = self.tries.saturating_add(1);
        // The low 32 bits of a UUID of version 4 are random (RFC 9562, section 5.4).
        let chance = uuid::Uuid::new_v4().as_u128() & u128::from(u32::MAX);
        let part = f64::from(u32::try_from(chance).unwrap_or(u32::MAX)) / f64::from(u32::MAX);
        bound.mul_f64(0.5 + part / 2.0)
    }

    /// After something went well.
    pub(super) fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_begin_anew() {
        let mut backoff = Backoff::default();
        assert!(backoff.next(true) <= FIRST);
        for _ in 0..100 {
            assert!(backoff.next(false) <= ABSENT);
        }
        assert!(backoff.next(true) >= USELESS / 2);
        backoff.reset();
        assert!(backoff.next(true) <= FIRST);
    }
}
