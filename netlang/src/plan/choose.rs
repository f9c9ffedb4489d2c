//! Some of many, chosen by a number: which 5% of a million VMs, without a list of them.
//!
//! A Feistel network is a permutation of the numbers below a power of four, whatever its round function is. Numbers that
//! fall outside of `0..total` are sent through it again until they do not ("cycle walking": Black and Rogaway, *Ciphers
//! with Arbitrary Finite Domains*, 2002), which makes it a permutation of `0..total`. The chosen ones are those that it
//! sends below `count`: so whether one is chosen is known without looking at the others, and the inverse lists them.

use crate::text::mix64;

/// Enough rounds for the halves to be well mixed; this is no cipher.
const ROUNDS: usize = 8;
/// The least bits of a half: in smaller squares the permutations would be few.
const LEAST_HALF: u32 = 3;

/// `count` of the numbers `0..total`, chosen by a key. The same arguments choose the same ones everywhere and always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    total: u64,
    count: u64,
    half: u32,
    keys: [u64; ROUNDS],
}

impl Choice {
    /// Chooses; never more than there are. `total` is at most 2^62.
    pub fn new(total: u64, count: u64, key: u64) -> Choice {
        let bits = u64::BITS - total.saturating_sub(1).leading_zeros();
        let half = bits.div_ceil(2).clamp(LEAST_HALF, 31);
        let mut keys = [0; ROUNDS];
        for (round, slot) in (1u64..).zip(&mut keys) {
            *slot = mix64(key ^ mix64(round));
        }
        Choice { total, count: count.min(total), half, keys }
    }

    /// How many there are to choose from.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// How many are chosen.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether a number is chosen; one outside of `0..total` is not.
    pub fn contains(&self, number: u64) -> bool {
        number < self.total && (self.count == self.total || self.walk(number, Choice::forth) < self.count)
    }

    /// The chosen numbers, each once, in no order.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        let all = self.count == self.total;
        (0..self.count).map(move |rank| if all { rank } else { self.walk(rank, Choice::back) })
    }

    /// The chosen numbers as runs `(first, count)`, in order. Takes 8 bytes for each chosen number while it works,
    /// unless all are chosen.
    pub fn runs(&self) -> Vec<(u64, u64)> {
        if self.count == self.total {
            return if self.total == 0 { Vec::new() } else { vec![(0, self.total)] };
        }
        let mut chosen: Vec<u64> = self.iter().collect();
        chosen.sort_unstable();
        chosen.chunk_by(|a, b| a + 1 == *b).map(|run| (run[0], run.len() as u64)).collect()
    }

    /// Applies one direction until the number is below `total`. It ends: the cycle through a number below `total`
    /// comes back to that number at last.
    fn walk(&self, mut number: u64, step: impl Fn(&Choice, u64) -> u64) -> u64 {
        loop {
            number = step(self, number);
            if number < self.total {
                return number;
            }
        }
    }

    fn round(&self, key: u64, half: u64) -> u64 {
        mix64(key ^ half.wrapping_mul(0x9e37_79b9_7f4a_7c15)) & ((1 << self.half) - 1)
    }

    fn forth(&self, number: u64) -> u64 {
        let mask = (1 << self.half) - 1;
        let (left, right) =
            self.keys.iter().fold((number >> self.half, number & mask), |(l, r), k| (r, l ^ self.round(*k, r)));
        left << self.half | right
    }

    fn back(&self, number: u64) -> u64 {
        let mask = (1 << self.half) - 1;
        let (left, right) =
            self.keys.iter().rev().fold((number >> self.half, number & mask), |(l, r), k| (r ^ self.round(*k, l), l));
        left << self.half | right
    }
}

#[cfg(test)]
mod tests {
    use super::Choice;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn as_many_as_were_asked_for_are_chosen_and_each_once(total in 0u64..3_000, part in 0u64..3_000, key: u64) {
            let choice = Choice::new(total, part, key);
            let mut list: Vec<u64> = choice.iter().collect();
            list.sort_unstable();
            list.dedup();
            prop_assert_eq!(list.len() as u64, part.min(total));
            prop_assert!(list.iter().all(|n| *n < total));
            let members: Vec<u64> = (0..total + 5).filter(|n| choice.contains(*n)).collect();
            prop_assert_eq!(&members, &list);
            let runs: Vec<u64> = choice.runs().into_iter().flat_map(|(first, count)| first..first + count).collect();
            prop_assert_eq!(&runs, &list);
            prop_assert_eq!(Choice::new(total, part, key), choice);
        }

        #[test]
        fn of_very_many_a_few_are_found_without_a_list_of_all(total in 1u64..1 << 62, key: u64) {
            let choice = Choice::new(total, 20, key);
            let list: Vec<u64> = choice.iter().collect();
            prop_assert_eq!(list.len() as u64, total.min(20));
            prop_assert!(list.iter().all(|n| choice.contains(*n)));
        }

        #[test]
        fn another_key_chooses_others(total in 200u64..5_000, a: u64, b: u64) {
            prop_assume!(a != b);
            let chosen = |key| Choice::new(total, total / 10, key).runs();
            prop_assert_ne!(chosen(a), chosen(b));
        }
    }

    #[test]
    fn everybody_has_the_same_chance() {
        for total in [3u64, 10, 17, 100] {
            let mut hits = vec![0u64; total as usize];
            for key in 0..2_000 {
                Choice::new(total, 1, key).iter().for_each(|n| hits[n as usize] += 1);
            }
            let fair = 2_000 / total;
            assert!(hits.iter().all(|h| (fair / 3..fair * 3).contains(h)), "{total}: {hits:?}");
        }
    }
}
