//! Operations: journalled before they act, summed up at their end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fleet_proto::v1::up_event::Event;
use fleet_proto::v1::{OperationSummary, Outcome, OutcomeFold, UpEvent};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::store::{Begun, Store};

/// Steps that may wait for a slow caller; one that is slower misses some, and never the summary.
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
    /// Adds targets with their outcomes.
    pub fn add(&mut self, targets: u32, folds: &[OutcomeFold]) {
        self.targets += targets;
        for fold in folds {
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

/// Ends an operation: journal first, then the caller.
pub async fn finish(store: &Arc<Store>, op_id: &str, summary: OperationSummary, teller: &Teller) {
    if let Err(error) = store.finish(op_id, &summary) {
        tracing::error!(op_id, %error, "the journal could not be written; a repeated operation will act again");
    }
    drop(tokio::time::timeout(Duration::from_secs(5), teller.send(event(Event::Summary(summary)))).await);
}
