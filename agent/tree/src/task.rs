//! What kind of thing a task is, which decides what happens when somebody dies, and what content it needs.

use fleet_proto::v1::{Task, task};

use crate::blobs::Hash;

/// How a task bears being told twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It changes nothing: told again, it is done again; when its parent goes away, it is dropped.
    Reads,
    /// A command: told again it is not run again, as far as this process remembers. When its parent goes away and no
    /// other comes in its place, it is dropped.
    Once,
    /// It changes something and is idempotent: its intent and its outcome are durable, and it goes on whoever goes away.
    Changes,
}

/// The class of a task.
pub fn class(task: &Task) -> Class {
    match &task.task {
        Some(task::Task::Apply(apply)) if apply.dry_run => Class::Reads,
        Some(task::Task::Snapshots(snapshots)) if snapshots.remove.is_empty() => Class::Reads,
        // A piece is named by its content: kept again, it is the same.
        Some(task::Task::Piece(_)) => Class::Reads,
        Some(task::Task::Image(image)) if !image.install => Class::Reads,
        Some(
            task::Task::Info(_)
            | task::Task::List(_)
            | task::Task::Ksm(_)
            | task::Task::Prove(_)
            | task::Task::Cameras(_),
        )
        | None => Class::Reads,
        Some(task::Task::Exec(_)) => Class::Once,
        Some(
            task::Task::Apply(_)
            | task::Task::Remove(_)
            | task::Task::Act(_)
            | task::Task::Snapshots(_)
            | task::Task::Image(_)
            | task::Task::AttachCamera(_)
            | task::Task::DetachCamera(_),
        ) => Class::Changes,
    }
}

/// Content that a task names by its hash.
pub fn content(task: &Task) -> Result<Vec<Hash>, String> {
    match &task.task {
        Some(task::Task::Apply(apply)) => Ok(vec![hash(&apply.spec, "spec")?]),
        Some(task::Task::Piece(piece)) => Ok(vec![hash(&piece.hash, "piece")?]),
        Some(_) => Ok(Vec::new()),
        None => Err("the wave has no task that this version knows; run the same version of fleet on all hosts".into()),
    }
}

/// Content that nobody has seen before, so that asking who lacks it would only cost a way there and back.
pub fn is_new_to_all(task: &Task) -> bool {
    matches!(task.task, Some(task::Task::Piece(_)))
}

/// A hash in a message.
pub(crate) fn hash(bytes: &[u8], what: &str) -> Result<Hash, String> {
    bytes.try_into().map_err(|_| format!("the hash of the wave's {what} has {} bytes instead of 32", bytes.len()))
}
