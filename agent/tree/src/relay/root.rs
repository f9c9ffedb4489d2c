//! The root of the tree: the controller. The same engine without work of its own.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use fleet_proto::v1::{OpHeader, Reply, Task, WaveEnd, WaveProgress, wave_up};
use futures::StreamExt;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use super::wave::Order;
use super::{Config, Engine};
use crate::blobs::hash_of;
use crate::clock::ClockWatch;
use crate::link::{Link, WaveError};
use crate::members::Members;
use crate::task;

/// Messages that wait for a slow caller; the tree waits with them.
const QUEUE: usize = 4;

/// Sends waves.
#[derive(Clone)]
pub struct Root {
    engine: Arc<Engine>,
}

/// A wave that is to be sent.
#[derive(Clone, Debug)]
pub struct Call {
    /// The operation.
    pub op: OpHeader,
    /// The hosts, those of one rack together.
    pub members: Members,
    /// Branches of a host at most; see [`crate::recommended_k`].
    pub k: u32,
    /// Positions of members that are not to be tried.
    pub dead: Vec<usize>,
    /// What each host does.
    pub task: Task,
    /// The content that the task names by its hash.
    pub content: Vec<Bytes>,
    /// When the answer is due.
    pub deadline: Duration,
    /// Whether this operation was sent before, by a root that died: who cannot be reached may have been told.
    pub again: bool,
}

/// Why a wave was not sent.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CallError {
    /// A mistake of the caller.
    #[error("the task names content that does not come with it; put the encoded spec into `content`")]
    LacksContent,
    /// A mistake of the caller.
    #[error("{0}")]
    Task(String),
    /// More at a time than [`Config::waves`].
    #[error("too many operations at a time; try again when one has ended")]
    Busy,
}

/// What a wave tells its root.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// How far all of it is.
    Progress(WaveProgress),
    /// Data of one host, or of several alike.
    Reply(Reply),
    /// The end; nothing follows.
    End(WaveEnd),
}

/// A wave under way. Dropped, one that only reads or runs a command is cancelled; one that changes something goes on.
pub struct RootWave {
    messages: mpsc::Receiver<Result<fleet_proto::v1::WaveUp, WaveError>>,
    waiting: std::vec::IntoIter<Reply>,
    cancel: CancellationToken,
}

impl Root {
    /// A root. Needs a tokio runtime when it is used.
    pub fn new(link: Arc<dyn Link>, config: Config, clock: Arc<ClockWatch>) -> Self {
        Self { engine: Engine::new(link, None, config, clock) }
    }

    /// Sends a wave. It always ends with [`Event::End`], whose `hosts` add up to the members.
    ///
    /// # Errors
    /// When the call is not complete, or too much is under way.
    pub fn wave(&self, call: Call) -> Result<RootWave, CallError> {
        let Call { op, members, k, dead, task, content, deadline, again } = call;
        let content: HashMap<_, _> = content.into_iter().map(|blob| (hash_of(&blob), blob)).collect();
        let needed = task::content(&task).map_err(CallError::Task)?;
        if needed.iter().any(|hash| !content.contains_key(hash)) {
            return Err(CallError::LacksContent);
        }
        let began = Instant::now();
        let order = Order {
            class: task::class(&task),
            dead: dead.into_iter().collect(),
            deadline: began + deadline,
            op,
            k,
            task,
            members,
            content,
            began,
            again,
        };
        let follower = self.engine.begin(order, None).map_err(|_| CallError::Busy)?;
        let cancel = follower.running().cancel.clone();
        let (up, messages) = mpsc::channel(QUEUE);
        self.engine.spawn(async move {
            let mut down: super::DownStream = futures::stream::pending().boxed();
            follower.follow(&mut down, &up).await;
        });
        Ok(RootWave { messages, waiting: Vec::new().into_iter(), cancel })
    }

    /// Stops all waves at once, without their ends.
    pub async fn stop(&self) {
        self.engine.stop().await;
    }
}

impl RootWave {
    /// What comes next; none after the end.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(reply) = self.waiting.next() {
                return Some(Event::Reply(reply));
            }
            match self.messages.recv().await?.ok()?.message? {
                wave_up::Message::Progress(progress) => return Some(Event::Progress(progress)),
                wave_up::Message::Replies(replies) => self.waiting = replies.replies.into_iter(),
                wave_up::Message::End(end) => return Some(Event::End(end)),
                wave_up::Message::Lacks(_) => {}
            }
        }
    }

    /// The end, whatever comes before it. None when the root was stopped.
    pub async fn end(mut self) -> Option<WaveEnd> {
        loop {
            if let Event::End(end) = self.next().await? {
                return Some(end);
            }
        }
    }

    /// Breaks it off: nobody begins anything new. It still ends with [`Event::End`].
    pub fn cancel(&self) {
        self.cancel.cancel();
    }
}
