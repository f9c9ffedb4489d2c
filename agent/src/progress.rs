//! How an operation tells of itself: counts as it goes, outcomes folded at the end. The counts always add up to the
//! targets: whatever was not reported when the operation ends is NOT_REACHED.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use fleet_proto::v1::{Difference, Outcome, OutcomeFold, Progress, StateCount, TargetOutcome};
use fleet_tree::fold_names;
use tokio::sync::mpsc;
use tonic::Status;

/// Steps that may wait for a slow reader.
pub const QUEUE: usize = 32;
/// Between two steps that only count.
const PACE: Duration = Duration::from_millis(100);
/// Failures told one by one while the operation goes on; all are in the folds.
const TOLD: usize = 20;

/// The reading side of a report.
pub type Steps = mpsc::Receiver<Result<Progress, Status>>;

/// How one target ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// As asked.
    Ok,
    /// It was so before.
    AlreadySo,
    /// Not as asked.
    Failed {
        /// Why, with the last console lines behind a line break where there are some.
        reason: String,
        /// Whether trying again can help.
        retryable: bool,
    },
}

struct State {
    open: BTreeSet<String>,
    ended: BTreeMap<(i32, String), Vec<String>>,
    fresh: Vec<TargetOutcome>,
    told: usize,
    targets: u32,
    sent: Instant,
}

/// The writing side: shared by everything that works on one operation.
pub struct Report {
    sender: mpsc::Sender<Result<Progress, Status>>,
    state: Mutex<State>,
}

impl Report {
    /// A report of nothing yet, and where to read it.
    pub fn new() -> (Self, Steps) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let state = State {
            open: BTreeSet::new(),
            ended: BTreeMap::new(),
            fresh: Vec::new(),
            told: 0,
            targets: 0,
            sent: Instant::now(),
        };
        (Self { sender, state: Mutex::new(state) }, receiver)
    }

    /// Names the targets. To be called once, before any of them ends.
    pub fn targets(&self, names: impl IntoIterator<Item = String>) {
        let mut state = self.lock();
        state.open.extend(names);
        state.targets = u32::try_from(state.open.len()).unwrap_or(u32::MAX);
    }

    /// Completes when the reader has gone.
    pub async fn abandoned(&self) {
        self.sender.closed().await;
    }

    /// Whether the reader has gone.
    pub fn is_abandoned(&self) -> bool {
        self.sender.is_closed()
    }

    /// Says what will change; the first step of an apply.
    pub async fn difference(&self, difference: Difference) {
        self.send(Progress { difference: Some(difference), ..self.step(Vec::new()) }).await;
    }

    /// One target ended. Counted once, whatever is said of it later.
    pub async fn ended(&self, name: &str, ended: Ended, counts: impl FnOnce() -> Vec<StateCount>) {
        let step = {
            let mut state = self.lock();
            if !state.open.remove(name) {
                return;
            }
            let (outcome, reason, retryable) = match ended {
                Ended::Ok => (Outcome::Ok, String::new(), false),
                Ended::AlreadySo => (Outcome::AlreadySo, String::new(), false),
                Ended::Failed { reason, retryable } => (Outcome::Failed, reason, retryable),
            };
            if outcome == Outcome::Failed && state.told < TOLD {
                state.told += 1;
                let reason = reason.lines().next().unwrap_or_default().to_owned();
                state.fresh.push(TargetOutcome { target: name.to_owned(), outcome: outcome.into(), reason, retryable });
            }
            state.ended.entry((outcome.into(), reason)).or_default().push(name.to_owned());
            let due = state.sent.elapsed() >= PACE || state.open.is_empty();
            due.then(|| {
                state.sent = Instant::now();
                std::mem::take(&mut state.fresh)
            })
        };
        if let Some(fresh) = step {
            let step = Progress { counts: counts(), ..self.step(fresh) };
            self.send(step).await;
        }
    }

    /// Ends the report: the last step, whose folds add up to the targets.
    pub async fn finish(&self, counts: Vec<StateCount>) -> Progress {
        let last = {
            let mut state = self.lock();
            let left: Vec<String> = std::mem::take(&mut state.open).into_iter().collect();
            if !left.is_empty() {
                state.ended.insert((Outcome::NotReached.into(), "the operation ended first".into()), left);
            }
            let folds = state.ended.iter().map(|((outcome, reason), names)| OutcomeFold {
                outcome: *outcome,
                reason: reason.clone(),
                count: u32::try_from(names.len()).unwrap_or(u32::MAX),
                targets: fold_names(names.iter().map(String::as_str)),
            });
            Progress {
                counts,
                targets: state.targets,
                done: state.targets,
                folds: folds.collect(),
                finished: true,
                ended: std::mem::take(&mut state.fresh),
                ..Progress::default()
            }
        };
        self.send(last.clone()).await;
        last
    }

    /// Ends the report with an error: nothing was done.
    pub async fn refuse(&self, status: Status) {
        drop(self.sender.send(Err(status)).await);
    }

    fn step(&self, ended: Vec<TargetOutcome>) -> Progress {
        let state = self.lock();
        let open = u32::try_from(state.open.len()).unwrap_or(u32::MAX);
        Progress { targets: state.targets, done: state.targets - open, ended, ..Progress::default() }
    }

    async fn send(&self, step: Progress) {
        // A reader that has gone misses the steps; the operation knows by `abandoned`.
        drop(self.sender.send(Ok(step)).await);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    async fn last(steps: &mut Steps) -> Progress {
        let mut last = Progress::default();
        while let Some(step) = steps.recv().await {
            last = step.unwrap();
        }
        last
    }

    #[tokio::test]
    async fn the_counts_add_up_to_the_targets_whatever_was_reported() {
        let (report, mut steps) = Report::new();
        report.targets((0..10).map(|index| format!("web[{index}]")));
        for index in 0..4 {
            report.ended(&format!("web[{index}]"), Ended::Ok, Vec::new).await;
        }
        let failed = Ended::Failed { reason: "panic".into(), retryable: false };
        report.ended("web[4]", failed.clone(), Vec::new).await;
        report.ended("web[4]", Ended::Ok, Vec::new).await; // said twice: counted once
        report.ended("nobody", failed, Vec::new).await;
        report.finish(Vec::new()).await;
        drop(report);
        let last = last(&mut steps).await;
        assert!(last.finished);
        assert_eq!((last.targets, last.done), (10, 10));
        assert_eq!(last.folds.iter().map(|fold| fold.count).sum::<u32>(), 10);
        let count =
            |outcome| last.folds.iter().filter(|fold| fold.outcome() == outcome).map(|fold| fold.count).sum::<u32>();
        assert_eq!((count(Outcome::Ok), count(Outcome::Failed), count(Outcome::NotReached)), (4, 1, 5));
    }
}
