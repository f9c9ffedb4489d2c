//! Reads the USB devices of a host from sysfs.
//!
//! `bus/usb/devices/` has a link for each device (`1-1.4`), root hub (`usb1`) and interface (`1-1.4:1.0`). The links lead
//! into `devices/…/CONTROLLER/usbN/…`, from which the controller follows. A device may go away between two reads: then it
//! is left out, and the event of its going brings the next look. Root folders are parameters, so that tests give their own.

use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use crate::descriptors::{self, Configuration};
use crate::device::{Device, Interface, PortPath, VidPid};
use crate::error::UsbError;

/// An attribute is never longer; the kernel gives one page.
const ATTRIBUTE: u64 = 4096;
/// Sysfs gives at most this many bytes of descriptors, by far.
const DESCRIPTORS: u64 = 1 << 20;
/// Folders that are looked at for the nodes that drivers made, a device.
const NODE_FOLDERS: usize = 512;
/// Characters of a string descriptor (255 bytes of which 2 are its head, in UTF-16).
const STRING: usize = 126;

/// Where sysfs and the device nodes are.
#[derive(Debug, Clone)]
pub struct Sysfs {
    sys: PathBuf,
    dev: PathBuf,
}

impl Default for Sysfs {
    fn default() -> Self {
        Self::new("/sys", "/dev")
    }
}

impl Sysfs {
    /// With other roots than `/sys` and `/dev`.
    pub fn new(sys: impl Into<PathBuf>, dev: impl Into<PathBuf>) -> Self {
        Self { sys: sys.into(), dev: dev.into() }
    }

    /// All devices but root hubs, by name. None at all when the kernel has no USB.
    ///
    /// # Errors
    /// When the list cannot be read. A device that goes away meanwhile is no error.
    pub fn devices(&self) -> Result<Vec<Device>, UsbError> {
        let list = self.sys.join("bus/usb/devices");
        let unreadable = |source| UsbError::Read { path: list.clone(), source };
        let entries = match fs::read_dir(&list) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(unreadable(error)),
        };
        let mut devices = Vec::new();
        for entry in entries {
            let name = entry.map_err(unreadable)?.file_name();
            if let Some(name) = name.to_str() {
                devices.extend(self.device(&list, name));
            }
        }
        devices.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(devices)
    }

    /// One device; none for root hubs and interfaces, and when it has gone away.
    fn device(&self, list: &Path, name: &str) -> Option<Device> {
        let (bus, chain) = name.split_once('-')?;
        let chain_is_ports = chain.split('.').all(|port| port.parse::<u8>().is_ok());
        if !chain_is_ports || bus.parse::<u16>().is_err() {
            return None;
        }
        let folder = fs::canonicalize(list.join(name)).ok()?;
        let hex = |file| u16::from_str_radix(attribute(&folder, file)?.as_str(), 16).ok();
        let number = |file| attribute(&folder, file)?.parse::<u16>().ok();
        let (bus, device) = (number("busnum")?, number("devnum")?);
        let (interfaces, malformed) = match self.interfaces(&folder, name) {
            Ok(interfaces) => (interfaces, None),
            Err(reason) => (Vec::new(), Some(reason)),
        };
        Some(Device {
            name: name.to_owned(),
            port: PortPath { controller: controller(&folder), chain: chain.to_owned() },
            bus,
            number: device,
            id: VidPid { vendor: hex("idVendor")?, product: hex("idProduct")? },
            serial: attribute(&folder, "serial"),
            manufacturer: attribute(&folder, "manufacturer"),
            model: attribute(&folder, "product"),
            speed: attribute(&folder, "speed").unwrap_or_else(|| "unknown".to_owned()),
            interfaces,
            malformed,
            node: self.dev.join(format!("bus/usb/{bus:03}/{device:03}")),
            driver_nodes: self.driver_nodes(&folder, name),
        })
    }

    /// The interfaces of the configuration in use, each once, with their drivers.
    fn interfaces(&self, folder: &Path, name: &str) -> Result<Vec<Interface>, String> {
        // Not configured (no power, or refused by the kernel's `authorized`): no interfaces, and nothing wrong.
        let Some(value) = attribute(folder, "bConfigurationValue").and_then(|text| text.parse::<u8>().ok()) else {
            return Ok(Vec::new());
        };
        let bytes = bounded(&folder.join("descriptors"), DESCRIPTORS).map_err(|error| error.to_string())?;
        let found = descriptors::parse(&bytes).map_err(|error| error.to_string())?;
        let in_use = |configuration: &&Configuration| configuration.value == value;
        let Some(configuration) = found.configurations.iter().find(in_use) else {
            return Err(format!("configuration {value} is in use, but there is no descriptor of it"));
        };
        let mut interfaces: Vec<Interface> = Vec::new();
        for setting in &configuration.interfaces {
            if interfaces.iter().all(|known| known.number != setting.number) {
                let link = folder.join(format!("{name}:{value}.{}/driver", setting.number));
                let driver = fs::read_link(link).ok();
                let driver =
                    driver.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
                interfaces.push(Interface { number: setting.number, class: setting.class, driver });
            }
        }
        Ok(interfaces)
    }

    /// Nodes below the device's interfaces, by the `DEVNAME=` of their `uevent`. Other devices, behind a hub, are left out.
    fn driver_nodes(&self, folder: &Path, name: &str) -> Vec<PathBuf> {
        let mut nodes = Vec::new();
        let mut left = NODE_FOLDERS;
        let own = format!("{name}:");
        let mut todo: Vec<PathBuf> = folders(folder)
            .filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&own)))
            .collect();
        while let Some(path) = todo.pop() {
            if left == 0 {
                break;
            }
            left -= 1;
            let uevent = attribute(&path, "uevent").unwrap_or_default();
            nodes.extend(
                uevent.lines().filter_map(|line| line.strip_prefix("DEVNAME=")).map(|node| self.dev.join(node)),
            );
            todo.extend(folders(&path).take(left));
        }
        nodes.sort();
        nodes
    }
}

/// Folders in a folder, without links (they lead back up).
fn folders(path: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path())
}

/// The device above the root hub: `…/0000:00:14.0/usb1/1-1` has `0000:00:14.0`.
fn controller(folder: &Path) -> String {
    let root_hub = folder.ancestors().find(|path| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        name.strip_prefix("usb").is_some_and(|bus| bus.parse::<u16>().is_ok())
    });
    let above = root_hub.and_then(Path::parent).and_then(Path::file_name);
    above.map_or_else(|| "unknown".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// An attribute without the white space around it; none when it is absent or empty. A device's own words are made
/// printable, so that no terminal and no log can be led astray.
fn attribute(folder: &Path, file: &str) -> Option<String> {
    let bytes = bounded(&folder.join(file), ATTRIBUTE).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim();
    if file == "uevent" {
        return Some(text.to_owned());
    }
    let printable: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).take(STRING).collect();
    (!printable.is_empty()).then_some(printable)
}

fn bounded(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}
