//! When to try again: later each time, not all at once, and no more hosts in a second than the fleet allows itself.

use crate::Settings;

/// Retries that the whole fleet may make: a bucket of tokens, one a host, that fills with time.
#[derive(Clone, Debug)]
pub struct Budget {
    /// Thousandths of tokens.
    tokens: u64,
    most: u64,
    per_second: u64,
    at: u64,
}

impl Budget {
    /// A bucket at a time in ms. It is empty after a restart: a controller that ends again and again retries no faster
    /// for it.
    pub fn new(settings: &Settings, now: u64, full: bool) -> Budget {
        let most = u64::from(settings.retry_burst) * 1000;
        Budget {
            tokens: if full { most } else { 0 },
            most,
            per_second: u64::from(settings.retries_per_second),
            at: now,
        }
    }

    /// Takes up to so many tokens.
    pub fn take(&mut self, now: u64, wanted: usize) -> usize {
        let since = now.saturating_sub(self.at);
        self.at = self.at.max(now);
        self.tokens = self.tokens.saturating_add(since.saturating_mul(self.per_second)).min(self.most);
        let taken = usize::try_from(self.tokens / 1000).unwrap_or(usize::MAX).min(wanted);
        self.tokens -= taken as u64 * 1000;
        taken
    }

    /// How long until there is a token, in ms.
    pub fn wait(&self) -> u64 {
        if self.tokens >= 1000 { 0 } else { (1000 - self.tokens).div_ceil(self.per_second.max(1)) }
    }
}

/// How long to wait before another try, in ms: twice as long each time, up to a bound, and between half of that and
/// all of it, so that hosts that failed together do not try together ("equal jitter",
/// <https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>).
pub fn backoff(settings: &Settings, tries: u32, salt: u64) -> u64 {
    let whole =
        settings.retry_first_ms.saturating_mul(1 << tries.saturating_sub(1).min(20)).min(settings.retry_most_ms);
    let half = whole / 2;
    half + mix(settings.seed ^ salt.wrapping_add(u64::from(tries) << 32)) % (whole - half + 1)
}

/// Mixes the bits of a number (splitmix64's finalizer, <https://prng.di.unimi.it/splitmix64.c>).
pub fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_spent_and_fills_with_time() {
        let settings = Settings { retry_burst: 3, retries_per_second: 2, ..Settings::default() };
        let mut budget = Budget::new(&settings, 0, true);
        assert_eq!((budget.take(0, 5), budget.take(0, 1)), (3, 0));
        assert_eq!(budget.wait(), 500);
        assert_eq!(budget.take(499, 1), 0);
        assert_eq!(budget.take(500, 1), 1);
        assert_eq!(budget.take(60_000, 9), 3);
        assert_eq!(Budget::new(&settings, 0, false).take(0, 1), 0);
    }

    #[test]
    fn waits_grow_to_a_bound_and_differ() {
        let settings = Settings { retry_first_ms: 100, retry_most_ms: 5_000, ..Settings::default() };
        for (tries, whole) in [(1, 100), (2, 200), (3, 400), (40, 5_000)] {
            let waits: Vec<u64> = (0..50).map(|salt| backoff(&settings, tries, salt)).collect();
            assert!(waits.iter().all(|wait| (whole / 2..=whole).contains(wait)), "{waits:?}");
            assert!(waits.windows(2).any(|pair| pair[0] != pair[1]));
        }
    }
}
