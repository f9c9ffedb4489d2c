//! One wave at one host: what its parts share, and the loop that brings them to an end.
//!
//! The parts are the host's own work and one future a branch, all in one task. A branch whose head is dead gives way to
//! the branches below it, which join the parts. The loop ends when all parts have, or at the deadline; either way every
//! member is counted once.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use fleet_proto::v1::{OpHeader, Outcome, Reply, Task, WaveEnd, WaveProgress};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Duration, Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Engine;
use super::branch::{self, Branch, BranchEnd};
use super::running::{Outlet, Running};
use super::sink::{self, LOCAL};
use crate::answers::AnswerWindow;
use crate::blobs::Hash;
use crate::local::LocalEnd;
use crate::members::Members;
use crate::outcomes::Outcomes;
use crate::progress::ProgressSum;
use crate::task::Class;

/// Reasons of outcomes that the tree itself gives. They name nobody, so that they fold.
pub mod reason {
    /// Of a member that was in the dead set.
    pub const KNOWN_DEAD: &str = "known to be down";
    /// Of a member that was told and has not answered.
    pub const NO_ANSWER: &str = "no answer by the deadline";
    /// Of a member that was not told in time.
    pub const TOO_LATE: &str = "the deadline came before it was told";
    /// Of a member of a wave that was broken off.
    pub const CANCELLED: &str = "cancelled";
    /// Of a command whose host cannot know whether it ran.
    pub const ANEW: &str = "its agent started anew during the operation";
    /// Of members that their parent forgot.
    pub const MISCOUNTED: &str = "the head of its branch left it out";
}

/// What a wave is to do.
pub(crate) struct Order {
    pub op: OpHeader,
    pub k: u32,
    pub task: Task,
    pub class: Class,
    pub members: Members,
    pub content: HashMap<Hash, Bytes>,
    pub dead: HashSet<usize>,
    /// When the wave began at its root.
    pub began: Instant,
    pub deadline: Instant,
    /// Somebody may have told these members of it before.
    pub again: bool,
}

/// What the parts of a wave share.
pub(crate) struct Wave {
    pub engine: Arc<Engine>,
    pub order: Order,
    pub cancel: CancellationToken,
    /// Nobody will take replies any more.
    pub deaf: CancellationToken,
    pub dirty: Notify,
    state: Mutex<State>,
}

pub(crate) struct State {
    hosts: Outcomes,
    targets: Outcomes,
    dead: BTreeSet<u32>,
    open: HashMap<usize, Open>,
    parts: usize,
    pub progress: ProgressSum,
    pub answers: AnswerWindow,
    replies: Option<mpsc::Sender<Reply>>,
    replies_lost: u64,
}

/// A branch whose outcome is not known yet.
struct Open {
    run: Range<usize>,
    told: bool,
}

/// A branch that is to be told.
struct Untold {
    run: Range<usize>,
    /// Somebody else may have told it.
    again: bool,
    /// When connecting to its head began, if it did.
    since: Option<Instant>,
}

/// The end of a part.
enum Step {
    Local(LocalEnd),
    Branch(Branch, BranchEnd),
    Flushed,
}

type Parts = FuturesUnordered<BoxFuture<'static, Step>>;

impl Wave {
    pub fn new(
        engine: Arc<Engine>,
        order: Order,
        cancel: CancellationToken,
        replies: mpsc::Sender<Reply>,
    ) -> Arc<Self> {
        let state = State {
            hosts: Outcomes::of_hosts(),
            targets: Outcomes::of_targets(),
            dead: BTreeSet::new(),
            open: HashMap::new(),
            parts: LOCAL,
            progress: ProgressSum::default(),
            answers: AnswerWindow::new(engine.config.answers_hold),
            replies: Some(replies),
            replies_lost: 0,
        };
        let (deaf, dirty) = (CancellationToken::new(), Notify::new());
        Arc::new(Self { engine, order, cancel, deaf, dirty, state: Mutex::new(state) })
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name of a member.
    pub fn name(&self, position: usize) -> &str {
        self.order.members.as_slice().get(position).map_or("", |member| member.name.as_str())
    }

    /// Whether the head of a branch may know of the wave.
    pub fn tell(&self, part: usize, told: bool) {
        if let Some(open) = self.state().open.get_mut(&part) {
            open.told = told;
        }
    }

    /// What is left for a child.
    pub fn child_time(&self) -> Duration {
        let left = self.order.deadline.saturating_duration_since(Instant::now());
        left - self.engine.config.margin.min(left / 8)
    }

    /// Hands a reply up, or holds it for equal ones. Waits while the way up is full.
    pub async fn reply(&self, reply: Reply) {
        let out = {
            let mut state = self.state();
            let out = state.answers.push(reply, Instant::now());
            if state.answers.due().is_some() {
                self.dirty.notify_one();
            }
            out
        };
        self.send_replies(out).await;
    }

    async fn send_replies(&self, replies: Vec<Reply>) {
        let sender = self.state().replies.clone();
        let mut left = Left { wave: self, count: replies.len() };
        let Some(sender) = sender else { return };
        for reply in replies {
            tokio::select! {
                biased;
                () = self.deaf.cancelled() => return,
                sent = sender.send(reply) => if sent.is_err() { return },
            }
            left.count -= 1;
        }
    }

    /// Takes a branch among the parts.
    fn add(self: &Arc<Self>, Untold { run, again, since }: Untold, parts: &mut Parts) {
        let part = {
            let mut state = self.state();
            state.parts += 1;
            let part = state.parts;
            state.open.insert(part, Open { run: run.clone(), told: again });
            part
        };
        let branch = Branch::new(part, run.start, self.order.members.cut(run), again, since);
        let wave = Arc::clone(self);
        parts.push(Box::pin(async move {
            let end = branch::run(&wave, &branch).await;
            Step::Branch(branch, end)
        }));
    }

    /// Counts what became of a branch; gives the branches that have to be told in its head's place.
    fn ended(&self, branch: &Branch, end: BranchEnd) -> Vec<Untold> {
        let mut state = self.state();
        let run = branch.offset..branch.offset + branch.members.len();
        state.open.remove(&branch.part);
        let head = self.name(branch.offset);
        let rest = || branch.members.as_slice().iter().skip(1).map(|member| member.name.as_str());
        // Who may have been told is unknown, who was not is not reached.
        let silent = |told: bool| if told { Outcome::Unknown } else { Outcome::NotReached };
        let mut again = branch.again;
        let mut alone = None;
        let adopt = match end {
            BranchEnd::Done(end) => {
                state.take(branch, &end);
                return Vec::new();
            }
            BranchEnd::Suspect(since) => {
                alone = Some(Untold { run: run.start..run.start + 1, again, since: Some(since) });
                true
            }
            BranchEnd::Gone { told, unreachable, why } => {
                again |= told;
                state.hosts.add(silent(again && why != reason::KNOWN_DEAD), &why, head);
                if unreachable {
                    state.dead.insert(position(branch.offset));
                }
                true
            }
            BranchEnd::Stale(why) => {
                state.hosts.add(Outcome::Failed, &why, head);
                state.hosts.add_all(silent(again), &why, rest());
                false
            }
            BranchEnd::Refused(why) => {
                state.hosts.add(Outcome::Failed, &why, head);
                true
            }
            BranchEnd::Cancelled => {
                state.hosts.add_all(silent(again), reason::CANCELLED, std::iter::once(head).chain(rest()));
                false
            }
        };
        let known = match (adopt, &alone) {
            (true, None) => 1,
            (true, Some(_)) => 0,
            (false, _) => run.len(),
        };
        let ended = WaveProgress { ended: position(known), ..WaveProgress::default() };
        state.progress.set(branch.part, ended);
        if !adopt {
            return Vec::new();
        }
        let below = crate::plan::below(branch.members.as_slice(), self.order.k);
        let below = below.into_iter().map(|part| run.start + part.start..run.start + part.end);
        below.map(|run| Untold { run, again, since: None }).chain(alone).collect()
    }

    /// Counts all branches that are still open.
    fn give_up(&self, told: &str, untold: &str) {
        let mut state = self.state();
        let open = std::mem::take(&mut state.open);
        for Open { run, told: was_told } in open.into_values() {
            let (outcome, why) = if was_told { (Outcome::Unknown, told) } else { (Outcome::NotReached, untold) };
            let members = self.order.members.cut(run);
            state.hosts.add_all(outcome, why, members.as_slice().iter().map(|member| member.name.as_str()));
        }
    }

    /// The end of the wave, when this became of the host itself.
    fn end(&self, local: Option<&LocalEnd>) -> WaveEnd {
        let state = self.state();
        let (mut hosts, mut targets) = (state.hosts.clone(), state.targets.clone());
        if let Some(local) = local {
            hosts.add(local.outcome, &local.reason, self.name(0));
            targets.merge(&local.targets);
        }
        WaveEnd {
            hosts: hosts.to_folds(),
            targets: targets.to_folds(),
            dead: state.dead.iter().copied().collect(),
            replies_lost: state.replies_lost,
        }
    }
}

impl State {
    /// Takes the end of a branch that its head has told, and makes it add up.
    fn take(&mut self, branch: &Branch, end: &WaveEnd) {
        let members = position(branch.members.len());
        let said = end.hosts.iter().fold(0_u32, |sum, fold| sum.saturating_add(fold.count));
        if said > members {
            self.hosts.add_nameless(Outcome::Unknown, reason::MISCOUNTED, members);
        } else {
            self.hosts.merge(&end.hosts);
            self.hosts.add_nameless(Outcome::Unknown, reason::MISCOUNTED, members - said);
        }
        self.targets.merge(&end.targets);
        let offset = position(branch.offset);
        self.dead.extend(end.dead.iter().filter(|dead| **dead < members).map(|dead| dead + offset));
        self.replies_lost = self.replies_lost.saturating_add(end.replies_lost);
        self.progress.finish(branch.part, members);
    }
}

/// Counts replies that were not sent when their sender is dropped in the middle.
struct Left<'a> {
    wave: &'a Wave,
    count: usize,
}

impl Drop for Left<'_> {
    fn drop(&mut self) {
        if self.count > 0 {
            self.wave.state().replies_lost += self.count as u64;
        }
    }
}

/// A position or a number of members, as messages have it.
pub(crate) fn position(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// The loop of one wave.
pub(crate) struct Driver {
    pub wave: Arc<Wave>,
    pub running: Arc<Running>,
    pub outlet: Outlet,
}

impl Driver {
    /// Brings the wave to its end and tells its followers. A host's own work that changes something goes on past the
    /// deadline; `remember` is called with the end that counts, before it is told where that can be.
    pub async fn run<F>(self, remember: impl FnOnce(WaveEnd) -> F)
    where
        F: Future<Output = ()>,
    {
        let Self { wave, running, outlet } = self;
        let order = &wave.order;
        let mut parts = Parts::new();
        let has_local = wave.engine.host.is_some();
        let branches = if has_local {
            crate::plan::below(order.members.as_slice(), order.k)
        } else {
            crate::plan::branches(order.members.as_slice(), order.k)
        };
        if has_local {
            let wave = Arc::clone(&wave);
            parts.push(Box::pin(async move { Step::Local(sink::run_local(&wave).await) }));
        }
        for run in branches {
            wave.add(Untold { run, again: order.again, since: None }, &mut parts);
        }
        let mut local = None;
        let gave_up = Self::until_ended(&wave, &running, &outlet, &mut parts, &mut local).await;
        if let Some((told, untold)) = gave_up {
            wave.give_up(told, untold);
        }
        let goes_on = has_local && local.is_none() && order.class == Class::Changes;
        if has_local && local.is_none() {
            let why = gave_up.map_or(reason::NO_ANSWER, |(told, _)| told);
            local = Some(LocalEnd { outcome: Outcome::Unknown, reason: why.to_owned(), targets: Vec::new() });
        }
        Self::flush(&wave).await;
        // No more replies: followers go on to the end.
        wave.state().replies = None;
        let Outlet { replies, progress: _progress, end } = outlet;
        drop(replies);
        if goes_on {
            end.send_replace(Some(Arc::new(wave.end(local.as_ref()))));
            local = Self::local_of(&mut parts).await.or(local);
            remember(wave.end(local.as_ref())).await;
        } else {
            let told = wave.end(local.as_ref());
            remember(told.clone()).await;
            end.send_replace(Some(Arc::new(told)));
        }
    }

    /// Until all parts have ended; or gives the reasons for those that have not, told and not told.
    async fn until_ended(
        wave: &Arc<Wave>,
        running: &Running,
        outlet: &Outlet,
        parts: &mut Parts,
        local: &mut Option<LocalEnd>,
    ) -> Option<(&'static str, &'static str)> {
        let config = &wave.engine.config;
        let class = wave.order.class;
        let grace =
            if class == Class::Once && wave.engine.host.is_some() { config.orphan_grace } else { Duration::ZERO };
        let orphaned = running.orphaned(grace);
        tokio::pin!(orphaned);
        let mut is_orphan = false;
        let mut deadline = wave.order.deadline;
        let mut reasons = (reason::NO_ANSWER, reason::TOO_LATE);
        let mut cancelled = false;
        let mut dirty = false;
        let mut published =
            Instant::now().checked_sub(config.progress_pace.min(Duration::from_secs(1))).unwrap_or_else(Instant::now);
        loop {
            let publish_at = dirty.then(|| published + config.progress_pace);
            let flush_at = wave.state().answers.due();
            tokio::select! {
                biased;
                () = sleep_until(deadline) => return Some(reasons),
                () = wave.cancel.cancelled(), if !cancelled => {
                    cancelled = true;
                    if class != Class::Changes {
                        deadline = deadline.min(Instant::now() + config.cancel_grace);
                        reasons = (reason::CANCELLED, reason::CANCELLED);
                    }
                }
                () = &mut orphaned, if !is_orphan => {
                    is_orphan = true;
                    wave.deaf.cancel();
                    if class != Class::Changes {
                        wave.cancel.cancel();
                    }
                }
                step = parts.next() => match step {
                    None => return None,
                    Some(Step::Flushed) => {}
                    Some(Step::Local(end)) => {
                        wave.state().progress.finish(LOCAL, 1);
                        wave.dirty.notify_one();
                        *local = Some(end);
                    }
                    Some(Step::Branch(branch, end)) => {
                        for untold in wave.ended(&branch, end) {
                            wave.add(untold, parts);
                        }
                        wave.dirty.notify_one();
                    }
                },
                () = wave.dirty.notified() => dirty = true,
                () = at(publish_at) => {
                    dirty = false;
                    published = Instant::now();
                    let sum = wave.state().progress.take(wave.order.members.len());
                    outlet.progress.send_replace(sum);
                }
                () = at(flush_at) => {
                    let due = wave.state().answers.flush(Some(Instant::now()));
                    let wave = Arc::clone(wave);
                    parts.push(Box::pin(async move {
                        wave.send_replies(due).await;
                        Step::Flushed
                    }));
                }
            }
        }
    }

    /// Sends the answers that are still held, if they are taken in time.
    async fn flush(wave: &Arc<Wave>) {
        let left = wave.state().answers.flush(None);
        let until = wave.order.deadline + wave.engine.config.margin / 2;
        drop(tokio::time::timeout_at(until, wave.send_replies(left)).await);
    }

    async fn local_of(parts: &mut Parts) -> Option<LocalEnd> {
        while let Some(step) = parts.next().await {
            if let Step::Local(end) = step {
                return Some(end);
            }
        }
        None
    }
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}
