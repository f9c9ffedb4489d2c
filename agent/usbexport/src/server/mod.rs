//! A camera that somebody else gives out by usbredir already, on a socket (`usbredirect`, spice, a software camera).
//!
//! Such a server takes one client at a time. One task owns all connections to it:
//!
//! ```text
//!   watching: a connection of our own, as a guest's side, to see what is plugged in   ──► Seen, or none
//!      │ lend                      ▲ its end
//!      ▼                           │
//!   lending: a fresh connection, whose bytes go to the borrower and back; headers are looked at as they go by
//! ```
//!
//! The watching connection stays open, because a device that is unplugged is told of nowhere else. It ends before the
//! fresh one begins, so the borrower meets a server that has told nobody anything. A connection that breaks, garbage, and
//! silence are one case: no camera is there, and it is tried again after a while that grows.

mod backoff;
mod guest;
mod inspect;
mod relay;
mod seen;
mod watch;

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc, oneshot, watch as cell};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::address::ServerAddress;
use crate::error::ExportError;
use crate::{Ended, Stream};

pub use seen::Seen;

/// A usbredir server with at most one camera behind it. Its task ends with it.
#[derive(Debug)]
pub struct Server {
    address: ServerAddress,
    seen: cell::Receiver<Option<Seen>>,
    ask: mpsc::Sender<Loan>,
    /// One loan at a time.
    free: Semaphore,
    stop: CancellationToken,
    task: std::sync::Mutex<Option<JoinHandle<()>>>,
}

/// A borrower, and where it is told how it ended.
struct Loan {
    io: Box<dyn Stream>,
    cancel: CancellationToken,
    ended: oneshot::Sender<Result<Ended, ExportError>>,
}

impl Server {
    /// Begins to watch, in a task of its own.
    pub fn start(address: ServerAddress) -> Arc<Self> {
        let (publish, seen) = cell::channel(None);
        let (ask, asked) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let keeper = Keeper { address: address.clone(), publish, asked };
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            stopped.run_until_cancelled_owned(keeper.run()).await;
        });
        let task = std::sync::Mutex::new(Some(task));
        Arc::new(Self { address, seen, ask, free: Semaphore::new(1), stop, task })
    }

    /// Where it listens.
    pub fn address(&self) -> &ServerAddress {
        &self.address
    }

    /// The camera, and whether it is there; `None` when it is unplugged or the server is not reached.
    pub fn seen(&self) -> cell::Receiver<Option<Seen>> {
        self.seen.clone()
    }

    /// Gives the camera out over `io`, on a fresh connection, until it is cancelled, the camera is gone, or the borrower
    /// closes. [`Server::seen`] goes on telling. Dropped, it ends as if it were cancelled.
    ///
    /// # Errors
    /// When it is lent already or not there, the server is not reached or breaks the protocol, or the borrower's filter
    /// refuses the camera.
    pub async fn lend(
        &self,
        io: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
        cancel: CancellationToken,
    ) -> Result<Ended, ExportError> {
        let Ok(_only) = self.free.try_acquire() else {
            return Err(ExportError::Lent { address: self.address.clone() });
        };
        if self.seen.borrow().is_none() {
            return Err(ExportError::Absent { address: self.address.clone() });
        }
        let stopped = || ExportError::Stopped { address: self.address.clone() };
        let cancel = cancel.child_token();
        let _ends_with_the_caller = cancel.clone().drop_guard();
        let (ended, outcome) = oneshot::channel();
        self.ask.send(Loan { io: Box::new(io), cancel, ended }).await.map_err(|_| stopped())?;
        outcome.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Ends it, with a loan that is under way; returns when no connection is left.
    pub async fn stop(&self) {
        self.stop.cancel();
        let task = self.task.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(task) = task {
            // It panics or it ends; in both cases it is over.
            let _ = task.await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What the task owns.
struct Keeper {
    address: ServerAddress,
    publish: cell::Sender<Option<Seen>>,
    asked: mpsc::Receiver<Loan>,
}

impl Keeper {
    async fn run(mut self) {
        loop {
            let watching = watch::watch(&self.address, &self.publish);
            let loan = tokio::select! {
                loan = self.asked.recv() => loan,
                never = watching => match never {},
            };
            // Nobody is left who could ask.
            let Some(mut loan) = loan else { return };
            let outcome = relay::relay(&self.address, &mut loan.io, &loan.cancel, &self.publish).await;
            match &outcome {
                Ok(ended) => tracing::debug!(address = %self.address, ?ended, "the camera of a server is back"),
                Err(error) => tracing::warn!(address = %self.address, %error, "the camera of a server was not lent"),
            }
            // The borrower's stream is closed before it is told.
            drop(loan.io);
            // A caller that is gone need not be told.
            let _ = loan.ended.send(outcome);
        }
    }
}
