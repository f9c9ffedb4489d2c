//! Promises to whoever lends cameras, with a camera in software behind a real usbredir server, and VMs that take it as
//! QEMU does. Hosts reach one another over real mutual TLS.
#![allow(clippy::unwrap_used)]

mod far;
mod guest;

use std::sync::Arc;
use std::time::Duration;

use fleet_proto::v1::{AttachCamera, CameraLease, CameraState, DetachCamera};
use fleet_softcam::{Address, Options, Persona, Softcam, Speed};
use fleet_telemetry::QueueReceiver;
use fleet_usb::{Look, Procfs, Sysfs};

use super::*;
use crate::hub::Hub;
use guest::Guests;

/// Long enough for a busy machine; nothing waits so long when all is well.
const PATIENCE: Duration = Duration::from_secs(120);
const CAMERA: &str = "04b0:3001";

/// A host with a folder of its own, and no devices on its ports.
struct Host {
    name: &'static str,
    dir: tempfile::TempDir,
    guests: Arc<Guests>,
    hub: Arc<Hub>,
    events: tokio::sync::Mutex<QueueReceiver<fleet_proto::v1::TelemetryBatch>>,
    servers: Vec<String>,
    cameras: Arc<Cameras>,
}

impl Host {
    async fn start(name: &'static str, vms: &[&str], servers: &[&Softcam]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let servers: Vec<String> = servers.iter().map(|camera| camera.address().to_string()).collect();
        let (guests, hub) = (Guests::new(vms), Arc::new(Hub::new(name)));
        let events = tokio::sync::Mutex::new(hub.subscribe());
        let cameras = Self::cameras(name, dir.path(), &servers, &hub, &guests).await;
        let host = Self { name, dir, guests, hub, events, servers, cameras };
        host.until("its cameras", async || host.cameras.host.cameras().values().all(|camera| camera.present)).await;
        host
    }

    async fn cameras(name: &str, dir: &Path, servers: &[String], hub: &Arc<Hub>, guests: &Arc<Guests>) -> Arc<Cameras> {
        let config = CamerasConfig {
            servers: servers.iter().map(|server| server.parse().unwrap()).collect(),
            look: Look { sysfs: Sysfs::new(dir.join("sys"), dir.join("dev")), procfs: Procfs::default() },
            ..CamerasConfig::default()
        };
        let vms = Arc::clone(guests) as Arc<dyn Vms>;
        let cameras = Cameras::over(name, &dir.join("state"), &config, hub, vms).await.unwrap();
        // Servers are asked one after the other, in the background.
        let mut list = cameras.host.watch();
        let all = list.wait_for(|list| list.len() == servers.len());
        tokio::time::timeout(PATIENCE, all).await.unwrap().unwrap();
        cameras
    }

    /// Another life of the agent.
    async fn restart(&mut self) {
        self.cameras.stop().await;
        self.cameras = Self::cameras(self.name, self.dir.path(), &self.servers, &self.hub, &self.guests).await;
    }

    async fn attach(&self, vm: &str, epoch: u64) -> Result<(), Refusal> {
        self.attach_of("", "", vm, epoch).await
    }

    async fn attach_of(&self, host: &str, address: &str, vm: &str, epoch: u64) -> Result<(), Refusal> {
        let order = AttachCamera {
            op: None,
            host: host.to_owned(),
            address: address.to_owned(),
            camera: CAMERA.to_owned(),
            experiment: "cams".to_owned(),
            vm: vm.to_owned(),
            epoch,
        };
        tokio::time::timeout(PATIENCE, self.cameras.attach(&order)).await.unwrap()
    }

    async fn detach(&self, host: &str, epoch: u64, hold: bool) -> Result<bool, Refusal> {
        let order = DetachCamera { op: None, host: host.to_owned(), camera: CAMERA.to_owned(), epoch, hold };
        tokio::time::timeout(PATIENCE, self.cameras.detach(&order)).await.unwrap()
    }

    async fn leases(&self) -> Vec<CameraLease> {
        self.cameras.list().await.leases
    }

    /// Waits until the one lease is so; gives it.
    async fn lease_is(&self, state: CameraState) -> CameraLease {
        self.until(state.as_str_name(), async || self.leases().await.iter().any(|lease| lease.state() == state)).await;
        self.leases().await.remove(0)
    }

    async fn until(&self, what: &str, so: impl AsyncFn() -> bool) {
        let waiting = async {
            while !so().await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(waited.is_ok(), "never came: {what}: {:?}", self.cameras.list().await);
    }

    /// Waits for an event; gives its words.
    async fn told(&self, kind: &str) -> String {
        let mut events = self.events.lock().await;
        let telling = async {
            loop {
                let batch = events.recv().await.unwrap();
                if let Some(event) = batch.events.into_iter().find(|event| event.kind == kind) {
                    return event.message;
                }
            }
        };
        tokio::time::timeout(PATIENCE, telling).await.unwrap_or_else(|_| panic!("never told: {kind}"))
    }
}

/// A camera in software on a free port.
fn camera() -> Softcam {
    Softcam::start(Options::new(Address::Tcp("127.0.0.1:0".into()), "3001")).unwrap()
}

#[tokio::test]
async fn a_camera_is_listed_brought_into_its_vm_and_taken_out() {
    let softcam = camera();
    let host = Host::start("h1", &["viewer"], &[&softcam]).await;
    let listed = host.cameras.list().await.cameras.remove(0);
    assert_eq!((listed.id.as_str(), listed.persona.as_str(), listed.redirected), (CAMERA, "ptp", true));
    assert_eq!((listed.state(), listed.epoch), (CameraState::Available, 0));
    host.told("camera.plugged").await;

    host.attach("viewer", 7).await.unwrap();
    assert_eq!(host.guests.has("viewer"), 1);
    let said = host.told("camera.attached").await;
    assert!(said.contains(CAMERA) && said.contains("h1"), "{said}");
    host.attach("viewer", 7).await.unwrap();
    let lease = host.lease_is(CameraState::Attached).await;
    assert_eq!((lease.epoch, lease.vm.as_str(), lease.persona.as_str()), (7, "viewer", "ptp"));
    assert_eq!(host.cameras.list().await.cameras[0].epoch, 7);
    let sample = host.cameras.samples().remove(0);
    assert!(sample.to_guest_bytes > 0 && sample.from_guest_bytes > 0, "{sample:?}");

    assert!(host.detach("", 7, false).await.unwrap());
    assert_eq!((host.guests.given("viewer"), host.leases().await.len()), (0, 0));
    host.told("camera.detached").await;
    assert!(!host.detach("", 7, false).await.unwrap(), "once more is no error");
    host.cameras.stop().await;
}

#[tokio::test]
async fn what_is_unplugged_is_lost_and_comes_back_by_itself() {
    let softcam = camera();
    let host = Host::start("h1", &["viewer"], &[&softcam]).await;
    host.attach("viewer", 1).await.unwrap();
    softcam.unplug();
    let lease = host.lease_is(CameraState::Lost).await;
    assert!(lease.detail.contains("not plugged in"), "{lease:?}");
    host.told("camera.lost").await;
    host.until("an empty bus", async || host.guests.given("viewer") == 0).await;
    softcam.plug(Speed::Full);
    host.told("camera.reattached").await;
    host.lease_is(CameraState::Attached).await;
    assert_eq!(host.guests.has("viewer"), 1);

    softcam.cut();
    host.told("camera.reattached").await;
    assert_eq!(host.guests.has("viewer"), 1);
    host.cameras.stop().await;
}

#[tokio::test]
async fn a_camera_in_another_mode_stays_out_until_it_is_switched_back() {
    let softcam = camera();
    let host = Host::start("h1", &["viewer"], &[&softcam]).await;
    host.attach("viewer", 1).await.unwrap();
    softcam.switch(Persona::MassStorage);
    let lease = host.lease_is(CameraState::WrongMode).await;
    assert!(lease.detail.contains("mass-storage") && lease.detail.contains("ptp"), "{lease:?}");
    host.until("an empty bus", async || host.guests.given("viewer") == 0).await;
    let refused = host.attach("viewer", 1).await.unwrap_err();
    assert!(matches!(refused, Refusal::WrongMode { .. }), "{refused}");
    softcam.switch(Persona::Ptp);
    host.lease_is(CameraState::Attached).await;
    host.cameras.stop().await;
}

#[tokio::test]
async fn a_held_camera_stays_out_whatever_happens_until_it_is_attached_again() {
    let softcam = camera();
    let mut host = Host::start("h1", &["viewer"], &[&softcam]).await;
    host.attach("viewer", 1).await.unwrap();
    assert!(host.detach("", 1, true).await.unwrap());
    host.told("camera.held").await;
    softcam.unplug();
    host.told("camera.unplugged").await;
    softcam.plug(Speed::High);
    host.told("camera.plugged").await;
    host.restart().await;
    host.guests.boot("viewer");
    host.lease_is(CameraState::Held).await;
    assert_eq!(host.guests.given("viewer"), 0);
    host.attach("viewer", 1).await.unwrap();
    assert_eq!(host.guests.has("viewer"), 1);
    host.cameras.stop().await;
}

#[tokio::test]
async fn a_lease_outlives_its_agent_and_the_lives_of_its_vm() {
    let softcam = camera();
    let mut host = Host::start("h1", &["viewer"], &[&softcam]).await;
    host.attach("viewer", 3).await.unwrap();
    host.restart().await;
    let lease = host.lease_is(CameraState::Attached).await;
    assert_eq!((lease.epoch, host.guests.has("viewer"), host.guests.given("viewer")), (3, 1, 1));

    host.guests.stop("viewer");
    let lease = host.lease_is(CameraState::Lost).await;
    assert!(lease.detail.contains("stopped"), "{lease:?}");
    host.restart().await;
    host.lease_is(CameraState::Lost).await;
    host.guests.boot("viewer");
    host.lease_is(CameraState::Attached).await;
    assert_eq!(host.guests.has("viewer"), 1);
    // Restarted so fast that nobody saw it stopped.
    host.guests.boot("viewer");
    host.until("its new process has it", async || host.guests.has("viewer") == 1).await;
    host.lease_is(CameraState::Attached).await;
    host.cameras.stop().await;
}

#[tokio::test]
async fn the_lease_of_a_vm_that_is_gone_for_good_ends() {
    let softcam = camera();
    let mut host = Host::start("h1", &["viewer"], &[&softcam]).await;
    host.attach("viewer", 3).await.unwrap();
    host.guests.remove("viewer");
    host.lease_is(CameraState::Lost).await;
    host.cameras.release(|experiment, vm| (experiment, vm) == ("cams", "viewer"), "its VM is gone").await;
    assert!(host.leases().await.is_empty());
    assert!(host.told("camera.released").await.contains("its VM is gone"));
    host.restart().await;
    assert!(host.leases().await.is_empty());
    host.cameras.stop().await;
}

#[tokio::test]
async fn an_older_order_and_a_second_vm_are_refused_and_a_newer_lease_takes_the_camera() {
    let softcam = camera();
    let host = Host::start("h1", &["viewer", "other"], &[&softcam]).await;
    host.attach("viewer", 5).await.unwrap();
    let refused = host.attach("other", 4).await.unwrap_err();
    assert_eq!(refused, Refusal::Stale { asked: 4, known: 5 });
    let refused = host.attach("other", 5).await.unwrap_err();
    assert!(matches!(&refused, Refusal::Taken { holder, .. } if holder == "cams.viewer"), "{refused}");
    assert_eq!(host.detach("", 4, false).await.unwrap_err(), Refusal::Stale { asked: 4, known: 5 });
    assert_eq!((host.guests.has("viewer"), host.guests.given("other")), (1, 0));

    host.attach("other", 6).await.unwrap();
    assert_eq!((host.guests.given("viewer"), host.guests.has("other")), (0, 1));
    assert_eq!(host.leases().await.len(), 1);
    host.told("camera.released").await;
    assert!(host.detach("", 6, false).await.unwrap());
    // Its order was long under way.
    assert_eq!(host.attach("other", 6).await.unwrap_err(), Refusal::Stale { asked: 6, known: 6 });
    host.attach("viewer", 7).await.unwrap();
    host.cameras.stop().await;
}

#[tokio::test]
async fn a_first_attach_that_fails_leaves_no_lease_and_says_why() {
    let softcam = camera();
    let host = Host::start("h1", &["viewer", "uml", "down"], &[&softcam]).await;
    host.guests.refuse("uml", "user-mode Linux has no USB");
    host.guests.stop("down");
    let refused = async |vm: &str, epoch| host.attach(vm, epoch).await.unwrap_err();
    assert!(matches!(refused("nobody", 1).await, Refusal::NoVm { .. }));
    assert!(refused("uml", 2).await.to_string().contains("no USB"));
    assert!(matches!(refused("down", 3).await, Refusal::VmDown { .. }));
    softcam.unplug();
    host.until("it is gone", async || host.cameras.host.cameras().values().all(|camera| !camera.present)).await;
    let absent = refused("viewer", 4).await;
    assert!(matches!(absent, Refusal::Absent { .. }), "{absent}");
    let far = host.attach_of("h2", "192.0.2.1:1", "viewer", 5).await.unwrap_err();
    assert_eq!(far, Refusal::NoMember);
    assert!(host.leases().await.is_empty());
    assert!(Store::open(&host.dir.path().join("state")).unwrap().leases().is_empty());
    assert_eq!(host.guests.given("viewer"), 0);
    host.cameras.stop().await;
}
