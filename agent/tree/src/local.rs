//! What this host does for a wave: the seam between the tree and the agent.

use std::collections::HashMap;

use async_trait::async_trait;
use bytes::Bytes;
use fleet_proto::v1::{OpHeader, Outcome, OutcomeFold, Task};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::blobs::Hash;
use crate::relay::Sink;

/// A host's part of a wave.
#[derive(Clone, Debug)]
pub struct Job {
    /// Who asks for what operation.
    pub op: OpHeader,
    /// What to do.
    pub task: Task,
    /// Content that the task names, by its hash: all of it is here.
    pub content: HashMap<Hash, Bytes>,
    /// When the answer is due.
    pub deadline: Instant,
    /// Set when nobody waits for the answer any more: begin nothing new, end soon. A job that only reads is dropped.
    pub cancelled: CancellationToken,
}

/// What became of a host's part.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalEnd {
    /// Of the host as a whole.
    pub outcome: Outcome,
    /// Why, when it is not ok; without names, so that it folds.
    pub reason: String,
    /// What became of what was to be done here; adds up to it.
    pub targets: Vec<OutcomeFold>,
}

impl LocalEnd {
    /// All went well.
    pub fn ok(targets: Vec<OutcomeFold>) -> Self {
        Self { outcome: Outcome::Ok, reason: String::new(), targets }
    }

    /// The host could not do it.
    pub fn failed(reason: impl Into<String>, targets: Vec<OutcomeFold>) -> Self {
        Self { outcome: Outcome::Failed, reason: reason.into(), targets }
    }
}

/// A host.
#[async_trait]
pub trait Local: Send + Sync + 'static {
    /// Refuses a controller that is older than one that was seen, with the reason. Remembers the newest, durably.
    fn admit_epoch(&self, epoch: u64) -> Result<(), String>;

    /// Does the host's part. Tells of its progress and its data by `sink`. Called once for an operation, or again after
    /// a crash. It is dropped at the deadline or a cancelling when it only reads; when it changes something it goes on
    /// past the deadline, and its outcome is remembered.
    async fn run(&self, job: Job, sink: Sink) -> LocalEnd;
}
