//! One branch: connect to its head, tell it, hand on what it says. What is known when it fails decides what its parent
//! concludes.
//!
//! Not connected: the head was told nothing. Lost after it was told: one more attempt, at a moment of its own within a
//! short time, so that a thousand parents do not come back at once; a head that lives joins the wave that it has under
//! way. A wait that this process slept through proves nothing, and does not count.

use std::hash::{DefaultHasher, Hash as _, Hasher};
use std::sync::Arc;

use fleet_proto::v1::{Blob, Cancel, WaveDown, WaveEnd, WaveOpen, WaveUp, wave_down, wave_up};
use futures::StreamExt;
use tokio::time::{Duration, Instant, timeout_at};
use tonic::Code;

use super::wave::{Wave, position, reason};
use crate::blobs::Hash;
use crate::link::{ConnectError, Connection, WaveError, WaveStream};
use crate::members::Members;
use crate::task;

/// Attempts that a gap of the own clock may cost.
const GAPS: usize = 3;

/// A run of the wave's members, and who they are.
pub(crate) struct Branch {
    pub part: usize,
    /// Position of the head in the wave's members.
    pub offset: usize,
    pub members: Members,
    /// Somebody else may have told it.
    pub again: bool,
    /// When connecting to its head began, if it did before.
    since: Option<Instant>,
    hash: Hash,
}

impl Branch {
    pub fn new(part: usize, offset: usize, members: Members, again: bool, since: Option<Instant>) -> Self {
        let hash = members.hash();
        Self { part, offset, members, again, since, hash }
    }
}

/// What became of a branch.
pub(crate) enum BranchEnd {
    /// Its head has told.
    Done(WaveEnd),
    /// Its head has not taken a connection yet, which is being made since then. It is to be told alone, when it does,
    /// and the branches below it by somebody else.
    Suspect(Instant),
    /// Its head is gone: the branches below it have to be told by somebody else.
    Gone { told: bool, unreachable: bool, why: String },
    /// Its head said that the sender is a stale controller: nobody else need be told.
    Stale(String),
    /// Its head said no for a reason of its own.
    Refused(String),
    /// The wave was cancelled before the head was told.
    Cancelled,
}

/// How one attempt failed.
enum Failure {
    Suspect,
    Connect(String),
    Wave(WaveError),
    Cancelled,
}

/// Tells the head and follows its answer.
pub(crate) async fn run(wave: &Arc<Wave>, branch: &Branch) -> BranchEnd {
    if wave.order.dead.contains(&branch.offset) {
        return BranchEnd::Gone { told: false, unreachable: true, why: reason::KNOWN_DEAD.to_owned() };
    }
    let mut lost: Option<String> = None;
    let mut gaps = 0;
    loop {
        let (since, failure) = match attempt(wave, branch, lost.is_some()).await {
            Ok(end) => return BranchEnd::Done(end),
            Err(failed) => failed,
        };
        wave.state().progress.forget(branch.part);
        let slept = gaps < GAPS && wave.engine.clock.gap_since(since);
        gaps += usize::from(slept);
        match failure {
            Failure::Cancelled => return BranchEnd::Cancelled,
            Failure::Suspect => return BranchEnd::Suspect(since),
            Failure::Wave(WaveError::Refused { code, message }) => {
                let why = format!("refused: {message}");
                return if code == Code::FailedPrecondition { BranchEnd::Stale(why) } else { BranchEnd::Refused(why) };
            }
            Failure::Connect(_) if slept => {}
            Failure::Connect(why) => {
                let told = lost.is_some();
                return BranchEnd::Gone { told, unreachable: true, why: lost.unwrap_or(why) };
            }
            Failure::Wave(WaveError::Lost(why) | WaveError::Unreached(why)) => {
                if lost.is_some() && !slept {
                    return BranchEnd::Gone { told: true, unreachable: false, why };
                }
                lost = Some(why);
                tokio::time::sleep(jitter(wave, branch)).await;
            }
        }
    }
}

async fn attempt(wave: &Arc<Wave>, branch: &Branch, again: bool) -> Result<WaveEnd, (Instant, Failure)> {
    // Whoever was told before is told again: it may be at work.
    let cancelled = async {
        if again {
            std::future::pending::<()>().await;
        }
        wave.cancel.cancelled().await;
    };
    let since = branch.since.filter(|_| !again).unwrap_or_else(Instant::now);
    let connection = tokio::select! {
        biased;
        () = cancelled => Err(Failure::Cancelled),
        connection = connect(wave, branch, since, again) => connection,
    };
    let connection = connection.map_err(|failure| (since, failure))?;
    wave.tell(branch.part, true);
    let told = match connection.open(opening(wave, branch, again || branch.again)).await {
        Ok(stream) => follow(wave, branch, stream).await,
        Err(error) => Err(error),
    };
    told.map_err(|error| match error {
        WaveError::Unreached(why) => {
            wave.tell(branch.part, again || branch.again);
            (since, Failure::Connect(why))
        }
        error => (since, Failure::Wave(error)),
    })
}

/// A connection to the head of a branch, within the time of one that began at `since`.
async fn connect(wave: &Wave, branch: &Branch, since: Instant, again: bool) -> Result<Box<dyn Connection>, Failure> {
    let config = &wave.engine.config;
    // The semaphore is never closed.
    let _permit = wave.engine.opens.acquire().await;
    let member = branch.members.as_slice().first().ok_or_else(|| Failure::Connect("nobody is there".to_owned()))?;
    // One that was told has to be told the same again, so it keeps its branches.
    let may_split = branch.members.len() > 1 && !again && !branch.again;
    let time = if may_split { config.patience() } else { config.attempt() };
    // Waiting for the permit is no silence of the member.
    let until = (since + time).max(Instant::now() + config.patience());
    match timeout_at(until, wave.engine.link.connect(member)).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(ConnectError(why))) => Err(Failure::Connect(why)),
        Err(_) if may_split => Err(Failure::Suspect),
        Err(_) => Err(Failure::Connect(format!("no answer within {:?}", config.attempt()))),
    }
}

fn opening(wave: &Wave, branch: &Branch, again: bool) -> WaveOpen {
    let order = &wave.order;
    let run = branch.offset..branch.offset + branch.members.len();
    let mut dead: Vec<u32> =
        order.dead.iter().filter(|at| run.contains(at)).map(|at| position(at - run.start)).collect();
    dead.sort_unstable();
    WaveOpen {
        op: Some(order.op.clone()),
        k: order.k,
        remaining_ms: millis(wave.child_time()),
        members: branch.hash.to_vec(),
        dead,
        task: Some(order.task.clone()),
        age_ms: millis(order.began.elapsed()),
        again,
        content_follows: task::is_new_to_all(&order.task),
    }
}

async fn follow(wave: &Wave, branch: &Branch, stream: WaveStream) -> Result<WaveEnd, WaveError> {
    let WaveStream { down, mut up } = stream;
    if task::is_new_to_all(&wave.order.task) {
        for (hash, content) in &wave.order.content {
            // Like what is asked for below. The queue has room for a piece beside the opening.
            drop(down.try_send(blob(hash, content)));
        }
    }
    let mut cancelled = false;
    loop {
        let message = tokio::select! {
            biased;
            () = wave.cancel.cancelled(), if !cancelled => {
                cancelled = true;
                let cancel = WaveDown { message: Some(wave_down::Message::Cancel(Cancel {})) };
                // A queue that is full of content: the end of this stream says the same, if later.
                drop(down.try_send(cancel));
                continue;
            }
            message = up.next() => message,
        };
        let Some(message) = message else {
            return Err(WaveError::Lost("it broke off its answer".to_owned()));
        };
        let WaveUp { message } = message?;
        match message {
            Some(wave_up::Message::Lacks(lacks)) => {
                for hash in lacks.hashes {
                    let content = content(wave, branch, &hash)?;
                    // A receiver that has gone is seen by its answer's end.
                    drop(down.send(blob(&hash, &content)).await);
                }
            }
            Some(wave_up::Message::Progress(progress)) => {
                wave.state().progress.set(branch.part, progress);
                wave.dirty.notify_one();
            }
            Some(wave_up::Message::Replies(replies)) => {
                for reply in replies.replies {
                    wave.reply(reply).await;
                }
            }
            Some(wave_up::Message::End(end)) => return Ok(end),
            // A newer version's word.
            None => {}
        }
    }
}

fn blob(hash: &[u8], content: &bytes::Bytes) -> WaveDown {
    let blob = Blob { hash: hash.to_vec(), content: content.to_vec() };
    WaveDown { message: Some(wave_down::Message::Blob(blob)) }
}

fn content(wave: &Wave, branch: &Branch, hash: &[u8]) -> Result<bytes::Bytes, WaveError> {
    let refuse = |message: String| WaveError::Refused { code: Code::InvalidArgument, message };
    let hash = task::hash(hash, "content").map_err(refuse)?;
    if hash == branch.hash {
        return Ok(branch.members.bytes());
    }
    let known = wave.order.content.get(&hash).cloned();
    known.ok_or_else(|| refuse("it asks for content that is not of this wave".to_owned()))
}

/// A moment that differs by member and operation, and is the same in every run.
fn jitter(wave: &Wave, branch: &Branch) -> Duration {
    let mut hasher = DefaultHasher::new();
    (&wave.order.op.op_id, wave.name(branch.offset)).hash(&mut hasher);
    let share = (hasher.finish() % 1_000) as f64 / 1_000.0;
    wave.engine.config.reconnect_within.mul_f64(share)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
