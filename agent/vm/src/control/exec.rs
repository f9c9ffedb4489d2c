//! Commands in a guest, and the flow control of their streams.
//!
//! Output: the guest may have [`WINDOW_BYTES`] under way. They wait in [`ExecShared`]; each piece that is taken grants as
//! much anew. Input: a semaphore counts what the guest has room for. What a session says without waiting (grants, its
//! own end) goes through the [`Mailbox`], which is bounded by the number of sessions, so that taking a piece is
//! cancel-safe and dropping a session needs no runtime.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fleet_wire::{ExecId, WINDOW_BYTES};
use tokio::sync::{Notify, Semaphore};

use super::{ControlClient, ControlError, Request};

/// Most bytes of input in one message.
const INPUT_PIECE: usize = 16 * 1024;

/// Output that is taken before it is granted anew: a quarter of the window, to save messages.
const GRANT_STEP: u32 = WINDOW_BYTES / 4;

/// A command to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecSpec {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// "K=V", added to the environment of the guest's init.
    pub env: Vec<String>,
    /// Rows and columns of a terminal to run it on; without it, three pipes.
    pub tty: Option<(u16, u16)>,
}

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecEvent {
    /// It wrote this.
    Stdout(Vec<u8>),
    /// It wrote this to its error output.
    Stderr(Vec<u8>),
    /// It ended, with its exit code or 128 + the number of a signal; nothing comes after.
    Exited(i32),
}

impl ExecEvent {
    fn len(&self) -> usize {
        match self {
            ExecEvent::Stdout(data) | ExecEvent::Stderr(data) => data.len(),
            ExecEvent::Exited(_) => 0,
        }
    }
}

/// What task and session share of one command.
#[derive(Debug)]
pub(super) struct ExecShared {
    queue: Mutex<ExecQueue>,
    changed: Notify,
    /// Bytes of input that the guest has room for.
    input: Semaphore,
}

#[derive(Debug, Default)]
struct ExecQueue {
    events: VecDeque<ExecEvent>,
    bytes: usize,
    lost: Option<ControlError>,
}

impl Default for ExecShared {
    fn default() -> Self {
        let input = Semaphore::new(WINDOW_BYTES as usize);
        ExecShared { queue: Mutex::default(), changed: Notify::new(), input }
    }
}

impl ExecShared {
    fn queue(&self) -> MutexGuard<'_, ExecQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what the guest sent. False when it sent more than was granted.
    pub(super) fn push(&self, event: ExecEvent) -> bool {
        let mut queue = self.queue();
        queue.bytes += event.len();
        if queue.bytes > WINDOW_BYTES as usize {
            return false;
        }
        match (queue.events.back_mut(), event) {
            // Small pieces are put together: so the bound in bytes is also one in memory.
            (Some(ExecEvent::Stdout(last)), ExecEvent::Stdout(data))
            | (Some(ExecEvent::Stderr(last)), ExecEvent::Stderr(data)) => last.extend_from_slice(&data),
            (_, event) => {
                if matches!(event, ExecEvent::Exited(_)) {
                    self.input.close();
                }
                queue.events.push_back(event);
            }
        }
        drop(queue);
        self.changed.notify_one();
        true
    }

    /// No more will come.
    pub(super) fn lose(&self, why: ControlError) {
        self.queue().lost.get_or_insert(why);
        self.input.close();
        self.changed.notify_one();
    }

    /// The guest has taken input.
    pub(super) fn input_taken(&self, bytes: u32) {
        // A guest that says more than it was sent gets no larger window.
        let room = (WINDOW_BYTES as usize).saturating_sub(self.input.available_permits());
        self.input.add_permits((bytes as usize).min(room));
    }
}

/// A command that runs in a guest. Dropped, it is killed.
#[derive(Debug)]
pub struct ExecSession {
    id: ExecId,
    client: ControlClient,
    shared: Arc<ExecShared>,
    ungranted: u32,
    exited: bool,
}

impl ExecSession {
    pub(super) fn new(id: ExecId, client: ControlClient, shared: Arc<ExecShared>) -> ExecSession {
        ExecSession { id, client, shared, ungranted: 0, exited: false }
    }

    /// The next thing that it did; after `Exited`, `Ended` is the error. Cancel-safe.
    ///
    /// # Errors
    /// When the VM or the session has ended before the command.
    pub async fn next(&mut self) -> Result<ExecEvent, ControlError> {
        loop {
            let changed = self.shared.changed.notified();
            if self.exited {
                return Err(ControlError::Ended);
            }
            let (event, lost) = {
                let mut queue = self.shared.queue();
                let event = queue.events.pop_front();
                queue.bytes -= event.as_ref().map_or(0, ExecEvent::len);
                (event, queue.lost.clone())
            };
            match (event, lost) {
                (Some(event), _) => {
                    self.exited = matches!(event, ExecEvent::Exited(_));
                    self.ungranted += u32::try_from(event.len()).unwrap_or(WINDOW_BYTES);
                    if self.ungranted >= GRANT_STEP {
                        self.client.mailbox().grant(self.id, std::mem::take(&mut self.ungranted));
                    }
                    return Ok(event);
                }
                (None, Some(lost)) => return Err(lost),
                (None, None) => changed.await,
            }
        }
    }

    /// Its keyboard: a handle that can be used beside [`ExecSession::next`].
    pub fn input(&self) -> ExecInput {
        ExecInput { id: self.id, client: self.client.clone(), shared: Arc::clone(&self.shared) }
    }
}

impl Drop for ExecSession {
    fn drop(&mut self) {
        if !self.exited {
            self.client.mailbox().abandon(self.id);
        }
    }
}

/// What can be sent to a running command.
#[derive(Clone, Debug)]
pub struct ExecInput {
    id: ExecId,
    client: ControlClient,
    shared: Arc<ExecShared>,
}

impl ExecInput {
    /// Writes to its standard input; waits while the command does not read. Not cancel-safe: a part may have been sent.
    ///
    /// # Errors
    /// When the command has ended.
    pub async fn write(&self, bytes: &[u8]) -> Result<(), ControlError> {
        for piece in bytes.chunks(INPUT_PIECE) {
            let size = u32::try_from(piece.len()).unwrap_or(u32::MAX);
            let room = self.shared.input.acquire_many(size).await.map_err(|_| ControlError::Ended)?;
            self.client.send(Request::Stdin { id: self.id, data: piece.to_vec() }).await?;
            room.forget(); // until the guest has taken it
        }
        Ok(())
    }

    /// Ends its standard input.
    ///
    /// # Errors
    /// When the VM has ended.
    pub async fn close(&self) -> Result<(), ControlError> {
        self.client.send(Request::StdinClosed { id: self.id }).await
    }

    /// Gives its terminal a new size.
    ///
    /// # Errors
    /// When the VM has ended.
    pub async fn resize(&self, rows: u16, columns: u16) -> Result<(), ControlError> {
        self.client.send(Request::Resize { id: self.id, rows, columns }).await
    }

    /// Sends a signal to its process group.
    ///
    /// # Errors
    /// When the VM has ended.
    pub async fn signal(&self, signal: i32) -> Result<(), ControlError> {
        self.client.send(Request::Signal { id: self.id, signal }).await
    }
}

/// What sessions say to the task without waiting.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    mail: Mutex<Mail>,
    pub(super) arrived: Notify,
    /// Nothing is to be written to the stream. Held while something is written.
    silent: Mutex<bool>,
    /// It may be written again, or not.
    pub(super) silenced: Notify,
}

/// The content of a [`Mailbox`].
#[derive(Debug, Default)]
pub(super) struct Mail {
    /// Bytes of output that were taken.
    pub(super) grants: BTreeMap<ExecId, u32>,
    /// Sessions that were dropped before their command had ended.
    pub(super) abandoned: Vec<ExecId>,
}

impl Mailbox {
    fn grant(&self, id: ExecId, bytes: u32) {
        *self.mail().grants.entry(id).or_default() += bytes;
        self.arrived.notify_one();
    }

    fn abandon(&self, id: ExecId) {
        self.mail().abandoned.push(id);
        self.arrived.notify_one();
    }

    /// Keeps the task from writing, or lets it write again. When this is done, nothing is being written.
    pub(super) fn silence(&self, silent: bool) {
        *self.silent() = silent;
        self.silenced.notify_one();
    }

    pub(super) fn is_silent(&self) -> bool {
        *self.silent()
    }

    /// Writes, unless nothing is to be written: then it would block.
    pub(super) fn unless_silent<T>(&self, write: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let silent = self.silent();
        if *silent { Err(io::ErrorKind::WouldBlock.into()) } else { write() }
    }

    fn silent(&self) -> MutexGuard<'_, bool> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Empties it.
    pub(super) fn take(&self) -> Mail {
        std::mem::take(&mut *self.mail())
    }

    fn mail(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
