//! The control channel to the init of a running guest: settings, commands, probes.
//!
//! One task a VM owns the stream (task.rs); [`ControlClient`] is a handle to it and speaks through a bounded queue.
//! Protocol and framing are those of `fleet-wire`. A session begins with `Attach` and `Hello`. What is asked before
//! waits in the queue, so a caller can ask at once and let its deadline rule. The session is lost when the guest starts
//! again (it says so with an unasked `Hello`) or the stream breaks; then all that was under way fails with
//! [`ControlError::SessionLost`], and a new session is begun.
//!
//! A clone is told to become itself (random seed, clock, MACs, boot id) with the first words of each session, until it
//! has; only then its `Hello` counts, so whoever waits for that has a guest that shares nothing with another.

mod exec;
mod identity;
mod task;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use fleet_wire::{ExecId, ProbeTarget, Settings};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::exit::VmExit;
use crate::machine::Parts;

pub use exec::{ExecEvent, ExecInput, ExecSession, ExecSpec};
use exec::{ExecShared, Mailbox};

/// Requests that may wait for the task of one VM.
const QUEUE: usize = 64;

/// Most targets of one probe, as the guest takes them.
const MAX_TARGETS: usize = 1024;

/// What can go wrong on a control channel.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ControlError {
    /// The guest did not answer in time.
    #[error(
        "the guest did not answer to \"{doing}\" within {deadline:?}: it may still be booting, paused or hung; see its console log"
    )]
    Deadline {
        /// What was asked.
        doing: &'static str,
        /// The time allowed.
        deadline: Duration,
    },
    /// The VM does not run any more.
    #[error("the VM has ended")]
    Ended,
    /// The guest was started again, or the stream broke, while this was under way.
    #[error("the guest was started again meanwhile; ask again")]
    SessionLost,
    /// The guest said that it cannot.
    #[error("the guest: {0}")]
    Guest(String),
    /// A command could not be started.
    #[error("the guest cannot run \"{program}\": {reason}")]
    ExecFailed {
        /// The program.
        program: String,
        /// In the guest's words.
        reason: String,
        /// Its `errno`.
        errno: i32,
    },
    /// What was asked does not fit the protocol.
    #[error("{0}")]
    BadRequest(String),
}

/// What a guest says of itself when a session begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Version of the protocol that it speaks.
    pub version: u16,
    /// Drawn at its boot.
    pub boot_id: u64,
    /// `uname -r`.
    pub kernel: String,
    /// Since its boot, when it said so.
    pub uptime: Duration,
    /// Fingerprint of the settings in force; 0: none yet.
    pub settings: u64,
}

/// The state of a control channel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Set while a session lasts.
    pub hello: Option<Hello>,
    /// How often the guest was found to have been started again. Its settings are gone then: configure it anew.
    pub reboots: u64,
}

/// What the task is asked.
enum Request {
    Configure { settings: Box<Settings>, reply: oneshot::Sender<Vec<String>> },
    Ping { reply: oneshot::Sender<()> },
    Probe { targets: Vec<ProbeTarget>, timeout_ms: u32, attempts: u32, reply: oneshot::Sender<Probed> },
    Exec { id: ExecId, spec: ExecSpec, shared: Arc<ExecShared>, reply: oneshot::Sender<Result<(), ControlError>> },
    Stdin { id: ExecId, data: Vec<u8> },
    StdinClosed { id: ExecId },
    Resize { id: ExecId, rows: u16, columns: u16 },
    Signal { id: ExecId, signal: i32 },
    Shutdown { reboot: bool, reply: oneshot::Sender<()> },
    Settle { reply: oneshot::Sender<()> },
}

/// Answer to a probe: round trips in µs, or why none could be sent.
type Probed = Result<Vec<Option<u32>>, String>;

/// See [`ControlClient::silence`].
pub(crate) struct Silence(Arc<Mailbox>);

impl Drop for Silence {
    fn drop(&mut self) {
        self.0.silence(false);
    }
}

/// A handle to the control channel of one VM. Clones share the channel; the last one closes it.
#[derive(Clone, Debug)]
pub struct ControlClient {
    inner: Arc<ClientInner>,
}

#[derive(Debug)]
struct ClientInner {
    requests: mpsc::Sender<Request>,
    mailbox: Arc<Mailbox>,
    link: watch::Receiver<Link>,
    next_exec: AtomicU32,
    task: JoinHandle<()>,
}

impl Drop for ClientInner {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ControlClient {
    /// Starts the task. Must run within a runtime.
    pub(crate) fn start(parts: Parts, exit: watch::Receiver<Option<VmExit>>) -> ControlClient {
        let (requests, queue) = mpsc::channel(QUEUE);
        let mailbox = Arc::new(Mailbox::default());
        let (state, link) = watch::channel(Link::default());
        let task = task::spawn(parts, exit, queue, Arc::clone(&mailbox), state);
        let inner = ClientInner { requests, mailbox, link, next_exec: AtomicU32::new(1), task };
        ControlClient { inner: Arc::new(inner) }
    }

    /// The state of the channel as it changes.
    pub fn link(&self) -> watch::Receiver<Link> {
        self.inner.link.clone()
    }

    /// Waits until the guest answers, and gives what it said at the beginning of the session.
    ///
    /// # Errors
    /// Deadline, end of the VM.
    pub async fn hello(&self, deadline: Duration) -> Result<Hello, ControlError> {
        let mut link = self.link();
        let waiting = async {
            let up = link.wait_for(|link| link.hello.is_some()).await.map_err(|_| ControlError::Ended)?;
            up.hello.clone().ok_or(ControlError::SessionLost)
        };
        timeout(deadline, waiting).await.map_err(|_| ControlError::Deadline { doing: "hello", deadline })?
    }

    /// Gives the guest its settings; the answer is what was wrong with them, one line each, empty when all is well.
    ///
    /// # Errors
    /// Deadline, end of the VM, loss of the session.
    pub async fn configure(&self, settings: &Settings, deadline: Duration) -> Result<Vec<String>, ControlError> {
        let settings = Box::new(settings.clone());
        self.ask("configure", deadline, |reply| Request::Configure { settings, reply }).await
    }

    /// Asks whether the guest is there; gives the time that the answer took.
    ///
    /// # Errors
    /// Deadline, end of the VM, loss of the session.
    pub async fn ping(&self, deadline: Duration) -> Result<Duration, ControlError> {
        let start = Instant::now();
        self.ask("ping", deadline, |reply| Request::Ping { reply }).await?;
        Ok(start.elapsed())
    }

    /// Lets the guest send ICMP echo requests to at most 1024 targets at once; gives round trips in their order, `None`
    /// where no answer came within `timeout` for any of `attempts` tries.
    ///
    /// # Errors
    /// Deadline, end of the VM, loss of the session, too many targets, or the guest cannot send at all.
    pub async fn probe(
        &self,
        targets: &[ProbeTarget],
        timeout: Duration,
        attempts: u32,
        deadline: Duration,
    ) -> Result<Vec<Option<Duration>>, ControlError> {
        if targets.len() > MAX_TARGETS {
            let problem = format!("{} targets for one probe: at most {MAX_TARGETS}; ask in parts", targets.len());
            return Err(ControlError::BadRequest(problem));
        }
        let targets = targets.to_vec();
        let timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        let attempts = attempts.max(1);
        let probed = self
            .ask("probe", deadline, |reply| Request::Probe { targets, timeout_ms, attempts, reply })
            .await?
            .map_err(ControlError::Guest)?;
        let round_trip = |us: Option<u32>| us.map(|us| Duration::from_micros(us.into()));
        Ok(probed.into_iter().map(round_trip).collect())
    }

    /// Runs a command in the guest; `deadline` is for its start.
    ///
    /// # Errors
    /// Deadline, end of the VM, loss of the session, or the guest cannot run it.
    pub async fn exec(&self, spec: ExecSpec, deadline: Duration) -> Result<ExecSession, ControlError> {
        let id = self.inner.next_exec.fetch_add(1, Ordering::Relaxed);
        let shared = Arc::new(ExecShared::default());
        // Made before it is asked for: when this future is dropped, so is the session, which ends the command.
        let session = ExecSession::new(id, self.clone(), Arc::clone(&shared));
        self.ask("exec", deadline, |reply| Request::Exec { id, spec, shared, reply }).await??;
        Ok(session)
    }

    /// Asks the guest to power off, or to start again. QEMU's guests end their VM in both cases.
    ///
    /// # Errors
    /// Deadline, end of the VM, loss of the session.
    pub async fn shutdown(&self, reboot: bool, deadline: Duration) -> Result<(), ControlError> {
        self.ask("shutdown", deadline, |reply| Request::Shutdown { reboot, reply }).await
    }

    /// Keeps everything from the guest until what this gives is dropped. A hypervisor takes what is written to it also
    /// while the guest is stopped, and puts it into the guest's memory.
    pub(crate) fn silence(&self) -> Silence {
        self.mailbox().silence(true);
        Silence(Arc::clone(&self.inner.mailbox))
    }

    /// Lets the guest come to rest, before it is frozen as a template.
    ///
    /// # Errors
    /// Deadline, end of the VM, loss of the session.
    pub(crate) async fn settle(&self, deadline: Duration) -> Result<(), ControlError> {
        self.ask("settle", deadline, |reply| Request::Settle { reply }).await
    }

    async fn ask<T>(
        &self,
        doing: &'static str,
        deadline: Duration,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, ControlError> {
        let (reply, answer) = oneshot::channel();
        let asking = async {
            self.send(request(reply)).await?;
            answer.await.map_err(|_| self.why_lost())
        };
        timeout(deadline, asking).await.map_err(|_| ControlError::Deadline { doing, deadline })?
    }

    async fn send(&self, request: Request) -> Result<(), ControlError> {
        self.inner.requests.send(request).await.map_err(|_| ControlError::Ended)
    }

    fn why_lost(&self) -> ControlError {
        if self.inner.requests.is_closed() { ControlError::Ended } else { ControlError::SessionLost }
    }

    fn mailbox(&self) -> &Mailbox {
        &self.inner.mailbox
    }
}
