//! What became of the VMs of an operation, whichever waves it took: ranges of VMs, each with an outcome and a reason.
//!
//! It begins with every target, and everything that is learnt later replaces what was said of the same VMs. So counts
//! add up to the targets by construction, and a VM that failed first and then came up is counted once.

use std::collections::BTreeMap;
use std::fmt::Write;

use fleet_proto::v1::{Outcome, OutcomeFold, Range, TallyGroup, TallyHost, TallyReason, TallyRecord, TallyRun};

use crate::names;

/// Bytes of folded names in one fold of an answer; more are told by their number.
const MOST_NAMES: usize = 64 * 1024;

type Why = (Outcome, String);

/// Outcomes of all targets of one operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Outcomes with their reasons, numbered.
    reasons: Vec<Why>,
    /// For each group and first index: how many VMs, and the reason's number. Runs do not overlap.
    groups: BTreeMap<String, BTreeMap<u32, (u32, u32)>>,
    /// Hosts that are targets themselves.
    hosts: BTreeMap<u32, u32>,
}

impl Tally {
    /// Adds targets.
    pub fn add(&mut self, range: &Range, outcome: Outcome, reason: &str) {
        let number = self.number(outcome, reason);
        put(self.groups.entry(range.group.clone()).or_default(), range.first, range.count, number);
    }

    /// Adds a host as a target.
    pub fn add_host(&mut self, host: u32, outcome: Outcome, reason: &str) {
        let number = self.number(outcome, reason);
        self.hosts.insert(host, number);
    }

    /// Says of VMs how they ended; those that are no targets are left out.
    pub fn say(&mut self, group: &str, first: u32, count: u32, outcome: Outcome, reason: &str) {
        let number = self.number(outcome, reason);
        let Some(runs) = self.groups.get_mut(group) else { return };
        let end = first.saturating_add(count);
        let before = runs.range(..first).next_back().map(|(at, (n, _))| (*at, *n));
        let mut known: Vec<(u32, u32)> = before.into_iter().collect();
        known.extend(runs.range(first..end).map(|(at, (n, _))| (*at, *n)));
        for (at, n) in known {
            let (from, to) = (at.max(first), at.saturating_add(n).min(end));
            if from < to {
                put(runs, from, to - from, number);
            }
        }
    }

    /// Says of a host that is a target how it ended.
    pub fn say_host(&mut self, host: u32, outcome: Outcome, reason: &str) {
        let number = self.number(outcome, reason);
        if let Some(known) = self.hosts.get_mut(&host) {
            *known = number;
        }
    }

    /// Says what an agent, or a part of the tree, folded. Names that are no targets are left out.
    pub fn say_fold(&mut self, fold: &OutcomeFold) {
        for word in names::words(&fold.targets) {
            match &word.runs {
                Some(_) => {
                    for (first, count) in word.numbers() {
                        self.say(word.stem, first, count, fold.outcome(), &fold.reason);
                    }
                }
                // A VM that is no array has one index, whichever it is.
                None if self.groups.get(word.stem).is_some_and(|runs| runs.len() == 1) => {
                    let run = self.groups[word.stem].iter().next().map(|(first, (count, _))| (*first, *count));
                    if let Some((first, 1)) = run {
                        self.say(word.stem, first, 1, fold.outcome(), &fold.reason);
                    }
                }
                None => {}
            }
        }
    }

    /// How many targets there are.
    pub fn targets(&self) -> u64 {
        let vms: u64 = self.groups.values().flat_map(|runs| runs.values()).map(|(count, _)| u64::from(*count)).sum();
        vms + self.hosts.len() as u64
    }

    /// How many targets have this outcome.
    pub fn count(&self, outcome: Outcome) -> u64 {
        let is = |number: &u32| self.reasons.get(*number as usize).is_some_and(|(o, _)| *o == outcome);
        let vms = self.groups.values().flat_map(|runs| runs.values()).filter(|(_, number)| is(number));
        vms.map(|(count, _)| u64::from(*count)).sum::<u64>() + self.hosts.values().filter(|n| is(n)).count() as u64
    }

    /// All outcomes, folded; counts add up to the targets. `is_array` says which groups have indices, `host` names one.
    pub fn folds(&self, is_array: &dyn Fn(&str) -> bool, host: &dyn Fn(u32) -> String) -> Vec<OutcomeFold> {
        let mut texts: Vec<(u64, String, u64)> = vec![(0, String::new(), 0); self.reasons.len()];
        for (group, runs) in &self.groups {
            let array = is_array(group);
            let mut of_group: BTreeMap<u32, Vec<(u32, u32)>> = BTreeMap::new();
            for (first, (count, number)) in runs {
                of_group.entry(*number).or_default().push((*first, *count));
            }
            for (number, runs) in of_group {
                let Some(text) = texts.get_mut(number as usize) else { continue };
                write_runs(text, group, array, &runs);
            }
        }
        for (id, number) in &self.hosts {
            let Some((count, text, _)) = texts.get_mut(*number as usize) else { continue };
            *count += 1;
            let gap = if text.is_empty() { "" } else { " " };
            // Writing to a String cannot fail.
            let _ = write!(text, "{gap}{}", host(*id));
        }
        let folds = self.reasons.iter().zip(texts).filter(|(_, (count, ..))| *count > 0);
        let folds = folds.map(|((outcome, reason), (count, targets, cut))| OutcomeFold {
            outcome: (*outcome).into(),
            reason: reason.clone(),
            count: u32::try_from(count).unwrap_or(u32::MAX),
            targets: if cut > 0 { format!("{targets} and {cut} more") } else { targets },
        });
        let mut folds: Vec<OutcomeFold> = folds.collect();
        folds.sort_by(|a, b| (a.outcome, &a.reason).cmp(&(b.outcome, &b.reason)));
        folds
    }

    fn number(&mut self, outcome: Outcome, reason: &str) -> u32 {
        let known = self.reasons.iter().position(|(o, r)| *o == outcome && r == reason);
        let at = known.unwrap_or_else(|| {
            self.reasons.push((outcome, reason.to_owned()));
            self.reasons.len() - 1
        });
        u32::try_from(at).unwrap_or(u32::MAX)
    }

    /// As a record.
    pub fn record(&self) -> TallyRecord {
        let reason = |(outcome, reason): &Why| TallyReason { outcome: (*outcome).into(), reason: reason.clone() };
        let run =
            |(first, (count, reason)): (&u32, &(u32, u32))| TallyRun { first: *first, count: *count, reason: *reason };
        TallyRecord {
            reasons: self.reasons.iter().map(reason).collect(),
            groups: self
                .groups
                .iter()
                .map(|(group, runs)| TallyGroup { group: group.clone(), runs: runs.iter().map(run).collect() })
                .collect(),
            hosts: self.hosts.iter().map(|(host, reason)| TallyHost { host: *host, reason: *reason }).collect(),
        }
    }

    /// From a record. A reason that is missing counts as unknown.
    pub fn of(record: &TallyRecord) -> Tally {
        let mut tally = Tally::default();
        let why = |number: u32| {
            let known = record.reasons.get(number as usize);
            known.map_or((Outcome::Unknown, ""), |known| (known.outcome(), known.reason.as_str()))
        };
        for group in &record.groups {
            for run in &group.runs {
                let (outcome, reason) = why(run.reason);
                let range = Range { group: group.group.clone(), first: run.first, count: run.count };
                tally.add(&range, outcome, reason);
            }
        }
        for host in &record.hosts {
            let (outcome, reason) = why(host.reason);
            tally.add_host(host.host, outcome, reason);
        }
        tally
    }
}

/// Replaces what runs say of `first..first + count`, and joins neighbours that say the same.
fn put(runs: &mut BTreeMap<u32, (u32, u32)>, mut first: u32, count: u32, number: u32) {
    if count == 0 {
        return;
    }
    let mut end = first.saturating_add(count);
    if let Some((at, (n, other))) = runs.range(..first).next_back().map(|(at, run)| (*at, *run)) {
        let to = at.saturating_add(n);
        if to >= first && other == number {
            runs.remove(&at);
            (first, end) = (at, end.max(to));
        } else if to > first {
            runs.insert(at, (first - at, other));
            if to > end {
                runs.insert(end, (to - end, other));
            }
        }
    }
    while let Some((at, (n, other))) = runs.range(first..=end).next().map(|(at, run)| (*at, *run)) {
        let to = at.saturating_add(n);
        if at == end && other != number {
            break;
        }
        runs.remove(&at);
        if other == number {
            end = end.max(to);
        } else if to > end {
            runs.insert(end, (to - end, other));
        }
    }
    runs.insert(first, (end - first, number));
}

/// Appends `web[0-3,7]`.
fn write_runs((count, text, cut): &mut (u64, String, u64), group: &str, array: bool, runs: &[(u32, u32)]) {
    let vms: u64 = runs.iter().map(|(_, n)| u64::from(*n)).sum();
    *count += vms;
    if text.len() > MOST_NAMES {
        *cut += vms;
        return;
    }
    if !text.is_empty() {
        text.push(' ');
    }
    text.push_str(group);
    if !array {
        return;
    }
    // Writing to a String cannot fail.
    for (at, (first, n)) in runs.iter().enumerate() {
        if text.len() > MOST_NAMES {
            *cut += runs[at..].iter().map(|(_, n)| u64::from(*n)).sum::<u64>();
            break;
        }
        let _ = write!(text, "{}{first}", if at == 0 { '[' } else { ',' });
        if *n > 1 {
            let _ = write!(text, "-{}", first.saturating_add(n - 1));
        }
    }
    text.push(']');
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(group: &str, first: u32, count: u32) -> Range {
        Range { group: group.into(), first, count }
    }

    fn text(tally: &Tally) -> Vec<String> {
        let folds = tally.folds(&|group| group != "alice", &|id| format!("h{id}"));
        folds.iter().map(|f| format!("{:?} {} {}: {}", f.outcome(), f.count, f.targets, f.reason)).collect()
    }

    #[test]
    fn what_is_said_later_replaces_what_was_said_before() {
        let mut tally = Tally::default();
        tally.add(&range("web", 0, 10), Outcome::NotReached, "not told");
        tally.add(&range("alice", 0, 1), Outcome::NotReached, "not told");
        tally.add_host(7, Outcome::NotReached, "not told");
        tally.say("web", 2, 100, Outcome::Ok, "");
        let fold = |outcome: Outcome, reason: &str, targets: &str| OutcomeFold {
            outcome: outcome.into(),
            reason: reason.into(),
            count: 0,
            targets: targets.into(),
        };
        tally.say_fold(&fold(Outcome::Failed, "panic", "web[4-5,9] bob (network)"));
        tally.say_fold(&fold(Outcome::Ok, "", "alice web[5]"));
        tally.say_host(7, Outcome::Ok, "");
        assert_eq!(tally.targets(), 12);
        assert_eq!(
            text(&tally),
            ["Ok 8 alice web[2-3,5-8] h7: ", "Failed 2 web[4,9]: panic", "NotReached 2 web[0-1]: not told"]
        );
    }

    proptest! {
        #[test]
        fn counts_add_up_and_are_those_of_a_simple_list(
            says in proptest::collection::vec((0u32..60, 0u32..30, 0usize..3), 0..60)
        ) {
            const OUTCOMES: [Outcome; 3] = [Outcome::Ok, Outcome::Failed, Outcome::Unknown];
            let mut tally = Tally::default();
            let mut list = [Outcome::NotReached; 50];
            tally.add(&range("web", 5, 50), Outcome::NotReached, "");
            for (first, count, outcome) in says {
                tally.say("web", first, count, OUTCOMES[outcome], "");
                for index in first..first + count {
                    if let Some(place) = index.checked_sub(5).and_then(|at| list.get_mut(at as usize)) {
                        *place = OUTCOMES[outcome];
                    }
                }
            }
            prop_assert_eq!(tally.targets(), 50);
            for outcome in OUTCOMES.into_iter().chain([Outcome::NotReached]) {
                prop_assert_eq!(tally.count(outcome), list.iter().filter(|o| **o == outcome).count() as u64);
            }
            let joined = list.chunk_by(|a, b| a == b).count();
            prop_assert_eq!(tally.record().groups[0].runs.len(), joined, "neighbours that say the same are one run");
            prop_assert_eq!(text(&Tally::of(&tally.record())), text(&tally));
        }
    }
}
