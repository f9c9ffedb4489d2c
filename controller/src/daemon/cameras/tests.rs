//! Cameras of a controller and of a host that does what the contract says: its agent is one of the tests', behind a real
//! socket, and keeps cameras and leases as a list.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use fleet_proto::v1::agent_server::{Agent as AgentService, AgentServer};
use fleet_proto::v1::up_event::Event as UpWord;
use fleet_proto::v1::*;
use fleet_tree::grpc::{GrpcLink, Plain};
use fleet_tree::{ClockWatch, Config, Job, Local, LocalEnd, MemoryLog, Node, Parts as NodeParts, Sink};
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::net::UnixListener;
use tokio::sync::broadcast;
use tokio_stream::wrappers::{BroadcastStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{Cameras, locked};
use crate::commitments::Commitments;
use crate::daemon::agents::Agents;
use crate::daemon::fleet::{Fleet, Parts};
use crate::daemon::hosts::{Hosts, Settings};
use crate::daemon::operation;
use crate::daemon::store::Store;

const HOST: &str = "h1";
const FILE: &str =
    "lan l\nvm a { on l; hypervisor qemu }\nvm b { on l; hypervisor qemu }\nvm u { on l; hypervisor uml }\n";
const NEEDY: &str = "lan l\nvm v { on l; needs camera }\n";
/// Nothing waits so long when all is well.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the host has.
#[derive(Default)]
struct Kept {
    cameras: BTreeMap<String, Camera>,
    leases: BTreeMap<String, CameraLease>,
    /// The highest epoch of a lease that has ended.
    over: u64,
    refuses: Option<String>,
    orders: Vec<String>,
}

struct FakeHost {
    kept: Mutex<Kept>,
    events: broadcast::Sender<Event>,
}

impl FakeHost {
    fn new() -> Arc<Self> {
        Arc::new(Self { kept: Mutex::default(), events: broadcast::Sender::new(64) })
    }

    fn tell(&self, kind: &str) {
        // Nobody may listen yet.
        drop(self.events.send(Event { kind: kind.into(), host: HOST.into(), ..Event::default() }));
    }

    fn plug(&self, serial: &str, state: CameraState) {
        let camera = Camera {
            id: format!("04b0:{serial}"),
            usb_id: "04b0:0428".into(),
            serial: serial.into(),
            model: "NIKON DSC D7000".into(),
            persona: "ptp".into(),
            port: format!("0000:00:14.0/{serial}"),
            present: true,
            state: state.into(),
            detail: if state == CameraState::Busy { "gvfsd (7) has it open".into() } else { String::new() },
            ..Camera::default()
        };
        locked(&self.kept).cameras.insert(camera.id.clone(), camera);
        self.tell("camera.plugged");
    }

    /// Ends its leases, as when its VMs are made anew.
    fn end_leases(&self) {
        let kept = &mut *locked(&self.kept);
        kept.over = std::mem::take(&mut kept.leases).values().map(|lease| lease.epoch).fold(kept.over, u64::max);
    }

    fn has(&self) -> Vec<(String, String, CameraState)> {
        let kept = locked(&self.kept);
        kept.leases.values().map(|lease| (lease.camera.clone(), lease.vm.clone(), lease.state())).collect()
    }

    fn attach(&self, order: AttachCamera) -> LocalEnd {
        let mut kept = locked(&self.kept);
        kept.orders.push(format!("attach {} {}", order.camera, order.vm));
        assert_eq!((order.host.as_str(), order.address.as_str()), (HOST, ""));
        if let Some(reason) = &kept.refuses {
            return LocalEnd::failed(reason.clone(), Vec::new());
        }
        let known = kept.leases.get(&order.camera).map_or(0, |lease| lease.epoch);
        if known > order.epoch || order.epoch <= kept.over {
            return LocalEnd::failed("stale", Vec::new());
        }
        let lease = CameraLease {
            host: order.host,
            camera: order.camera.clone(),
            experiment: order.experiment,
            vm: order.vm,
            epoch: order.epoch,
            state: CameraState::Attached.into(),
            ..CameraLease::default()
        };
        kept.leases.insert(order.camera, lease);
        drop(kept);
        self.tell("camera.attached");
        LocalEnd::ok(Vec::new())
    }

    fn detach(&self, order: &DetachCamera) -> LocalEnd {
        let mut kept = locked(&self.kept);
        kept.orders.push(format!("detach {} {}", order.camera, order.hold));
        if order.hold && !kept.leases.contains_key(&order.camera) {
            return LocalEnd::failed("no VM of this host has the camera", Vec::new());
        }
        match kept.leases.get_mut(&order.camera).filter(|lease| lease.epoch == order.epoch) {
            Some(lease) if order.hold => lease.set_state(CameraState::Held),
            Some(_) => {
                kept.over = kept.over.max(order.epoch);
                kept.leases.remove(&order.camera);
            }
            None => {}
        }
        drop(kept);
        self.tell("camera.released");
        LocalEnd::ok(Vec::new())
    }
}

struct Work(Arc<FakeHost>);

#[async_trait]
impl Local for Work {
    fn admit_epoch(&self, _: u64) -> Result<(), String> {
        Ok(())
    }

    async fn run(&self, job: Job, sink: Sink) -> LocalEnd {
        match job.task.task {
            Some(task::Task::Apply(apply)) if apply.dry_run => {
                sink.reply(reply::Reply::Difference(Difference::default())).await;
                LocalEnd::ok(Vec::new())
            }
            Some(task::Task::Cameras(_)) => {
                let said = {
                    let kept = locked(&self.0.kept);
                    CamerasReply {
                        cameras: kept.cameras.values().cloned().collect(),
                        leases: kept.leases.values().cloned().collect(),
                    }
                };
                sink.reply(reply::Reply::Cameras(said)).await;
                LocalEnd::ok(Vec::new())
            }
            Some(task::Task::AttachCamera(order)) => self.0.attach(order),
            Some(task::Task::DetachCamera(order)) => self.0.detach(&order),
            _ => LocalEnd::ok(Vec::new()),
        }
    }
}

struct Served(Arc<FakeHost>);

type Unused<T> = BoxStream<'static, Result<T, Status>>;

#[tonic::async_trait]
impl AgentService for Served {
    type ExecStream = Unused<SessionOutput>;
    type ConsoleStream = Unused<SessionOutput>;
    type LogsStream = Unused<LogsChunk>;
    type TelemetryStream = Unused<TelemetryBatch>;
    type EventsStream = Unused<TelemetryBatch>;

    async fn info(&self, _: Request<InfoRequest>) -> Result<Response<HostInfo>, Status> {
        Ok(Response::new(info()))
    }

    async fn exec(&self, _: Request<Streaming<SessionInput>>) -> Result<Response<Self::ExecStream>, Status> {
        Err(Status::unimplemented("not of these tests"))
    }

    async fn console(&self, _: Request<Streaming<SessionInput>>) -> Result<Response<Self::ConsoleStream>, Status> {
        Err(Status::unimplemented("not of these tests"))
    }

    async fn logs(&self, _: Request<LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        Err(Status::unimplemented("not of these tests"))
    }

    async fn telemetry(&self, request: Request<TelemetryRequest>) -> Result<Response<Self::TelemetryStream>, Status> {
        assert!(request.into_inner().events_only, "samples are not for whoever looks after cameras");
        let events = BroadcastStream::new(self.0.events.subscribe());
        let batches = events.filter_map(async |event| {
            Some(Ok(TelemetryBatch { events: vec![event.ok()?], ..TelemetryBatch::default() }))
        });
        Ok(Response::new(batches.boxed()))
    }

    async fn events(
        &self,
        _: Request<Streaming<EventAcknowledgement>>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        Err(Status::unimplemented("not of these tests"))
    }
}

fn info() -> HostInfo {
    HostInfo { name: HOST.into(), cpus: 4, memory_bytes: 16 << 30, incarnation: "one".into(), ..HostInfo::default() }
}

/// A controller over that host.
struct Controller {
    cameras: Arc<Cameras>,
    fleet: Arc<Fleet>,
    stop: CancellationToken,
}

/// A place for one controller after the other, and the host.
struct Rig {
    dir: tempfile::TempDir,
    host: Arc<FakeHost>,
    server: tokio::task::JoinHandle<()>,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let host = FakeHost::new();
        let incoming = UnixListenerStream::new(UnixListener::bind(dir.path().join("agent.sock")).unwrap());
        let node = Node::new(NodeParts {
            name: HOST.into(),
            link: Arc::new(GrpcLink::new(Plain { connect_timeout: Duration::from_secs(5) })),
            local: Arc::new(Work(Arc::clone(&host))),
            log: Arc::new(MemoryLog::default()),
            config: Config::default(),
            clock: ClockWatch::start(),
        });
        let agent = AgentServer::new(Served(Arc::clone(&host)));
        let server =
            tonic::transport::Server::builder().add_service(agent).add_service(fleet_tree::grpc::service(node));
        let server = tokio::spawn(async move { drop(server.serve_with_incoming(incoming).await) });
        Self { dir, host, server }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    async fn controller(&self) -> Controller {
        let store = Arc::new(Store::open(&self.dir.path().join("store.redb")).unwrap());
        let epoch = store.next_epoch(0).unwrap();
        let settings = Settings {
            state_dir: self.dir.path().to_owned(),
            name: HOST.into(),
            certificate_life: Duration::from_secs(3600),
            beat: Duration::from_secs(5),
            epoch,
        };
        let hosts = Arc::new(Hosts::open(Arc::clone(&store), settings).unwrap());
        let agents = Agents::new(&hosts, &self.socket());
        hosts.own_host(info(), &format!("unix:{}", self.socket().display()), "").unwrap();
        let stop = CancellationToken::new();
        let fleet = Fleet::start(Parts {
            store: Arc::clone(&store),
            hosts: Arc::clone(&hosts),
            agents: agents.clone(),
            sizes: Commitments::new(&self.dir.path().join("images"), None),
            k: None,
            stop: stop.clone(),
        })
        .unwrap();
        let cameras = Cameras::start(super::Parts {
            fleet: Arc::clone(&fleet),
            hosts: Arc::clone(&hosts),
            agents,
            store,
            own_host_is_reached: false,
            stop: stop.clone(),
        })
        .unwrap();
        let mut changes = fleet.changes();
        while fleet.named_hosts("*").unwrap().is_empty() {
            changes.changed().await.unwrap();
        }
        Controller { cameras, fleet, stop }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Controller {
    async fn up(&self, file: &str) -> Vec<String> {
        let (teller, mut follow) = operation::follow();
        let reading = tokio::spawn(async move { while follow.next().await.is_some_and(|word| word.is_ok()) {} });
        let spec = Spec { experiment: "x".into(), source: file.into(), ..Spec::default() };
        self.fleet.up(&super::act::new_op(), spec, &teller).await.unwrap();
        drop(teller);
        reading.await.unwrap();
        self.cameras.settle("x").await
    }

    async fn down(&self) {
        let (teller, _follow) = operation::follow();
        drop(teller.try_send(operation::event(UpWord::Note(String::new()))));
        self.fleet.down(&super::act::new_op(), vec!["x".into()], &teller).await;
    }

    async fn attach(&self, camera: &str, vm: &str, steal: bool) -> Result<CameraOutcome, String> {
        let any = if camera.is_empty() { "ptp" } else { "" };
        let request = AttachCameraRequest {
            camera: camera.into(),
            any: any.into(),
            vm: vm.into(),
            steal,
            ..AttachCameraRequest::default()
        };
        self.cameras.attach(request).await.map_err(|error| error.to_string())
    }

    async fn detach(&self, word: &str, hold: bool) -> Result<CameraOutcome, String> {
        let request = DetachCameraRequest { camera: word.into(), hold, ..DetachCameraRequest::default() };
        self.cameras.detach(request).await.map_err(|error| error.to_string())
    }

    /// What the only camera's state is.
    async fn state(&self) -> CameraState {
        self.cameras.all().await.cameras[0].state()
    }

    /// Waits until whoever watches sees this of all cameras.
    async fn until(&self, what: &str, is: impl Fn(&ControllerCameras) -> bool) {
        let mut view = self.cameras.view.subscribe();
        let seen = tokio::time::timeout(PATIENCE, view.wait_for(|view| is(view))).await;
        assert!(seen.is_ok(), "{what}: {:?}", self.cameras.joint());
    }

    async fn end(self) {
        self.stop.cancel();
        self.cameras.ended().await;
        self.fleet.ended().await;
    }
}

fn is_one(state: CameraState) -> impl Fn(&ControllerCameras) -> bool {
    move |view| view.cameras.len() == 1 && view.cameras[0].state() == state
}

const ATTACHED: CameraState = CameraState::Attached;

#[tokio::test(flavor = "multi_thread")]
async fn a_camera_has_one_vm_and_goes_to_another_only_by_force() {
    let rig = Rig::new();
    let controller = rig.controller().await;
    assert!(controller.up(FILE).await.is_empty(), "nobody needs a camera");
    rig.host.plug("301", CameraState::Available);
    let lent = controller.attach("D7000", "x.a", false).await.unwrap();
    assert_eq!((lent.already_so, lent.cameras[0].state()), (false, ATTACHED), "{lent:?}");
    assert!(controller.attach("h1:301", "a", false).await.unwrap().already_so);
    assert_eq!(locked(&rig.host.kept).orders, ["attach 04b0:301 a"], "once is enough");

    let taken = controller.attach("301", "x.b", false).await.unwrap_err();
    assert!(taken.contains("lent to x.a") && taken.contains("--steal"), "{taken}");
    let stolen = controller.attach("301", "x.b", true).await.unwrap();
    assert!(stolen.notes.is_empty(), "{stolen:?}");
    assert_eq!(rig.host.has(), [("04b0:301".into(), "b".into(), ATTACHED)]);
    let orders = ["attach 04b0:301 a", "detach 04b0:301 false", "attach 04b0:301 b"];
    assert_eq!(locked(&rig.host.kept).orders, orders, "out of the one before it is in the other");

    let freed = controller.detach("x.b", false).await.unwrap();
    assert_eq!((freed.cameras[0].state(), rig.host.has().len()), (CameraState::Available, 0));
    assert!(controller.detach("301", false).await.unwrap().already_so);
    controller.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_with_its_mend_and_leaves_no_lease() {
    let rig = Rig::new();
    let controller = rig.controller().await;
    controller.up(FILE).await;
    rig.host.plug("301", CameraState::Available);
    rig.host.plug("302", CameraState::Busy);
    let why = async |camera: &str, vm: &str| controller.attach(camera, vm, false).await.unwrap_err();
    assert!(why("301", "x.u").await.contains("no USB"));
    assert!(why("999", "x.a").await.contains("there are: NIKON DSC D7000 301 on h1"));
    assert!(why("302", "x.a").await.contains("busy: gvfsd (7) has it open"));
    assert!(why("301", "x.nobody").await.contains("nobody"));
    let several = controller.attach("D7000", "x.a", false).await.unwrap();
    assert_eq!((several.candidates.len(), several.cameras.len()), (2, 0));
    assert!(locked(&rig.host.kept).orders.is_empty(), "the host was not troubled with any of it");

    locked(&rig.host.kept).refuses = Some("a has no xhci\nhelp: build its image with `usb`".into());
    let failed = why("301", "x.a").await;
    assert!(failed.ends_with("a has no xhci\nhelp: build its image with `usb`"), "{failed}");
    assert!(controller.cameras.book.now().leases.iter().next().is_none());
    locked(&rig.host.kept).refuses = None;
    let any = controller.attach("", "x.a", false).await.unwrap();
    assert_eq!(any.cameras[0].camera.as_ref().unwrap().serial, "301", "the other one is busy");
    let none = controller.attach("", "x.b", false).await.unwrap_err();
    assert!(none.contains("no ptp camera is free") && none.contains("of 2, 1 are lent"), "{none}");
    controller.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_watches_sees_how_it_is_and_then_what_changes() {
    let rig = Rig::new();
    let controller = rig.controller().await;
    let mut watch = Box::pin(controller.cameras.watch());
    assert_eq!(watch.next().await.unwrap().unwrap(), ControllerCameras::default());
    rig.host.plug("301", CameraState::Available);
    let seen = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(seen.cameras[0].state(), CameraState::Available);
    controller.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_comes_back_has_cameras_where_they_were_and_takes_out_what_nobody_wants() {
    let rig = Rig::new();
    let controller = rig.controller().await;
    controller.up(FILE).await;
    rig.host.plug("301", CameraState::Available);
    controller.attach("301", "x.a", false).await.unwrap();
    controller.end().await;

    // Meanwhile the host has ended its lease, and got one that is on no record.
    rig.host.end_leases();
    rig.host.plug("302", CameraState::Available);
    let stray = AttachCamera {
        host: HOST.into(),
        camera: "04b0:302".into(),
        experiment: "x".into(),
        vm: "b".into(),
        epoch: 77,
        ..AttachCamera::default()
    };
    assert_eq!(rig.host.attach(stray), LocalEnd::ok(Vec::new()));
    let controller = rig.controller().await;
    let state = |view: &ControllerCameras, at: usize| view.cameras.get(at).map(CameraView::state);
    controller
        .until("one is back, the other free", |view| {
            (state(view, 0), state(view, 1)) == (Some(ATTACHED), Some(CameraState::Available))
        })
        .await;
    assert_eq!(rig.host.has(), [("04b0:301".into(), "a".into(), ATTACHED)]);
    let lease = controller.attach("302", "x.b", false).await.unwrap().cameras[0].lease.clone().unwrap();
    assert!(lease.epoch > 77, "above all that the host has seen");
    controller.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_stays_out_over_restarts_until_it_is_attached_again() {
    let rig = Rig::new();
    let controller = rig.controller().await;
    controller.up(FILE).await;
    rig.host.plug("301", CameraState::Available);
    controller.attach("301", "x.a", false).await.unwrap();
    let held = controller.detach("301", true).await.unwrap();
    assert_eq!(held.cameras[0].state(), CameraState::Held, "{held:?}");
    controller.end().await;

    rig.host.end_leases();
    let controller = rig.controller().await;
    rig.host.tell("camera.unplugged");
    assert_eq!((controller.state().await, rig.host.has().len()), (CameraState::Held, 0));
    assert!(controller.detach("x.a", true).await.is_ok(), "its host has not heard of it, and that is well");
    let taken = controller.attach("301", "x.b", false).await.unwrap_err();
    assert!(taken.contains("lent to x.a"), "{taken}");
    assert_eq!(controller.attach("301", "x.a", false).await.unwrap().cameras[0].state(), ATTACHED);
    controller.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_needs_a_camera_has_one_as_soon_as_there_is_one_until_it_is_gone() {
    let rig = Rig::new();
    let controller = rig.controller().await;
    let told = controller.up(NEEDY).await;
    assert_eq!(told, ["x.v waits for a camera: none is free; `fleet usb ls` shows them"]);
    rig.host.plug("301", CameraState::Available);
    controller.until("it has the camera", is_one(ATTACHED)).await;
    assert_eq!(rig.host.has(), [("04b0:301".into(), "v".into(), ATTACHED)]);

    // Taken away on purpose, it is not given again before the next `up`.
    let freed = controller.detach("301", false).await.unwrap();
    assert!(freed.notes[0].contains("brought up anew"), "{freed:?}");
    rig.host.tell("camera.access");
    assert_eq!(controller.state().await, CameraState::Available);
    assert_eq!(controller.up(&format!("{NEEDY}vm w {{ on l }}\n")).await, ["x.v has NIKON DSC D7000 301 on h1"]);
    assert_eq!(rig.host.has().len(), 1);

    controller.down().await;
    controller.until("its lease has ended", is_one(CameraState::Available)).await;
    assert!(rig.host.has().is_empty() && controller.cameras.book.now().leases.iter().next().is_none());
    controller.end().await;
}
