//! The host's own part of a wave, and what it tells meanwhile.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use fleet_proto::v1::{Outcome, Progress, Reply, WaveProgress, reply};
use futures::FutureExt;

use super::wave::{Wave, reason};
use crate::local::{Job, LocalEnd};
use crate::log::Key;
use crate::task::Class;

/// The number of the host's own part.
pub(crate) const LOCAL: usize = 0;

/// Where a host's own work tells how far it is, and gives its data.
#[derive(Clone)]
pub struct Sink {
    wave: Arc<Wave>,
}

impl Sink {
    /// How far the work is. Never waits; only the newest counts, and what it holds beside numbers and samples is left
    /// out.
    pub fn progress(&self, progress: Progress) {
        let said = WaveProgress { hosts: 1, ended: 0, targets: Some(progress) };
        self.wave.state().progress.set(LOCAL, said);
        self.wave.dirty.notify_one();
    }

    /// Data of this host. Waits while the way up is full.
    pub async fn reply(&self, reply: reply::Reply) {
        self.reply_of(1, reply).await;
    }

    /// Data of so many guests of this host. Waits while the way up is full.
    pub async fn reply_of(&self, count: u32, reply: reply::Reply) {
        let hosts = self.wave.name(0).to_owned();
        self.wave.reply(Reply { hosts, count, reply: Some(reply) }).await;
    }
}

/// Does the host's part: the intent is durable before anything is done.
pub(crate) async fn run_local(wave: &Arc<Wave>) -> LocalEnd {
    let Some(host) = &wave.engine.host else { return LocalEnd::ok(Vec::new()) };
    let order = &wave.order;
    if order.class == Class::Once && wave.engine.started.elapsed() < order.began.elapsed() {
        return LocalEnd { outcome: Outcome::Unknown, reason: reason::ANEW.to_owned(), targets: Vec::new() };
    }
    if order.class == Class::Changes {
        let key = Key { op_id: order.op.op_id.clone(), members: order.members.hash() };
        if let Err(error) = host.log.intend(&key).await {
            return LocalEnd::failed(error.to_string(), Vec::new());
        }
    }
    let job = Job {
        op: order.op.clone(),
        task: order.task.clone(),
        content: order.content.clone(),
        deadline: order.deadline,
        cancelled: wave.cancel.clone(),
    };
    let work = host.local.run(job, Sink { wave: Arc::clone(wave) });
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(end) => end,
        Err(_) => LocalEnd::failed("internal error: the agent's log has more", Vec::new()),
    }
}
