//! Telemetry in the controller: samples and events come from the agents and go to MongoDB; questions go the other way.
//! Nothing here is ever waited for by an operation.

pub mod feeds;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fleet_proto::v1::{TelemetryBatch, TelemetryQueryRequest, TelemetryRows, TelemetryStatus};
use fleet_telemetry_db::{
    NotConnected, Query, QueryError, Selection, ServerConfig, ServerSupervisor, VmNames, Writer, WriterConfig,
    WriterStatus,
};
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use self::feeds::{Feeds, events, samples, tail};
use super::agents::Agents;
use super::hosts::Hosts;
use super::service::Shared;
use super::targets::Target;
use crate::config::Config;

/// What is still in the queue when the controller ends may take so long.
const FLUSH_DEADLINE: Duration = Duration::from_secs(5);
/// A query waits so long for the server.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// A query that takes longer is given up.
const QUERY_DEADLINE: Duration = Duration::from_secs(30);
/// Acknowledgements and batches under way.
const QUEUE: usize = 64;

/// Which samples and events somebody asks for.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    experiment: Option<String>,
    vms: Vec<VmNames>,
}

impl Wanted {
    fn has(&self, experiment: &str, vm: &str) -> bool {
        self.experiment.as_deref().is_none_or(|wanted| wanted == experiment)
            && (self.vms.is_empty() || self.vms.iter().any(|names| contains(names, vm)))
    }

    /// What is wanted of a batch; `None` when nothing is.
    fn select(&self, mut batch: TelemetryBatch, events_only: bool) -> Option<TelemetryBatch> {
        batch.events.retain(|event| self.has(&event.experiment, &event.vm));
        batch.vms.retain(|vm| !events_only && self.has(&vm.experiment, &vm.vm));
        batch.ports.retain(|port| !events_only && self.has(&port.experiment, &port.vm));
        batch.hosts.retain(|_| !events_only && self.experiment.is_none());
        batch.cameras.retain(|camera| !events_only && self.has(&camera.experiment, &camera.vm));
        let empty = batch.events.is_empty()
            && batch.vms.is_empty()
            && batch.ports.is_empty()
            && batch.hosts.is_empty()
            && batch.cameras.is_empty();
        (!empty).then_some(batch)
    }
}

/// The controller's telemetry.
pub struct Telemetry {
    /// None when it is switched off, and after the end.
    parts: Mutex<Option<Parts>>,
    feeds: Feeds,
}

struct Parts {
    server: ServerSupervisor,
    writer: Writer,
}

impl Telemetry {
    /// Starts the server where fleet runs one, the writer, and what feeds it. Returns at once.
    pub async fn start(config: &Config, agents: Agents, hosts: &Arc<Hosts>, stop: &CancellationToken) -> Self {
        let feeds = Feeds { agents, hosts: Arc::clone(hosts) };
        if !config.telemetry {
            return Self { parts: Mutex::new(None), feeds };
        }
        let local = ServerConfig::local(config.state_dir.join("mongo"));
        let server = ServerSupervisor::start(ServerConfig { uri: config.mongodb.clone(), ..local });
        let writer = Writer::start(WriterConfig::default(), server.state());
        // They end with the token; nobody needs to wait for them.
        let sink = writer.sink();
        tokio::spawn(feeds.clone().of_all(stop.clone(), move |_, agent| samples(agent, sink.clone())));
        let sink = writer.sink();
        tokio::spawn(feeds.clone().of_all(stop.clone(), move |_, agent| events(agent, sink.clone())));
        Self { parts: Mutex::new(Some(Parts { server, writer })), feeds }
    }

    fn parts(&self) -> MutexGuard<'_, Option<Parts>> {
        // Only whole values are exchanged under this lock.
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it is.
    pub fn status(&self) -> TelemetryStatus {
        let parts = self.parts();
        let Some(parts) = parts.as_ref() else {
            let reason = "switched off by --no-telemetry or the configuration".into();
            return TelemetryStatus { reason, ..TelemetryStatus::default() };
        };
        let status = parts.writer.status().borrow().clone();
        TelemetryStatus {
            on: status.on,
            server: status.server,
            reason: status.reason,
            written: status.written,
            dropped: status.dropped,
            connected: status.connected,
        }
    }

    /// Rows of what was measured.
    ///
    /// # Errors
    /// When the question is wrong, or the server does not answer.
    pub async fn query(
        &self,
        request: TelemetryQueryRequest,
        wanted: Wanted,
    ) -> Result<impl Stream<Item = Result<TelemetryRows, Status>> + Send + use<>, Status> {
        let status = self.parts().as_ref().map(|parts| parts.writer.status());
        if let Some(mut status) = status {
            // A server that was started just now, maybe for this question. What it lacks after that is told below.
            let known = |status: &WriterStatus| status.connected || (!status.on && !status.reason.is_empty());
            drop(tokio::time::timeout(CONNECT_DEADLINE, status.wait_for(known)).await);
        }
        let database = match self.parts().as_ref() {
            Some(parts) => {
                parts.writer.database().map_err(|error: NotConnected| Status::unavailable(error.to_string()))?
            }
            None => {
                return Err(Status::failed_precondition(
                    "telemetry is switched off by --no-telemetry or the configuration",
                ));
            }
        };
        let selection = Selection { experiment: wanted.experiment, hosts: Vec::new(), vms: wanted.vms };
        let query = Query::from_request(&request, selection).map_err(query_failed)?;
        let rows = query.run(&database, QUERY_DEADLINE).await.map_err(query_failed)?;
        Ok(rows.into_messages().map(|rows| rows.map_err(query_failed)))
    }

    /// What comes from now on.
    pub fn tail(
        &self,
        events_only: bool,
        wanted: Wanted,
    ) -> impl Stream<Item = Result<TelemetryBatch, Status>> + Send + use<> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let stop = CancellationToken::new();
        let feeds = self.feeds.clone();
        tokio::spawn(async move {
            let gone = sender.clone();
            let feed =
                feeds.of_all(stop.clone(), move |_, agent| tail(agent, events_only, wanted.clone(), sender.clone()));
            tokio::select! {
                () = feed => {}
                () = gone.closed() => stop.cancel(),
            }
        });
        ReceiverStream::new(receiver)
    }

    /// Writes what is in the queue, within a deadline, and ends the server that fleet runs.
    pub async fn shutdown(&self) {
        let Some(parts) = self.parts().take() else { return };
        // Without a server there is nothing to wait for.
        let connected = parts.writer.status().borrow().connected;
        let deadline = if connected { FLUSH_DEADLINE } else { Duration::ZERO };
        let flushed = parts.writer.shutdown(deadline).await;
        if !flushed.complete {
            tracing::warn!(dropped = flushed.dropped, events = flushed.events_pending, "telemetry was lost at the end");
        }
        if let Err(error) = parts.server.stop().await {
            tracing::warn!(%error, "the telemetry server did not end in order");
        }
    }
}

fn query_failed(error: QueryError) -> Status {
    match error {
        QueryError::Database { .. } => Status::unavailable(error.to_string()),
        QueryError::Deadline { .. } => Status::deadline_exceeded(error.to_string()),
        _ => Status::invalid_argument(error.to_string()),
    }
}

impl Shared {
    /// Which samples a target means. Telemetry outlives its experiment, so a target of one that is down is taken by
    /// its words: `hello`, `hello.alice`, `hello.web[3]`, `hello.web[0..10]`.
    pub fn selected(&self, target: &str) -> Wanted {
        if target.is_empty() {
            return Wanted::default();
        }
        match self.fleet.resolve(target) {
            // The whole of it: its own events and its routers' ports as well as its VMs.
            Ok(found) if found.experiment == target && found.is_all() => {
                Wanted { experiment: Some(found.experiment), vms: Vec::new() }
            }
            Ok(found) => Wanted { experiment: Some(found.experiment.clone()), vms: names(&found) },
            Err(_) => {
                let (experiment, rest) = target.split_once('.').unwrap_or((target, ""));
                let vms = if rest.is_empty() { Vec::new() } else { vec![by_words(rest)] };
                Wanted { experiment: Some(experiment.to_owned()), vms }
            }
        }
    }
}

/// The ranges of a target in the words of a query.
fn names(target: &Target) -> Vec<VmNames> {
    let ranges = target.ranges.iter().filter_map(|range| {
        let group = target.plan.group(range.group)?;
        Some(match (group.is_array, range.first == group.first && range.count == group.count) {
            (false, _) => VmNames::Name(group.path),
            (true, true) => VmNames::Group(group.path),
            (true, false) => VmNames::Range { group: group.path, first: range.first, count: range.count },
        })
    });
    ranges.collect()
}

/// The VMs of a part of a path, by its words alone.
fn by_words(part: &str) -> VmNames {
    let name = || VmNames::Name(part.to_owned());
    let Some((group, index)) = part.strip_suffix(']').and_then(|part| part.rsplit_once('[')) else { return name() };
    if index == "*" {
        return VmNames::Group(group.to_owned());
    }
    let range =
        index.split_once("..").and_then(|(first, until)| Some((first.parse().ok()?, until.parse::<u32>().ok()?)));
    match range {
        Some((first, until)) => VmNames::Range { group: group.to_owned(), first, count: until.saturating_sub(first) },
        None => name(),
    }
}

fn contains(names: &VmNames, vm: &str) -> bool {
    let index = |group: &str| vm.strip_prefix(group)?.strip_prefix('[')?.strip_suffix(']')?.parse::<u32>().ok();
    match names {
        VmNames::Name(name) => name == vm,
        VmNames::Group(group) => index(group).is_some(),
        VmNames::Range { group, first, count } => {
            index(group).and_then(|index| index.checked_sub(*first)).is_some_and(|offset| offset < *count)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_of_what_is_down_is_taken_by_its_words() {
        assert_eq!(by_words("alice"), VmNames::Name("alice".into()));
        assert_eq!(by_words("web[3]"), VmNames::Name("web[3]".into()));
        assert_eq!(by_words("web[*]"), VmNames::Group("web".into()));
        assert_eq!(by_words("web[2..5]"), VmNames::Range { group: "web".into(), first: 2, count: 3 });
    }

    #[test]
    fn a_range_has_its_vms_and_no_others() {
        let range = by_words("web[2..5]");
        assert!(contains(&range, "web[2]") && contains(&range, "web[4]"));
        assert!(!contains(&range, "web[5]") && !contains(&range, "webs[3]") && !contains(&range, "web"));
    }
}
