//! Chance from a seed: splitmix64 (<https://prng.di.unimi.it/splitmix64.c>), the same on every machine.

/// A source of numbers.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The source of a seed.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 when that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// One host of so many.
    pub fn host(&mut self, hosts: usize) -> usize {
        // Below `hosts`, so it fits.
        self.below(hosts as u64) as usize
    }

    /// So many of `hosts`, each with a chance of `share`.
    pub fn some(&mut self, hosts: usize, share: f64) -> Vec<usize> {
        // A share of a hundred thousandth is told apart.
        let limit = (share * 1e9) as u64;
        (0..hosts).filter(|_| self.below(1_000_000_000) < limit).collect()
    }

    /// One of some values.
    pub fn one<T: Copy>(&mut self, of: &[T], other: T) -> T {
        let at = self.host(of.len());
        of.get(at).copied().unwrap_or(other)
    }
}
