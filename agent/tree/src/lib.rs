//! One operation over many hosts: a *wave* goes down a tree of agents, each of which acts, hands it on, and folds what
//! comes back.
//!
//! - [`plan`] splits the hosts into branches, purely; [`Members`] is a run of hosts with its encoding.
//! - [`Node`] is a host in the tree, [`Root`] the controller. They know hosts by a [`Link`], which opens waves
//!   ([`grpc`] over the network, [`memory`] in one process), work by a [`Local`], and remember by an [`OpLog`].
//! - [`Outcomes`], [`NameSet`], [`ProgressSum`] and [`AnswerWindow`] fold: a parent's memory and messages do not grow
//!   with what is below it.
//!
//! The protocol is `proto/fleet/v1/tree.proto`. What must always hold: every member of a wave is counted once at its
//! end, whoever dies and whenever; a host that was told and did not answer is unknown, one that was not told is not
//! reached.

mod answers;
mod blobs;
mod clock;
pub mod grpc;
mod link;
mod local;
mod log;
mod members;
pub mod memory;
mod names;
mod outcomes;
pub mod plan;
mod progress;
mod redb_log;
mod relay;
mod runs;
mod task;

pub use answers::AnswerWindow;
pub use blobs::{BlobCache, Hash, hash_of};
pub use clock::ClockWatch;
pub use link::{ConnectError, Connection, DOWN_QUEUE, Link, WaveError, WaveStream};
pub use local::{Job, Local, LocalEnd};
pub use log::{Key, LogError, MemoryLog, OpLog, REMEMBERED};
pub use members::{Members, MembersError};
pub use names::{NameSet, Style, fold_names};
pub use outcomes::Outcomes;
pub use plan::recommended_k;
pub use progress::ProgressSum;
pub use redb_log::RedbLog;
pub use relay::{Call, CallError, Config, DownStream, Event, Node, Parts, Root, RootWave, Sink, reason};
pub use task::{Class, class, content};
