//! What a core wants done.

use std::sync::Arc;

use fleet_proto::v1::{ApplyTask, Member, OpHeader, OperationSummary, RemoveRequest, Task, task};

/// What follows from one input.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// What changed, to be stored in one transaction before any action is done.
    pub records: Vec<Record>,
    /// What is to be done then, in this order.
    pub actions: Vec<Action>,
}

/// A record of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its key.
    pub key: String,
    /// Its content; `None`: it is removed.
    pub value: Option<Vec<u8>>,
}

/// Something to do.
#[derive(Clone, Debug)]
pub enum Action {
    /// Send a wave, and give its end as [`crate::Input::WaveEnded`]. A wave that is sent again after a restart has the
    /// same op id and the same members: agents that know it answer with its first outcome.
    Wave(Wave),
    /// Follow a wave no longer: another has taken its place, and its end will be ignored.
    Abandon {
        /// The wave.
        op_id: String,
    },
    /// Answer a user's operation, for good.
    Answer {
        /// The operation.
        op_id: String,
        /// How it ended.
        answer: Answer,
    },
    /// Tell whoever watches.
    Note {
        /// The host or the experiment that it is about.
        about: String,
        /// In words.
        text: String,
    },
}

/// How a user's operation ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Its outcomes; they add up to its targets.
    Summary(OperationSummary),
    /// It was done, in words.
    Done(String),
    /// Nothing was done, and why. What to do stands on a line that begins with `help: `.
    Refused(String),
}

/// One operation for many hosts.
#[derive(Clone, Debug)]
pub struct Wave {
    /// Made of experiment, generation and attempt; used once.
    pub op_id: String,
    /// The experiment.
    pub experiment: String,
    /// Generation of the controller.
    pub epoch: u64,
    /// Generation of what is wanted of the experiment.
    pub generation: u64,
    /// What each host does.
    pub task: WaveTask,
    /// The hosts; those of one rack stand together.
    pub members: Vec<Member>,
    /// How long it may take, in ms.
    pub within_ms: u64,
    /// A controller that is gone may have sent it already: who cannot be reached may have been told.
    pub again: bool,
}

/// What each host of a wave does.
#[derive(Clone, Debug)]
pub enum WaveTask {
    /// Makes its part of a spec so.
    Apply {
        /// SHA-256 of the encoded spec.
        hash: [u8; 32],
        /// The encoded spec.
        spec: Arc<[u8]>,
    },
    /// Removes every trace of the experiment.
    Remove,
}

impl Wave {
    /// The identity of the operation, as messages carry it.
    pub fn header(&self) -> OpHeader {
        OpHeader { op_id: self.op_id.clone(), epoch: self.epoch, generation: self.generation }
    }

    /// The task, as messages carry it.
    pub fn task(&self) -> Task {
        let task = match &self.task {
            WaveTask::Apply { hash, .. } => task::Task::Apply(ApplyTask { spec: hash.to_vec(), dry_run: false }),
            WaveTask::Remove => {
                task::Task::Remove(RemoveRequest { op: Some(self.header()), experiment: self.experiment.clone() })
            }
        };
        Task { task: Some(task) }
    }
}
