//! What the program `fleet` may ask, and who answers it.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use fleet_proto::v1::controller_server::{Controller, ControllerServer};
use fleet_proto::v1::exec_input;
use fleet_proto::v1::up_event::Event;
use fleet_proto::v1::*;
use fleet_proto::{MAX_MESSAGE_BYTES, v1};
use futures::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::agents::Agents;
use super::hosts::Hosts;
use super::operation::{self, Follow, Relayed, Sum};
use super::plans::Plans;
use super::store::{Store, StoreError};
use super::telemetry::Telemetry;
use super::{exec, prove};

/// How long a proof waits for one answer, and how often it asks. A guest that has just come up may need its first
/// packet for ARP and its route.
const PROBE_TIMEOUT_MS: u32 = 1000;
const PROBE_ATTEMPTS: u32 = 3;

/// What all answers draw on.
pub struct Shared {
    /// The way to the agents.
    pub agents: Agents,
    /// Compiled plans.
    pub plans: Plans,
    /// Specs and journal.
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

fn store_failed(error: StoreError) -> Status {
    Status::internal(error.to_string())
}

fn required<T>(value: Option<T>, what: &str) -> Result<T, Status> {
    value
        .ok_or_else(|| Status::invalid_argument(format!("the request lacks its {what}; use a `fleet` of this version")))
}

impl Shared {
    /// Asks the agent of the controller's own host what it is, for the registry. It tells nobody by itself.
    pub async fn look_at_own_host(&self) {
        match self.agents.info().await {
            Ok(infos) => {
                for info in infos {
                    if let Err(error) = self.hosts.own_host(info, &self.own_host.address, &self.own_host.underlay) {
                        tracing::error!(%error, "the controller's own host is not among the hosts");
                    }
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

    fn header(&self, op: &OpHeader) -> OpHeader {
        OpHeader { op_id: op.op_id.clone(), epoch: self.epoch, generation: op.generation }
    }

    async fn up(self: Arc<Self>, op: OpHeader, spec: Spec, teller: operation::Teller) {
        let since = Instant::now();
        let telemetry = self.telemetry.status();
        // Before the first word on the server there is no reason either.
        if !telemetry.on && !telemetry.reason.is_empty() {
            // A caller that has gone is noticed below.
            drop(teller.send(operation::event(Event::Note(format!("telemetry is off: {}", telemetry.reason)))).await);
        }
        match self.apply(&op, &spec, &teller).await {
            Ok(Some(last)) => {
                let mut sum = Sum::default();
                sum.add(&last);
                operation::finish(&self.store, &op.op_id, sum.summary(since), &teller).await;
            }
            Ok(None) => tracing::info!(experiment = spec.experiment, "up was abandoned by its caller"),
            Err(status) => drop(teller.send(Err(status)).await),
        }
    }

    /// Stores the spec, has it applied, and puts the old spec back when nothing came of it.
    async fn apply(&self, op: &OpHeader, spec: &Spec, teller: &operation::Teller) -> Result<Option<Progress>, Status> {
        let before = self.store.spec(&spec.experiment).map_err(store_failed)?;
        self.store.put_spec(spec).map_err(store_failed)?;
        let request = ApplyRequest { op: Some(self.header(op)), spec: Some(spec.clone()), dry_run: false };
        let relayed = match self.agents.client().apply(request).await {
            Ok(stream) => operation::relay(stream.into_inner(), teller).await,
            Err(status) => Err(status),
        };
        let failed = |last: &Progress| last.folds.iter().any(|fold| fold.outcome() == Outcome::Failed);
        let rollback = spec.options.as_ref().is_some_and(|options| options.rollback);
        let undone = match &relayed {
            // Refused before anything was touched, or the agent has undone it.
            Err(_) => true,
            Ok(Relayed::Finished(last)) => rollback && failed(last),
            Ok(Relayed::Abandoned) => false,
        };
        if undone {
            match before {
                Some(before) => self.store.put_spec(&before),
                None => self.store.remove_spec(&spec.experiment).map(drop),
            }
            .map_err(store_failed)?;
            self.plans.forget(&spec.experiment);
        }
        match relayed? {
            Relayed::Finished(last) => Ok(Some(*last)),
            Relayed::Abandoned => Ok(None),
        }
    }

    async fn down(self: Arc<Self>, op: OpHeader, names: Vec<String>, teller: operation::Teller) {
        let since = Instant::now();
        let mut sum = Sum::default();
        for name in names {
            let request = RemoveRequest { op: Some(self.header(&op)), experiment: name.clone() };
            let relayed = match self.agents.client().remove(request).await {
                Ok(stream) => operation::relay(stream.into_inner(), &teller).await,
                Err(status) => Err(status),
            };
            match relayed {
                Ok(Relayed::Finished(last)) => {
                    sum.add(&last);
                    self.plans.forget(&name);
                    if let Err(error) = self.store.remove_spec(&name) {
                        sum.add_failed(&name, &error.to_string());
                    }
                }
                Ok(Relayed::Abandoned) => return,
                Err(status) => sum.add_failed(&name, status.message()),
            }
        }
        operation::finish(&self.store, &op.op_id, sum.summary(since), &teller).await;
    }

    /// Names of all experiments: those of the store and those that only the hosts know.
    async fn experiments(&self) -> Result<Vec<String>, Status> {
        let mut names: Vec<String> =
            self.store.specs().map_err(store_failed)?.into_iter().map(|spec| spec.experiment).collect();
        names.extend(self.agents.experiments().await?.into_iter().map(|status| status.experiment));
        names.sort();
        names.dedup();
        Ok(names)
    }

    async fn prove_all(self: Arc<Self>, spec: Spec, sender: tokio::sync::mpsc::Sender<Result<CheckResult, Status>>) {
        let plan = match self.plans.compile(&spec) {
            Ok(plan) => plan,
            Err(status) => return drop(sender.send(Err(status)).await),
        };
        // What packets cannot show on a running network was proved on its plan.
        for (check, (from, to, expect)) in plan.checks().iter().filter_map(|c| Some((c, c.echoes()?))) {
            let proof = prove::plan(&plan, from, to);
            let request = ProveRequest {
                experiment: spec.experiment.clone(),
                probes: proof.probes.clone(),
                timeout_ms: PROBE_TIMEOUT_MS,
                attempts: PROBE_ATTEMPTS,
            };
            let result = match self.agents.client().prove(request).await {
                Ok(reply) => Ok(prove::judge(check, expect, &proof, reply.get_ref())),
                Err(status) => Err(status),
            };
            if sender.send(result).await.is_err() {
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
    type PsStream = BoxStream<ListChunk>;
    type ProveStream = BoxStream<CheckResult>;
    type ExecStream = BoxStream<SessionOutput>;
    type ConsoleStream = Streaming<SessionOutput>;
    type LogsStream = Streaming<LogsChunk>;
    type TelemetryQueryStream = BoxStream<TelemetryRows>;
    type TelemetryTailStream = BoxStream<TelemetryBatch>;

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        Ok(Response::new(StatusReply {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            epoch: self.shared.epoch,
            hosts: self.shared.agents.info().await?,
            telemetry: Some(self.shared.telemetry.status()),
            metrics_address: self.shared.metrics_address.clone(),
            started_ms: self.shared.started_ms,
        }))
    }

    async fn up(&self, request: Request<UpRequest>) -> Result<Response<Self::UpStream>, Status> {
        let UpRequest { op, spec } = request.into_inner();
        let (op, spec) = (required(op, "op")?, required(spec, "spec")?);
        self.shared.plans.compile(&spec)?;
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
        let known = self.shared.experiments().await?;
        let names = if experiment.is_empty() {
            known
        } else if known.contains(&experiment) {
            vec![experiment]
        } else {
            let up =
                if known.is_empty() { "nothing is up".to_owned() } else { format!("up are: {}", known.join(", ")) };
            return Err(Status::not_found(format!("no experiment `{experiment}`\nhelp: {up}")));
        };
        tokio::spawn(Arc::clone(&self.shared).down(op, names, teller));
        Ok(Response::new(follow))
    }

    async fn ps(&self, request: Request<ListRequest>) -> Result<Response<Self::PsStream>, Status> {
        let request = request.into_inner();
        if !request.experiment.is_empty() {
            let known = self.shared.experiments().await?;
            if !known.contains(&request.experiment) {
                let up =
                    if known.is_empty() { "nothing is up".into() } else { format!("up are: {}", known.join(", ")) };
                return Err(Status::not_found(format!("no experiment `{}`\nhelp: {up}", request.experiment)));
            }
        }
        let stream = self.shared.agents.client().list(request).await?.into_inner();
        Ok(Response::new(Box::pin(stream)))
    }

    async fn diff(&self, request: Request<UpRequest>) -> Result<Response<Difference>, Status> {
        let UpRequest { op, spec } = request.into_inner();
        let (op, spec) = (required(op, "op")?, required(spec, "spec")?);
        self.shared.plans.compile(&spec)?;
        let request = ApplyRequest { op: Some(self.shared.header(&op)), spec: Some(spec), dry_run: true };
        let mut steps = self.shared.agents.client().apply(request).await?.into_inner();
        while let Some(step) = steps.message().await? {
            if let Some(difference) = step.difference {
                return Ok(Response::new(difference));
            }
        }
        Err(Status::internal("the agent gave no difference"))
    }

    async fn act(&self, request: Request<ControllerActRequest>) -> Result<Response<Self::ActStream>, Status> {
        let ControllerActRequest { op, target, action, force, name } = request.into_inner();
        let op = required(op, "op")?;
        let (teller, follow) = operation::follow();
        if let Some(summary) = operation::begin(&self.shared.store, &op.op_id)? {
            drop(teller.try_send(operation::event(Event::Summary(summary))));
            return Ok(Response::new(follow));
        }
        let found = self.shared.plans.resolve(&target)?;
        let request = ActRequest {
            op: Some(self.shared.header(&op)),
            experiment: found.experiment.clone(),
            ranges: found.wire_ranges(),
            action,
            force,
            name,
        };
        let steps = self.shared.agents.client().act(request).await?.into_inner();
        let store = Arc::clone(&self.shared.store);
        tokio::spawn(async move {
            let since = Instant::now();
            match operation::relay(steps, &teller).await {
                Ok(Relayed::Finished(last)) => {
                    let mut sum = Sum::default();
                    sum.add(&last);
                    operation::finish(&store, &op.op_id, sum.summary(since), &teller).await;
                }
                Ok(Relayed::Abandoned) => {}
                Err(status) => drop(teller.send(Err(status)).await),
            }
        });
        Ok(Response::new(follow))
    }

    async fn snapshots(&self, request: Request<SnapshotsRequest>) -> Result<Response<SnapshotsReply>, Status> {
        self.shared.agents.client().snapshots(request.into_inner()).await
    }

    async fn prove(&self, request: Request<ControllerProveRequest>) -> Result<Response<Self::ProveStream>, Status> {
        let experiment = request.into_inner().experiment;
        let spec = self.shared.store.spec(&experiment).map_err(store_failed)?;
        let spec = spec.ok_or_else(|| Status::not_found(format!("no experiment `{experiment}`")))?;
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        tokio::spawn(Arc::clone(&self.shared).prove_all(spec, sender));
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver))))
    }

    async fn exec(&self, request: Request<Streaming<ExecInput>>) -> Result<Response<Self::ExecStream>, Status> {
        let mut input = request.into_inner();
        let open = match input.message().await? {
            Some(ExecInput { input: Some(exec_input::Input::Open(open)) }) => open,
            _ => return Err(Status::invalid_argument("the first message of an exec must open it")),
        };
        let target = self.shared.plans.resolve(&open.target)?;
        Ok(Response::new(Box::pin(exec::run(self.shared.agents.clone(), target, open, input))))
    }

    async fn console(
        &self,
        request: Request<Streaming<SessionInput>>,
    ) -> Result<Response<Self::ConsoleStream>, Status> {
        use futures::StreamExt;
        let mut input = request.into_inner();
        let mut open = match input.message().await? {
            Some(SessionInput { input: Some(session_input::Input::Open(open)) }) => open,
            _ => return Err(Status::invalid_argument("the first message of a console must open it")),
        };
        (open.experiment, open.vm) = self.shared.plans.resolve_one(&open.vm)?;
        let opening = SessionInput { input: Some(session_input::Input::Open(open)) };
        let rest = input.filter_map(|message| std::future::ready(message.ok()));
        let stream = self.shared.agents.client().console(futures::stream::iter([opening]).chain(rest)).await?;
        Ok(Response::new(stream.into_inner()))
    }

    async fn logs(&self, request: Request<LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let mut request = request.into_inner();
        (request.experiment, request.vm) = self.shared.plans.resolve_one(&request.vm)?;
        Ok(Response::new(self.shared.agents.client().logs(request).await?.into_inner()))
    }

    async fn ksm(&self, request: Request<KsmRequest>) -> Result<Response<KsmReply>, Status> {
        Ok(Response::new(self.shared.agents.ksm(request.into_inner()).await?))
    }

    async fn hosts(&self, _: Request<HostsRequest>) -> Result<Response<HostsReply>, Status> {
        self.shared.look_at_own_host().await;
        Ok(Response::new(HostsReply { hosts: self.shared.hosts.list() }))
    }

    async fn change_hosts(&self, request: Request<ChangeHostsRequest>) -> Result<Response<ChangeHostsReply>, Status> {
        self.shared.hosts.ask_change(request.get_ref()).map(Response::new)
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

    async fn shutdown(&self, request: Request<ShutdownRequest>) -> Result<Response<ShutdownReply>, Status> {
        let ending = !request.into_inner().only_idle
            || (self.shared.started_by_command
                // Hosts that have joined need it.
                && self.shared.hosts_address.is_none()
                && self.shared.experiments().await?.is_empty());
        if ending {
            self.shared.stop.cancel();
        }
        Ok(Response::new(v1::ShutdownReply { ending }))
    }
}
