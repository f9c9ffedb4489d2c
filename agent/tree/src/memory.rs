//! A network in one process: streams over channels that carry encoded messages, with latency, cuts and deaths.
//!
//! For tests, simulations and measurements: time is tokio's, so a paused clock makes it virtual; nothing is random.
//! Messages and bytes are counted by sender. A host whose node is detached refuses; one that is silent or cut off does
//! not answer; streams across a cut break when keepalive would notice.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use fleet_proto::v1::{Member, WaveDown, WaveOpen, WaveUp, wave_down};
use futures::StreamExt;
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::link::{ConnectError, Connection, DOWN_QUEUE, Link, WaveError, WaveStream};
use crate::relay::Node;

/// Messages on their way over one stream in one direction.
const IN_FLIGHT: usize = 64;

/// What a network does to messages. All of it by the caller's rules, none by chance.
pub trait Hooks: Send + Sync + 'static {
    /// How long a message takes.
    fn latency(&self, from: &str, to: &str) -> Duration {
        let _ = (from, to);
        Duration::ZERO
    }

    /// A message is about to go. May kill, cut and heal.
    fn sent(&self, net: &Net, sent: &Sent<'_>) {
        let _ = (net, sent);
    }
}

/// A message on its way.
#[derive(Clone, Copy, Debug)]
pub struct Sent<'a> {
    /// Address of the sender.
    pub from: &'a str,
    /// Address of the receiver.
    pub to: &'a str,
    /// How many messages went before it in the whole network.
    pub number: u64,
    /// Its size.
    pub bytes: usize,
    /// From a parent to a child.
    pub down: bool,
}

/// A network without faults and without latency.
#[derive(Clone, Copy, Debug)]
pub struct Perfect;

impl Hooks for Perfect {}

/// What one address has sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that it made.
    pub connects: u64,
    /// Messages that it sent, in both directions.
    pub messages: u64,
    /// Encoded bytes of these.
    pub bytes: u64,
    /// Waves that it opened.
    pub opens: u64,
}

/// The network. Cheap to clone.
#[derive(Clone)]
pub struct Net {
    inner: Arc<Inner>,
}

struct Inner {
    hooks: Box<dyn Hooks>,
    /// Until a stream across a cut breaks.
    keepalive: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    nodes: HashMap<String, Node>,
    silent: HashSet<String>,
    cuts: HashSet<(String, String)>,
    /// Pairs that have a connection: the next wave needs no new one.
    warm: HashSet<(String, String)>,
    streams: HashMap<u64, Pipe>,
    next_stream: u64,
    sent: u64,
    counts: HashMap<String, Counts>,
}

/// One stream: both directions.
#[derive(Clone)]
struct Pipe {
    parent: String,
    child: String,
    /// Its messages are lost.
    mute: Arc<AtomicBool>,
    broken: CancellationToken,
}

impl Net {
    /// A network by these rules, whose keepalive takes so long.
    pub fn new(hooks: impl Hooks, keepalive: Duration) -> Self {
        let inner = Inner { hooks: Box::new(hooks), keepalive, state: Mutex::default() };
        Self { inner: Arc::new(inner) }
    }

    /// Puts a node at an address, in place of one that was there.
    pub fn attach(&self, address: &str, node: Node) {
        self.state().nodes.insert(address.to_owned(), node);
    }

    /// The way of somebody at this address to all others.
    pub fn link(&self, from: &str) -> Arc<dyn Link> {
        Arc::new(MemoryLink { net: self.clone(), from: from.to_owned() })
    }

    /// Kills the node at an address: all it does stops, its streams break, and the address refuses.
    pub fn kill(&self, address: &str) {
        let (node, streams) = {
            let mut state = self.state();
            state.warm.retain(|(a, b)| a != address && b != address);
            let streams = state.streams_where(|pipe| pipe.parent == address || pipe.child == address);
            (state.nodes.remove(address), streams)
        };
        if let Some(node) = node {
            node.kill();
        }
        streams.iter().for_each(|pipe| pipe.broken.cancel());
    }

    /// From now on the address does not answer, as a host without power.
    pub fn silence(&self, address: &str) {
        let mut state = self.state();
        state.silent.insert(address.to_owned());
        state.warm.retain(|(a, b)| a != address && b != address);
        let streams = state.streams_where(|pipe| pipe.parent == address || pipe.child == address);
        drop(state);
        self.break_later(streams);
    }

    /// Cuts two addresses apart: messages between them are lost, and their streams break when keepalive notices.
    pub fn cut(&self, a: &str, b: &str) {
        let is_between = |x: &str, y: &str| (x == a && y == b) || (x == b && y == a);
        let mut state = self.state();
        state.cuts.insert((a.to_owned(), b.to_owned()));
        state.warm.retain(|(x, y)| !is_between(x, y));
        let streams = state.streams_where(|pipe| is_between(&pipe.parent, &pipe.child));
        drop(state);
        self.break_later(streams);
    }

    /// Undoes a silence and all cuts of an address.
    pub fn heal(&self, address: &str) {
        let mut state = self.state();
        state.silent.remove(address);
        state.cuts.retain(|(a, b)| a != address && b != address);
    }

    /// What an address has sent so far.
    pub fn counts(&self, address: &str) -> Counts {
        self.state().counts.get(address).copied().unwrap_or_default()
    }

    /// What all have sent so far.
    pub fn total(&self) -> Counts {
        let add = |sum: Counts, one: &Counts| Counts {
            connects: sum.connects + one.connects,
            messages: sum.messages + one.messages,
            bytes: sum.bytes + one.bytes,
            opens: sum.opens + one.opens,
        };
        self.state().counts.values().fold(Counts::default(), add)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn break_later(&self, streams: Vec<Pipe>) {
        for pipe in streams {
            pipe.mute.store(true, Ordering::Relaxed);
            let keepalive = self.inner.keepalive;
            tokio::spawn(async move {
                tokio::time::sleep(keepalive).await;
                pipe.broken.cancel();
            });
        }
    }

    fn latency(&self, from: &str, to: &str) -> Duration {
        self.inner.hooks.latency(from, to)
    }

    /// Counts a message and asks the rules; gives when it arrives.
    fn send(&self, from: &str, to: &str, bytes: usize, down: bool) -> Instant {
        let number = {
            let mut state = self.state();
            let counts = state.counts.entry(from.to_owned()).or_default();
            counts.messages += 1;
            counts.bytes += bytes as u64;
            state.sent += 1;
            state.sent - 1
        };
        self.inner.hooks.sent(self, &Sent { from, to, number, bytes, down });
        Instant::now() + self.latency(from, to)
    }
}

impl State {
    fn streams_where(&self, is_meant: impl Fn(&Pipe) -> bool) -> Vec<Pipe> {
        let mut streams: Vec<_> = self.streams.iter().filter(|(_, pipe)| is_meant(pipe)).collect();
        streams.sort_unstable_by_key(|(number, _)| **number);
        streams.into_iter().map(|(_, pipe)| pipe.clone()).collect()
    }

    fn is_cut(&self, a: &str, b: &str) -> bool {
        let cut = |x: &str, y: &str| self.cuts.contains(&(x.to_owned(), y.to_owned()));
        self.silent.contains(a) || self.silent.contains(b) || (!self.cuts.is_empty() && (cut(a, b) || cut(b, a)))
    }
}

struct MemoryLink {
    net: Net,
    from: String,
}

struct MemoryConnection {
    net: Net,
    from: String,
    to: String,
}

#[async_trait]
impl Link for MemoryLink {
    async fn connect(&self, member: &Member) -> Result<Box<dyn Connection>, ConnectError> {
        let (net, to) = (&self.net, member.address.as_str());
        let pair = (self.from.clone(), to.to_owned());
        if !net.state().warm.contains(&pair) {
            let latency = net.latency(&self.from, to);
            net.state().counts.entry(self.from.clone()).or_default().connects += 1;
            if net.state().is_cut(&self.from, to) {
                std::future::pending::<()>().await;
            }
            if !latency.is_zero() {
                tokio::time::sleep(latency * 2).await;
            }
            let mut state = net.state();
            if !state.nodes.contains_key(to) {
                return Err(ConnectError("connection refused".to_owned()));
            }
            state.warm.insert(pair);
        }
        Ok(Box::new(MemoryConnection { net: net.clone(), from: self.from.clone(), to: to.to_owned() }))
    }
}

#[async_trait]
impl Connection for MemoryConnection {
    async fn open(self: Box<Self>, open: WaveOpen) -> Result<WaveStream, WaveError> {
        let Self { net, from, to } = *self;
        let (node, number, pipe) = {
            let mut state = net.state();
            state.counts.entry(from.clone()).or_default().opens += 1;
            let Some(node) = state.nodes.get(&to).cloned() else {
                return Err(WaveError::Lost("the connection broke".to_owned()));
            };
            let number = state.next_stream;
            state.next_stream += 1;
            let mute = Arc::new(AtomicBool::new(state.is_cut(&from, &to)));
            let pipe = Pipe { parent: from, child: to, mute, broken: CancellationToken::new() };
            state.streams.insert(number, pipe.clone());
            (node, number, pipe)
        };
        let (down, down_in) = mpsc::channel(DOWN_QUEUE + 1);
        // The queue is new and has room.
        drop(down.try_send(WaveDown { message: Some(wave_down::Message::Open(open)) }));
        let (down_out, child_down) = mpsc::channel(1);
        let (up_out, up) = mpsc::channel(1);
        let (there, back) = (pipe.clone(), pipe);
        let other = net.clone();
        tokio::spawn(async move {
            carry(&other, &there, true, down_in, down_out, |message: &WaveDown| {
                WaveDown::decode(message.encode_to_vec().as_slice()).unwrap_or_default()
            })
            .await;
        });
        tokio::spawn(async move {
            let child_up = tokio::select! {
                biased;
                () = back.broken.cancelled() => None,
                () = up_out.closed() => None,
                child_up = node.accept(ReceiverStream::new(child_down).boxed()) => Some(child_up),
            };
            if let Some(child_up) = child_up {
                carry(&net, &back, false, child_up, up_out, |message: &Result<WaveUp, WaveError>| {
                    message
                        .as_ref()
                        .map_err(Clone::clone)
                        .map(|message| WaveUp::decode(message.encode_to_vec().as_slice()).unwrap_or_default())
                })
                .await;
            }
            back.broken.cancel();
            net.state().streams.remove(&number);
        });
        Ok(WaveStream { down, up: ReceiverStream::new(up).boxed() })
    }
}

/// Something that has a size when it is sent.
trait Weighed {
    fn bytes(&self) -> usize;
}

impl Weighed for WaveDown {
    fn bytes(&self) -> usize {
        self.encoded_len()
    }
}

impl Weighed for Result<WaveUp, WaveError> {
    fn bytes(&self) -> usize {
        self.as_ref().map_or(0, Message::encoded_len)
    }
}

/// Carries one direction of a stream until either end has gone or it breaks.
async fn carry<M: Weighed>(
    net: &Net,
    pipe: &Pipe,
    down: bool,
    mut from: mpsc::Receiver<M>,
    to: mpsc::Sender<M>,
    recode: impl Fn(&M) -> M,
) {
    let (sender, receiver) = if down { (&pipe.parent, &pipe.child) } else { (&pipe.child, &pipe.parent) };
    let mut flying: VecDeque<(Instant, M)> = VecDeque::new();
    let mut ended = false;
    while !(ended && flying.is_empty()) {
        let due = flying.front().map(|(due, _)| *due);
        tokio::select! {
            biased;
            () = pipe.broken.cancelled() => return,
            () = to.closed() => return,
            permit = arrival(due, &to) => {
                let (Some(permit), Some((_, message))) = (permit, flying.pop_front()) else { return };
                permit.send(message);
            }
            message = from.recv(), if !ended && flying.len() < IN_FLIGHT => match message {
                Some(message) => {
                    let due = net.send(sender, receiver, message.bytes(), down);
                    if !pipe.mute.load(Ordering::Relaxed) {
                        flying.push_back((due, recode(&message)));
                    }
                }
                None => ended = true,
            },
        }
    }
}

/// The first message has arrived and there is room for it.
async fn arrival<M>(due: Option<Instant>, to: &mpsc::Sender<M>) -> Option<mpsc::Permit<'_, M>> {
    match due {
        Some(due) => {
            sleep_until(due).await;
            to.reserve().await.ok()
        }
        None => std::future::pending().await,
    }
}
