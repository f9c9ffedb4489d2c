//! Sending waves: one part to the own host by its local socket, the other down the tree; their ends become one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fleet_core::{Input, Wave, WaveTask, host_ends};
use fleet_proto::v1::{Member, OpHeader, Outcome, OutcomeFold, Reply, Task, WaveEnd};
use fleet_tree::grpc::GrpcLink;
use fleet_tree::{Call, ClockWatch, Config, Event, Members, Root, RootWave, fold_names, recommended_k};
use tokio_util::sync::CancellationToken;

use super::{Fleet, locked};
use crate::daemon::agents::Agents;

/// Addresses that only this host has.
pub(super) const LOCAL: &str = "unix:";

/// Sends waves.
pub struct Waves {
    root: Root,
    k: Option<u32>,
}

/// A wave that is to be sent.
pub struct Order {
    /// The operation.
    pub op: OpHeader,
    /// The hosts.
    pub members: Vec<Member>,
    /// What each does.
    pub task: Task,
    /// The content that the task names.
    pub content: Vec<Bytes>,
    /// When the answer is due.
    pub within: Duration,
    /// Whether it may have been sent before.
    pub again: bool,
}

/// What a wave tells meanwhile.
pub enum Word {
    /// How far a part is: 0 is the own host's, 1 the others'.
    Progress(usize, fleet_proto::v1::WaveProgress),
    /// Data.
    Reply(Reply),
}

/// A wave under way: its parts. Dropped, one that only reads is broken off; one that changes something goes on.
pub struct Sent {
    parts: Vec<Option<RootWave>>,
    end: WaveEnd,
}

impl Waves {
    /// Waves to the agents. Needs a runtime.
    pub fn new(agents: Agents, k: Option<u32>) -> Self {
        let link = Arc::new(GrpcLink::new(agents));
        Self { root: Root::new(link, Config::default(), ClockWatch::start()), k }
    }

    /// Stops following all of them.
    pub async fn stop(&self) {
        self.root.stop().await;
    }

    /// Sends a wave.
    pub fn send(&self, order: Order) -> Sent {
        self.send_by(order, self.k)
    }

    /// Sends a wave with so many branches a host, or as many as the number of hosts asks for.
    pub fn send_by(&self, order: Order, k: Option<u32>) -> Sent {
        let (own, others): (Vec<Member>, Vec<Member>) =
            order.members.iter().cloned().partition(|member| member.address.starts_with(LOCAL));
        let mut sent = Sent { parts: Vec::new(), end: WaveEnd::default() };
        for members in [own, others] {
            let part = if members.is_empty() { None } else { self.part(&order, members, k, &mut sent.end) };
            sent.parts.push(part);
        }
        sent
    }

    fn part(&self, order: &Order, members: Vec<Member>, k: Option<u32>, end: &mut WaveEnd) -> Option<RootWave> {
        let names = fold_names(members.iter().map(|member| member.name.as_str()));
        let count = members.len();
        let not_sent = |reason: String| OutcomeFold {
            outcome: Outcome::NotReached.into(),
            reason,
            count: u32::try_from(count).unwrap_or(u32::MAX),
            targets: names,
        };
        let members = match Members::new(members) {
            Ok(members) => members,
            Err(error) => {
                end.hosts.push(not_sent(error.to_string()));
                return None;
            }
        };
        let call = Call {
            op: order.op.clone(),
            k: k.unwrap_or_else(|| recommended_k(count)),
            members,
            dead: Vec::new(),
            task: order.task.clone(),
            content: order.content.clone(),
            deadline: order.within,
            again: order.again,
        };
        match self.root.wave(call) {
            Ok(wave) => Some(wave),
            Err(error) => {
                end.hosts.push(not_sent(error.to_string()));
                None
            }
        }
    }
}

impl Sent {
    /// What comes next; none after the ends of all parts.
    pub async fn next(&mut self) -> Option<Word> {
        loop {
            let (own, others) = match self.parts.as_mut_slice() {
                [own, others] => (own, others),
                _ => return None,
            };
            let (at, event) = match (own.as_mut(), others.as_mut()) {
                (None, None) => return None,
                (Some(own), None) => (0, own.next().await),
                (None, Some(others)) => (1, others.next().await),
                (Some(own), Some(others)) => tokio::select! {
                    event = own.next() => (0, event),
                    event = others.next() => (1, event),
                },
            };
            match event {
                Some(Event::Progress(progress)) => return Some(Word::Progress(at, progress)),
                Some(Event::Reply(reply)) => return Some(Word::Reply(reply)),
                Some(Event::End(end)) => {
                    self.end.hosts.extend(end.hosts);
                    self.end.targets.extend(end.targets);
                    self.end.replies_lost += end.replies_lost;
                    self.close(at);
                }
                // The root was stopped.
                None => self.close(at),
            }
        }
    }

    fn close(&mut self, at: usize) {
        if let Some(part) = self.parts.get_mut(at) {
            *part = None;
        }
    }

    /// What became of all of it; whole once [`Sent::next`] gave none.
    pub fn end(self) -> WaveEnd {
        self.end
    }
}

impl Fleet {
    /// Sends a wave of the core, and gives it the end.
    pub(super) fn follow_wave(self: &Arc<Self>, wave: Wave, again: bool) {
        let token = CancellationToken::new();
        locked(&self.flights).insert(wave.op_id.clone(), (wave.experiment.clone(), token.clone()));
        let content = match &wave.task {
            WaveTask::Apply { spec, .. } => vec![Bytes::copy_from_slice(spec)],
            WaveTask::Remove => Vec::new(),
        };
        let order = Order {
            op: wave.header(),
            members: wave.members.clone(),
            task: wave.task(),
            content,
            within: Duration::from_millis(wave.within_ms),
            again,
        };
        let fleet = Arc::clone(self);
        self.tasks.spawn(async move {
            let mut sent = fleet.waves.send(order);
            loop {
                let word = tokio::select! {
                    biased;
                    () = fleet.stop.cancelled() => return,
                    () = token.cancelled() => return,
                    word = sent.next() => word,
                };
                match word {
                    Some(Word::Progress(part, progress)) => {
                        let part = format!("{}/{part}", wave.op_id);
                        locked(&fleet.follows).progress(&wave.experiment, &part, &progress);
                    }
                    Some(Word::Reply(_)) => {}
                    None => break,
                }
            }
            let end = sent.end();
            locked(&fleet.flights).remove(&wave.op_id);
            let ends = host_ends(&wave, &end);
            fleet.input(Input::WaveEnded { op_id: wave.op_id, ends, targets: end.targets });
        });
    }
}
