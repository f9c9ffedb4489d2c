//! The progress of a branch: the newest word of each part, summed. A part that dies takes its word with it; those that
//! are asked in its place say their own.

use std::collections::{BTreeMap, HashMap};

use fleet_proto::v1::{Progress, StateCount, TargetOutcome, WaveProgress};

/// Samples of ended targets in one message.
const SAMPLES: usize = 20;

/// What the parts of a branch said last.
#[derive(Debug, Default)]
pub struct ProgressSum {
    parts: HashMap<usize, WaveProgress>,
    samples: Vec<TargetOutcome>,
}

impl ProgressSum {
    /// A part says how far it is. Its samples are handed on once.
    pub fn set(&mut self, part: usize, mut progress: WaveProgress) {
        if let Some(targets) = &mut progress.targets {
            let room = SAMPLES - self.samples.len().min(SAMPLES);
            self.samples.extend(targets.ended.drain(..).take(room));
            targets.folds = Vec::new();
            targets.difference = None;
        }
        self.parts.insert(part, progress);
    }

    /// All hosts of a part ended; what it said of its targets stays.
    pub fn finish(&mut self, part: usize, hosts: u32) {
        self.parts.entry(part).or_default().ended = hosts;
    }

    /// Forgets what a part said.
    pub fn forget(&mut self, part: usize) {
        self.parts.remove(&part);
    }

    /// The sum; `hosts` are the members of the whole branch.
    pub fn take(&mut self, hosts: usize) -> WaveProgress {
        let mut counts: BTreeMap<i32, u32> = BTreeMap::new();
        let mut sum = Progress { ended: std::mem::take(&mut self.samples), ..Progress::default() };
        let mut ended = 0_u32;
        for part in self.parts.values() {
            ended = ended.saturating_add(part.ended);
            let Some(targets) = &part.targets else { continue };
            sum.targets = sum.targets.saturating_add(targets.targets);
            sum.done = sum.done.saturating_add(targets.done);
            for StateCount { state, count } in &targets.counts {
                let known = counts.entry(*state).or_default();
                *known = known.saturating_add(*count);
            }
        }
        sum.counts = counts.into_iter().map(|(state, count)| StateCount { state, count }).collect();
        WaveProgress { hosts: u32::try_from(hosts).unwrap_or(u32::MAX), ended, targets: Some(sum) }
    }
}

#[cfg(test)]
mod tests {
    use fleet_proto::v1::VmState;

    use super::*;

    fn said(ended: u32, running: u32) -> WaveProgress {
        let counts = vec![StateCount { state: VmState::Running.into(), count: running }];
        let samples = vec![TargetOutcome { target: "web[1]".into(), ..TargetOutcome::default() }; 15];
        let targets = Progress { counts, targets: 10, done: running, ended: samples, ..Progress::default() };
        WaveProgress { hosts: 2, ended, targets: Some(targets) }
    }

    #[test]
    fn the_newest_word_of_each_part_is_summed() {
        let mut sum = ProgressSum::default();
        sum.set(1, said(0, 3));
        sum.set(2, said(1, 4));
        sum.set(1, said(2, 5));
        let whole = sum.take(7);
        let targets = whole.targets.unwrap_or_default();
        assert_eq!((whole.hosts, whole.ended), (7, 3));
        assert_eq!((targets.targets, targets.done, targets.counts[0].count), (20, 9, 9));
        assert_eq!(targets.ended.len(), SAMPLES, "bounded");
        sum.forget(1);
        let whole = sum.take(7);
        let targets = whole.targets.unwrap_or_default();
        assert_eq!((whole.ended, targets.done, targets.ended.len()), (1, 4, 0));
    }
}
