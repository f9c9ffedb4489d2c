//! The day of a D7000: the camera in software behind the usbredir server of one host, a guest with the real gphoto2 on
//! another, and everything that happens to cameras in between. The program `fleet` is all that is used of fleet.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::Path;

use fleet_camera_guest::gphoto2;
use fleet_softcam::{Address, Hostile, Options, Persona, Softcam, Speed, pictures};
use fleet_tests::{Fleet, Lab, eventually, stat, until};
use serde_json::Value;
use sha2::{Digest, Sha256};

const SERIAL: &str = "6011";
/// Of the camera of the controller's own host.
const AT_HOME: &str = "6012";
const NIKON: &str = "Nikon DSC D7000 (PTP mode)";
/// The viewer is on another host than the camera, and the other on the controller's own.
const APART: &str = "lan desk
default vm { on desk; image camera; hypervisor qemu }
vm viewer { place tag \"odd=0\" }
vm other { place tag \"home\" }
";

/// A camera with three pictures, in a folder of its own.
struct Camera {
    soft: Softcam,
    folder: tempfile::TempDir,
}

impl Camera {
    fn new(serial: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("fc").tempdir_in("/tmp").unwrap();
        let listen = Address::Unix(folder.path().join("camera"));
        let soft = Softcam::start(Options { files: pictures(3, 300_000), ..Options::new(listen, serial) }).unwrap();
        Self { soft, folder }
    }

    /// Lines for the configuration of its host.
    fn config(&self) -> String {
        config(self.folder.path())
    }
}

fn config(folder: &Path) -> String {
    format!("[cameras]\nservers = [\"unix:{}\"]\n", folder.join("camera").display())
}

/// A camera as `fleet usb ls --json` has it.
fn listed(fleet: &Fleet, serial: &str) -> Option<Value> {
    let all = fleet.json(&["usb", "ls", "--all"]);
    all["cameras"].as_array().unwrap().iter().find(|camera| camera["serial"] == serial).cloned()
}

fn wait_for(fleet: &Fleet, state: &str) -> Value {
    eventually(&format!("the camera to be {state}"), || listed(fleet, SERIAL).filter(|camera| camera["state"] == state))
}

fn until_detected(fleet: &Fleet, vm: &str) {
    until("gphoto2 to see the camera", || {
        let found = fleet.run(&["exec", vm, "--", "gphoto2", "--auto-detect"]);
        gphoto2::detected(&found.stdout).iter().any(|(model, _)| model == NIKON)
    });
}

/// All pictures arrive whole.
fn pictures_arrive(fleet: &Fleet, vm: &str) {
    let files = gphoto2::listed(&fleet.ok(&["exec", vm, "--", "gphoto2", "--list-files"]).stdout);
    assert_eq!(files.len(), 3, "{files:?}");
    let _ = fleet.exec(vm, "cd /tmp && gphoto2 --get-all-files --force-overwrite");
    for file in pictures(3, 300_000) {
        let sum: String = Sha256::digest(&file.bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(fleet.exec(vm, &format!("sha256sum /tmp/{}", file.name)), format!("{sum}  /tmp/{}", file.name));
    }
}

#[test]
fn a_camera_of_one_host_is_lent_to_a_vm_of_another_and_comes_back_whatever_happens() {
    let (camera, at_home) = (Camera::new(SERIAL), Camera::new(AT_HOME));
    let own = |number: usize| if number == 1 { camera.config() } else { String::new() };
    let mut lab = Lab::with(2, &at_home.config(), &own);
    let _ = lab.fleet().ok(&["host", "tag", "head", "home=yes"]);
    let apart = lab.fleet().write("apart.fleet", APART);
    let _ = lab.fleet().ok(&["up", &apart]);
    let viewer = lab.fleet().vm("viewer");

    // Seen, and lent by its serial number; refused to anybody else.
    let seen = wait_for(lab.fleet(), "available");
    assert_eq!(
        (&seen["host"], &seen["usb_id"], &seen["persona"]),
        (&"h01".into(), &"04b0:0428".into(), &"ptp".into()),
        "{seen:#}"
    );
    let attach = ["usb", "attach", SERIAL, "viewer"];
    let _ = lab.fleet().ok(&attach);
    let attached = wait_for(lab.fleet(), "attached");
    let epoch = attached["lease"]["epoch"].clone();
    assert_eq!(attached["lease"]["vm"], "viewer", "{attached:#}");
    let _ = lab.fleet().ok(&attach).says(&["already"]);
    let _ = lab.fleet().run(&["usb", "attach", SERIAL, "other"]).code(2).says(&["apart.viewer", "--steal"]);
    let _ = lab.fleet().run(&["usb", "attach", "D7000", "other"]).code(2).says(&["2 cameras", SERIAL, AT_HOME]);

    // The real gphoto2 finds it, lists and fetches; what the camera denies is told once.
    until_detected(lab.fleet(), "viewer");
    pictures_arrive(lab.fleet(), "viewer");
    let upload =
        "cd /tmp && mv DSC_0001.JPG NEW.JPG && gphoto2 --folder /store_00010001/100NIKON --upload-file NEW.JPG";
    let refused = lab.fleet().run(&["exec", "viewer", "--", "sh", "-c", upload]);
    assert!(
        refused.code != 0 && format!("{}{}", refused.stdout, refused.stderr).contains("Access Denied"),
        "{refused:?}"
    );
    assert_eq!(camera.soft.seen().denied, 1, "it was not tried again");

    // Out of its port, and into it at another speed.
    camera.soft.unplug();
    wait_for(lab.fleet(), "lost");
    camera.soft.plug(Speed::Super);
    wait_for(lab.fleet(), "attached");
    until_detected(lab.fleet(), "viewer");

    // Another mode is another device: told, and kept out.
    camera.soft.switch(Persona::MassStorage);
    let wrong = wait_for(lab.fleet(), "wrong-mode");
    assert_eq!(wrong["persona"], "mass-storage", "{wrong:#}");
    assert!(wrong["detail"].as_str().unwrap().contains("mass-storage"), "{wrong:#}");
    camera.soft.switch(Persona::Ptp);
    wait_for(lab.fleet(), "attached");

    // Held, for the menu of its firmware: it stays out, whatever happens on its port.
    let _ = lab.fleet().ok(&["usb", "detach", SERIAL, "--hold"]);
    wait_for(lab.fleet(), "held");
    camera.soft.unplug();
    camera.soft.plug(Speed::High);
    eventually("the replug to be seen", || listed(lab.fleet(), SERIAL).filter(|camera| camera["speed"] == "480"));
    let held = wait_for(lab.fleet(), "held");
    assert_eq!(held["lease"]["epoch"], epoch, "{held:#}");
    let _ = lab.fleet().ok(&attach);
    until_detected(lab.fleet(), "viewer");

    // The agent of the VM is killed, then that of the camera, then the controller: the intent is kept.
    for host in ["h02", "h01"] {
        lab.kill(host);
        lab.restart(host);
        lab.wait_for(host, "ready");
        wait_for(lab.fleet(), "attached");
        until_detected(lab.fleet(), "viewer");
    }
    lab.kill_controller();
    lab.start_controller();
    lab.until_ready();
    assert_eq!(wait_for(lab.fleet(), "attached")["lease"]["epoch"], epoch);

    // A cable is out for some seconds.
    lab.cut("h02");
    lab.wait_for("h02", "unknown");
    lab.heal("h02");
    lab.wait_for("h02", "ready");
    assert_eq!(wait_for(lab.fleet(), "attached")["lease"]["epoch"], epoch);
    until_detected(lab.fleet(), "viewer");
    pictures_arrive(lab.fleet(), "viewer");

    // Bytes that are no usbredir, and descriptors that lie, leave the VM as it was.
    for hostile in [Hostile::Packets, Hostile::Lengths, Hostile::Strings] {
        camera.soft.set_hostile(Some(hostile));
        assert_eq!(lab.fleet().exec("viewer", "echo alive"), "alive", "{hostile:?}");
    }
    camera.soft.set_hostile(None);
    wait_for(lab.fleet(), "attached");
    until_detected(lab.fleet(), "viewer");
    let now = lab.fleet().vm("viewer");
    assert_eq!((now.pid, stat(now.pid)), (viewer.pid, stat(viewer.pid)), "the same process all day");

    // The VM is started anew; then an operator gives the camera to another VM; then all is taken down.
    let _ = lab.fleet().ok(&["vm", "stop", "viewer", "--force"]);
    let _ = lab.fleet().ok(&["vm", "start", "viewer"]);
    wait_for(lab.fleet(), "attached");
    until_detected(lab.fleet(), "viewer");
    let _ = lab.fleet().ok(&["usb", "attach", SERIAL, "other", "--steal"]);
    let stolen = wait_for(lab.fleet(), "attached");
    assert_eq!(stolen["lease"]["vm"], "other", "{stolen:#}");
    assert!(stolen["lease"]["epoch"].as_u64() > epoch.as_u64(), "{stolen:#}");
    until_detected(lab.fleet(), "other");
    // That one is on the controller's own host, whose camera goes to others as well.
    let _ = lab.fleet().ok(&["usb", "attach", AT_HOME, "viewer"]);
    until_detected(lab.fleet(), "viewer");
    pictures_arrive(lab.fleet(), "viewer");
    let _ = lab.fleet().ok(&["down"]);
    wait_for(lab.fleet(), "available");
}

#[test]
fn a_vm_that_needs_a_camera_gets_one_when_there_is_one_and_refusals_say_what_to_do() {
    let camera = Camera::new(SERIAL);
    camera.soft.unplug();
    let fleet = Fleet::with(fleet_tests::Options { telemetry: true, config: camera.config(), ..Default::default() });
    let file = fleet.write(
        "needs.fleet",
        "lan desk\nvm viewer { on desk; image camera; needs camera }\nvm native { on desk; image tiny; hypervisor uml }\n\
         vm bare { on desk; image tiny; hypervisor qemu }\n",
    );
    let _ = fleet.ok(&["up", &file]).says(&["viewer", "camera"]);
    let _ = fleet.ok(&["ps"]).says(&["viewer waits for a camera"]);
    camera.soft.plug(Speed::High);
    let attached = wait_for(&fleet, "attached");
    assert_eq!(attached["lease"]["vm"], "viewer", "{attached:#}");
    until_detected(&fleet, "viewer");
    pictures_arrive(&fleet, "viewer");

    let _ = fleet.run(&["usb", "attach", "D90", "viewer"]).code(2).says(&["D7000"]);
    let _ = fleet.run(&["usb", "attach", "--any", "ptp", "bare"]).code(2).says(&["free"]);
    let _ = fleet.ok(&["usb", "detach", "D7000"]);
    let _ = fleet.run(&["usb", "attach", "D7000", "native"]).code(2).says(&["user-mode Linux", "qemu"]);
    let _ = fleet.run(&["usb", "attach", "D7000", "bare"]).code(2).says(&["needs camera"]);

    // What happened, and how much went through, is in the database.
    let told = eventually("events of the camera", || {
        let events = fleet.ok(&["telemetry", "query", "--events", "--format", "json"]).stdout;
        events.contains("camera.detached").then_some(events)
    });
    assert!(["camera.plugged", "camera.attached"].iter().all(|kind| told.contains(kind)), "{told}");
    until("the three pictures' bytes to be in the database", || {
        let bytes =
            fleet.ok(&["telemetry", "query", "--metric", "camera_to_guest", "--agg", "max", "--format", "json"]).json();
        let rates = bytes.as_array().unwrap().iter().filter_map(|row| row["camera_to_guest_per_s"].as_f64());
        rates.fold(0.0, f64::max) > 0.0
    });
    fleet.down();
}
