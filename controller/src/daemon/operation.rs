//! Operations: journalled before they act, followed to their end also when the caller has gone, summed up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fleet_proto::v1::up_event::Event;
use fleet_proto::v1::{OperationSummary, Outcome, OutcomeFold, Progress, UpEvent};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::store::{Begun, Store};

/// Steps that may wait for a slow caller. A caller that is slower misses none: the agent's stream waits.
const QUEUE: usize = 16;

/// How a caller follows an operation.
pub type Follow = ReceiverStream<Result<UpEvent, Status>>;

/// The sending side of [`Follow`].
pub type Teller = mpsc::Sender<Result<UpEvent, Status>>;

/// A channel to follow an operation by.
pub fn follow() -> (Teller, Follow) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (sender, ReceiverStream::new(receiver))
}

/// Wraps an event for the stream.
pub fn event(event: Event) -> Result<UpEvent, Status> {
    Ok(UpEvent { event: Some(event) })
}

/// Begins an operation in the journal; an operation that ended before gives its summary again.
///
/// # Errors
/// When the journal cannot be written.
pub fn begin(store: &Store, op_id: &str) -> Result<Option<OperationSummary>, Status> {
    match store.begin(op_id).map_err(|error| Status::internal(error.to_string()))? {
        Begun::New | Begun::Unfinished => Ok(None),
        Begun::Finished(summary) => Ok(Some(*summary)),
    }
}

/// Sums up several parts of one operation.
#[derive(Default)]
pub struct Sum {
    targets: u32,
    folds: Vec<OutcomeFold>,
}

impl Sum {
    /// Adds what a host said at the end.
    pub fn add(&mut self, last: &Progress) {
        self.targets += last.targets;
        for fold in &last.folds {
            let same = |known: &&mut OutcomeFold| known.outcome == fold.outcome && known.reason == fold.reason;
            match self.folds.iter_mut().find(same) {
                Some(known) => {
                    known.count += fold.count;
                    known.targets = format!("{} {}", known.targets, fold.targets);
                }
                None => self.folds.push(fold.clone()),
            }
        }
    }

    /// Adds targets that nobody could be asked about.
    pub fn add_failed(&mut self, target: &str, reason: &str) {
        self.targets += 1;
        self.folds.push(OutcomeFold {
            outcome: Outcome::Failed.into(),
            reason: reason.to_owned(),
            count: 1,
            targets: target.to_owned(),
        });
    }

    /// The summary of the whole.
    pub fn summary(self, since: Instant) -> OperationSummary {
        let elapsed = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        OperationSummary { targets: self.targets, folds: self.folds, elapsed_ms: elapsed }
    }
}

/// How a relayed stream ended.
pub enum Relayed {
    /// With a last step that sums it up.
    Finished(Box<Progress>),
    /// The caller went away in the middle.
    Abandoned,
}

/// Hands an agent's steps on to the caller until the last one. When the caller goes away, the agent's stream is
/// dropped, which tells the agent to begin nothing more.
///
/// # Errors
/// What the agent said, when it could not do it.
pub async fn relay(mut stream: Streaming<Progress>, teller: &Teller) -> Result<Relayed, Status> {
    loop {
        let step = tokio::select! {
            step = stream.message() => step?,
            () = teller.closed() => return Ok(Relayed::Abandoned),
        };
        let Some(step) = step else {
            return Err(Status::unavailable("the agent ended its answer before its last step"));
        };
        if step.finished {
            let last = step.clone();
            // A caller that left misses the last step; the operation is done all the same.
            drop(teller.send(event(Event::Progress(step))).await);
            return Ok(Relayed::Finished(Box::new(last)));
        }
        if teller.send(event(Event::Progress(step))).await.is_err() {
            return Ok(Relayed::Abandoned);
        }
    }
}

/// Ends an operation: journal first, then the caller.
pub async fn finish(store: &Arc<Store>, op_id: &str, summary: OperationSummary, teller: &Teller) {
    if let Err(error) = store.finish(op_id, &summary) {
        tracing::error!(op_id, %error, "the journal could not be written; a repeated operation will act again");
    }
    drop(tokio::time::timeout(Duration::from_secs(5), teller.send(event(Event::Summary(summary)))).await);
}
