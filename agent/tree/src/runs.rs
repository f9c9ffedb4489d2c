//! Sets of numbers as runs: numbers that follow one another take no more room than one.

use std::collections::BTreeMap;

/// Numbers as runs, in order, apart by one number at least. Both ends belong to a run.
///
/// A tree and no list: the root of a flat fleet is told of its hosts in the order in which they answer, and each number
/// that goes between two others would move half of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runs(BTreeMap<u64, u64>);

impl Runs {
    /// Numbers in it.
    pub fn len(&self) -> u64 {
        self.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// Whether no number is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Runs in it.
    pub fn parts(&self) -> usize {
        self.0.len()
    }

    /// The runs, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().map(|(first, last)| (*first, *last))
    }

    /// A run that overlaps this one or lies beside it.
    fn neighbour(&self, (first, last): (u64, u64)) -> Option<(u64, u64)> {
        let (start, end) = self.0.range(..=last.saturating_add(1)).next_back()?;
        (end.saturating_add(1) >= first).then_some((*start, *end))
    }

    /// Whether a run overlaps this one or lies beside it, so that to insert it makes no more runs.
    pub fn touches(&self, run: (u64, u64)) -> bool {
        self.neighbour(run).is_some()
    }

    /// Adds the numbers of a run.
    pub fn insert(&mut self, run: (u64, u64)) {
        let (mut first, mut last) = run;
        while let Some((start, end)) = self.neighbour((first, last)) {
            self.0.remove(&start);
            (first, last) = (first.min(start), last.max(end));
        }
        self.0.insert(first, last);
    }

    /// Takes the numbers between these two out.
    pub fn take(&mut self, (low, high): (u64, u64)) -> Vec<(u64, u64)> {
        let mut taken = Vec::new();
        for (first, last) in std::mem::take(&mut self.0) {
            if last < low || first > high {
                self.0.insert(first, last);
                continue;
            }
            if first < low {
                self.0.insert(first, low - 1);
            }
            taken.push((first.max(low), last.min(high)));
            if last > high {
                self.0.insert(high + 1, last);
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_hold_what_a_set_holds_and_lie_apart(
            runs in prop::collection::vec((0_u64..60, 0_u64..8), 0..40), cut in (0_u64..70, 0_u64..20),
        ) {
            let (mut found, mut expected) = (Runs::default(), BTreeSet::new());
            for (first, length) in runs {
                let before = found.parts();
                let touches = found.touches((first, first + length));
                found.insert((first, first + length));
                prop_assert_eq!(touches, found.parts() <= before);
                expected.extend(first..=first + length);
            }
            let numbers = |runs: &Runs| runs.iter().flat_map(|(first, last)| first..=last).collect::<Vec<_>>();
            prop_assert_eq!(numbers(&found), Vec::from_iter(expected.iter().copied()));
            prop_assert_eq!(found.len(), expected.len() as u64);
            let apart = found.iter().zip(found.iter().skip(1)).all(|((_, end), (start, _))| end + 1 < start);
            prop_assert!(apart, "{:?}", found);

            let (low, high) = (cut.0, cut.0 + cut.1);
            let taken = found.take((low, high)).into_iter().flat_map(|(first, last)| first..=last);
            prop_assert_eq!(taken.collect::<Vec<_>>(), Vec::from_iter(expected.range(low..=high).copied()));
            expected.retain(|number| !(low..=high).contains(number));
            prop_assert_eq!(numbers(&found), Vec::from_iter(expected));
        }
    }

    #[test]
    fn the_greatest_number_is_no_trap() {
        let mut runs = Runs::default();
        runs.insert((u64::MAX - 1, u64::MAX));
        runs.insert((u64::MAX, u64::MAX));
        runs.insert((3, u64::MAX - 3));
        assert_eq!(runs.iter().collect::<Vec<_>>(), [(3, u64::MAX - 3), (u64::MAX - 1, u64::MAX)]);
    }
}
