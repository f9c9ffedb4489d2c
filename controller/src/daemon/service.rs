//! What the program `fleet` may ask, and who answers it.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use fleet_core::Input;
use fleet_proto::v1::controller_server::{Controller, ControllerServer};
use fleet_proto::v1::exec_input;
use fleet_proto::v1::up_event::Event;
use fleet_proto::v1::*;
use fleet_proto::{MAX_MESSAGE_BYTES, v1};
use futures::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::agents::Agents;
use super::cameras::Cameras;
use super::fleet::{Act, Fleet};
use super::hosts::Hosts;
use super::operation::{self, Follow};
use super::store::Store;
use super::telemetry::Telemetry;
use super::{exec, prove};

/// How long a proof waits for one answer, and how often it asks. A guest that has just come up may need its first
/// packet for ARP and its route.
const PROBE_TIMEOUT_MS: u32 = 1000;
const PROBE_ATTEMPTS: u32 = 3;

/// Bytes of a message of a backup.
const BACKUP_CHUNK: usize = 256 * 1024;

/// What all answers draw on.
pub struct Shared {
    /// The way to the agents.
    pub agents: Agents,
    /// What is wanted, and where it is.
    pub fleet: Arc<Fleet>,
    /// Who has which camera.
    pub cameras: Arc<Cameras>,
    /// What is remembered.
    pub store: Arc<Store>,
    /// Writer and queries.
    pub telemetry: Telemetry,
    /// The registry of hosts.
    pub hosts: Arc<Hosts>,
    /// Where the controller listens for hosts.
    pub hosts_address: Option<SocketAddr>,
    /// The host of the controller.
    pub own_host: OwnHost,
    /// Generation of this controller.
    pub epoch: u64,
    /// Where Prometheus finds the metrics; empty when nowhere.
    pub metrics_address: String,
    /// Start of this process, ms since 1970.
    pub started_ms: u64,
    /// Whether a command started this process: then it ends when nothing is up any more.
    pub started_by_command: bool,
    /// Ends the process.
    pub stop: CancellationToken,
}

/// How the controller's own host is reached.
pub struct OwnHost {
    /// Of its agent: a local socket.
    pub address: String,
    /// Its address for segments over hosts; empty: none.
    pub underlay: String,
}

/// The service, ready to be served.
pub fn router(shared: Arc<Shared>) -> tonic::transport::server::Router {
    let service = ControllerServer::new(Service { shared })
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    tonic::transport::Server::builder().add_service(service)
}

struct Service {
    shared: Arc<Shared>,
}

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn required<T>(value: Option<T>, what: &str) -> Result<T, Status> {
    value
        .ok_or_else(|| Status::invalid_argument(format!("the request lacks its {what}; use a `fleet` of this version")))
}

impl Shared {
    /// Asks the agent of the controller's own host what it is, for the registry. It tells nobody by itself.
    pub async fn look_at_own_host(&self) {
        match self.agents.own_info().await {
            Ok(info) => {
                if let Err(error) = self.hosts.own_host(info, &self.own_host.address, &self.own_host.underlay) {
                    tracing::error!(%error, "the controller's own host is not among the hosts");
                }
            }
            Err(status) => {
                tracing::warn!(reason = status.message(), "the agent of the controller's own host does not answer");
                self.hosts.own_host_is_silent();
            }
        }
    }

    /// Looks at the controller's own host as often as others send beats, until the process ends.
    pub async fn watch_own_host(self: Arc<Self>) {
        let mut looks = tokio::time::interval(self.hosts.beat_interval());
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                _ = looks.tick() => self.look_at_own_host().await,
            }
        }
    }

    async fn up(self: Arc<Self>, op: OpHeader, spec: Spec, teller: operation::Teller) {
        let telemetry = self.telemetry.status();
        // Before the first word on the server there is no reason either.
        if !telemetry.on && !telemetry.reason.is_empty() {
            // A caller that has gone changes nothing.
            drop(teller.send(operation::event(Event::Note(format!("telemetry is off: {}", telemetry.reason)))).await);
        }
        let experiment = spec.experiment.clone();
        match self.fleet.up(&op.op_id, spec, &teller).await {
            Ok(summary) => {
                for note in self.cameras.settle(&experiment).await {
                    drop(teller.send(operation::event(Event::Note(note))).await);
                }
                operation::finish(&self.store, &op.op_id, summary, &teller).await;
            }
            Err(status) => drop(teller.send(Err(status)).await),
        }
    }

    async fn down(self: Arc<Self>, op: OpHeader, names: Vec<String>, teller: operation::Teller) {
        let summary = self.fleet.down(&op.op_id, names, &teller).await;
        operation::finish(&self.store, &op.op_id, summary, &teller).await;
    }

    /// Refuses an experiment that is not there, with those that are.
    fn known(&self, experiment: &str) -> Result<(), Status> {
        let known = self.fleet.experiments();
        if known.iter().any(|name| name == experiment) {
            return Ok(());
        }
        let up = if known.is_empty() { "nothing is up".to_owned() } else { format!("up are: {}", known.join(", ")) };
        Err(Status::not_found(format!("no experiment `{experiment}`\nhelp: {up}")))
    }

    async fn prove_all(
        self: Arc<Self>,
        spec: Spec,
        plan: Arc<netlang::Plan>,
        sender: tokio::sync::mpsc::Sender<Result<CheckResult, Status>>,
    ) {
        // What packets cannot show on a running network was proved on its plan.
        for (check, (from, to, expect)) in plan.checks().iter().filter_map(|c| Some((c, c.echoes()?))) {
            let proof = prove::plan(&plan, from, to);
            let request = ProveRequest {
                experiment: spec.experiment.clone(),
                probes: proof.probes.clone(),
                timeout_ms: PROBE_TIMEOUT_MS,
                attempts: PROBE_ATTEMPTS,
            };
            let reply = self.fleet.prove(request).await;
            if sender.send(Ok(prove::judge(check, expect, &proof, &reply))).await.is_err() {
                return;
            }
        }
    }
}

#[tonic::async_trait]
impl Controller for Service {
    type UpStream = Follow;
    type DownStream = Follow;
    type ActStream = Follow;
    type PushImageStream = Follow;
    type PsStream = BoxStream<ListChunk>;
    type ProveStream = BoxStream<CheckResult>;
    type ExecStream = BoxStream<SessionOutput>;
    type ConsoleStream = Streaming<SessionOutput>;
    type LogsStream = Streaming<LogsChunk>;
    type BackupStream = BoxStream<BackupChunk>;
    type TelemetryQueryStream = BoxStream<TelemetryRows>;
    type TelemetryTailStream = BoxStream<TelemetryBatch>;
    type WatchCamerasStream = BoxStream<ControllerCameras>;
    type WatchDrainStream = BoxStream<DrainProgress>;

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        self.shared.look_at_own_host().await;
        Ok(Response::new(StatusReply {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            epoch: self.shared.epoch,
            hosts: self.shared.hosts.list().into_iter().filter_map(|host| host.info).collect(),
            telemetry: Some(self.shared.telemetry.status()),
            metrics_address: self.shared.metrics_address.clone(),
            started_ms: self.shared.started_ms,
        }))
    }

    async fn up(&self, request: Request<UpRequest>) -> Result<Response<Self::UpStream>, Status> {
        let UpRequest { op, spec } = request.into_inner();
        let (op, spec) = (required(op, "op")?, required(spec, "spec")?);
        let (teller, follow) = operation::follow();
        match operation::begin(&self.shared.store, &op.op_id)? {
            Some(summary) => drop(teller.try_send(operation::event(Event::Summary(summary)))),
            None => drop(tokio::spawn(Arc::clone(&self.shared).up(op, spec, teller))),
        }
        Ok(Response::new(follow))
    }

    async fn down(&self, request: Request<DownRequest>) -> Result<Response<Self::DownStream>, Status> {
        let DownRequest { op, experiment } = request.into_inner();
        let op = required(op, "op")?;
        let (teller, follow) = operation::follow();
        if let Some(summary) = operation::begin(&self.shared.store, &op.op_id)? {
            drop(teller.try_send(operation::event(Event::Summary(summary))));
            return Ok(Response::new(follow));
        }
        self.shared.look_at_own_host().await;
        let names = if experiment.is_empty() {
            self.shared.fleet.experiments()
        } else {
            self.shared.known(&experiment)?;
            vec![experiment]
        };
        tokio::spawn(Arc::clone(&self.shared).down(op, names, teller));
        Ok(Response::new(follow))
    }

    async fn ps(&self, request: Request<ListRequest>) -> Result<Response<Self::PsStream>, Status> {
        let request = request.into_inner();
        if !request.experiment.is_empty() {
            self.shared.known(&request.experiment)?;
        }
        let whole = request.only() == VmState::Unspecified && !request.summary;
        let notes = if whole { self.shared.cameras.waiting(&request.experiment) } else { Vec::new() };
        let notes = (!notes.is_empty()).then(|| Ok(ListChunk { notes, ..ListChunk::default() }));
        let listed = self.shared.fleet.list(request).chain(futures::stream::iter(notes));
        Ok(Response::new(Box::pin(listed)))
    }

    async fn diff(&self, request: Request<UpRequest>) -> Result<Response<Difference>, Status> {
        let UpRequest { spec, .. } = request.into_inner();
        let spec = required(spec, "spec")?;
        Ok(Response::new(self.shared.fleet.difference(&spec).await?))
    }

    async fn act(&self, request: Request<ControllerActRequest>) -> Result<Response<Self::ActStream>, Status> {
        let request = request.into_inner();
        let action = request.action();
        let ControllerActRequest { op, target, force, name, .. } = request;
        let op = required(op, "op")?;
        let (teller, follow) = operation::follow();
        if let Some(summary) = operation::begin(&self.shared.store, &op.op_id)? {
            drop(teller.try_send(operation::event(Event::Summary(summary))));
            return Ok(Response::new(follow));
        }
        let found = self.shared.fleet.resolve(&target)?;
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            match shared.fleet.act(&op.op_id, &found, Act { action, force, name }, &teller).await {
                Ok(summary) => operation::finish(&shared.store, &op.op_id, summary, &teller).await,
                Err(status) => drop(teller.send(Err(status)).await),
            }
        });
        Ok(Response::new(follow))
    }

    async fn snapshots(&self, request: Request<SnapshotsRequest>) -> Result<Response<SnapshotsReply>, Status> {
        Ok(Response::new(self.shared.fleet.snapshots(request.into_inner()).await?))
    }

    async fn prove(&self, request: Request<ControllerProveRequest>) -> Result<Response<Self::ProveStream>, Status> {
        let experiment = request.into_inner().experiment;
        let known = self.shared.fleet.spec(&experiment);
        let (spec, plan) = known.ok_or_else(|| Status::not_found(format!("no experiment `{experiment}`")))?;
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        tokio::spawn(Arc::clone(&self.shared).prove_all(spec, plan, sender));
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver))))
    }

    async fn exec(&self, request: Request<Streaming<ExecInput>>) -> Result<Response<Self::ExecStream>, Status> {
        let mut input = request.into_inner();
        let open = match input.message().await? {
            Some(ExecInput { input: Some(exec_input::Input::Open(open)) }) => open,
            _ => return Err(Status::invalid_argument("the first message of an exec must open it")),
        };
        Ok(Response::new(Box::pin(exec::run(&self.shared.fleet, &self.shared.agents, open, input)?)))
    }

    async fn console(
        &self,
        request: Request<Streaming<SessionInput>>,
    ) -> Result<Response<Self::ConsoleStream>, Status> {
        let mut input = request.into_inner();
        let mut open = match input.message().await? {
            Some(SessionInput { input: Some(session_input::Input::Open(open)) }) => open,
            _ => return Err(Status::invalid_argument("the first message of a console must open it")),
        };
        let host;
        (open.experiment, open.vm, host) = self.shared.fleet.resolve_one(&open.vm)?;
        let opening = SessionInput { input: Some(session_input::Input::Open(open)) };
        let rest = input.filter_map(|message| std::future::ready(message.ok()));
        let mut agent = self.shared.agents.client(&host).await?;
        let stream = agent.console(futures::stream::iter([opening]).chain(rest)).await?;
        Ok(Response::new(stream.into_inner()))
    }

    async fn logs(&self, request: Request<LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let mut request = request.into_inner();
        let host;
        (request.experiment, request.vm, host) = self.shared.fleet.resolve_one(&request.vm)?;
        let mut agent = self.shared.agents.client(&host).await?;
        Ok(Response::new(agent.logs(request).await?.into_inner()))
    }

    async fn ksm(&self, request: Request<KsmRequest>) -> Result<Response<KsmReply>, Status> {
        Ok(Response::new(self.shared.fleet.ksm(request.into_inner()).await))
    }

    async fn push_image(&self, request: Request<PushImageRequest>) -> Result<Response<Self::PushImageStream>, Status> {
        let PushImageRequest { image, hosts, rate } = request.into_inner();
        let members = self.shared.fleet.named_hosts(&hosts)?;
        let (teller, follow) = operation::follow();
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            let pushed = tokio::select! {
                () = teller.closed() => return,
                pushed = shared.fleet.push_image(&image, members, rate, &teller) => pushed,
            };
            let last = pushed.and_then(|summary| operation::event(Event::Summary(summary)));
            drop(teller.send(last).await);
        });
        Ok(Response::new(follow))
    }

    async fn cameras(&self, _: Request<CamerasRequest>) -> Result<Response<ControllerCameras>, Status> {
        self.shared.look_at_own_host().await;
        Ok(Response::new(self.shared.cameras.all().await))
    }

    async fn watch_cameras(&self, _: Request<CamerasRequest>) -> Result<Response<Self::WatchCamerasStream>, Status> {
        self.shared.look_at_own_host().await;
        Ok(Response::new(Box::pin(self.shared.cameras.watch())))
    }

    async fn attach_camera(&self, request: Request<AttachCameraRequest>) -> Result<Response<CameraOutcome>, Status> {
        Ok(Response::new(self.shared.cameras.attach(request.into_inner()).await?))
    }

    async fn detach_camera(&self, request: Request<DetachCameraRequest>) -> Result<Response<CameraOutcome>, Status> {
        Ok(Response::new(self.shared.cameras.detach(request.into_inner()).await?))
    }

    async fn hosts(&self, _: Request<HostsRequest>) -> Result<Response<HostsReply>, Status> {
        self.shared.look_at_own_host().await;
        Ok(Response::new(HostsReply { hosts: self.shared.hosts.list() }))
    }

    async fn change_hosts(&self, request: Request<ChangeHostsRequest>) -> Result<Response<ChangeHostsReply>, Status> {
        let request = request.into_inner();
        // What is on drained hosts must find another place, or nothing is changed.
        let names = request.names.clone();
        match request.change() {
            HostChange::Drain => drop(self.shared.fleet.change(|op_id| Input::Drain { op_id, hosts: names })?),
            HostChange::Undrain => drop(self.shared.fleet.change(|op_id| Input::Undrain { op_id, hosts: names })?),
            HostChange::Remove if !request.force => self.shared.fleet.hear_of_empty(&names).await,
            _ => {}
        }
        let wanted = |host: &String| (host.clone(), self.shared.fleet.wanted_on(host));
        let wanted = request.names.iter().map(wanted).collect();
        self.shared.hosts.ask_change(&request, &wanted).map(Response::new)
    }

    async fn watch_drain(
        &self,
        request: Request<WatchDrainRequest>,
    ) -> Result<Response<Self::WatchDrainStream>, Status> {
        Ok(Response::new(Box::pin(self.shared.fleet.watch_drain(request.into_inner().names))))
    }

    async fn issue_token(&self, request: Request<IssueTokenRequest>) -> Result<Response<IssuedToken>, Status> {
        self.shared.hosts.ask_token(request.into_inner(), self.shared.hosts_address).map(Response::new)
    }

    async fn tokens(&self, request: Request<TokensRequest>) -> Result<Response<TokensReply>, Status> {
        self.shared.hosts.ask_tokens(request.get_ref()).map(Response::new)
    }

    async fn telemetry_query(
        &self,
        request: Request<TelemetryQueryRequest>,
    ) -> Result<Response<Self::TelemetryQueryStream>, Status> {
        let request = request.into_inner();
        let target = self.shared.selected(&request.target);
        Ok(Response::new(Box::pin(self.shared.telemetry.query(request, target).await?)))
    }

    async fn telemetry_tail(
        &self,
        request: Request<TelemetryTailRequest>,
    ) -> Result<Response<Self::TelemetryTailStream>, Status> {
        let request = request.into_inner();
        let target = self.shared.selected(&request.target);
        Ok(Response::new(Box::pin(self.shared.telemetry.tail(request.events_only, target))))
    }

    async fn backup(&self, _: Request<BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        let made = self.shared.hosts.backup();
        let made = made.map_err(|error| Status::internal(error.to_string()))?;
        let chunks: Vec<_> =
            made.chunks(BACKUP_CHUNK).map(|content| Ok(BackupChunk { content: content.to_vec() })).collect();
        Ok(Response::new(Box::pin(futures::stream::iter(chunks))))
    }

    async fn shutdown(&self, request: Request<ShutdownRequest>) -> Result<Response<ShutdownReply>, Status> {
        let ending = !request.into_inner().only_idle
            || (self.shared.started_by_command
                // Hosts that have joined need it.
                && self.shared.hosts_address.is_none()
                && {
                    self.shared.look_at_own_host().await;
                    self.shared.fleet.experiments().is_empty()
                });
        if ending {
            self.shared.stop.cancel();
        }
        Ok(Response::new(v1::ShutdownReply { ending }))
    }
}
