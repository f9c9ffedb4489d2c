//! First-fit allocation of whole numbers: which are taken, and where the next free run is.

use hashbrown::HashMap;
use std::collections::BTreeMap;

/// A set of taken numbers, kept as merged half-open runs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Space {
    runs: BTreeMap<u64, u64>,
    /// Nothing is ever given back, so a search with the same (start, size, alignment) can go on where the last ended.
    cursors: HashMap<(u64, u64, u64), u64>,
}

impl Space {
    /// Marks `from..until` as taken; parts may be taken already.
    pub(crate) fn take(&mut self, from: u64, until: u64) {
        if from >= until {
            return;
        }
        let (mut from, mut until) = (from, until);
        // Runs that touch the new one: the last that starts before it, and those that start within it.
        if let Some((&start, &end)) = self.runs.range(..from).next_back()
            && end >= from
        {
            from = start;
            until = until.max(end);
            self.runs.remove(&start);
        }
        while let Some((&start, &end)) = self.runs.range(from..=until).next() {
            until = until.max(end);
            self.runs.remove(&start);
        }
        self.runs.insert(from, until);
    }

    /// Whether no number of `from..until` is taken.
    pub(crate) fn is_free(&self, from: u64, until: u64) -> bool {
        self.runs.range(..until).next_back().is_none_or(|(_, end)| *end <= from)
    }

    /// The lowest free run of `size` numbers in `from..until` whose start is a multiple of `align`.
    pub(crate) fn fit(&mut self, from: u64, until: u64, size: u64, align: u64) -> Option<u64> {
        let align = align.max(1);
        let key = (from, size, align);
        let mut at = self.cursors.get(&key).copied().unwrap_or(from).checked_next_multiple_of(align)?;
        // The run that holds `at`, then every later one.
        let first = self.runs.range(..=at).next_back().map_or(at, |(start, _)| *start);
        for (&start, &end) in self.runs.range(first..) {
            if at.checked_add(size)? <= start {
                break;
            }
            if end > at {
                at = end.checked_next_multiple_of(align)?;
            }
        }
        self.cursors.insert(key, at);
        (at.checked_add(size)? <= until).then_some(at)
    }
}
