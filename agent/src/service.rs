//! The agent's gRPC service: a thin layer over the rest.

use std::pin::Pin;
use std::sync::Arc;

use fleet_pki::{Connector, Role, require};
use fleet_proto::MAX_MESSAGE_BYTES;
use fleet_proto::v1::agent_server::{Agent as AgentService, AgentServer};
use fleet_proto::v1::*;
use fleet_tree::grpc::{self, GrpcLink};
use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Response, Status, Streaming};

use crate::agent::Agent;
use crate::experiment::Experiment;
use crate::session;
use crate::wave::{Alone, ToMembers};

/// Messages of telemetry that wait for a slow reader.
const QUEUE: usize = 16;
/// Events sent at once.
const EVENTS: usize = 500;

/// What is served on the local socket: whoever may open that may ask everything.
pub fn router(agent: Arc<Agent>) -> tonic::transport::server::Router {
    let node = agent.nodes().add(&agent, Arc::new(Alone));
    grpc::keepalive(tonic::transport::Server::builder()).add_service(service(agent)).add_service(grpc::service(node))
}

/// Adds what the controller serves for its own host's agent: its cameras. By the connector that agent reaches those of others.
#[must_use]
pub fn with_cameras(
    router: tonic::transport::server::Router,
    agent: &Agent,
    connector: Connector,
) -> tonic::transport::server::Router {
    let Some(cameras) = agent.cameras() else { return router };
    // It is the controller itself, and calls no other.
    cameras.joined(connector, "");
    router.add_service(crate::cameras::service(Arc::clone(cameras)))
}

/// What is served to members of the fleet: sessions and streams to the controller only, cameras to agents, waves to both.
pub(crate) fn remote_router(
    server: tonic::transport::Server,
    agent: Arc<Agent>,
    connector: Connector,
) -> tonic::transport::server::Router {
    let node = agent.nodes().add(&agent, Arc::new(GrpcLink::new(ToMembers(connector))));
    let tree = InterceptedService::new(grpc::service(node), require(&[Role::Controller, Role::Agent]));
    let cameras = agent.cameras().map(|cameras| crate::cameras::service(Arc::clone(cameras)));
    let own = InterceptedService::new(service(agent), require(&[Role::Controller]));
    grpc::keepalive(server).add_service(own).add_service(tree).add_optional_service(cameras)
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

impl Service {
    fn experiment(&self, name: &str) -> Result<Arc<Experiment>, Status> {
        self.agent.experiment(name).ok_or_else(|| Status::not_found(format!("no experiment `{name}` on this host")))
    }
}

#[tonic::async_trait]
impl AgentService for Service {
    type ExecStream = session::Outputs;
    type ConsoleStream = session::Outputs;
    type LogsStream = session::Chunks;
    type TelemetryStream = BoxStream<TelemetryBatch>;
    type EventsStream = BoxStream<TelemetryBatch>;

    async fn info(&self, _: Request<InfoRequest>) -> Result<Response<HostInfo>, Status> {
        Ok(Response::new(self.agent.info()))
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

    async fn telemetry(&self, request: Request<TelemetryRequest>) -> Result<Response<Self::TelemetryStream>, Status> {
        let events_only = request.into_inner().events_only;
        let mut batches = self.agent.hub.subscribe();
        let (sender, receiver) = mpsc::channel(QUEUE);
        let task = tokio::spawn(async move {
            loop {
                let batch = tokio::select! {
                    () = sender.closed() => return,
                    batch = batches.recv() => batch,
                };
                let Some(mut batch) = batch else { return };
                if events_only {
                    batch = TelemetryBatch { ts_ms: batch.ts_ms, events: batch.events, ..TelemetryBatch::default() };
                    if batch.events.is_empty() {
                        continue;
                    }
                }
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
