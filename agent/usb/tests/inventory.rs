//! The inventory on files like those of sysfs: what is plugged in, and what happened to it.

mod common;

use common::{Fake, Host, d7000, descriptors};
use fleet_usb::{
    Access, Camera, Change, ChangeKind, Holder, Identity, Inventory, Persona, PortPath, Rules, State, VidPid, Watcher,
};

struct Seen {
    host: Host,
    inventory: Inventory,
}

impl Seen {
    fn new() -> Self {
        Self { host: Host::new(), inventory: Inventory::new(Rules::default(), []) }
    }

    fn look(&mut self) -> Vec<Change> {
        let sightings = self.host.look().sightings(&self.inventory).expect("a look");
        self.inventory.observe(sightings)
    }

    fn kinds(&mut self) -> Vec<ChangeKind> {
        self.look().into_iter().map(|change| change.what).collect()
    }

    fn only(&self) -> &Camera {
        let mut cameras = self.inventory.cameras();
        let camera = cameras.next().expect("a camera");
        assert!(cameras.next().is_none(), "one camera only");
        camera
    }
}

fn port(chain: &str) -> PortPath {
    PortPath { controller: "0000:00:14.0".into(), chain: chain.into() }
}

#[test]
fn a_camera_is_listed_with_all_that_identifies_it() {
    let mut seen = Seen::new();
    assert_eq!(seen.kinds(), [], "a host without devices has no cameras");
    seen.host.plug(&d7000());
    assert_eq!(seen.kinds(), [ChangeKind::Plugged]);
    let camera = seen.only();
    let device = &camera.seen.device;
    assert_eq!(camera.identity, Identity::Serial { vendor: 0x04b0, serial: "000003012345".into() });
    assert_eq!(device.id.to_string(), "04b0:0428");
    assert_eq!(device.port, port("1.4"));
    assert_eq!((device.speed.as_str(), camera.persona()), ("480", Persona::Ptp));
    assert_eq!(device.model.as_deref(), Some("NIKON DSC D7000"));
    assert_eq!(State::of(camera, None, &[]), State::Available);
    for word in ["000003012345", "04b0:0428", "1-1.4", "0000:00:14.0/1.4", "NIKON DSC D7000", "04b0:000003012345"] {
        assert!(camera.answers_to(word), "{word}");
    }
    assert!(!camera.answers_to("04b0:0429") && !camera.answers_to(""));
    assert_eq!(seen.kinds(), [], "a look that finds the same tells nothing");
}

#[test]
fn an_unplugged_camera_is_absent_and_the_same_one_when_it_comes_back_elsewhere() {
    let mut seen = Seen::new();
    seen.host.plug(&d7000());
    seen.look();
    seen.host.unplug(&d7000());
    assert_eq!(seen.kinds(), [ChangeKind::Unplugged]);
    assert_eq!(State::of(seen.only(), None, &[]), State::Absent);
    // Another port and another speed, so another bus.
    seen.host.plug(&Fake { chain: "3", bus: 2, number: 2, speed: "12", ..d7000() });
    let moved = ChangeKind::Port { from: port("1.4"), to: port("3") };
    let slower = ChangeKind::Speed { from: "480".into(), to: "12".into() };
    assert_eq!(seen.kinds(), [ChangeKind::Plugged, moved, slower]);
    assert!(seen.only().present);
}

#[test]
fn a_replug_and_a_mode_switch_within_one_look_are_seen() {
    let mut seen = Seen::new();
    seen.host.plug(&d7000());
    seen.look();
    seen.host.unplug(&d7000());
    seen.host.plug(&Fake { number: 6, ..d7000() });
    assert_eq!(seen.kinds(), [ChangeKind::Replugged]);
    seen.host.unplug(&Fake { number: 6, ..d7000() });
    seen.host.plug(&Fake { number: 7, product: 0x0429, class: 8, ..d7000() });
    let switched = ChangeKind::Persona { from: Persona::Ptp, to: Persona::MassStorage };
    assert_eq!(seen.kinds(), [ChangeKind::Replugged, switched]);
    assert_eq!(seen.only().seen.device.id.to_string(), "04b0:0429");
}

#[test]
fn cameras_without_a_serial_number_are_known_by_their_port() {
    let mut seen = Seen::new();
    seen.host.plug(&Fake { serial: None, ..d7000() });
    seen.host.plug(&Fake { serial: None, chain: "2", number: 6, ..d7000() });
    assert_eq!(seen.kinds(), [ChangeKind::Plugged, ChangeKind::Plugged]);
    let ports: Vec<String> = seen.inventory.cameras().map(|camera| camera.identity.to_string()).collect();
    assert_eq!(ports, ["04b0@0000:00:14.0/1.4", "04b0@0000:00:14.0/2"]);
}

#[test]
fn a_twin_takes_neither_name_nor_lease_from_the_camera_that_was_first() {
    let mut seen = Seen::new();
    let twin = Fake { chain: "2", number: 6, ..d7000() };
    seen.host.plug(&d7000());
    seen.look();
    seen.host.plug(&twin);
    assert_eq!(seen.kinds(), [ChangeKind::SerialShared, ChangeKind::Plugged]);
    let serial = Identity::Serial { vendor: 0x04b0, serial: "000003012345".into() };
    assert_eq!(seen.inventory.get(&serial).expect("the first").seen.device.port, port("1.4"));
    // The first goes; the twin is still not taken for it, nor after a restart.
    seen.host.unplug(&d7000());
    seen.look();
    assert!(!seen.inventory.get(&serial).expect("the first").present);
    let shared = seen.inventory.shared_serials();
    seen.inventory = Inventory::new(Rules::default(), shared);
    seen.look();
    assert_eq!(seen.only().identity, Identity::Port { vendor: 0x04b0, port: port("2") });
}

#[test]
fn only_cameras_are_listed_and_the_configuration_has_the_last_word() {
    let rules = Rules {
        cameras: vec![VidPid { vendor: 0x1234, product: 1 }],
        ignore: vec!["18d1:4ee2".parse().expect("an id")],
    };
    let mut seen = Seen { host: Host::new(), inventory: Inventory::new(rules, []) };
    let other = |chain, number, vendor, product, class| Fake { chain, number, vendor, product, class, ..d7000() };
    seen.host.plug(&other("1", 1, 0x046d, 0xc31c, 3)); // a keyboard
    seen.host.plug(&other("2", 2, 0x0781, 0x5581, 8)); // a stick
    seen.host.plug(&other("3", 3, 0x18d1, 0x4ee2, 6)); // a telephone by PTP
    seen.host.plug(&other("4", 4, 0x1234, 1, 255)); // as configured
    seen.host.plug(&other("5", 5, 0x046d, 0x0825, 14)); // a webcam
    seen.host.plug(&other("6", 6, 0x04b0, 0x0429, 8)); // the disk of a maker of cameras
    seen.look();
    let ports: Vec<&str> = seen.inventory.cameras().map(|camera| camera.seen.device.port.chain.as_str()).collect();
    assert_eq!(ports, ["5", "6", "4"]);
}

#[test]
fn the_process_that_holds_a_camera_is_named_with_the_command_that_frees_it() {
    let mut seen = Seen::new();
    seen.host.plug(&d7000());
    seen.look();
    let open = std::fs::File::open(seen.host.node(&d7000())).expect("the node");
    assert_eq!(seen.kinds(), [ChangeKind::Holders]);
    let own = std::process::id();
    let state = State::of(seen.only(), None, &[]);
    let State::Busy(holder @ Holder::Process { pid, .. }) = &state else { panic!("{state}") };
    assert_eq!((*pid, holder.frees()), (own, format!("kill {own}")));
    assert_eq!(State::of(seen.only(), None, &[own]), State::Available, "the fleet's own process is no obstacle");
    drop(open);
    assert_eq!(seen.kinds(), [ChangeKind::Holders]);
}

#[test]
fn the_nodes_of_drivers_count_as_held_too() {
    let mut seen = Seen::new();
    let webcam = Fake { class: 14, ..d7000() };
    seen.host.plug(&webcam);
    let video = seen.host.bind(&webcam, "uvcvideo", "video0");
    seen.look();
    assert_eq!(seen.only().seen.device.driver_nodes, std::slice::from_ref(&video));
    assert_eq!(seen.only().seen.device.interfaces[0].driver.as_deref(), Some("uvcvideo"));
    let _open = std::fs::File::open(&video).expect("the node");
    seen.look();
    assert!(matches!(State::of(seen.only(), None, &[]), State::Busy(Holder::Process { node, .. }) if node == video));
}

#[test]
fn a_node_that_may_not_be_opened_comes_with_the_rule_to_add() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut seen = Seen::new();
    seen.host.plug(&d7000());
    std::fs::set_permissions(seen.host.path(""), std::fs::Permissions::from_mode(0o755)).expect("a mode");
    std::fs::set_permissions(seen.host.node(&d7000()), std::fs::Permissions::from_mode(0o000)).expect("a mode");
    // Rights are a thread's own in Linux: this one gives up those of root on files.
    nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65534));
    seen.look();
    let State::Denied { path, rule } = State::of(seen.only(), None, &[]) else { panic!("not denied") };
    assert_eq!(path, seen.host.node(&d7000()));
    assert!(rule.contains(r#"ATTR{idVendor}=="04b0", ATTR{idProduct}=="0428""#), "{rule}");
    nix::unistd::setfsuid(nix::unistd::geteuid());
    std::fs::remove_file(&path).expect("the node");
    seen.look();
    assert_eq!(seen.only().seen.access, Access::NoNode { path });
}

#[test]
fn a_camera_with_descriptors_that_cannot_be_is_listed_as_malformed() {
    let mut seen = Seen::new();
    seen.host.plug(&d7000());
    seen.look();
    seen.host.unplug(&d7000());
    let bytes = descriptors(&d7000());
    seen.host.plug_with(&d7000(), &bytes[..bytes.len() - 3]);
    seen.look();
    assert!(matches!(State::of(seen.only(), None, &[]), State::Malformed { .. }));
}

#[test]
fn a_serial_number_cannot_write_to_the_terminal() {
    let mut seen = Seen::new();
    seen.host.plug(&Fake { serial: Some("12\u{1b}[2J34"), ..d7000() });
    seen.look();
    assert_eq!(seen.only().seen.device.serial.as_deref(), Some("12?[2J34"));
}

#[tokio::test]
async fn a_watcher_tells_of_changes_and_lists_them_when_it_was_asked_to_look() {
    let host = Host::new();
    let watcher = Watcher::start(host.look(), Inventory::default(), None).await.expect("a first look");
    let mut changes = watcher.subscribe();
    assert!(watcher.cameras().is_empty());
    host.plug(&d7000());
    watcher.look().await.expect("a look");
    assert_eq!(watcher.cameras().len(), 1);
    assert_eq!(changes.recv().await.expect("a change").what, ChangeKind::Plugged);
    host.unplug(&d7000());
    watcher.look().await.expect("a look");
    assert_eq!(changes.recv().await.expect("a change").what, ChangeKind::Unplugged);
    assert!(!watcher.cameras()[0].present);
}
