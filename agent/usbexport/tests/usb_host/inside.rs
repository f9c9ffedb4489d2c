//! What runs in the guest that plays the host: the parts of an agent, on devices that the kernel takes for real.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use fleet_usb::{Access, Camera, Events, Holder, Inventory, Look, Persona, Procfs, Rules, Watcher};
use fleet_usbexport::{Ended, ExportError, export_device};
use fleet_usbredir::{Filter, Packet, Status};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use fleet_usb_host::{ASK, picture};
use fleet_vm::{Accelerator, HostConfig, Machine, Merge, RootFs, VmHost, VmSpec};

use super::common::{Borrower, DEADLINE, command};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs in the guest that the other test starts"]
async fn what_the_guest_runs() {
    let rules = Rules { cameras: vec!["46f4:0001".parse().expect("an id")], ignore: vec![] };
    let events = Events::listen().expect("events");
    let watcher = Watcher::start(Look::default(), Inventory::new(rules, []), Some(events)).await.expect("a watcher");
    let cameras = until(&watcher, |cameras| cameras.iter().filter(|camera| camera.present).count() == 3).await;
    for camera in &cameras {
        println!("inside: {} {} {:?}", camera.identity, camera.persona(), camera.seen.device.port);
    }
    let names: BTreeSet<String> = cameras.iter().map(|camera| camera.identity.to_string()).collect();
    assert_eq!(names.len(), 3, "each has a name of its own");
    assert!(cameras.iter().all(|camera| camera.seen.access == Access::Granted));
    assert_eq!(cameras.iter().filter(|camera| camera.persona() == Persona::Ptp).count(), 2);

    pictures(player(&cameras)).await;
    println!("inside: a picture came through whole");
    disk(&watcher).await;
    println!("inside: the disk was exported, and the kernel has it again");
    unplug(&watcher).await;
    println!("inside: unplugs are told, idle or not");
    let machine = launch().await;
    to_a_vm_of_this_host(&watcher, &machine).await;
    println!("inside: a virtual machine had it by descriptor, proved");
    to_a_vm_by_usbredir(&watcher, &machine).await;
    println!("inside: a virtual machine had it by usbredir, proved");
    machine.remove().await.expect("removed");
}

/// The cameras, once they are so.
async fn until(watcher: &Watcher, meant: impl Fn(&[Camera]) -> bool) -> Vec<Camera> {
    let mut changes = watcher.subscribe();
    let waiting = async {
        loop {
            let cameras = watcher.cameras();
            if meant(&cameras) {
                return cameras.to_vec();
            }
            changes.recv().await.expect("a change");
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.expect("in time")
}

/// One of the players that is there.
fn player(cameras: &[Camera]) -> &Camera {
    let found = cameras.iter().find(|camera| camera.present && camera.persona() == Persona::Ptp);
    found.expect("a player")
}

fn open(camera: &Camera) -> OwnedFd {
    let node = std::fs::File::options().read(true).write(true).open(&camera.seen.device.node);
    node.expect("its node").into()
}

type Export = JoinHandle<Result<Ended, ExportError>>;

/// Exports a camera to a borrower that has been told of it.
async fn export(camera: &Camera) -> (Export, Borrower<UnixStream>, CancellationToken) {
    let (ours, theirs) = UnixStream::pair().expect("sockets");
    let cancel = CancellationToken::new();
    let export = tokio::spawn(export_device(open(camera), theirs, cancel.clone()));
    let mut borrower = Borrower::start(ours).await;
    let connect = borrower.wait(|packet| matches!(packet, Packet::DeviceConnect(_))).await;
    let Packet::DeviceConnect(device) = connect else { unreachable!("the one that was waited for") };
    assert_eq!((device.vendor, device.product), (camera.seen.device.id.vendor, camera.seen.device.id.product));
    (export, borrower, cancel)
}

async fn ended(export: Export) -> Result<Ended, ExportError> {
    tokio::time::timeout(DEADLINE, export).await.expect("in time").expect("no panic")
}

fn holders(camera: &Camera) -> usize {
    let nodes = BTreeSet::from([camera.seen.device.node.clone()]);
    Procfs::default().holders(&nodes).expect("processes").len()
}

/// Who has the first interface, as the kernel says it.
fn driver(camera: &Camera) -> Option<String> {
    let link = format!("/sys/bus/usb/devices/{}:1.0/driver", camera.seen.device.name);
    Some(std::fs::read_link(link).ok()?.file_name()?.to_string_lossy().into_owned())
}

fn control(request_type: u8, request: u8, value: u16, index: u16, length: u16) -> Packet {
    let (endpoint, status) = (request_type & 0x80, Status::Success);
    Packet::Control { endpoint, request, request_type, status, value, index, length, data: vec![] }
}

fn read(length: u32) -> Packet {
    Packet::Bulk { endpoint: 0x81, status: Status::Success, stream: 0, length, data: vec![] }
}

/// A conversation of PTP, with all that a guest may ask for besides.
async fn pictures(camera: &Camera) {
    let (export, mut borrower, cancel) = export(camera).await;
    assert_eq!(driver(camera).as_deref(), Some("usbfs"));
    // A second one is refused, and the first goes on.
    let (other, _io) = tokio::io::duplex(64);
    let second = export_device(open(camera), other, CancellationToken::new()).await;
    assert!(matches!(second, Err(ExportError::Busy { interface: 0 })), "{second:?}");

    borrower.send(&Packet::Reset).await;
    borrower.send(&control(0x80, 6, 0x0100, 0, 64)).await;
    let (_, answer) = borrower.next().await.expect("an answer");
    assert!(matches!(&answer, Packet::Control { status: Status::Success, data, .. } if data.len() == 18), "{answer:?}");
    for (asked, wanted) in [(1, Status::Success), (9, Status::Inval)] {
        borrower.send(&Packet::SetConfiguration { configuration: asked }).await;
        let (_, answer) = borrower.next().await.expect("an answer");
        assert_eq!(answer, Packet::ConfigurationStatus { status: wanted, configuration: 1 });
    }
    borrower.send(&Packet::SetAltSetting { interface: 0, alt: 0 }).await;
    let wanted = Packet::AltSettingStatus { status: Status::Success, interface: 0, alt: 0 };
    borrower.wait(|packet| *packet == wanted).await;
    borrower.send(&Packet::StartInterruptReceiving { endpoint: 0x83 }).await;
    let listening = Packet::InterruptReceivingStatus { status: Status::Success, endpoint: 0x83 };
    assert_eq!(borrower.next().await.expect("an answer").1, listening);

    // Reads that wait; one of them is cancelled, and the others are answered in their order.
    let reads = [borrower.send(&read(512)).await, borrower.send(&read(512)).await, borrower.send(&read(512)).await];
    borrower.cancel(reads[1]).await;
    let (id, answer) = borrower.next().await.expect("an answer");
    assert_eq!(id, reads[1]);
    assert!(matches!(answer, Packet::Bulk { status: Status::Cancelled, length: 0, .. }), "{answer:?}");
    let (open, status) = (command(0x1002, &[1]), Status::Success);
    let out = Packet::Bulk { endpoint: 0x02, status, stream: 0, length: open.len() as u32, data: open };
    let written = borrower.send(&out).await;
    let mut answers = [borrower.next().await.expect("an answer"), borrower.next().await.expect("an answer")];
    answers.sort_by_key(|(id, _)| *id);
    assert_eq!(answers.each_ref().map(|(id, _)| *id), [reads[0], written]);
    assert!(matches!(&answers[0].1, Packet::Bulk { data, .. } if data.len() == 12), "{answers:?}");
    borrower.cancel(reads[2]).await;
    assert_eq!(borrower.next().await.expect("an answer").0, reads[2]);

    borrower.bulk_out(command(0x1007, &[0x0001_0001, 0, 0xffff_ffff])).await;
    let handles = borrower.transfer(4096).await;
    borrower.transfer(512).await;
    let handle =
        handles.get(16..20).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes).expect("a picture");
    borrower.bulk_out(command(0x1009, &[handle])).await;
    assert!(borrower.transfer(65536).await[12..] == picture(), "the picture is another");
    borrower.transfer(512).await;

    borrower.send(&Packet::StopInterruptReceiving { endpoint: 0x83 }).await;
    assert_eq!(borrower.next().await.expect("an answer").1, listening);
    cancel.cancel();
    assert_eq!(ended(export).await.expect("an export"), Ended::Cancelled);
    assert_eq!((driver(camera), holders(camera)), (None, 0));
}

/// A disk, which the kernel's driver has before and after; and reads that are no multiple of a packet.
async fn disk(watcher: &Watcher) {
    let disk = |camera: &&Camera| camera.persona() == Persona::MassStorage;
    let cameras = until(watcher, |cameras| cameras.iter().any(|camera| disk(&camera))).await;
    let camera = cameras.iter().find(disk).expect("a disk");
    assert_eq!(driver(camera).as_deref(), Some("usb-storage"));
    let (export, mut borrower, _cancel) = export(camera).await;
    assert_eq!(driver(camera).as_deref(), Some("usbfs"));
    borrower.send(&Packet::Reset).await;
    borrower.send(&control(0xc0, 1, 0, 0, 64)).await;
    let (_, answer) = borrower.next().await.expect("an answer");
    assert!(matches!(answer, Packet::Control { status: Status::Stall, length: 0, .. }), "{answer:?}");
    // INQUIRY, 36 bytes (SPC), in a wrapper of the class (bulk only, section 5.1).
    let mut wrapper = b"USBC\x01\0\0\0".to_vec();
    wrapper.extend([36, 0, 0, 0, 0x80, 0, 6, 0x12, 0, 0, 0, 36, 0]);
    wrapper.resize(31, 0);
    borrower.bulk_out(wrapper).await;
    for length in [36, 13] {
        borrower.send(&read(length)).await;
        let (_, answer) = borrower.next().await.expect("an answer");
        assert!(
            matches!(&answer, Packet::Bulk { status: Status::Success, data, .. } if data.len() == length as usize),
            "{answer:?}"
        );
    }
    drop(borrower);
    assert_eq!(ended(export).await.expect("an export"), Ended::PeerClosed);
    assert_eq!((driver(camera).as_deref(), holders(camera)), (Some("usb-storage"), 0));
    // The same when the caller is dropped.
    let (export, _borrower, _cancel) = self::export(camera).await;
    export.abort();
    assert!(export.await.expect_err("aborted").is_cancelled());
    assert_eq!(driver(camera).as_deref(), Some("usb-storage"));
}

/// Player `b` goes away, with nothing under way and with a read that waits.
async fn unplug(watcher: &Watcher) {
    for idle in [true, false] {
        let before = until(watcher, |cameras| cameras.iter().filter(|camera| camera.present).count() == 3).await;
        // Which of them is `b`, is seen by which of them goes.
        let mut exports = Vec::new();
        for camera in before.iter().filter(|camera| camera.persona() == Persona::Ptp && camera.present) {
            let (export, mut borrower, cancel) = export(camera).await;
            if !idle {
                borrower.send(&read(512)).await;
            }
            exports.push((camera.identity.clone(), export, borrower, cancel));
        }
        println!("{ASK}unplug b");
        let after = until(watcher, |cameras| cameras.iter().filter(|camera| camera.present).count() == 2).await;
        for (identity, export, mut borrower, cancel) in exports {
            let gone = after.iter().any(|camera| camera.identity == identity && !camera.present);
            if gone {
                borrower.wait(|packet| *packet == Packet::DeviceDisconnect).await;
            } else {
                cancel.cancel();
            }
            let wanted = if gone { Ended::Unplugged } else { Ended::Cancelled };
            assert_eq!(ended(export).await.expect("an export"), wanted, "{identity}");
        }
        println!("{ASK}plug b");
    }
    until(watcher, |cameras| cameras.iter().filter(|camera| camera.present).count() == 3).await;
}

/// A virtual machine within. Its guest is the kernel of the host that is played; how far it boots does not matter.
async fn launch() -> Machine {
    let variable = |name: &str| std::env::var(name).expect("what the test outside sets");
    let run_dir = PathBuf::from("/run/vms");
    let ram_dir = PathBuf::from("/dev/shm");
    let host = VmHost::new(HostConfig { run_dir, ram_dir, cgroup: "usb-host".to_owned(), clones: false });
    let spec = VmSpec {
        experiment: "cams".to_owned(),
        name: "viewer".to_owned(),
        hypervisor: "qemu".to_owned(),
        accelerator: Some(Accelerator::Tcg),
        memory_bytes: 256 << 20,
        cpus: 1,
        kernel: variable("NESTED_KERNEL").into(),
        root: RootFs::Initrd(variable("NESTED_INITRD").into()),
        cmdline: "quiet".to_owned(),
        acpi: true,
        usb: true,
        lpj: None,
        merge: Merge::Off,
        nics: Vec::new(),
    };
    host.expect("a host").launch(spec, Vec::new()).await.expect("a virtual machine")
}

/// The way of a camera to a virtual machine of its own host.
async fn to_a_vm_of_this_host(watcher: &Watcher, machine: &Machine) {
    let cameras = watcher.cameras();
    let camera = player(&cameras);
    machine.plug_usb_host("cam", open(camera)).await.expect("attached");
    assert!(machine.usb_attached("cam").await.expect("an answer"));
    let nodes = BTreeSet::from([camera.seen.device.node.clone()]);
    let holders = Procfs::default().holders(&nodes).expect("processes");
    let held =
        |holder: &Holder| matches!(holder, Holder::Process { pid, .. } if i32::try_from(*pid) == Ok(machine.pid()));
    assert!(!holders.is_empty() && holders.iter().all(held), "{holders:?}");
    machine.unplug_usb("cam").await.expect("detached");
    assert_eq!((driver(camera), self::holders(camera)), (None, 0));
}

/// The way to a virtual machine of another host, without the other host.
async fn to_a_vm_by_usbredir(watcher: &Watcher, machine: &Machine) {
    let cameras = watcher.cameras();
    let camera = player(&cameras);
    let id = camera.seen.device.id;
    let filter = Filter::only(id.vendor, id.product, 6).to_string();
    let stream = machine.plug_usb_redir("cam", &filter).await.expect("its stream");
    assert!(!machine.usb_attached("cam").await.expect("an answer"));
    let cancel = CancellationToken::new();
    let export = tokio::spawn(export_device(open(camera), stream, cancel.clone()));
    until_attached(machine, true).await;
    cancel.cancel();
    assert_eq!(ended(export).await.expect("an export"), Ended::Cancelled);
    until_attached(machine, false).await;
    assert_eq!(self::holders(camera), 0);
    // A filter that is for another camera refuses this one, and the exporter is told.
    let other = Filter::only(id.vendor, id.product + 1, 6).to_string();
    let stream = machine.plug_usb_redir("cam", &other).await.expect("its stream");
    let export = tokio::spawn(export_device(open(camera), stream, CancellationToken::new()));
    let outcome = ended(export).await;
    assert!(matches!(outcome, Err(ExportError::Rejected)), "{outcome:?}");
    machine.unplug_usb("cam").await.expect("detached");
}

async fn until_attached(machine: &Machine, wanted: bool) {
    let looking = async {
        while machine.usb_attached("cam").await.expect("an answer") != wanted {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, looking).await.expect("in time");
}
