//! Cameras go into a VM that runs, and out of it, and leave nothing. The guest has no part in that.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use crate::common::camera::{Camera, FILTER};
use crate::common::{PATIENCE, Place, qemu, uml, with_usb};
use fleet_vm::{Adopted, Machine, SnapshotError, SnapshotQuota, SnapshotStore, UsbError, VmSpec, usb_refusal};
use tokio::time::{sleep, timeout};

/// As a camera is known: not a name that QEMU takes.
const ID: &str = "04b0:0428:300 123";

/// Waits until QEMU says so of the device.
async fn until_attached(machine: &Machine, id: &str, wanted: bool) {
    let looking = async {
        while machine.usb_attached(id).await.unwrap() != wanted {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, looking).await.unwrap();
}

/// Puts a camera into the VM.
async fn attach(machine: &Machine, id: &str) -> Camera {
    let mut camera = Camera::greet(machine.plug_usb_redir(id, FILTER).await.unwrap()).await;
    camera.connect(0x0428).await;
    until_attached(machine, id, true).await;
    camera
}

/// How many files QEMU has open, once it has started and serves its monitor.
async fn open_files(machine: &Machine) -> usize {
    machine.usb_devices().await.unwrap();
    files(machine)
}

fn files(machine: &Machine) -> usize {
    fs::read_dir(format!("/proc/{}/fd", machine.pid())).unwrap().count()
}

async fn until_as_before(machine: &Machine, files: usize) {
    let looking = async {
        while self::files(machine) > files {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, looking).await.expect("QEMU keeps something open");
}

#[tokio::test]
async fn a_camera_is_attached_once_it_has_introduced_itself_and_leaves_nothing() {
    let place = Place::new();
    let machine = place.host().launch(with_usb("q"), Vec::new()).await.unwrap();
    assert_eq!(machine.usb_devices().await.unwrap(), Vec::<String>::new());
    assert!(!machine.usb_attached(ID).await.unwrap());
    let files = open_files(&machine).await;
    let mut camera = Camera::greet(machine.plug_usb_redir(ID, FILTER).await.unwrap()).await;
    assert!(!machine.usb_attached(ID).await.unwrap());
    camera.connect(0x0428).await;
    until_attached(&machine, ID, true).await;
    assert_eq!(machine.usb_devices().await.unwrap(), [ID]);
    machine.unplug_usb(ID).await.unwrap();
    assert_eq!(machine.usb_devices().await.unwrap(), Vec::<String>::new());
    camera.closed().await;
    until_as_before(&machine, files).await;
    // Once more changes nothing.
    machine.unplug_usb(ID).await.unwrap();
    machine.remove().await.unwrap();
}

#[tokio::test]
async fn the_filter_keeps_another_device_out() {
    let place = Place::new();
    let machine = place.host().launch(with_usb("q"), Vec::new()).await.unwrap();
    let mut camera = Camera::greet(machine.plug_usb_redir(ID, FILTER).await.unwrap()).await;
    camera.connect(0x0429).await;
    camera.wait(|packet| matches!(packet, fleet_usbredir::Packet::FilterReject)).await;
    assert!(!machine.usb_attached(ID).await.unwrap());
    // A filter that is none is refused in QEMU's words, and nothing is left.
    let error = machine.plug_usb_redir("other", "6:what").await.unwrap_err();
    assert!(matches!(&error, UsbError::Refused { said, .. } if said.contains("filter")), "{error}");
    assert_eq!(machine.usb_devices().await.unwrap(), [ID]);
    machine.remove().await.unwrap();
}

#[tokio::test]
async fn a_stream_that_broke_is_made_anew_under_the_same_id() {
    let place = Place::new();
    let machine = place.host().launch(with_usb("q"), Vec::new()).await.unwrap();
    let files = open_files(&machine).await;
    for _ in 0..3 {
        let camera = attach(&machine, ID).await;
        drop(camera);
        until_attached(&machine, ID, false).await;
        assert_eq!(machine.usb_devices().await.unwrap(), [ID], "the device waits for its camera");
    }
    // Also when the earlier one is still there.
    let mut first = attach(&machine, ID).await;
    let _second = attach(&machine, ID).await;
    first.closed().await;
    assert_eq!(machine.usb_devices().await.unwrap(), [ID]);
    machine.unplug_usb(ID).await.unwrap();
    until_as_before(&machine, files).await;
    machine.remove().await.unwrap();
}

#[tokio::test]
async fn a_vm_without_a_free_port_says_so_and_takes_the_next_camera_when_one_has_left() {
    let place = Place::new();
    let machine = place.host().launch(with_usb("q"), Vec::new()).await.unwrap();
    let mut cameras = Vec::new();
    for number in 0..15 {
        cameras.push(attach(&machine, &format!("c{number}")).await);
    }
    let error = machine.plug_usb_redir("c15", FILTER).await.unwrap_err();
    assert!(matches!(error, UsbError::NoPort { ports: 15, .. }), "{error}");
    assert!(error.to_string().contains("exp.q"), "{error}");
    machine.unplug_usb("c7").await.unwrap();
    let _another = attach(&machine, "c15").await;
    assert_eq!(machine.usb_devices().await.unwrap().len(), 15);
    machine.remove().await.unwrap();
}

#[tokio::test]
async fn a_vm_that_can_have_no_camera_says_what_to_choose() {
    let place = Place::new();
    let host = place.host();
    assert!(usb_refusal(&with_usb("q")).is_none());
    let error = usb_refusal(&uml("u")).unwrap();
    assert!(matches!(error, UsbError::NoUsb { .. }) && error.to_string().contains("`hypervisor qemu`"), "{error}");
    let refused = host.launch(VmSpec { usb: true, ..uml("u") }, Vec::new()).await.unwrap_err().to_string();
    assert!(refused.contains("uml has no USB"), "{refused}");
    let machine = host.launch(qemu("q"), Vec::new()).await.unwrap();
    let error = machine.plug_usb_redir(ID, FILTER).await.unwrap_err();
    assert!(matches!(error, UsbError::NoController { .. }), "{error}");
    assert!(error.to_string().contains("needs camera"), "{error}");
    machine.remove().await.unwrap();
}

#[tokio::test]
async fn a_node_that_is_no_usb_device_is_refused_in_qemus_words_and_leaves_no_device() {
    let place = Place::new();
    let machine = place.host().launch(with_usb("q"), Vec::new()).await.unwrap();
    let null = || OwnedFd::from(File::options().read(true).write(true).open("/dev/null").unwrap());
    let error = machine.plug_usb_host(ID, null()).await.unwrap_err();
    assert!(matches!(&error, UsbError::Refused { said, .. } if said.contains("failed to open")), "{error}");
    assert_eq!(machine.usb_devices().await.unwrap(), Vec::<String>::new());
    // The port is free again.
    for number in 0..20 {
        machine.plug_usb_host(&format!("c{number}"), null()).await.unwrap_err();
    }
    let _camera = attach(&machine, ID).await;
    machine.remove().await.unwrap();
}

#[tokio::test]
async fn another_agent_finds_the_cameras_of_a_vm() {
    let place = Place::new();
    let machine = place.host().launch(with_usb("q"), Vec::new()).await.unwrap();
    let camera = attach(&machine, ID).await;
    let _waits = machine.plug_usb_redir("second", FILTER).await.unwrap();
    drop(machine);
    let Adopted::Running(machine) = place.host().adopt("exp", "q").await.unwrap() else { panic!("it does not run") };
    let mut found = machine.usb_devices().await.unwrap();
    found.sort();
    assert_eq!(found, [ID, "second"]);
    assert!(machine.usb_attached(ID).await.unwrap());
    // The streams of a dead agent are closed.
    drop(camera);
    until_attached(&machine, ID, false).await;
    let _camera = attach(&machine, ID).await;
    machine.unplug_usb("second").await.unwrap();
    assert_eq!(machine.usb_devices().await.unwrap(), [ID]);
    machine.remove().await.unwrap();
}

#[tokio::test]
async fn a_plug_that_nobody_waits_for_is_undone() {
    let place = Place::new();
    let machine = place.host().launch(with_usb("q"), Vec::new()).await.unwrap();
    let files = open_files(&machine).await;
    for wait in 0..20 {
        let plug = machine.plug_usb_redir(ID, FILTER);
        drop(timeout(Duration::from_micros(500 * wait), plug).await);
        // It has its turn after what was begun before.
        machine.unplug_usb("other").await.unwrap();
        let there = machine.usb_devices().await.unwrap();
        // One that was done in time is there, but for its stream.
        if !there.is_empty() {
            machine.unplug_usb(ID).await.unwrap();
        }
    }
    assert_eq!(machine.usb_devices().await.unwrap(), Vec::<String>::new());
    until_as_before(&machine, files).await;
    machine.remove().await.unwrap();
}

#[tokio::test]
async fn a_vm_with_usb_is_cloned_and_goes_back_to_a_snapshot_that_was_taken_without_a_camera() {
    let place = Place::new();
    let host = place.host();
    let spec = with_usb("q");
    let _expected = host.expect([&spec, &spec]);
    let machine = host.launch(spec.clone(), Vec::new()).await.unwrap();
    assert!(machine.is_clone(), "{:?}", machine.warning());
    machine.control().hello(PATIENCE).await.unwrap();
    let camera = attach(&machine, ID).await;
    let store = Arc::new(SnapshotStore::open(place.path().join("disk"), SnapshotQuota::default()));
    let error = machine.snapshot(&store, "a").await.unwrap_err();
    assert!(matches!(error, SnapshotError::HasCameras { .. }) && error.to_string().contains(ID), "{error}");
    machine.control().ping(PATIENCE).await.unwrap();
    machine.unplug_usb(ID).await.unwrap();
    drop(camera);
    machine.snapshot(&store, "a").await.unwrap();
    let _camera = attach(&machine, ID).await;
    let error = store.check(&VmSpec { usb: false, ..spec.clone() }, "a").await.unwrap_err().to_string();
    assert!(error.contains("USB controller"), "{error}");
    store.check(&spec, "a").await.unwrap();
    machine.remove().await.unwrap();
    let machine = host.restore(spec, Vec::new(), &store, "a").await.unwrap();
    machine.control().ping(PATIENCE).await.unwrap();
    assert_eq!(machine.usb_devices().await.unwrap(), Vec::<String>::new());
    let _camera = attach(&machine, ID).await;
    machine.remove().await.unwrap();
}

#[tokio::test]
async fn a_vms_process_has_no_rights() {
    let place = Place::new();
    let host = place.host();
    let booted = host.launch(with_usb("booted"), Vec::new()).await.unwrap();
    let _expected = host.expect([&qemu("c"), &qemu("c")]);
    let clone = host.launch(qemu("clone"), Vec::new()).await.unwrap();
    assert!(clone.is_clone(), "{:?}", clone.warning());
    for machine in [booted, clone] {
        machine.control().hello(PATIENCE).await.unwrap();
        let status = fs::read_to_string(format!("/proc/{}/status", machine.pid())).unwrap();
        let words = |key: &str| -> Vec<String> {
            let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap();
            line.split_whitespace().map(str::to_owned).collect()
        };
        for key in ["Uid", "Gid", "Groups"] {
            assert!(words(key).iter().all(|id| id != "0"), "{key} of {machine:?}: {status}");
        }
        for key in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(words(key), ["0000000000000000"], "{key} of {machine:?}");
        }
        assert_eq!(words("NoNewPrivs"), ["1"]);
        // Nor can another process of its user look into it, unless the host's kernel is told to let it.
        let lets = fs::read_to_string("/proc/sys/fs/suid_dumpable").unwrap().trim() == "1";
        let owner = fs::metadata(format!("/proc/{}/mem", machine.pid())).unwrap().uid();
        assert!(lets || owner == 0, "{machine:?}");
        machine.remove().await.unwrap();
    }
}

#[tokio::test]
async fn no_bytes_of_a_devices_side_harm_the_vm() {
    let place = Place::new();
    let machine = place.host().launch(with_usb("q"), Vec::new()).await.unwrap();
    machine.control().hello(PATIENCE).await.unwrap();
    // xorshift: the same bytes in each run.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    for round in 0..60 {
        let mut camera = Camera::greet(machine.plug_usb_redir(ID, FILTER).await.unwrap()).await;
        let mut bytes = camera.introduction();
        match round % 3 {
            // A few bytes of an introduction are others.
            0 => (0..4).for_each(|_| {
                let at = random(bytes.len());
                bytes[at] = random(256) as u8;
            }),
            // After it come packets of any kind and short length.
            1 => (0..8).for_each(|_| {
                let length = random(40);
                bytes.extend((random(120) as u32).to_le_bytes());
                bytes.extend((length as u32).to_le_bytes());
                bytes.extend((random(4) as u64).to_le_bytes());
                bytes.extend((0..length).map(|_| random(256) as u8));
            }),
            _ => bytes.iter_mut().for_each(|byte| *byte = random(256) as u8),
        }
        camera.send_bytes(&bytes).await;
        // QEMU has read what was sent before it does what it is told next.
        machine.usb_attached(ID).await.unwrap();
    }
    assert_eq!(machine.exited(), None);
    machine.control().ping(PATIENCE).await.unwrap();
    let _camera = attach(&machine, ID).await;
    machine.remove().await.unwrap();
}
