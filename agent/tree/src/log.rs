//! What a host remembers of operations that change something: the intent before it acts, the outcome after. A repeated
//! operation finds its first outcome; an intent without outcome is one that a crash broke off, to be done again.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use fleet_proto::v1::WaveEnd;
use thiserror::Error;

use crate::blobs::Hash;

/// Finished operations that are remembered.
pub const REMEMBERED: usize = 1_000;

/// An operation on one branch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The controller's operation.
    pub op_id: String,
    /// Hash of the branch's members.
    pub members: Hash,
}

/// Why the log could not serve, with what to do.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct LogError(pub String);

/// A log of operations.
#[async_trait]
pub trait OpLog: Send + Sync + 'static {
    /// How the operation ended, if it did.
    async fn outcome(&self, key: &Key) -> Result<Option<WaveEnd>, LogError>;

    /// It is about to be done. Durable when this returns.
    async fn intend(&self, key: &Key) -> Result<(), LogError>;

    /// It ended so. Durable when this returns.
    async fn finish(&self, key: &Key, end: &WaveEnd) -> Result<(), LogError>;
}

/// A log that a process loses with itself: for tests, simulations, and tasks that need no more.
#[derive(Default)]
pub struct MemoryLog {
    state: Mutex<MemoryState>,
}

#[derive(Default)]
struct MemoryState {
    ends: HashMap<Key, Option<WaveEnd>>,
    finished: VecDeque<Key>,
}

impl MemoryLog {
    /// The outcome, if it ended.
    pub fn get(&self, key: &Key) -> Option<WaveEnd> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).ends.get(key).cloned().flatten()
    }

    /// Remembers the outcome; the oldest is forgotten when there are too many.
    pub fn put(&self, key: &Key, end: &WaveEnd) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.ends.insert(key.clone(), Some(end.clone())).flatten().is_none() {
            state.finished.push_back(key.clone());
        }
        if state.finished.len() > REMEMBERED
            && let Some(oldest) = state.finished.pop_front()
        {
            state.ends.remove(&oldest);
        }
    }
}

#[async_trait]
impl OpLog for MemoryLog {
    async fn outcome(&self, key: &Key) -> Result<Option<WaveEnd>, LogError> {
        Ok(self.get(key))
    }

    async fn intend(&self, key: &Key) -> Result<(), LogError> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).ends.entry(key.clone()).or_insert(None);
        Ok(())
    }

    async fn finish(&self, key: &Key, end: &WaveEnd) -> Result<(), LogError> {
        self.put(key, end);
        Ok(())
    }
}
