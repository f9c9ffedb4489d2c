//! The task that owns the stream of one VM: connects, keeps a session, pairs answers with questions.
//!
//! It never blocks on one direction: it reads while what it has to write waits for room, and takes no request while too
//! much waits to be written, or no session is up.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use fleet_wire::{Decoder, ExecId, Pacer, ToAgent, ToGuest, WINDOW_BYTES, encode};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{Instrument, debug, info_span, warn};

use super::exec::{ExecEvent, ExecShared, Mailbox};
use super::identity::Identity;
use super::{ControlError, Hello, Link, Probed, Request};
use crate::exit::VmExit;
use crate::hypervisor::Endpoint;
use crate::machine::Parts;

/// Bytes that may wait to be written before no more requests are taken.
const WRITE_LIMIT: usize = 128 * 1024;

/// Bytes read at once. On the stack of whoever reads: a buffer kept for each VM would be most of an agent's memory.
const READ_PIECE: usize = 16 * 1024;

/// First and longest wait before `Attach` is sent again, or a broken stream is opened again. A guest says by itself when
/// it has come up; this is for the case that those bytes were lost.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(4));

/// First and longest time that a stream on which the guest does not answer is kept, before a socket is opened anew. When an
/// agent dies while the guest writes, QEMU (7.2) may find out by that write: it notes that the port is closed, and then that
/// it has to wait for the stream to take more, which it does for ever, also with the next agent's stream (`throttle on` in
/// `info qtree`). When that one is closed, it forgets.
const SILENCE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(16));

/// Commands that may run in one guest at a time.
const MAX_EXECS: usize = 256;

/// Starts the task.
pub(super) fn spawn(
    parts: Parts,
    exit: watch::Receiver<Option<VmExit>>,
    requests: mpsc::Receiver<Request>,
    mailbox: Arc<Mailbox>,
    link: watch::Sender<Link>,
) -> JoinHandle<()> {
    let span = info_span!("vm-control", vm = parts.record.spec.label());
    let identity = parts.record.origin.clone().map(|origin| Identity::new(origin, &parts.record.spec));
    let task = Task { parts, requests, mailbox, link, last_boot: None, identity };
    tokio::spawn(task.run(exit).instrument(span))
}

struct Task {
    parts: Parts,
    requests: mpsc::Receiver<Request>,
    mailbox: Arc<Mailbox>,
    link: watch::Sender<Link>,
    /// The boot that the guest was last seen in.
    last_boot: Option<u64>,
    /// Of a clone.
    identity: Option<Identity>,
}

impl Task {
    /// Until the VM has ended. Dropping what is pending then tells everyone who waits.
    async fn run(mut self, mut exit: watch::Receiver<Option<VmExit>>) {
        tokio::select! {
            _ = exit.wait_for(Option::is_some) => {}
            () = self.connect_for_ever() => {}
        }
    }

    async fn connect_for_ever(&mut self) {
        let (mut wait, mut patience) = (RETRY.0, SILENCE.0);
        let endpoint = self.parts.hypervisor.control();
        // The first stream to a guest that boots is kept, however long that takes.
        let mut may_be_stuck = self.parts.adopted;
        loop {
            match self.parts.open(&endpoint).await {
                Ok(stream) => {
                    let mut session = Session::new(self.link.clone(), self.identity.clone());
                    let gives_up = may_be_stuck && matches!(endpoint, Endpoint::Socket(_));
                    let give_up = gives_up.then(|| Instant::now() + patience);
                    let error = self.serve(&stream, &mut session, give_up).await;
                    may_be_stuck = true;
                    patience = (patience * 2).min(SILENCE.1);
                    if session.attached {
                        (wait, patience) = (RETRY.0, SILENCE.0);
                    }
                    debug!("the control channel broke: {error}");
                }
                Err(error) => debug!("cannot open the control channel: {error}"),
            }
            sleep(wait).await;
            wait = (wait * 2).min(RETRY.1);
        }
    }

    /// Serves one connection until it breaks, or the guest has not answered on it by then.
    async fn serve(&mut self, stream: &UnixStream, session: &mut Session, mut give_up: Option<Instant>) -> io::Error {
        let mut decoder = Decoder::default();
        let mut retry = RETRY.0;
        let mut again = Instant::now() + retry;
        session.attach();
        loop {
            if session.attached {
                give_up = None; // it is heard here
            }
            let room = session.out.len() < WRITE_LIMIT;
            tokio::select! {
                ready = stream.readable() => {
                    let read = ready.and_then(|()| session.read(stream, &mut decoder, &mut self.last_boot));
                    match read {
                        Err(error) if error.kind() != io::ErrorKind::WouldBlock => return error,
                        _ => {}
                    }
                }
                ready = stream.writable(), if !session.out.is_empty() && session.pacer.room() > 0 && !self.mailbox.is_silent() => {
                    let allowed = session.out.len().min(session.pacer.room());
                    let piece = &session.out.make_contiguous()[..allowed];
                    let written = ready.and_then(|()| self.mailbox.unless_silent(|| stream.try_write(piece)));
                    match written {
                        Ok(written) => {
                            session.pacer.sent(written);
                            session.out.drain(..written);
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(error) => return error,
                    }
                }
                () = self.mailbox.silenced.notified() => {} // whether it writes is looked at anew
                () = self.mailbox.arrived.notified(), if room => session.deliver(&self.mailbox),
                request = self.requests.recv(), if room && session.attached => match request {
                    Some(request) => session.ask(request),
                    None => std::future::pending().await, // every handle is gone: this task is about to be dropped
                },
                () = sleep_until(give_up.unwrap_or(again)), if give_up.is_some() => return io::ErrorKind::TimedOut.into(),
                () = sleep_until(again), if room && !session.attached => {
                    session.attach();
                    retry = (retry * 2).min(RETRY.1);
                    again = Instant::now() + retry;
                }
            }
        }
    }
}

/// One session with a guest. Dropped, it fails all that is under way.
struct Session {
    id: u64,
    attached: bool,
    identity: Option<Identity>,
    link: watch::Sender<Link>,
    out: VecDeque<u8>,
    pacer: Pacer,
    next_nonce: u64,
    pings: HashMap<u64, oneshot::Sender<()>>,
    probes: HashMap<u64, oneshot::Sender<Probed>>,
    /// Oldest first: the guest answers in order, and may be given the same settings twice.
    configures: VecDeque<(u64, oneshot::Sender<Vec<String>>)>,
    shutdowns: Vec<oneshot::Sender<()>>,
    settles: Vec<oneshot::Sender<()>>,
    execs: HashMap<ExecId, Exec>,
}

/// One command of a session.
struct Exec {
    program: String,
    shared: Arc<ExecShared>,
    /// Present until it has started.
    reply: Option<oneshot::Sender<Result<(), ControlError>>>,
    /// Nobody reads its output any more; it was killed.
    abandoned: bool,
}

impl Session {
    fn new(link: watch::Sender<Link>, identity: Option<Identity>) -> Session {
        Session {
            id: random_id(),
            attached: false,
            identity,
            link,
            out: VecDeque::from([0]), // ends a frame that an earlier session left half written
            pacer: Pacer::default(),
            next_nonce: 1,
            pings: HashMap::new(),
            probes: HashMap::new(),
            configures: VecDeque::new(),
            shutdowns: Vec::new(),
            settles: Vec::new(),
            execs: HashMap::new(),
        }
    }

    fn send(&mut self, message: &ToGuest) {
        match encode(message) {
            Ok(frame) => self.out.extend(frame),
            // The askers' futures end by their deadlines; requests are bounded so that this does not happen.
            Err(error) => warn!("a message to the guest is dropped: {error}"),
        }
    }

    /// Begins the session, and tells a clone who it is.
    fn attach(&mut self) {
        self.send(&ToGuest::Attach { session: self.id });
        if let Some(identity) = &self.identity {
            let message = identity.message();
            self.send(&message);
        }
    }

    fn nonce(&mut self) -> u64 {
        self.next_nonce += 1;
        self.next_nonce
    }

    /// What an agent's caller asks.
    fn ask(&mut self, request: Request) {
        match request {
            Request::Configure { settings, reply } if !reply.is_closed() => {
                self.configures.retain(|(_, reply)| !reply.is_closed());
                self.configures.push_back((settings.fingerprint(), reply));
                self.send(&ToGuest::Configure(*settings));
            }
            Request::Ping { reply } if !reply.is_closed() => {
                let nonce = self.nonce();
                self.pings.retain(|_, reply| !reply.is_closed());
                self.pings.insert(nonce, reply);
                self.send(&ToGuest::Ping { nonce });
            }
            Request::Probe { targets, timeout_ms, attempts, reply } if !reply.is_closed() => {
                let nonce = self.nonce();
                self.probes.retain(|_, reply| !reply.is_closed());
                self.probes.insert(nonce, reply);
                self.send(&ToGuest::Probe { nonce, targets, timeout_ms, attempts });
            }
            Request::Exec { id, spec, shared, reply } if !reply.is_closed() => self.exec(id, spec, shared, reply),
            Request::Shutdown { reboot, reply } if !reply.is_closed() => {
                self.shutdowns.push(reply);
                self.send(&ToGuest::Shutdown { reboot });
            }
            Request::Settle { reply } if !reply.is_closed() => {
                self.settles.push(reply);
                self.send(&ToGuest::Settle);
            }
            Request::Stdin { id, data } => self.send(&ToGuest::Stdin { id, data }),
            Request::StdinClosed { id } => self.send(&ToGuest::StdinClosed { id }),
            Request::Resize { id, rows, columns } => self.send(&ToGuest::Resize { id, rows, columns }),
            Request::Signal { id, signal } => self.send(&ToGuest::Signal { id, signal }),
            _ => {} // the asker has given up
        }
    }

    fn exec(
        &mut self,
        id: ExecId,
        spec: super::ExecSpec,
        shared: Arc<ExecShared>,
        reply: oneshot::Sender<Result<(), ControlError>>,
    ) {
        if self.execs.len() >= MAX_EXECS {
            let problem = format!("{MAX_EXECS} commands run in this guest already: wait for some to end");
            let _ = reply.send(Err(ControlError::BadRequest(problem)));
            return;
        }
        let program = spec.argv.first().cloned().unwrap_or_default();
        self.execs.insert(id, Exec { program, shared, reply: Some(reply), abandoned: false });
        self.send(&ToGuest::Exec { id, argv: spec.argv, env: spec.env, tty: spec.tty });
    }

    /// What sessions of commands have to say.
    fn deliver(&mut self, mailbox: &Mailbox) {
        let mail = mailbox.take();
        for (id, bytes) in mail.grants {
            if self.execs.contains_key(&id) {
                self.send(&ToGuest::Grant { id, bytes });
            }
        }
        for id in mail.abandoned {
            self.abandon(id);
        }
    }

    /// Kills a command that nobody listens to, and lets its output run off.
    fn abandon(&mut self, id: ExecId) {
        let Some(exec) = self.execs.get_mut(&id) else { return };
        if !std::mem::replace(&mut exec.abandoned, true) {
            self.send(&ToGuest::Signal { id, signal: libc::SIGKILL });
            self.send(&ToGuest::Grant { id, bytes: WINDOW_BYTES });
        }
    }

    /// Reads once and takes what was said.
    fn read(&mut self, stream: &UnixStream, decoder: &mut Decoder, last_boot: &mut Option<u64>) -> io::Result<()> {
        let mut bytes = [0; READ_PIECE];
        let got = stream.try_read(&mut bytes)?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let messages = decoder.push::<ToAgent>(&bytes[..got]);
        if let Some(total) = decoder.take_note() {
            self.pacer.noted(total);
        }
        messages.into_iter().for_each(|message| self.take(message, last_boot));
        Ok(())
    }

    /// What the guest says.
    fn take(&mut self, message: ToAgent, last_boot: &mut Option<u64>) {
        match message {
            ToAgent::Hello { version, session, boot_id, kernel, uptime_ms, settings } => {
                let uptime = Duration::from_millis(uptime_ms);
                self.hello(session, Hello { version, boot_id, kernel, uptime, settings }, last_boot);
            }
            ToAgent::Configured { settings, errors } => {
                if let Some(index) = self.configures.iter().position(|(asked, _)| *asked == settings)
                    && let Some((_, reply)) = self.configures.remove(index)
                {
                    let _ = reply.send(errors);
                }
            }
            ToAgent::Pong { nonce } => {
                self.pings.remove(&nonce).map(|reply| reply.send(()));
            }
            ToAgent::Probed { nonce, rtt_us, error } => {
                let probed = if error.is_empty() { Ok(rtt_us) } else { Err(error) };
                self.probes.remove(&nonce).map(|reply| reply.send(probed));
            }
            ToAgent::ShuttingDown => {
                for reply in self.shutdowns.drain(..) {
                    let _ = reply.send(());
                }
            }
            ToAgent::Settled => {
                for reply in self.settles.drain(..) {
                    let _ = reply.send(());
                }
            }
            ToAgent::Started { id, .. } => {
                if let Some(reply) = self.execs.get_mut(&id).and_then(|exec| exec.reply.take())
                    && reply.send(Ok(())).is_err()
                {
                    self.abandon(id);
                }
            }
            ToAgent::ExecFailed { id, errno, reason } => {
                if let Some(exec) = self.execs.remove(&id) {
                    let error = ControlError::ExecFailed { program: exec.program, reason, errno };
                    match exec.reply {
                        Some(reply) => drop(reply.send(Err(error))),
                        None => exec.shared.lose(error),
                    }
                }
            }
            ToAgent::Stdout { id, data } => self.output(id, ExecEvent::Stdout(data)),
            ToAgent::Stderr { id, data } => self.output(id, ExecEvent::Stderr(data)),
            ToAgent::StdinTaken { id, bytes } => {
                if let Some(exec) = self.execs.get(&id) {
                    exec.shared.input_taken(bytes);
                }
            }
            ToAgent::Exited { id, code } => {
                if let Some(exec) = self.execs.remove(&id) {
                    exec.shared.push(ExecEvent::Exited(code));
                }
            }
        }
    }

    /// A session begins, or the guest has come up and knows of none.
    fn hello(&mut self, session: u64, hello: Hello, last_boot: &mut Option<u64>) {
        if self.identity.as_ref().is_some_and(|identity| identity.is_template(hello.boot_id)) {
            return; // it says so once more when it has become itself
        }
        let rebooted = last_boot.replace(hello.boot_id).is_some_and(|last| last != hello.boot_id);
        let mine = session == self.id;
        if self.attached && (rebooted || !mine) {
            self.lose();
        }
        self.link.send_modify(|link| {
            link.reboots += u64::from(rebooted);
            link.hello = mine.then_some(hello);
        });
        self.attached = mine;
        if mine {
            self.pacer.attached();
        } else {
            self.pacer = Pacer::default();
            self.attach();
        }
    }

    fn output(&mut self, id: ExecId, event: ExecEvent) {
        let Some(exec) = self.execs.get(&id) else { return };
        if exec.abandoned {
            let bytes = match &event {
                ExecEvent::Stdout(data) | ExecEvent::Stderr(data) => data.len(),
                ExecEvent::Exited(_) => 0,
            };
            self.send(&ToGuest::Grant { id, bytes: u32::try_from(bytes).unwrap_or(WINDOW_BYTES) });
        } else if !exec.shared.push(event) {
            exec.shared.lose(ControlError::Guest("it sent more output than it was allowed to".to_owned()));
            self.abandon(id);
        }
    }

    /// Fails all that is under way and begins anew.
    fn lose(&mut self) {
        let fresh = Session::new(self.link.clone(), self.identity.clone());
        drop(std::mem::replace(self, fresh));
    }
}

impl Drop for Session {
    /// Senders of answers are dropped with it, which their receivers notice.
    fn drop(&mut self) {
        for exec in self.execs.values() {
            exec.shared.lose(ControlError::SessionLost);
        }
        self.link.send_modify(|link| link.hello = None);
    }
}

/// A number that no other session has.
fn random_id() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id()).max(1)
}
