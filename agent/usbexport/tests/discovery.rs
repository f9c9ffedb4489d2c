//! A D7000 as sysfs shows it, written by hand and mocked by umockdev: the inventory of a host and the library of the exporter
//! see the same device.
//!
//! umockdev stands between a program and its C library, so what is tested runs in a process of its own. nusb makes its calls
//! of usbfs without that library: transfers cannot be mocked so, and are tested on real parts by `make test-usb-host`.

use std::process::Command;

use fleet_usb::{Access, Inventory, Look, Persona, Rules};
use nusb::MaybeFuture as _;

#[test]
fn the_inventory_and_nusb_see_the_camera_of_a_mocked_sysfs() {
    let description = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/d7000.umockdev");
    let output = Command::new("umockdev-run")
        .args(["--device", description, "--"])
        .arg(std::env::current_exe().expect("this program"))
        .args(["--ignored", "--exact", "inside_of_umockdev", "--nocapture"])
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => {
            eprintln!("not tested: no umockdev-run here ({error}); make setup installs it");
            return;
        }
    };
    let words = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && words.contains("1 passed"), "{words}");
}

#[test]
#[ignore = "runs in the process that the other test starts"]
fn inside_of_umockdev() {
    let mut inventory = Inventory::new(Rules::default(), []);
    let sightings = Look::default().sightings(&inventory).expect("a look");
    inventory.observe(sightings);
    let cameras: Vec<_> = inventory.cameras().collect();
    let [camera] = cameras[..] else { panic!("{cameras:?}") };
    let device = &camera.seen.device;
    assert_eq!(camera.identity.to_string(), "04b0:000003012345");
    assert_eq!((camera.persona(), device.port.to_string().as_str()), (Persona::Ptp, "0000:00:14.0/1"));
    assert_eq!((device.model.as_deref(), device.speed.as_str()), (Some("NIKON DSC D7000"), "480"));
    assert!(!matches!(camera.seen.access, Access::Denied { .. }), "{:?}", camera.seen.access);

    let found = nusb::list_devices().wait().expect("a list").find(|found| found.product_id() == device.id.product);
    let found = found.expect("the camera");
    assert_eq!((found.vendor_id(), found.serial_number()), (device.id.vendor, device.serial.as_deref()));
    assert_eq!(
        (found.busnum(), u16::from(found.device_address())),
        (device.bus.try_into().expect("a bus"), device.number)
    );
    assert_eq!(found.sysfs_path().file_name().and_then(|name| name.to_str()), Some(device.name.as_str()));
    let interfaces: Vec<_> = found.interfaces().map(|found| (found.interface_number(), found.class())).collect();
    let own: Vec<_> = device.interfaces.iter().map(|own| (own.number, own.class.class)).collect();
    assert_eq!(interfaces, own);
}
