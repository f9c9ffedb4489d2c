//! Streams of samples and events from the agents of all hosts that are there: begun when a host comes, again when they
//! break, ended when it goes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use fleet_proto::v1::agent_client::AgentClient;
use fleet_proto::v1::{EventAcknowledgement, HostState, TelemetryBatch, TelemetryRequest};
use fleet_telemetry_db::TelemetrySink;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::Channel;

use super::{QUEUE, Wanted};
use crate::daemon::agents::Agents;
use crate::daemon::hosts::Hosts;

/// Between two tries to reach an agent whose stream broke.
const RETRY: Duration = Duration::from_secs(2);
/// Changes of hosts within this time are looked at together.
const GATHER: Duration = Duration::from_millis(100);

/// The way to one of them.
pub type Agent = AgentClient<Channel>;

/// Where streams come from.
#[derive(Clone)]
pub struct Feeds {
    /// The ways to agents.
    pub agents: Agents,
    /// Who is there.
    pub hosts: Arc<Hosts>,
}

impl Feeds {
    /// Keeps a feed of each host that is there, until told to stop.
    pub async fn of_all<F>(
        self,
        stop: CancellationToken,
        feed: impl Fn(String, Agent) -> F + Clone + Send + Sync + 'static,
    ) where
        F: Future<Output = Result<(), Status>> + Send + 'static,
    {
        let mut changes = self.hosts.changes();
        let mut feeding: HashMap<String, CancellationToken> = HashMap::new();
        // Dropped, it ends them all.
        let mut tasks = JoinSet::new();
        loop {
            changes.mark_unchanged();
            let heard = |state| matches!(state, HostState::Ready | HostState::Draining);
            let there: HashSet<String> =
                self.hosts.list().into_iter().filter(|host| heard(host.state())).map(|host| host.name).collect();
            feeding.retain(|name, token| {
                let stays = there.contains(name);
                if !stays {
                    token.cancel();
                }
                stays
            });
            for name in there {
                let agents = self.agents.clone();
                let feed = feed.clone();
                let host = name.clone();
                feeding.entry(name).or_insert_with(|| {
                    let token = stop.child_token();
                    tasks.spawn(keep_feeding(host, agents, token.clone(), feed));
                    token
                });
            }
            while tasks.try_join_next().is_some() {}
            tokio::select! {
                () = stop.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
            }
            tokio::time::sleep(GATHER).await;
        }
    }
}

/// Begins a feed again whenever it breaks, until told to stop.
async fn keep_feeding<F>(host: String, agents: Agents, stop: CancellationToken, feed: impl Fn(String, Agent) -> F)
where
    F: Future<Output = Result<(), Status>>,
{
    let once = async || feed(host.clone(), agents.client(&host).await?).await;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            ended = once() => if let Err(status) = ended {
                tracing::debug!(host, reason = status.message(), "an agent's stream broke");
            },
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

/// Feeds the writer with samples, best effort, until the agent's stream breaks.
pub async fn samples(mut agent: Agent, sink: TelemetrySink) -> Result<(), Status> {
    let mut batches = agent.telemetry(TelemetryRequest::default()).await?.into_inner();
    while let Some(mut batch) = batches.message().await? {
        // Events go the acknowledged way.
        batch.events.clear();
        sink.offer(batch);
    }
    Ok(())
}

/// Feeds the writer with events; an agent keeps each one until the writer has taken it.
pub async fn events(mut agent: Agent, sink: TelemetrySink) -> Result<(), Status> {
    let (acknowledge, acknowledged) = mpsc::channel(QUEUE);
    let mut batches = agent.events(ReceiverStream::new(acknowledged)).await?.into_inner();
    while let Some(batch) = batches.message().await? {
        let ids = batch.events.iter().map(|event| event.id.clone()).collect();
        sink.offer(batch);
        if acknowledge.send(EventAcknowledgement { ids }).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Gives somebody what is wanted of an agent's stream.
pub async fn tail(
    mut agent: Agent,
    events_only: bool,
    wanted: Wanted,
    sender: mpsc::Sender<Result<TelemetryBatch, Status>>,
) -> Result<(), Status> {
    let mut batches = agent.telemetry(TelemetryRequest { events_only }).await?.into_inner();
    while let Some(batch) = batches.message().await? {
        let Some(batch) = wanted.select(batch, events_only) else { continue };
        if sender.send(Ok(batch)).await.is_err() {
            break;
        }
    }
    Ok(())
}
