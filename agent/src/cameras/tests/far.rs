//! A camera of one host in a VM of another, over mutual TLS and a link that can be cut.

use fleet_pki::{Authority, Connector, Credentials, HostKey, Identity, Strangers, incoming, server};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn member(authority: &Authority, name: &str) -> Arc<Credentials> {
    let (key, identity) = (HostKey::generate().unwrap(), Identity::agent(name).unwrap());
    let issued = authority.issue(&key.public(), &identity, DAY).unwrap();
    Credentials::new(identity, &key, issued.certificate, authority.certificate().clone()).unwrap()
}

/// Serves cameras to members; gives the address.
async fn serve(cameras: &Arc<Cameras>, credentials: &Arc<Credentials>) -> (String, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let incoming = incoming(listener, credentials, Strangers::Refused).unwrap();
    let router = server(DAY).add_service(service(Arc::clone(cameras)));
    let task = tokio::spawn(async move { router.serve_with_incoming(incoming).await.unwrap() });
    (address, AbortOnDropHandle::new(task))
}

/// A cable to an address.
struct Cable {
    address: String,
    /// Cut and healed anew each time.
    whole: watch::Sender<CancellationToken>,
    _task: AbortOnDropHandle<()>,
}

impl Cable {
    async fn to(address: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().to_string();
        let (whole, state) = watch::channel(CancellationToken::new());
        let task = tokio::spawn(async move {
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let (address, broken) = (address.clone(), state.borrow().clone());
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(address).await.unwrap();
                    let copying = tokio::io::copy_bidirectional(&mut near, &mut far);
                    drop(broken.run_until_cancelled(copying).await);
                });
            }
        });
        Self { address: own, whole, _task: AbortOnDropHandle::new(task) }
    }

    /// Breaks what goes over it, and lets nothing more through.
    fn cut(&self) {
        self.whole.borrow().cancel();
    }

    fn heal(&self) {
        self.whole.send_replace(CancellationToken::new());
    }
}

/// Host a with a camera, host b with VMs, and the cable between them.
struct Fleet {
    softcam: Softcam,
    a: Host,
    b: Host,
    cable: Cable,
    _serving: AbortOnDropHandle<()>,
    _authority: tempfile::TempDir,
}

impl Fleet {
    async fn start() -> Self {
        let softcam = camera();
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path()).unwrap();
        let a = Host::start("a", &["near"], &[&softcam]).await;
        let b = Host::start("b", &["viewer", "other"], &[]).await;
        let (address, serving) = serve(&a.cameras, &member(&authority, "a")).await;
        b.cameras.joined(Connector::new(member(&authority, "b")), "");
        let cable = Cable::to(address).await;
        Self { softcam, a, b, cable, _serving: serving, _authority: dir }
    }

    async fn attach(&self, vm: &str, epoch: u64) -> Result<(), Refusal> {
        self.b.attach_of("a", &self.cable.address, vm, epoch).await
    }

    async fn end(self) {
        self.b.cameras.stop().await;
        self.a.cameras.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_camera_of_another_host_is_attached_lost_reattached_and_detached() {
    let fleet = Fleet::start().await;
    fleet.attach("viewer", 1).await.unwrap();
    assert_eq!(fleet.b.guests.has("viewer"), 1);
    let lease = fleet.b.lease_is(CameraState::Attached).await;
    assert_eq!((lease.host.as_str(), lease.vm_host.as_str()), ("a", "b"));
    assert_eq!(fleet.a.cameras.list().await.cameras[0].epoch, 1);
    assert!(fleet.b.cameras.samples()[0].to_guest_bytes > 0);

    fleet.softcam.unplug();
    let lease = fleet.b.lease_is(CameraState::Lost).await;
    assert!(lease.detail.contains("not plugged in"), "{lease:?}");
    fleet.softcam.plug(Speed::High);
    fleet.b.told("camera.reattached").await;
    assert_eq!(fleet.b.guests.has("viewer"), 1);
    fleet.softcam.switch(Persona::MassStorage);
    fleet.b.lease_is(CameraState::WrongMode).await;
    fleet.softcam.switch(Persona::Ptp);
    fleet.b.lease_is(CameraState::Attached).await;

    assert!(fleet.b.detach("a", 1, true).await.unwrap());
    assert_eq!(fleet.b.guests.given("viewer"), 0);
    fleet.attach("viewer", 1).await.unwrap();
    assert!(fleet.b.detach("a", 1, false).await.unwrap());
    assert!(fleet.b.leases().await.is_empty());
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_loses_the_camera_and_not_the_lease() {
    let mut fleet = Fleet::start().await;
    fleet.attach("viewer", 1).await.unwrap();
    fleet.cable.cut();
    let said = |lease: &CameraLease| lease.detail.contains("host a") && lease.detail.contains("not reached");
    let cut = async || fleet.b.leases().await.iter().any(|lease| lease.state() == CameraState::Lost && said(lease));
    fleet.b.until("a host that is not reached", cut).await;
    fleet.cable.heal();
    fleet.b.told("camera.reattached").await;
    assert_eq!((fleet.b.guests.has("viewer"), fleet.b.guests.given("viewer")), (1, 1));

    // The borrower's agent starts anew behind its back; it is a member again a while later.
    let ways = fleet.b.cameras.ways.borrow().clone().unwrap();
    fleet.b.restart().await;
    fleet.b.lease_is(CameraState::Lost).await;
    fleet.b.cameras.joined(ways.connector, &ways.controller);
    let lease = fleet.b.lease_is(CameraState::Attached).await;
    assert_eq!((lease.epoch, fleet.b.guests.has("viewer")), (1, 1));
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_lease_takes_a_camera_from_another_host_and_an_older_does_not() {
    let fleet = Fleet::start().await;
    fleet.attach("viewer", 5).await.unwrap();
    // On its own host, while the borrower's order to give it back is still under way.
    fleet.a.attach("near", 6).await.unwrap();
    assert_eq!(fleet.a.guests.has("near"), 1);
    assert!(fleet.b.told("camera.released").await.contains("epoch"));
    fleet.b.until("it is gone", async || fleet.b.leases().await.is_empty()).await;
    assert_eq!(fleet.b.guests.given("viewer"), 0);
    let refused = fleet.attach("other", 5).await.unwrap_err();
    assert!(refused.to_string().contains("epoch 6"), "{refused}");
    assert_eq!(fleet.a.guests.has("near"), 1);

    fleet.attach("other", 7).await.unwrap();
    assert_eq!((fleet.a.guests.given("near"), fleet.b.guests.has("other")), (0, 1));
    assert!(fleet.a.leases().await.is_empty());
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_to_be_had_of_another_host_is_refused_with_the_mend() {
    let fleet = Fleet::start().await;
    let local = fleet.b.attach_of("a", "unix:/run/agent.sock", "viewer", 1).await.unwrap_err();
    assert!(local.to_string().contains("fleet agent --join"), "{local}");
    fleet.cable.cut();
    let unreached = fleet.attach("viewer", 2).await.unwrap_err();
    assert!(matches!(unreached, Refusal::Unreached { .. }), "{unreached}");
    // Whoever answers there is another host.
    fleet.cable.heal();
    let wrong = fleet.b.attach_of("c", &fleet.cable.address, "viewer", 3).await.unwrap_err();
    assert!(matches!(wrong, Refusal::Unreached { .. }), "{wrong}");
    fleet.softcam.unplug();
    fleet.a.told("camera.unplugged").await;
    let absent = fleet.attach("viewer", 4).await.unwrap_err();
    assert!(matches!(absent, Refusal::Absent { .. }), "{absent}");
    assert!(fleet.b.leases().await.is_empty());
    fleet.end().await;
}
