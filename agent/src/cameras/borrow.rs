//! A camera of another host, for a VM of this one: the borrower's end of `Cameras.Lend`.
//!
//! One task a lease keeps a stream to the agent of the camera's host, over mutual TLS, and makes it anew after every break,
//! with growing waits and chance, for as long as the lease is. Over it come the camera's states, and conversations of
//! usbredir, one at a time, each with a number. The other side says something every [`lend::ALIVE`]; when nothing comes
//! for [`SILENCE`], the network between is cut.

use std::io;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use fleet_pki::{ConnectError, Connector};
use fleet_proto::AT_THE_CONTROLLER;
use fleet_proto::v1::cameras_client::CamerasClient;
use fleet_proto::v1::{CameraSeen, LendData, LendInput, LendOpen, LendOutput, LendSession, lend_input, lend_output};
use fleet_usb::lease::CameraId;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::{ReceiverStream, WatchStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status, Streaming};

use super::lend::{self, CHUNK, QUEUE};
use super::refusal::Refusal;
use super::source::{Io, Seen, Sight, Source, Way, in_the_way, persona};
use crate::membership::Waits;

/// Nothing was heard for so long: the stream is broken.
const SILENCE: Duration = Duration::from_secs(3 * lend::ALIVE.as_secs());
/// For a stream to begin.
const OPENED: Duration = Duration::from_secs(10);

/// How this host reaches others.
#[derive(Clone)]
pub struct Ways {
    /// With its credentials.
    pub connector: Connector,
    /// Where it calls the controller, "address:port".
    pub controller: String,
}

/// A camera of another host. Its task ends with it.
pub struct Borrow {
    host: String,
    camera: String,
    seen: watch::Receiver<Option<Seen>>,
    address: watch::Sender<String>,
    begin: mpsc::Sender<Begin>,
    _task: Mutex<AbortOnDropHandle<()>>,
}

/// A conversation that is to begin.
struct Begin {
    io: Io,
    cancel: CancellationToken,
    ended: oneshot::Sender<String>,
}

impl Borrow {
    /// Starts its task. The ways to other hosts come when this one belongs to a fleet.
    pub fn start(
        camera: &CameraId,
        address: &str,
        epoch: u64,
        holder: &str,
        ways: watch::Receiver<Option<Ways>>,
    ) -> Self {
        let (publish, seen) = watch::channel(None);
        let (begin, begins) = mpsc::channel(1);
        let (address, to) = watch::channel(address.to_owned());
        let open = LendOpen { camera: camera.camera.clone(), epoch, holder: holder.to_owned() };
        let keep = Keep { host: camera.host.clone(), open, ways, to, publish, begins, plugged: 0 };
        let task = Mutex::new(AbortOnDropHandle::new(tokio::spawn(keep.run())));
        Self { host: camera.host.clone(), camera: camera.camera.clone(), seen, address, begin, _task: task }
    }
}

#[async_trait]
impl Source for Borrow {
    fn sights(&self) -> BoxStream<'static, Seen> {
        WatchStream::new(self.seen.clone()).filter_map(std::future::ready).boxed()
    }

    async fn open(&self, _: u32, _: bool) -> Result<Way, Refusal> {
        let camera = self.camera.clone();
        match &*self.seen.borrow() {
            Some(Seen::As(sight)) if !sight.present => Err(Refusal::Absent { host: self.host.clone() }),
            Some(Seen::As(sight)) => match &sight.obstacle {
                Some(obstacle) => Err(Refusal::InTheWay(obstacle.clone())),
                None => Ok(Way::Stream),
            },
            Some(Seen::Unreached(refusal)) => Err(refusal.clone()),
            Some(Seen::Over(reason)) => Err(Refusal::Ended(reason.clone())),
            Some(Seen::Nowhere) | None => Err(Refusal::Unknown { host: self.host.clone(), camera }),
        }
    }

    async fn holds(&self, _: u32, _: &std::path::Path) -> bool {
        false
    }

    async fn relay(&self, io: Io, cancel: CancellationToken) -> String {
        let (ended, outcome) = oneshot::channel();
        let gone = "the stream to its host is no more";
        if self.begin.send(Begin { io, cancel, ended }).await.is_err() {
            return gone.to_owned();
        }
        outcome.await.unwrap_or_else(|_| gone.to_owned())
    }

    fn moved(&self, address: &str) {
        self.address.send_if_modified(|known| {
            let moved = *known != address;
            address.clone_into(known);
            moved
        });
    }
}

/// What the task owns.
struct Keep {
    host: String,
    open: LendOpen,
    ways: watch::Receiver<Option<Ways>>,
    to: watch::Receiver<String>,
    publish: watch::Sender<Option<Seen>>,
    begins: mpsc::Receiver<Begin>,
    plugged: u64,
}

impl Keep {
    async fn run(mut self) {
        let mut waits = Waits::default();
        loop {
            let seen = match self.connect().await {
                Ok((words, input)) => {
                    let begun = Instant::now();
                    let status = self.converse(words, input).await;
                    if begun.elapsed() > SILENCE {
                        waits.reset();
                    }
                    self.broken(&status)
                }
                Err(seen) => seen,
            };
            tracing::info!(host = self.host, camera = self.open.camera, ?seen, "the way to a camera is broken");
            self.publish.send_replace(Some(seen));
            let wait = tokio::time::sleep(waits.next());
            tokio::pin!(wait);
            loop {
                tokio::select! {
                    () = &mut wait => break,
                    moved = self.to.changed() => {
                        if moved.is_err() {
                            return;
                        }
                        break;
                    }
                    begin = self.begins.recv() => match begin {
                        Some(begin) => drop(begin.ended.send(format!("host {} is not reached", self.host))),
                        None => return,
                    },
                }
            }
        }
    }

    fn unreached(&self, reason: impl Into<String>) -> Seen {
        Seen::Unreached(Refusal::Unreached { host: self.host.clone(), reason: reason.into() })
    }

    /// What the end of a stream means.
    fn broken(&self, status: &Status) -> Seen {
        match status.code() {
            Code::FailedPrecondition => Seen::Over(status.message().to_owned()),
            Code::NotFound => Seen::Nowhere,
            Code::Unimplemented => {
                self.unreached("its agent lends no cameras; run the same version of fleet on all hosts")
            }
            _ => self.unreached(status.message()),
        }
    }

    async fn connect(&mut self) -> Result<(mpsc::Sender<LendInput>, Streaming<LendOutput>), Seen> {
        let ways = self.ways.borrow().clone();
        let Ways { connector, controller } = match ways {
            Some(ways) => ways,
            None => {
                self.publish.send_replace(Some(Seen::Unreached(Refusal::NoMember)));
                // It comes when this host has joined.
                match self.ways.wait_for(Option::is_some).await.map(|found| found.clone()) {
                    Ok(Some(ways)) => ways,
                    _ => return Err(Seen::Unreached(Refusal::NoMember)),
                }
            }
        };
        let address = self.to.borrow_and_update().clone();
        let channel = match address.as_str() {
            AT_THE_CONTROLLER => connector.controller(&controller).await,
            address => connector.agent(&self.host, address).await,
        };
        let channel = channel.map_err(|error| match error {
            ConnectError::NotLocal(_) => Seen::Unreached(Refusal::LocalOnly { host: self.host.clone() }),
            error => self.unreached(error.to_string()),
        })?;
        let (words, receiver) = mpsc::channel(QUEUE);
        // The channel is new and empty.
        drop(words.try_send(word(lend_input::Message::Open(self.open.clone()))));
        let mut client = CamerasClient::new(channel);
        let opened = tokio::time::timeout(OPENED, client.lend(ReceiverStream::new(receiver))).await;
        match opened {
            Ok(Ok(input)) => Ok((words, input.into_inner())),
            Ok(Err(status)) => Err(self.broken(&status)),
            Err(_) => Err(self.unreached(format!("no answer within {} s", OPENED.as_secs()))),
        }
    }

    /// Follows a stream until it breaks; says how.
    async fn converse(&mut self, words: mpsc::Sender<LendInput>, mut input: Streaming<LendOutput>) -> Status {
        let mut session: Option<Session> = None;
        let mut number = 0;
        let mut heard = Instant::now();
        let status = loop {
            let silent = tokio::time::sleep_until(heard + SILENCE);
            tokio::select! {
                begin = self.begins.recv() => {
                    let Some(begin) = begin else { break Status::cancelled("the lease has ended") };
                    if let Some(earlier) = session.take() {
                        earlier.end("another conversation has begun");
                    }
                    number += 1;
                    let message = lend_input::Message::Begin(LendSession { session: number, reason: String::new() });
                    if let Err(status) = send(&words, message).await {
                        drop(begin.ended.send(status.message().to_owned()));
                        break status;
                    }
                    session = Some(Session::begin(number, begin, &words));
                }
                message = input.message() => {
                    let message = match message {
                        Ok(Some(LendOutput { message: Some(message) })) => message,
                        Ok(Some(_)) => continue, // of a newer version
                        Ok(None) => break Status::unavailable("it ended the stream"),
                        Err(status) => break status,
                    };
                    match message {
                        lend_output::Message::Seen(seen) => self.seen(seen),
                        lend_output::Message::Begun(_) => {}
                        lend_output::Message::Data(data) => {
                            if let Some(running) = session.as_mut().filter(|running| running.number == data.session)
                                && let Err(reason) = running.take(&data.content).await
                            {
                                let message = lend_input::Message::End(LendSession { session: number, reason: reason.clone() });
                                if let Some(running) = session.take() {
                                    running.end(&reason);
                                }
                                if let Err(status) = send(&words, message).await {
                                    break status;
                                }
                            }
                        }
                        lend_output::Message::Ended(ended) => {
                            if let Some(running) = session.take_if(|running| running.number == ended.session) {
                                running.end(&ended.reason);
                            }
                        }
                    }
                    // What the VM was slow to take is no silence of the host.
                    heard = Instant::now();
                }
                reason = over(&mut session) => {
                    if let Some(running) = session.take() {
                        running.end(&reason);
                    }
                    let message = lend_input::Message::End(LendSession { session: number, reason });
                    if let Err(status) = send(&words, message).await {
                        break status;
                    }
                }
                () = silent => {
                    break Status::unavailable(format!("nothing was heard of it for {} s", SILENCE.as_secs()));
                }
            }
        };
        if let Some(running) = session {
            running.end(&format!("host {}: {}", self.host, status.message()));
        }
        status
    }

    fn seen(&mut self, seen: CameraSeen) {
        let Ok(usb_id) = seen.usb_id.parse() else {
            self.publish.send_replace(Some(Seen::Nowhere));
            return;
        };
        let was = matches!(&*self.publish.borrow(), Some(Seen::As(sight)) if sight.present);
        self.plugged += u64::from(seen.present && !was);
        let sight = Sight {
            present: seen.present,
            persona: persona(&seen.persona),
            usb_id,
            plugged: self.plugged,
            obstacle: in_the_way(&seen.obstacle),
        };
        // Said again and again, to show that it is there.
        self.publish.send_if_modified(|known| {
            let new = Some(Seen::As(sight));
            let changed = *known != new;
            *known = new;
            changed
        });
    }
}

fn word(message: lend_input::Message) -> LendInput {
    LendInput { message: Some(message) }
}

/// Says a word, unless the other side takes none for long.
async fn send(words: &mpsc::Sender<LendInput>, message: lend_input::Message) -> Result<(), Status> {
    match words.send_timeout(word(message), SILENCE).await {
        Ok(()) => Ok(()),
        Err(_) => Err(Status::unavailable(format!("it took nothing for {} s", SILENCE.as_secs()))),
    }
}

/// A conversation under way.
struct Session {
    number: u32,
    to_vm: WriteHalf<Io>,
    cancel: CancellationToken,
    ended: oneshot::Sender<String>,
    /// Ends when the VM says no more.
    pump: AbortOnDropHandle<io::Result<()>>,
}

impl Session {
    fn begin(number: u32, begin: Begin, words: &mpsc::Sender<LendInput>) -> Self {
        let Begin { io, cancel, ended } = begin;
        let (from_vm, to_vm) = tokio::io::split(io);
        let pump = AbortOnDropHandle::new(tokio::spawn(pump(number, from_vm, words.clone())));
        Self { number, to_vm, cancel, ended, pump }
    }

    /// Hands on to the VM what came for it; the reason when that is of no more use.
    async fn take(&mut self, content: &[u8]) -> Result<(), String> {
        tokio::select! {
            () = self.cancel.cancelled() => Err("it was taken back".to_owned()),
            written = self.to_vm.write_all(content) => written.map_err(|error| format!("the VM takes no more: {error}")),
        }
    }

    fn end(self, reason: &str) {
        // Who has gone needs no answer.
        drop(self.ended.send(reason.to_owned()));
    }
}

/// Waits until the VM or the lease ends the conversation; never, when there is none.
async fn over(session: &mut Option<Session>) -> String {
    match session {
        Some(session) => tokio::select! {
            () = session.cancel.cancelled() => "it was taken back".to_owned(),
            _ = &mut session.pump => "the VM closed the conversation".to_owned(),
        },
        None => std::future::pending().await,
    }
}

/// Hands on what the VM says.
async fn pump(session: u32, mut from_vm: ReadHalf<Io>, words: mpsc::Sender<LendInput>) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let length = from_vm.read(&mut buffer).await?;
        let Some(content) = buffer.get(..length).filter(|content| !content.is_empty()) else { return Ok(()) };
        let data = LendData { session, content: content.to_vec() };
        if words.send(word(lend_input::Message::Data(data))).await.is_err() {
            return Ok(());
        }
    }
}
