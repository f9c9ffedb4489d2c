//! The agent's gRPC service: a thin layer over the rest.

use std::pin::Pin;
use std::sync::Arc;

use fleet_pki::{Role, require};
use fleet_proto::MAX_MESSAGE_BYTES;
use fleet_proto::v1::agent_server::{Agent as AgentService, AgentServer};
use fleet_proto::v1::*;
use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Response, Status, Streaming};

use crate::agent::Agent;
use crate::experiment::Experiment;
use crate::progress::Report;
use crate::slot::Slot;
use crate::{act, apply, merging, prove, session, teardown};

/// VMs in one message of a listing.
const LISTED: usize = 500;
/// Messages of a listing or of telemetry that wait for a slow reader.
const QUEUE: usize = 16;
/// Events sent at once.
const EVENTS: usize = 500;

/// The service, ready to be served on the local socket: whoever may open that may ask everything.
pub fn router(agent: Arc<Agent>) -> tonic::transport::server::Router {
    tonic::transport::Server::builder().add_service(service(agent))
}

/// The service, ready to be served to members of the fleet: for the controller only.
pub(crate) fn remote_router(
    mut server: tonic::transport::Server,
    agent: Arc<Agent>,
) -> tonic::transport::server::Router {
    server.add_service(InterceptedService::new(service(agent), require(&[Role::Controller])))
}

fn service(agent: Arc<Agent>) -> AgentServer<Service> {
    AgentServer::new(Service { agent })
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

struct Service {
    agent: Arc<Agent>,
}

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Steps = ReceiverStream<Result<Progress, Status>>;

fn required<T>(value: Option<T>, what: &str) -> Result<T, Status> {
    value.ok_or_else(|| Status::invalid_argument(format!("the request lacks its {what}")))
}

impl Service {
    fn experiment(&self, name: &str) -> Result<Arc<Experiment>, Status> {
        self.agent.experiment(name).ok_or_else(|| Status::not_found(format!("no experiment `{name}` on this host")))
    }

    /// Checks who asks; an operation that ended before gives its outcome again. One operation of a controller can have
    /// a part for each experiment.
    fn begin(&self, op: Option<OpHeader>, experiment: &str) -> Result<(String, Option<Steps>), Status> {
        let op = required(op, "op")?;
        self.agent.admit_epoch(op.epoch).map_err(Status::failed_precondition)?;
        let id = format!("{}/{experiment}", op.op_id);
        let again = self.agent.outcome(&id).map(|last| {
            let (sender, receiver) = mpsc::channel(1);
            // The channel is new and empty.
            drop(sender.try_send(Ok(last)));
            ReceiverStream::new(receiver)
        });
        Ok((id, again))
    }
}

#[tonic::async_trait]
impl AgentService for Service {
    type ApplyStream = Steps;
    type RemoveStream = Steps;
    type ActStream = Steps;
    type ListStream = BoxStream<ListChunk>;
    type ExecStream = session::Outputs;
    type ConsoleStream = session::Outputs;
    type LogsStream = session::Chunks;
    type TelemetryStream = BoxStream<TelemetryBatch>;
    type EventsStream = BoxStream<TelemetryBatch>;

    async fn info(&self, _: Request<InfoRequest>) -> Result<Response<HostInfo>, Status> {
        Ok(Response::new(self.agent.info()))
    }

    async fn apply(&self, request: Request<ApplyRequest>) -> Result<Response<Steps>, Status> {
        let ApplyRequest { op, spec, dry_run } = request.into_inner();
        let spec = required(spec, "spec")?;
        let (op_id, again) = self.begin(op, &spec.experiment)?;
        if let Some(again) = again {
            return Ok(Response::new(again));
        }
        let (report, steps) = Report::new();
        let agent = Arc::clone(&self.agent);
        let task = tokio::spawn(async move {
            if let Some(last) = apply::apply(&agent, &spec, dry_run, &report).await
                && !dry_run
            {
                agent.remember_outcome(&op_id, last);
            }
        });
        self.agent.keep(task);
        Ok(Response::new(ReceiverStream::new(steps)))
    }

    async fn remove(&self, request: Request<RemoveRequest>) -> Result<Response<Steps>, Status> {
        let RemoveRequest { op, experiment } = request.into_inner();
        let (op_id, again) = self.begin(op, &experiment)?;
        if let Some(again) = again {
            return Ok(Response::new(again));
        }
        let (report, steps) = Report::new();
        let agent = Arc::clone(&self.agent);
        let task = tokio::spawn(async move {
            if let Some(last) = teardown::remove(&agent, &experiment, &report).await {
                agent.remember_outcome(&op_id, last);
            }
        });
        self.agent.keep(task);
        Ok(Response::new(ReceiverStream::new(steps)))
    }

    async fn act(&self, request: Request<ActRequest>) -> Result<Response<Steps>, Status> {
        let request = request.into_inner();
        let action = request.action();
        let ActRequest { op, experiment, ranges, force, name, .. } = request;
        let (op_id, again) = self.begin(op, &experiment)?;
        if let Some(again) = again {
            return Ok(Response::new(again));
        }
        let experiment = self.experiment(&experiment)?;
        let slice =
            experiment.slice().ok_or_else(|| Status::failed_precondition("the experiment is still being set up"))?;
        let names = slice.names(&ranges).map_err(Status::invalid_argument)?;
        let (report, steps) = Report::new();
        let agent = Arc::clone(&self.agent);
        let task = tokio::spawn(async move {
            let last = act::act(&agent, &experiment, names, &act::Act { action, force, name }, &report).await;
            agent.remember_outcome(&op_id, last);
        });
        self.agent.keep(task);
        Ok(Response::new(ReceiverStream::new(steps)))
    }

    async fn snapshots(&self, request: Request<SnapshotsRequest>) -> Result<Response<SnapshotsReply>, Status> {
        let SnapshotsRequest { experiment, remove } = request.into_inner();
        let only = Some(experiment).filter(|name| !name.is_empty());
        let list = |only: Option<String>| {
            let store = Arc::clone(self.agent.snapshots());
            async move {
                let listed = tokio::task::spawn_blocking(move || store.list(only.as_deref())).await;
                let listed = listed.map_err(|error| Status::internal(error.to_string()))?;
                listed.map_err(|error| Status::internal(error.to_string()))
            }
        };
        let mut removed = 0;
        if let Some(experiment) = only.as_ref().filter(|_| !remove.is_empty()) {
            let gone = self.agent.snapshots().remove(experiment, &remove).await;
            removed = gone.map_err(|error| Status::internal(error.to_string()))?;
        }
        let host = &self.agent.config.host;
        let snapshots = list(only).await?.into_iter().map(|snapshot| Snapshot {
            experiment: snapshot.experiment,
            vm: snapshot.vm,
            name: snapshot.name,
            id: snapshot.id,
            host: host.clone(),
            taken_ms: snapshot.taken_ms,
            bytes: snapshot.bytes,
            shared_bytes: snapshot.shared_bytes,
        });
        Ok(Response::new(SnapshotsReply { snapshots: snapshots.collect(), removed }))
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<Self::ListStream>, Status> {
        let request = request.into_inner();
        let only = request.only();
        let ListRequest { experiment: wanted, summary, .. } = request;
        let experiments: Vec<_> = self
            .agent
            .experiments()
            .into_iter()
            .filter(|experiment| wanted.is_empty() || experiment.name() == wanted)
            .collect();
        let host = self.agent.config.host.clone();
        // Made piece by piece as the reader takes them: a million VMs are never in memory at once.
        let chunks = experiments.into_iter().flat_map(move |experiment| {
            let slots = experiment.slots();
            let routers = if summary { Vec::new() } else { experiment.routers() };
            let head = ListChunk { experiments: vec![experiment.status()], routers, vms: Vec::new() };
            let asked = |slot: &&Arc<Slot>| !summary && (only == VmState::Unspecified || slot.state() == only);
            let all: Vec<_> = slots.iter().filter(asked).cloned().collect();
            let host = host.clone();
            let pieces = (0..all.len().div_ceil(LISTED)).map(move |piece| {
                let slots = &all[piece * LISTED..((piece + 1) * LISTED).min(all.len())];
                let vms = slots.iter().map(|slot| slot.status(experiment.name(), &host)).collect();
                ListChunk { vms, ..ListChunk::default() }
            });
            std::iter::once(head).chain(pieces)
        });
        Ok(Response::new(Box::pin(futures::stream::iter(chunks.map(Ok)))))
    }

    async fn prove(&self, request: Request<ProveRequest>) -> Result<Response<ProveReply>, Status> {
        let request = request.into_inner();
        let experiment = self.experiment(&request.experiment)?;
        Ok(Response::new(prove::prove(&experiment, request).await))
    }

    async fn ksm(&self, request: Request<KsmRequest>) -> Result<Response<KsmReply>, Status> {
        let KsmRequest { dry_run } = request.into_inner();
        let agent = Arc::clone(&self.agent);
        let host = tokio::task::spawn_blocking(move || merging::host(&agent, dry_run)).await;
        let host = host.map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(KsmReply { hosts: vec![host] }))
    }

    async fn exec(&self, request: Request<Streaming<SessionInput>>) -> Result<Response<session::Outputs>, Status> {
        let mut input = request.into_inner();
        let open = session::opening(&mut input).await?;
        let machine = session::machine(&*self.experiment(&open.experiment)?, &open.vm)?;
        Ok(Response::new(session::exec(machine, open, input)))
    }

    async fn console(&self, request: Request<Streaming<SessionInput>>) -> Result<Response<session::Outputs>, Status> {
        let mut input = request.into_inner();
        let open = session::opening(&mut input).await?;
        let machine = session::machine(&*self.experiment(&open.experiment)?, &open.vm)?;
        let console = machine.console(session::console_tail()).await;
        let console = console.map_err(|error| Status::failed_precondition(error.to_string()))?;
        Ok(Response::new(session::console(console, input)))
    }

    async fn logs(&self, request: Request<LogsRequest>) -> Result<Response<session::Chunks>, Status> {
        let LogsRequest { experiment, vm, lines, follow } = request.into_inner();
        let experiment = self.experiment(&experiment)?;
        let slots = experiment.slots();
        let slot = slots.get(&vm).ok_or_else(|| Status::not_found(format!("no VM `{vm}` on this host")))?;
        let log = experiment.around.vms.paths(experiment.name(), &vm).console_log();
        Ok(Response::new(session::logs(log, lines, slot.machine(), follow)))
    }

    async fn telemetry(&self, _: Request<TelemetryRequest>) -> Result<Response<Self::TelemetryStream>, Status> {
        let mut batches = self.agent.hub.subscribe();
        let (sender, receiver) = mpsc::channel(QUEUE);
        let task = tokio::spawn(async move {
            loop {
                let batch = tokio::select! {
                    () = sender.closed() => return,
                    batch = batches.recv() => batch,
                };
                let Some(batch) = batch else { return };
                if sender.send(Ok(batch)).await.is_err() {
                    return;
                }
            }
        });
        self.agent.keep(task);
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn events(
        &self,
        request: Request<Streaming<EventAcknowledgement>>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let mut acknowledgements = request.into_inner();
        let mut events = self.agent.hub.events();
        let hub = Arc::clone(&self.agent.hub);
        let (sender, receiver) = mpsc::channel(QUEUE);
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = sender.closed() => return,
                    acknowledged = acknowledgements.message() => match acknowledged {
                        Ok(Some(acknowledged)) => hub.acknowledge(&acknowledged.ids),
                        // A storer that went away: the next one gets what it has not acknowledged.
                        Ok(None) | Err(_) => return,
                    },
                    // No place, no reading: what was read is sent.
                    place = sender.reserve() => {
                        let Ok(place) = place else { return };
                        let next = tokio::select! {
                            next = events.next(EVENTS) => next,
                            acknowledged = acknowledgements.message() => match acknowledged {
                                Ok(Some(acknowledged)) => {
                                    hub.acknowledge(&acknowledged.ids);
                                    continue;
                                }
                                Ok(None) | Err(_) => return,
                            },
                        };
                        place.send(Ok(TelemetryBatch { events: next, ..TelemetryBatch::default() }));
                    }
                }
            }
        });
        self.agent.keep(task);
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
