//! The engine of a node: takes waves, acts, hands them on, folds what comes back.
//!
//! | task | started by | ends with |
//! |---|---|---|
//! | one a wave that is not over at once: the host's own work and all its branches ([`wave`]) | the first that asks for it | its end; [`Node::stop`] |
//! | one a stream from a parent that goes on after its first message ([`Node::accept`]) | the transport | the stream |
//! | one a wave of a [`Root`] that hands its events on | the root | the wave |
//!
//! A wave that changes something, or runs a command, is found by (op id, hash of members): who asks again joins it, or
//! gets its outcome. One that only reads is begun anew for everybody who asks.

mod branch;
mod config;
mod root;
mod running;
mod sink;
mod wave;

use std::collections::{HashMap, HashSet};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use bytes::Bytes;
use fleet_proto::v1::{Lacks, WaveDown, WaveEnd, WaveOpen, WaveUp, wave_down, wave_up};
use futures::{FutureExt, StreamExt};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, timeout, timeout_at};
use tonic::Code;

pub use config::Config;
pub use root::{Call, CallError, Event, Root, RootWave};
pub use running::DownStream;
use running::UpSender;
pub use sink::Sink;
pub use wave::reason;

use crate::blobs::{BlobCache, Hash, hash_of};
use crate::clock::ClockWatch;
use crate::link::{Link, WaveError};
use crate::local::Local;
use crate::log::{Key, MemoryLog, OpLog};
use crate::members::Members;
use crate::task::{self, Class};
use running::{Follower, Running};
use wave::{Driver, Order, Wave};

/// Messages that wait for the transport on their way up.
const UP_QUEUE: usize = 4;

/// How long a stream may take to say what it wants.
const OPENING: Duration = Duration::from_secs(10);

/// What a node is made of.
pub struct Parts {
    /// This host's name: a wave whose first member has another is refused.
    pub name: String,
    /// The way to other members.
    pub link: Arc<dyn Link>,
    /// What this host does.
    pub local: Arc<dyn Local>,
    /// What it remembers.
    pub log: Arc<dyn OpLog>,
    /// Times and bounds.
    pub config: Config,
    /// Tells when this process stood still; one serves all nodes of a process.
    pub clock: Arc<ClockWatch>,
}

/// A host in the tree.
#[derive(Clone)]
pub struct Node {
    engine: Arc<Engine>,
}

pub(crate) struct Engine {
    pub config: Config,
    pub link: Arc<dyn Link>,
    /// None at the root.
    pub host: Option<Host>,
    pub clock: Arc<ClockWatch>,
    pub started: Instant,
    /// Connections that may be made at a time.
    pub opens: Semaphore,
    waves: Arc<Semaphore>,
    blobs: Mutex<BlobCache>,
    running: Mutex<HashMap<Key, Arc<Running>>>,
    /// Outcomes of commands, which only this process remembers.
    once: MemoryLog,
    /// None once it was stopped.
    tasks: Mutex<Option<JoinSet<()>>>,
}

pub(crate) struct Host {
    pub name: String,
    pub local: Arc<dyn Local>,
    pub log: Arc<dyn OpLog>,
}

impl Node {
    /// A node. Needs a tokio runtime when it is used.
    pub fn new(parts: Parts) -> Self {
        let Parts { name, link, local, log, config, clock } = parts;
        Self { engine: Engine::new(link, Some(Host { name, local, log }), config, clock) }
    }

    /// Takes one stream of a parent; gives what is to be sent back, as soon as there is something. What is refused is an
    /// error there. A `down` that ends is a parent that has gone, and so is an answer, or the future of one, that is dropped.
    pub async fn accept(&self, mut down: DownStream) -> mpsc::Receiver<Result<WaveUp, WaveError>> {
        let (up, answer) = mpsc::channel(UP_QUEUE);
        let engine = Arc::clone(&self.engine);
        let mut serving = Box::pin(async move {
            if let Err(refusal) = engine.serve(&mut down, &up).await {
                // A parent that has gone need not know.
                drop(up.send(Err(refusal)).await);
            }
        });
        // Most waves say nothing but their end: those need no task beside the caller's, whose transport then has the whole
        // answer to send at once. A wave that goes on needs one: the caller's waits for its parent to read.
        let ended = poll_fn(|context| match serving.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(true),
            Poll::Pending if answer.is_empty() => Poll::Pending,
            Poll::Pending => Poll::Ready(false),
        });
        if !ended.await {
            self.engine.spawn(serving);
        }
        answer
    }

    /// Like [`Node::stop`], without waiting.
    pub fn kill(&self) {
        drop(lock(&self.engine.tasks).take());
    }

    /// Stops all waves, as the end of the process would: what was intended and is not finished stays so in the log.
    /// Whoever asks from now on is answered nothing.
    pub async fn stop(&self) {
        self.engine.stop().await;
    }
}

/// A wave that somebody asked for.
enum Found {
    /// Under way.
    Running(Follower),
    /// It ended so.
    Ended(WaveEnd),
    /// Nobody knows it.
    New,
}

impl Engine {
    fn new(link: Arc<dyn Link>, host: Option<Host>, config: Config, clock: Arc<ClockWatch>) -> Arc<Self> {
        Arc::new(Self {
            opens: Semaphore::new(config.opens),
            waves: Arc::new(Semaphore::new(config.waves)),
            blobs: Mutex::new(BlobCache::new(config.blob_bytes)),
            running: Mutex::default(),
            once: MemoryLog::default(),
            tasks: Mutex::new(Some(JoinSet::new())),
            started: Instant::now(),
            config,
            link,
            host,
            clock,
        })
    }

    async fn serve(self: &Arc<Self>, down: &mut DownStream, up: &UpSender) -> Result<(), WaveError> {
        let Some(host) = &self.host else { return Err(refused(Code::Unimplemented, "the root takes no waves")) };
        let first = timeout(OPENING, down.next()).await.ok().flatten().and_then(|first| first.message);
        let Some(wave_down::Message::Open(open)) = first else {
            return Err(refused(Code::InvalidArgument, "a wave begins with its opening, within 10 s"));
        };
        let invalid = |why: String| refused(Code::InvalidArgument, why);
        let now = Instant::now();
        let WaveOpen { op, k, remaining_ms, members, dead, task, age_ms, again, content_follows } = open;
        let (Some(op), Some(task)) = (op, task) else {
            return Err(refused(Code::InvalidArgument, "the opening of the wave lacks its operation or its task"));
        };
        host.local.admit_epoch(op.epoch).map_err(|why| refused(Code::FailedPrecondition, why))?;
        let class = task::class(&task);
        let members_hash = task::hash(&members, "members").map_err(invalid)?;
        let needed = task::content(&task).map_err(invalid)?;
        let key = (class != Class::Reads).then(|| Key { op_id: op.op_id.clone(), members: members_hash });
        if let Some(key) = &key {
            match self.find(key, class).await {
                Found::Running(follower) => {
                    follower.follow(down, up).await;
                    return Ok(());
                }
                Found::Ended(end) => {
                    drop(up.send(Ok(WaveUp { message: Some(wave_up::Message::End(end)) })).await);
                    return Ok(());
                }
                Found::New => {}
            }
        }
        // A wave without an end in sight is one of a year.
        let deadline = now + Duration::from_millis(remaining_ms).min(Duration::from_secs(365 * 86_400));
        let (coming, mut asked) = if content_follows { (needed, Vec::new()) } else { (Vec::new(), needed) };
        asked.push(members_hash);
        let gathered = timeout_at(deadline, self.gather(&coming, &asked, down, up)).await;
        // A parent that has gone, or whose time is over, before anything was begun.
        let Some(mut content) = gathered.ok().transpose()?.flatten() else { return Ok(()) };
        let encoded = content.remove(&members_hash).unwrap_or_default();
        let members = Members::decode(encoded).map_err(|error| invalid(error.to_string()))?;
        if members.as_slice().first().is_none_or(|first| first.name != host.name) {
            let first = members.as_slice().first().map_or("", |first| first.name.as_str());
            return Err(refused(Code::NotFound, format!("the host at this address is `{}`, not `{first}`", host.name)));
        }
        let order = Order {
            op,
            k,
            class,
            content,
            dead: dead.into_iter().filter_map(|at| usize::try_from(at).ok()).collect::<HashSet<_>>(),
            began: now.checked_sub(Duration::from_millis(age_ms)).unwrap_or(now),
            deadline,
            again,
            task,
            members,
        };
        let follower = self.begin(order, key)?;
        follower.follow(down, up).await;
        Ok(())
    }

    async fn find(&self, key: &Key, class: Class) -> Found {
        if let Some(running) = lock(&self.running).get(key) {
            return Found::Running(Running::follower(running));
        }
        self.ended(key, class).await.map_or(Found::New, Found::Ended)
    }

    /// The outcome that is remembered.
    async fn ended(&self, key: &Key, class: Class) -> Option<WaveEnd> {
        match (class, &self.host) {
            (Class::Changes, Some(host)) => match host.log.outcome(key).await {
                Ok(end) => end,
                // It is done again, unless its intent cannot be written either.
                Err(error) => {
                    tracing::error!(op = key.op_id, %error, "the log of operations could not be read");
                    None
                }
            },
            _ => self.once.get(key),
        }
    }

    /// Content by its hashes: what comes by itself, and what is asked of the parent where it is not here. None when the
    /// parent has gone.
    async fn gather(
        &self,
        coming: &[Hash],
        asked: &[Hash],
        down: &mut DownStream,
        up: &UpSender,
    ) -> Result<Option<HashMap<Hash, Bytes>>, WaveError> {
        let mut content = HashMap::new();
        let mut lacks = Vec::new();
        {
            let mut blobs = lock(&self.blobs);
            for hash in asked.iter().chain(coming) {
                match blobs.get(hash) {
                    Some(blob) => drop(content.insert(*hash, blob)),
                    None => lacks.push(*hash),
                }
            }
        }
        let hashes: Vec<_> = lacks.iter().filter(|hash| asked.contains(hash)).map(|hash| hash.to_vec()).collect();
        if !hashes.is_empty() {
            let message = WaveUp { message: Some(wave_up::Message::Lacks(Lacks { hashes })) };
            if up.send(Ok(message)).await.is_err() {
                return Ok(None);
            }
        }
        while !lacks.is_empty() {
            let Some(WaveDown { message }) = down.next().await else { return Ok(None) };
            match message {
                Some(wave_down::Message::Blob(blob)) => {
                    let hash = hash_of(&blob.content);
                    let is_wanted = lacks.contains(&hash) || coming.contains(&hash);
                    if hash != *blob.hash || !is_wanted {
                        return Err(refused(
                            Code::InvalidArgument,
                            "content came that is damaged or was not asked for",
                        ));
                    }
                    lacks.retain(|lacked| *lacked != hash);
                    let blob = Bytes::from(blob.content);
                    lock(&self.blobs).put(hash, blob.clone());
                    content.insert(hash, blob);
                }
                Some(wave_down::Message::Cancel(_)) => return Ok(None),
                _ => return Err(refused(Code::InvalidArgument, "the wave's content was expected")),
            }
        }
        Ok(Some(content))
    }

    /// Begins a wave, or joins one that was begun a moment ago.
    fn begin(self: &Arc<Self>, order: Order, key: Option<Key>) -> Result<Follower, WaveError> {
        let permit = Arc::clone(&self.waves).try_acquire_owned();
        let permit = permit.map_err(|_| refused(Code::ResourceExhausted, "too many waves at a time"))?;
        let (follower, outlet) = Running::begin();
        if let Some(key) = &key {
            let mut running = lock(&self.running);
            if let Some(running) = running.get(key) {
                return Ok(Running::follower(running));
            }
            // It can have begun and ended since it was looked for. What is durable is looked for again below.
            if let Some(end) = self.once.get(key) {
                outlet.end.send_replace(Some(Arc::new(end)));
                return Ok(follower);
            }
            running.insert(key.clone(), Arc::clone(follower.running()));
        }
        let class = order.class;
        let running = Arc::clone(follower.running());
        let engine = Arc::clone(self);
        self.run(async move {
            if let Some(key) = &key
                && let Some(end) = engine.ended(key, class).await
            {
                outlet.end.send_replace(Some(Arc::new(end)));
                lock(&engine.running).remove(key);
                return;
            }
            let replies = outlet.replies.clone();
            let wave = Wave::new(Arc::clone(&engine), order, running.cancel.clone(), replies);
            let driver = Driver { wave, running, outlet };
            let remember = |end: WaveEnd| {
                let (engine, key) = (&engine, &key);
                async move {
                    if let Some(key) = key {
                        engine.remember(key, class, &end).await;
                    }
                }
            };
            driver.run(remember).await;
            drop(permit);
        });
        Ok(follower)
    }

    /// The wave ended: from now on it is found by its outcome.
    async fn remember(&self, key: &Key, class: Class, end: &WaveEnd) {
        match (class, &self.host) {
            (Class::Changes, Some(host)) => {
                if let Err(error) = host.log.finish(key, end).await {
                    tracing::error!(op = key.op_id, %error, "the outcome of an operation could not be written; repeated, it is done again");
                }
            }
            _ => self.once.put(key, end),
        }
        lock(&self.running).remove(key);
    }

    /// Runs a wave as far as it goes at once; with what is left, it gets a task.
    fn run(&self, wave: impl Future<Output = ()> + Send + 'static) {
        let mut wave = Box::pin(wave);
        let is_stopped = lock(&self.tasks).is_none();
        if !is_stopped && wave.as_mut().now_or_never().is_none() {
            self.spawn(wave);
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(tasks) = &mut *lock(&self.tasks) {
            while tasks.try_join_next().is_some() {}
            tasks.spawn(task);
        }
    }

    async fn stop(&self) {
        let tasks = lock(&self.tasks).take();
        if let Some(mut tasks) = tasks {
            tasks.shutdown().await;
        }
    }
}

fn refused(code: Code, message: impl Into<String>) -> WaveError {
    WaveError::Refused { code, message: message.into() }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
