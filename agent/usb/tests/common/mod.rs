//! A sysfs and a `/dev` in a temporary folder, into which devices are plugged.
#![allow(dead_code, reason = "each test uses a part")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use fleet_usb::{Look, Procfs, Sysfs};
use tempfile::TempDir;

/// A device as a test wants it.
#[derive(Clone)]
pub struct Fake {
    /// Ports, as `1.4`.
    pub chain: &'static str,
    pub bus: u16,
    pub number: u16,
    pub vendor: u16,
    pub product: u16,
    pub serial: Option<&'static str>,
    pub speed: &'static str,
    /// Class of its one interface.
    pub class: u8,
}

/// The D7000 by PTP.
pub fn d7000() -> Fake {
    Fake {
        chain: "1.4",
        bus: 1,
        number: 5,
        vendor: 0x04b0,
        product: 0x0428,
        serial: Some("000003012345"),
        speed: "480",
        class: 6,
    }
}

/// The host's files.
pub struct Host {
    root: TempDir,
}

impl Host {
    pub fn new() -> Self {
        let root = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(root.path().join("sys/bus/usb/devices")).expect("folders");
        Self { root }
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.root.path().join(below)
    }

    pub fn sysfs(&self) -> Sysfs {
        Sysfs::new(self.path("sys"), self.path("dev"))
    }

    /// Looks at this host's devices, and at the real processes.
    pub fn look(&self) -> Look {
        Look { sysfs: self.sysfs(), procfs: Procfs::default() }
    }

    fn folder(&self, fake: &Fake) -> PathBuf {
        let bus = fake.bus;
        self.path(&format!("sys/devices/pci0000:00/0000:00:14.0/usb{bus}/{bus}-{}", fake.chain))
    }

    fn link(&self, fake: &Fake) -> PathBuf {
        self.path(&format!("sys/bus/usb/devices/{}-{}", fake.bus, fake.chain))
    }

    pub fn node(&self, fake: &Fake) -> PathBuf {
        self.path(&format!("dev/bus/usb/{:03}/{:03}", fake.bus, fake.number))
    }

    pub fn plug(&self, fake: &Fake) {
        self.plug_with(fake, &descriptors(fake));
    }

    /// With these bytes as its descriptors.
    pub fn plug_with(&self, fake: &Fake, descriptors: &[u8]) {
        let folder = self.folder(fake);
        let name = format!("{}-{}", fake.bus, fake.chain);
        let interface = folder.join(format!("{name}:1.0"));
        fs::create_dir_all(&interface).expect("folders");
        let put = |file: &str, text: String| fs::write(folder.join(file), text + "\n").expect("an attribute");
        put("idVendor", format!("{:04x}", fake.vendor));
        put("idProduct", format!("{:04x}", fake.product));
        put("busnum", fake.bus.to_string());
        put("devnum", fake.number.to_string());
        put("speed", fake.speed.to_owned());
        put("bConfigurationValue", "1".to_owned());
        put("manufacturer", "NIKON".to_owned());
        put("product", "NIKON DSC D7000".to_owned());
        if let Some(serial) = fake.serial {
            put("serial", serial.to_owned());
        }
        fs::write(folder.join("descriptors"), descriptors).expect("descriptors");
        let node = self.node(fake);
        fs::create_dir_all(node.parent().expect("a folder")).expect("folders");
        fs::write(node, "").expect("a node");
        symlink(&folder, self.link(fake)).expect("a link");
    }

    pub fn unplug(&self, fake: &Fake) {
        fs::remove_file(self.link(fake)).expect("a link");
        fs::remove_dir_all(self.folder(fake)).expect("a folder");
        fs::remove_file(self.node(fake)).expect("a node");
    }

    /// Binds the one interface to a driver, which makes a node of it.
    pub fn bind(&self, fake: &Fake, driver: &str, node: &str) -> PathBuf {
        let interface = self.folder(fake).join(format!("{}-{}:1.0", fake.bus, fake.chain));
        let class = interface.join("class").join(Path::new(node).file_name().expect("a name"));
        fs::create_dir_all(&class).expect("folders");
        fs::write(class.join("uevent"), format!("MAJOR=81\nMINOR=0\nDEVNAME={node}\n")).expect("uevent");
        symlink(format!("../../drivers/{driver}"), interface.join("driver")).expect("a link");
        let node = self.path("dev").join(node);
        fs::write(&node, "").expect("a node");
        node
    }
}

/// A device descriptor, and a configuration with one interface and its two bulk endpoints.
pub fn descriptors(fake: &Fake) -> Vec<u8> {
    let [vendor, product] = [fake.vendor.to_le_bytes(), fake.product.to_le_bytes()];
    let mut bytes = vec![18, 1, 0, 2, 0, 0, 0, 64];
    bytes.extend(vendor.iter().chain(&product));
    bytes.extend([0, 1, 1, 2, 3, 1]);
    bytes.extend([9, 2, 32, 0, 1, 1, 0, 0xc0, 1]);
    bytes.extend([9, 4, 0, 0, 2, fake.class, 1, 1, 0]);
    bytes.extend([7, 5, 0x81, 2, 0, 2, 0, 7, 5, 0x02, 2, 0, 2, 0]);
    bytes
}
