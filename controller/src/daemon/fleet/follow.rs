//! Whoever follows an operation: progress while waves are under way, its answer at the end. A follower that goes away
//! changes nothing: what is wanted is on record.

use std::collections::HashMap;
use std::sync::Arc;

use fleet_core::Answer;
use fleet_proto::v1::up_event::Event;
use fleet_proto::v1::{OperationSummary, Outcome, WaveProgress};
use fleet_tree::ProgressSum;
use tokio::sync::oneshot;

use super::{Fleet, locked};
use crate::daemon::operation::{self, Teller};

/// A user's operation under way.
struct Following {
    experiment: String,
    teller: Teller,
    done: oneshot::Sender<Answer>,
    /// Its answer waits until what it made is undone, if it fails.
    rollback: bool,
    sum: ProgressSum,
    /// Numbers of the waves in the sum.
    parts: HashMap<String, usize>,
}

/// All who follow, by operation.
#[derive(Default)]
pub struct Follows {
    under_way: HashMap<String, Following>,
    /// Answers that wait until their experiment has settled.
    held: Vec<(String, OperationSummary)>,
}

impl Follows {
    /// Follows an operation; its answer comes by the receiver.
    pub fn follow(
        &mut self,
        op_id: &str,
        experiment: &str,
        rollback: bool,
        teller: Teller,
    ) -> oneshot::Receiver<Answer> {
        let (done, answer) = oneshot::channel();
        let following = Following {
            experiment: experiment.to_owned(),
            teller,
            done,
            rollback,
            sum: ProgressSum::default(),
            parts: HashMap::new(),
        };
        self.under_way.insert(op_id.to_owned(), following);
        answer
    }

    /// A wave of an experiment says how far it is. A slow caller misses some of it, and nothing of the answer.
    pub fn progress(&mut self, experiment: &str, wave: &str, progress: &WaveProgress) {
        for following in self.under_way.values_mut().filter(|following| following.experiment == experiment) {
            let next = following.parts.len();
            let part = *following.parts.entry(wave.to_owned()).or_insert(next);
            following.sum.set(part, progress.clone());
            if let Some(targets) = following.sum.take(0).targets {
                drop(following.teller.try_send(operation::event(Event::Progress(targets))));
            }
        }
    }

    /// Something that whoever follows an experiment, or what happens on a host, should know.
    pub fn note(&mut self, about: &str, text: &str) {
        for following in self.under_way.values().filter(|following| following.experiment == about) {
            drop(following.teller.try_send(operation::event(Event::Note(format!("{about}: {text}")))));
        }
    }

    /// Whether some operation on an experiment is followed.
    pub fn is_followed(&self, experiment: &str) -> bool {
        self.under_way.values().any(|following| following.experiment == experiment)
    }
}

impl Fleet {
    /// An operation has its answer.
    pub(super) fn answered(self: &Arc<Self>, op_id: String, answer: Answer) {
        let mut follows = locked(&self.follows);
        let undoes = follows.under_way.get(&op_id).is_some_and(|following| following.rollback);
        match answer {
            Answer::Summary(summary) if undoes && count(&summary, Outcome::Failed) > 0 => {
                follows.held.push((op_id, summary));
            }
            answer => self.tell(&mut follows, &op_id, answer),
        }
    }

    /// Gives the answers whose experiments have settled: nothing is under way there any more.
    pub(super) fn release_answers(&self) {
        let mut follows = locked(&self.follows);
        let flights = locked(&self.flights);
        let held = std::mem::take(&mut follows.held);
        for (op_id, summary) in held {
            let experiment = follows.under_way.get(&op_id).map(|following| following.experiment.clone());
            let busy = flights.values().any(|(of, _)| Some(of) == experiment.as_ref());
            if busy {
                follows.held.push((op_id, summary));
            } else {
                self.tell(&mut follows, &op_id, Answer::Summary(summary));
            }
        }
    }

    fn tell(&self, follows: &mut Follows, op_id: &str, answer: Answer) {
        if let Some(following) = follows.under_way.remove(op_id) {
            // Who has gone does not want to know.
            drop(following.done.send(answer));
            return;
        }
        // Nobody follows it: the controller that was asked has died. Who asks again finds it in the journal.
        if let Answer::Summary(summary) = answer
            && let Err(error) = self.store.finish(op_id, &summary)
        {
            tracing::error!(op_id, %error, "the outcome of an operation could not be noted");
        }
    }
}

/// Targets that came to this.
pub fn count(summary: &OperationSummary, outcome: Outcome) -> u32 {
    summary.folds.iter().filter(|fold| fold.outcome() == outcome).map(|fold| fold.count).sum()
}
