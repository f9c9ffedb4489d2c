//! A wave under way, as those who wait for its answer see it, and how an answer is followed up one stream.
//!
//! The wave owns its task; followers come and go. The newest follower gets the replies (an adopter takes the place of a
//! parent that died); all get the end.

use std::pin::Pin;
use std::sync::Arc;

use fleet_proto::v1::{Replies, Reply, WaveDown, WaveEnd, WaveProgress, WaveUp, wave_down, wave_up};
use futures::{Stream, StreamExt};
use prost::Message;
use tokio::sync::{Mutex, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::link::WaveError;

/// Replies that wait for the way up.
pub(crate) const REPLIES: usize = 64;
/// Bytes of replies in one message, unless a single one is larger.
const PACK: usize = 256 * 1024;

/// What comes down one stream after its opening. It ends when the parent is gone.
pub type DownStream = Pin<Box<dyn Stream<Item = WaveDown> + Send>>;
/// The way up one stream.
pub type UpSender = mpsc::Sender<Result<WaveUp, WaveError>>;

/// The side of a wave that its followers hold.
pub(crate) struct Running {
    replies: Mutex<mpsc::Receiver<Reply>>,
    progress: watch::Receiver<WaveProgress>,
    end: watch::Receiver<Option<Arc<WaveEnd>>>,
    followers: watch::Sender<Followers>,
    /// Nobody wants the answer any more.
    pub cancel: CancellationToken,
}

/// The side of a wave that its task holds.
pub(crate) struct Outlet {
    pub replies: mpsc::Sender<Reply>,
    pub progress: watch::Sender<WaveProgress>,
    pub end: watch::Sender<Option<Arc<WaveEnd>>>,
}

#[derive(Default)]
struct Followers {
    now: usize,
    /// How many there ever were: the newest has this number.
    ever: u64,
}

/// Counts as a follower until it is dropped.
pub(crate) struct Follower {
    running: Arc<Running>,
    number: u64,
}

impl Running {
    /// A wave that begins, with its first follower.
    pub fn new() -> (Follower, Outlet) {
        let (replies, replies_out) = mpsc::channel(REPLIES);
        let (progress, progress_out) = watch::channel(WaveProgress::default());
        let (end, end_out) = watch::channel(None);
        let running = Arc::new(Self {
            replies: Mutex::new(replies_out),
            progress: progress_out,
            end: end_out,
            followers: watch::Sender::new(Followers::default()),
            cancel: CancellationToken::new(),
        });
        (Self::follower(&running), Outlet { replies, progress, end })
    }

    /// One more follower.
    pub fn follower(running: &Arc<Self>) -> Follower {
        let mut number = 0;
        running.followers.send_modify(|followers| {
            followers.now += 1;
            followers.ever += 1;
            number = followers.ever;
        });
        Follower { running: Arc::clone(running), number }
    }

    /// Completes when nobody has followed for so long.
    pub async fn orphaned(&self, grace: tokio::time::Duration) {
        let mut followers = self.followers.subscribe();
        loop {
            // The sender is in `self`, so neither wait can fail.
            let _ = followers.wait_for(|followers| followers.now == 0).await;
            tokio::select! {
                biased;
                _ = followers.wait_for(|followers| followers.now > 0) => {}
                () = tokio::time::sleep(grace) => return,
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.running.followers.send_modify(|followers| followers.now -= 1);
    }
}

impl Follower {
    pub fn running(&self) -> &Arc<Running> {
        &self.running
    }

    /// Sends what the wave says up one stream, until its end or until the parent has gone.
    pub async fn follow(self, down: &mut DownStream, up: &UpSender) {
        let parent = async {
            while let Some(message) = down.next().await {
                if let Some(wave_down::Message::Cancel(_)) = message.message {
                    self.running.cancel.cancel();
                }
            }
        };
        tokio::select! {
            biased;
            () = self.pump(up) => {}
            () = parent => {}
            () = up.closed() => {}
        }
    }

    async fn pump(&self, up: &UpSender) {
        if self.pump_replies(up).await.is_err() {
            return;
        }
        let mut end = self.running.end.clone();
        // Without an end the wave's task was stopped: the stream breaks off, and the parent sees a loss.
        if let Ok(end) = end.wait_for(Option::is_some).await.map(|end| end.clone())
            && let Some(end) = end
        {
            drop(send(up, wave_up::Message::End(WaveEnd::clone(&end))).await);
        }
    }

    /// Replies and progress, until there are no more, or a newer follower has come.
    async fn pump_replies(&self, up: &UpSender) -> Result<(), Gone> {
        let mut followers = self.running.followers.subscribe();
        let superseded = async {
            drop(followers.wait_for(|followers| followers.ever > self.number).await);
        };
        tokio::pin!(superseded);
        let mut replies = tokio::select! {
            biased;
            () = &mut superseded => return Ok(()),
            replies = self.running.replies.lock() => replies,
        };
        let mut progress = self.running.progress.clone();
        let mut waiting = Vec::with_capacity(REPLIES);
        loop {
            tokio::select! {
                biased;
                () = &mut superseded => return Ok(()),
                count = replies.recv_many(&mut waiting, REPLIES) => {
                    if count == 0 {
                        return Ok(());
                    }
                    for replies in packed(waiting.drain(..)) {
                        send(up, wave_up::Message::Replies(Replies { replies })).await?;
                    }
                }
                Ok(()) = progress.changed() => {
                    let now = progress.borrow_and_update().clone();
                    send(up, wave_up::Message::Progress(now)).await?;
                }
            }
        }
    }
}

/// The parent has gone.
struct Gone;

async fn send(up: &UpSender, message: wave_up::Message) -> Result<(), Gone> {
    up.send(Ok(WaveUp { message: Some(message) })).await.map_err(|_| Gone)
}

/// Several in one message, as far as its size allows.
fn packed(replies: impl Iterator<Item = Reply>) -> Vec<Vec<Reply>> {
    let mut packs: Vec<Vec<Reply>> = Vec::new();
    let mut bytes = 0;
    for reply in replies {
        let own = reply.encoded_len();
        match packs.last_mut() {
            Some(pack) if bytes + own <= PACK => pack.push(reply),
            _ => {
                packs.push(vec![reply]);
                bytes = 0;
            }
        }
        bytes += own;
    }
    packs
}
