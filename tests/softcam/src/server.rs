//! The camera behind a usbredir server socket, as an owned task: [`Softcam`].
//!
//! It is like `usbredirserver`: the side with the device says hello at once and announces the device when the client has
//! said hello; one client is served at a time, and a further one waits, connected, until that one has gone. (`usbredirect` 0.13
//! takes a second client and breaks.) Other than these it goes on when the device is unplugged, for the next plug.
//!
//! The task is a thread with a runtime of its own, so a test uses a [`Softcam`] with a runtime or without.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use fleet_usbredir::Speed;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{oneshot, watch};

use crate::address::{self, Address, Bound};
use crate::{Condition, Faults, File, Hostile, Persona, Policy, control, conversation};

/// What a camera is, and where it is served.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where clients connect.
    pub listen: Address,
    /// Socket for [`control`] lines, if there is one.
    pub control: Option<PathBuf>,
    /// Its serial number.
    pub serial: String,
    /// Pictures on the card.
    pub files: Vec<File>,
    /// What it refuses.
    pub policy: Policy,
    /// As what it is plugged in at first.
    pub persona: Persona,
    /// At which speed.
    pub speed: Speed,
}

impl Options {
    /// A D7000 by PTP at 480 Mbit/s with an empty card.
    pub fn new(listen: Address, serial: &str) -> Self {
        Self {
            listen,
            control: None,
            serial: serial.to_owned(),
            files: Vec::new(),
            policy: Policy::default(),
            persona: Persona::Ptp,
            speed: Speed::High,
        }
    }
}

/// What a camera has seen so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    /// Clients that were served, the present one with them.
    pub clients: u64,
    /// Whether one is there.
    pub connected: bool,
    /// Times that a device was announced.
    pub announced: u64,
    /// Times that a client's filter rejected it.
    pub rejected: u64,
    /// Times that it answered Access Denied.
    pub denied: u64,
    /// Bytes sent, with those of the protocol.
    pub sent: u64,
}

/// What [`Seen`] is taken from.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    begun: AtomicU64,
    ended: AtomicU64,
    announced: AtomicU64,
    rejected: AtomicU64,
    denied: AtomicU64,
    sent: AtomicU64,
}

impl Counters {
    pub(crate) fn announced(&self) {
        self.announced.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn rejected(&self) {
        self.rejected.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn denied(&self, count: u64) {
        self.denied.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn seen(&self) -> Seen {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        // Ended first: a client that goes meanwhile is then still there.
        let (ended, clients) = (of(&self.ended), of(&self.begun));
        Seen {
            clients,
            connected: clients > ended,
            announced: of(&self.announced),
            rejected: of(&self.rejected),
            denied: of(&self.denied),
            sent: of(&self.sent),
        }
    }
}

/// What conversations and the control socket share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) serial: String,
    pub(crate) files: Vec<File>,
    pub(crate) policy: Policy,
    pub(crate) conditions: watch::Sender<Condition>,
    pub(crate) counters: Counters,
}

impl Shared {
    pub(crate) fn seen(&self) -> Seen {
        self.counters.seen()
    }
}

/// A camera that is served; it is gone when this is dropped.
#[derive(Debug)]
pub struct Softcam {
    shared: Arc<Shared>,
    address: Address,
    /// Files of sockets, to be removed.
    sockets: Vec<PathBuf>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Softcam {
    /// Starts to serve.
    ///
    /// # Errors
    /// When a socket cannot be made.
    pub fn start(options: Options) -> io::Result<Self> {
        let Options { listen, control, serial, files, policy, persona, speed } = options;
        let (conditions, _) = watch::channel(Condition::new(persona, speed));
        let counters = Counters::default();
        let shared = Arc::new(Shared { serial, files, policy, conditions, counters });
        let (bound, address) = address::bind(&listen)?;
        let mut sockets = Vec::new();
        if let Address::Unix(path) = &address {
            sockets.push(path.clone());
        }
        let lines = control.as_deref().map(address::bind_unix).transpose()?;
        sockets.extend(control);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("softcam".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    served = serve(bound, &theirs) => report("clients", served),
                    served = control::serve(lines, Arc::clone(&theirs)) => report("control", served),
                }
            });
        })?;
        Ok(Self { shared, address, sockets, stop: Some(stop), thread: Some(thread) })
    }

    /// Where clients connect, with the real port.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// How it is now.
    pub fn condition(&self) -> Condition {
        *self.shared.conditions.borrow()
    }

    /// What it has seen so far.
    pub fn seen(&self) -> Seen {
        self.shared.seen()
    }

    /// Pulls it out of its port: a client is told so, and a new one is told of no device.
    pub fn unplug(&self) {
        self.shared.conditions.send_modify(Condition::unplug);
    }

    /// Plugs it in, out of another port if it is in one.
    pub fn plug(&self, speed: Speed) {
        self.shared.conditions.send_modify(|condition| condition.plug_in(speed));
    }

    /// Makes it another device, with the same serial number.
    pub fn switch(&self, persona: Persona) {
        self.shared.conditions.send_modify(|condition| condition.switch(persona));
    }

    /// Breaks or mends it; wrong descriptors are those that are asked for from then on.
    pub fn set_faults(&self, faults: Faults) {
        self.shared.conditions.send_modify(|condition| condition.faults = faults);
    }

    /// Lets it send so many bytes a second at most.
    pub fn set_rate(&self, rate: Option<u64>) {
        self.shared.conditions.send_modify(|condition| condition.rate = rate);
    }

    /// Plugs it in anew with wrong descriptors, or with right ones; wrong packets come at once.
    pub fn set_hostile(&self, hostile: Option<Hostile>) {
        self.shared.conditions.send_modify(|condition| {
            condition.faults.hostile = hostile;
            condition.plug_in(condition.speed);
        });
    }

    /// Closes the connection of the client that is there.
    pub fn cut(&self) {
        self.shared.conditions.send_modify(|condition| condition.cuts += 1);
    }

    /// Runs a line of the [`control`] socket.
    ///
    /// # Errors
    /// When it is no command; the text says which there are.
    pub fn command(&self, line: &str) -> Result<String, String> {
        control::command(&self.shared, line)
    }
}

impl Drop for Softcam {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic of it was told on standard error.
            drop(thread.join());
        }
        for socket in &self.sockets {
            drop(std::fs::remove_file(socket));
        }
    }
}

fn report(what: &str, served: io::Result<()>) {
    if let Err(error) = served {
        eprintln!("softcam: {what}: {error}");
    }
}

/// Serves one client after another.
async fn serve(bound: Bound, shared: &Shared) -> io::Result<()> {
    match bound {
        Bound::Unix(listener) => {
            let listener = UnixListener::from_std(listener)?;
            loop {
                let (stream, _) = listener.accept().await?;
                talk(conversation::run(stream, shared), shared).await;
            }
        }
        Bound::Tcp(listener) => {
            let listener = TcpListener::from_std(listener)?;
            loop {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                talk(conversation::run(stream, shared), shared).await;
            }
        }
    }
}

async fn talk(conversation: impl Future<Output = io::Result<()>>, shared: &Shared) {
    shared.counters.begun.fetch_add(1, Ordering::Relaxed);
    if let Err(error) = conversation.await {
        eprintln!("softcam: the client is dropped: {error}");
    }
    shared.counters.ended.fetch_add(1, Ordering::Relaxed);
}
