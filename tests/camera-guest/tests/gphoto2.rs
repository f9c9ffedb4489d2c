//! The real gphoto2, in a guest of the image `camera`, against the camera in software: the day of a D7000.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use fleet_camera_guest::{Guest, gphoto2, image};
use fleet_images::Image;
use fleet_softcam::{Address, Faults, Hostile, Options, Persona, Softcam, Speed, pictures};
use fleet_usbexport::{ExportError, Server};
use sha2::{Digest, Sha256};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

/// Lets in the camera by PTP, and nothing else.
const FILTER: &str = "6:0x04b0:0x0428:-1:1|-1:-1:-1:-1:0";
const ANY: &str = "-1:-1:-1:-1:1";
/// Nothing takes as long, however busy the machine is.
const DEADLINE: Duration = Duration::from_secs(180);
const NIKON: &str = "Nikon DSC D7000 (PTP mode)";

fn camera_image() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| image(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("images")))
}

/// A camera with three pictures, and a guest that it is plugged into.
struct Story {
    guest: Guest,
    camera: Softcam,
    _folder: tempfile::TempDir,
}

impl Story {
    fn begin(filter: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listen = Address::Unix(folder.path().join("camera"));
        let camera = Softcam::start(Options { files: pictures(3, 300_000), ..Options::new(listen, "6011") }).unwrap();
        let mut guest = Guest::boot(camera_image());
        guest.plug("cam", camera.address(), filter);
        Self { guest, camera, _folder: folder }
    }

    fn until(&mut self, what: &str, line: &str, fits: impl Fn(&str) -> bool) {
        until(&mut self.guest, what, line, fits);
    }

    fn until_detected(&mut self) {
        self.until("the Nikon", "gphoto2 --auto-detect", |text| {
            gphoto2::detected(text).iter().any(|(model, _)| model == NIKON)
        });
    }

    fn until_gone(&mut self) {
        self.until("no camera", "gphoto2 --auto-detect", |text| gphoto2::detected(text).is_empty());
    }
}

/// Waits until the guest says this of a command.
fn until(guest: &mut Guest, what: &str, line: &str, fits: impl Fn(&str) -> bool) {
    let end = Instant::now() + DEADLINE;
    loop {
        let outcome = guest.shell(line);
        if fits(&outcome.stdout) {
            return;
        }
        assert!(Instant::now() < end, "in vain for {what}: {outcome:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn pictures_are_listed_and_fetched_and_uploads_are_refused_once() {
    let mut story = Story::begin(FILTER);
    story.until_detected();
    assert!(story.guest.attached("cam"));
    let files = gphoto2::listed(&story.guest.ok("gphoto2 --list-files"));
    let names: Vec<_> = files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["DSC_0001.JPG", "DSC_0002.JPG", "DSC_0003.JPG"]);
    story.guest.ok("cd /tmp && gphoto2 --get-all-files --force-overwrite");
    for file in pictures(3, 300_000) {
        let sum: String = Sha256::digest(&file.bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(story.guest.ok(&format!("cd /tmp && sha256sum {}", file.name)), format!("{sum}  {}\n", file.name));
    }
    let upload =
        "cd /tmp && mv DSC_0001.JPG NEW.JPG && gphoto2 --folder /store_00010001/100NIKON --upload-file NEW.JPG";
    let refused = story.guest.shell(upload);
    assert!(refused.code != 0 && refused.stderr.contains("Access Denied"), "{refused:?}");
    assert_eq!(story.camera.seen().denied, 1, "it was not tried again");
}

#[test]
fn a_camera_that_goes_and_comes_back_is_seen_to() {
    let mut story = Story::begin(FILTER);
    story.until_detected();
    story.camera.unplug();
    story.until_gone();
    assert!(!story.guest.attached("cam"));
    // At another speed: another port of the guest's controller.
    story.camera.plug(Speed::Full);
    story.until_detected();
    story.camera.plug(Speed::Super);
    story.until("5000 Mbit/s", "cat /sys/bus/usb/devices/*/speed /sys/bus/usb/devices/*/serial", |text| {
        text.matches("5000").count() > 1 && text.contains("6011")
    });
    story.until_detected();
    // A connection that breaks ends what the camera remembers; QEMU makes another one.
    story.camera.cut();
    story.until_gone();
    story.until_detected();
    assert_eq!(gphoto2::listed(&story.guest.ok("gphoto2 --list-files")).len(), 3);
    story.guest.unplug("cam");
    story.until_gone();
}

#[test]
fn a_camera_that_becomes_a_disk_is_rejected_by_the_filter_of_its_mode_and_is_a_disk_without_one() {
    let mut story = Story::begin(FILTER);
    story.until_detected();
    story.camera.switch(Persona::MassStorage);
    story.until_gone();
    assert!(!story.guest.attached("cam"));
    assert_eq!(story.camera.seen().rejected, 1);
    story.camera.switch(Persona::Ptp);
    story.until_detected();
    story.guest.unplug("cam");
    story.camera.switch(Persona::MassStorage);
    story.guest.plug("disk", &story.camera.address().clone(), ANY);
    story.until("the disk", "cat /sys/block/sda/size", |text| text == "2048\n");
    story.guest.ok("mount -t vfat -o ro /dev/sda /mnt && umount /mnt");
    let written = story.guest.shell("dd if=/dev/zero of=/dev/sda count=1");
    assert_ne!(written.code, 0, "{written:?}");
}

#[test]
fn what_a_broken_camera_does_harms_nobody() {
    let mut story = Story::begin(ANY);
    story.until_detected();
    // Garbage is another matter: see the next test.
    for hostile in [Hostile::Lengths, Hostile::Strings] {
        let announced = story.camera.seen().announced;
        story.camera.set_hostile(Some(hostile));
        let end = Instant::now() + Duration::from_secs(60);
        while story.camera.seen().announced == announced && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(50));
        }
        // The guest tries more than once, and gives up.
        story.until("the end of it", "dmesg | tail -n 3", |text| !text.is_empty());
        assert_eq!(story.guest.ok("echo alive"), "alive\n", "{hostile:?}");
    }
    story.camera.set_hostile(None);
    story.until_detected();
    story.camera.set_faults(Faults { stall: true, ..Faults::default() });
    let stalled = story.guest.shell("timeout 60 gphoto2 --list-files");
    assert_ne!(stalled.code, 0, "{stalled:?}");
    story.camera.set_faults(Faults::default());
    story.camera.plug(Speed::High);
    story.until_detected();
    assert_eq!(gphoto2::listed(&story.guest.ok("gphoto2 --list-files")).len(), 3);
}

/// QEMU 7.2 ends itself (an assertion) on bytes that are no usbredir. What fleet puts between it and a server does not let
/// them by.
#[test]
fn garbage_of_a_server_does_not_reach_the_vm_through_a_relay() {
    let folder = tempfile::tempdir().unwrap();
    let listen = Address::Unix(folder.path().join("camera"));
    let camera = Softcam::start(Options { files: pictures(1, 1000), ..Options::new(listen, "6011") }).unwrap();
    let mut guest = Guest::boot(camera_image());
    let socket = folder.path().join("relay");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = runtime.block_on(async { Server::start(camera.address().to_string().parse().unwrap()) });
    let lend = || {
        let listener = runtime.block_on(async { UnixListener::bind(&socket) }).unwrap();
        let (server, mut seen) = (Arc::clone(&server), server.seen());
        runtime.spawn(async move {
            seen.wait_for(Option::is_some).await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            server.lend(stream, CancellationToken::new()).await
        })
    };
    let loan = lend();
    guest.plug("cam", &Address::Unix(socket.clone()), FILTER);
    until(&mut guest, "the Nikon", "gphoto2 --auto-detect", |text| text.contains(NIKON));
    camera.set_hostile(Some(Hostile::Packets));
    let ended = runtime.block_on(async { tokio::time::timeout(DEADLINE, loan).await }).unwrap().unwrap();
    assert!(matches!(ended, Err(ExportError::Protocol { .. })), "{ended:?}");
    until(&mut guest, "no camera", "gphoto2 --auto-detect", |text| gphoto2::detected(text).is_empty());
    // The same VM gets the camera again when it has come to its senses.
    guest.unplug("cam");
    std::fs::remove_file(&socket).unwrap();
    camera.set_hostile(None);
    let loan = lend();
    guest.plug("cam", &Address::Unix(socket.clone()), FILTER);
    until(&mut guest, "the Nikon", "gphoto2 --auto-detect", |text| text.contains(NIKON));
    assert_eq!(gphoto2::listed(&guest.ok("gphoto2 --list-files")).len(), 1);
    loan.abort();
    runtime.block_on(server.stop());
}
