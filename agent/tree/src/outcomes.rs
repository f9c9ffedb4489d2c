//! Outcomes of many targets, folded by (outcome, reason) with the names that ended so.
//!
//! Counts are exact whatever is left out of the text: names are cut at a limit, those of targets that ended well first,
//! and when there are too many different reasons, the rest of an outcome goes into one fold of its own.

use std::collections::BTreeMap;

use fleet_proto::v1::{Outcome, OutcomeFold};

use crate::names::{NameSet, Style};

/// Different reasons that are told apart.
const REASONS: usize = 64;
/// Bytes of one reason.
const REASON: usize = 400;
/// The reason of those whose own is one too many.
const OTHER: &str = "… other reasons";

/// Folds under way.
#[derive(Clone, Debug)]
pub struct Outcomes {
    style: Style,
    /// Bytes of names in the text of all folds.
    limit: usize,
    folds: BTreeMap<(i32, String), (u32, NameSet)>,
}

impl Outcomes {
    /// Outcomes of hosts. A hundred thousand names without any order still fit.
    pub fn of_hosts() -> Self {
        Self { style: Style::Hosts, limit: 2 * 1024 * 1024, folds: BTreeMap::new() }
    }

    /// Outcomes of VMs, or what else a host has to do.
    pub fn of_targets() -> Self {
        Self { style: Style::Guests, limit: 512 * 1024, folds: BTreeMap::new() }
    }

    /// One target ended.
    pub fn add(&mut self, outcome: Outcome, reason: &str, name: &str) {
        let one = NameSet::one(self.style, name);
        self.add_set(outcome.into(), reason, 1, &one);
    }

    /// Targets that ended alike.
    pub fn add_all<'a>(&mut self, outcome: Outcome, reason: &str, names: impl IntoIterator<Item = &'a str>) {
        let mut set = NameSet::new(self.style);
        let mut count = 0_u32;
        for name in names {
            set.insert(name);
            count = count.saturating_add(1);
        }
        self.add_set(outcome.into(), reason, count, &set);
    }

    /// Targets nobody can name.
    pub fn add_nameless(&mut self, outcome: Outcome, reason: &str, count: u32) {
        self.add_set(outcome.into(), reason, count, &NameSet::parse(self.style, "…"));
    }

    /// Adds what somebody else folded.
    pub fn merge(&mut self, folds: &[OutcomeFold]) {
        for fold in folds {
            self.add_set(fold.outcome, &fold.reason, fold.count, &NameSet::parse(self.style, &fold.targets));
        }
    }

    /// How many targets there are.
    pub fn count(&self) -> u32 {
        self.folds.values().fold(0, |sum, (count, _)| sum.saturating_add(*count))
    }

    /// The folds as a message: the most frequent first within an outcome.
    pub fn to_folds(&self) -> Vec<OutcomeFold> {
        let mut folds: Vec<_> = self.folds.iter().collect();
        folds.sort_by_key(|((outcome, _), (count, _))| (*outcome, std::cmp::Reverse(*count)));
        let mut room = self.limit;
        // Whoever reads it asks for those that did not end well: they have the room first.
        let mut all: Vec<_> = folds
            .into_iter()
            .rev()
            .map(|((outcome, reason), (count, names))| {
                let targets = names.to_text(room);
                room = room.saturating_sub(targets.len());
                OutcomeFold { outcome: *outcome, reason: reason.clone(), count: *count, targets }
            })
            .collect();
        all.reverse();
        all
    }

    fn add_set(&mut self, outcome: i32, reason: &str, count: u32, names: &NameSet) {
        if count == 0 {
            return;
        }
        let mut key = (outcome, shortened(reason));
        if !self.folds.contains_key(&key) && self.folds.len() >= REASONS && !reason.is_empty() {
            key.1 = OTHER.to_owned();
        }
        let (known, set) = self.folds.entry(key).or_insert_with(|| (0, NameSet::new(self.style)));
        *known = known.saturating_add(count);
        set.union(names);
    }
}

fn shortened(reason: &str) -> String {
    match reason.char_indices().nth(REASON) {
        Some((at, _)) => format!("{}…", &reason[..at]),
        None => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn those_that_ended_alike_are_one_fold() {
        let mut outcomes = Outcomes::of_hosts();
        outcomes.add(Outcome::Ok, "", "h1");
        outcomes.add_all(Outcome::Ok, "", ["h3", "h2"]);
        outcomes.add(Outcome::Failed, "disk full", "h4");
        outcomes.add_nameless(Outcome::Unknown, "miscounted", 2);
        let folds = outcomes.to_folds();
        let lines: Vec<_> = folds.iter().map(|fold| (fold.outcome(), fold.count, fold.targets.as_str())).collect();
        assert_eq!(lines, [(Outcome::Ok, 3, "h[1-3]"), (Outcome::Failed, 1, "h4"), (Outcome::Unknown, 2, "…")]);
        assert_eq!(outcomes.count(), 6);
    }

    #[test]
    fn names_of_those_that_ended_well_are_cut_first() {
        let mut outcomes = Outcomes::of_targets();
        outcomes.limit = 20;
        outcomes.add_all(Outcome::Ok, "", ["web[0]", "web[2]", "web[4]", "web[6]"]);
        outcomes.add_all(Outcome::Failed, "panic", ["web[1]", "web[3]", "web[5]"]);
        let folds = outcomes.to_folds();
        let texts: Vec<_> = folds.iter().map(|fold| (fold.count, fold.targets.as_str())).collect();
        assert_eq!(texts, [(4, "web[0,2] …"), (3, "web[1,3,5]")]);
    }

    #[test]
    fn reasons_without_number_are_bounded_and_the_counts_exact() {
        let mut outcomes = Outcomes::of_targets();
        for index in 0..5_000 {
            outcomes.add(Outcome::Failed, &format!("{index} {}", "x".repeat(index)), &format!("web[{index}]"));
            outcomes.add(Outcome::Ok, "", &format!("db[{index}]"));
        }
        let folds = outcomes.to_folds();
        assert!(folds.len() <= REASONS + 3, "{}", folds.len());
        assert_eq!(outcomes.count(), 10_000);
        assert!(folds.iter().any(|fold| fold.outcome() == Outcome::Ok && fold.count == 5_000));
        assert!(folds.iter().any(|fold| fold.reason == OTHER && fold.count > 4_900));
    }

    proptest! {
        #[test]
        fn counts_add_up_whatever_the_order_of_merging(
            ends in prop::collection::vec((1_i32..6, 0_usize..90), 0..200), parts in 1_usize..9, rounds in 0_usize..3,
        ) {
            let reason = |reason: usize| if reason == 0 { String::new() } else { format!("reason {reason}") };
            let mut folded: Vec<Outcomes> = (0..parts).map(|_| Outcomes::of_hosts()).collect();
            for (index, (outcome, why)) in ends.iter().enumerate() {
                let outcome = Outcome::try_from(*outcome).unwrap_or_default();
                folded[index % parts].add(outcome, &reason(*why), &format!("h{index}"));
            }
            folded.rotate_left(rounds % parts);
            let mut whole = Outcomes::of_hosts();
            folded.iter().for_each(|part| whole.merge(&part.to_folds()));
            prop_assert_eq!(whole.count() as usize, ends.len());
            for outcome in 1..6 {
                let of = |folds: &[OutcomeFold]| {
                    folds.iter().filter(|fold| fold.outcome == outcome).map(|fold| fold.count as usize).sum::<usize>()
                };
                prop_assert_eq!(of(&whole.to_folds()), ends.iter().filter(|(known, _)| *known == outcome).count());
            }
            let named: u64 = whole.to_folds().iter().map(|fold| NameSet::parse(Style::Hosts, &fold.targets).len()).sum();
            prop_assert_eq!(named as usize, ends.len(), "every name is kept when the text is not cut");
        }
    }
}
