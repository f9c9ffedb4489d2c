//! What was seen of one USB device: names, place, speed, interfaces. Observations, no decisions.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Vendor and product, written `04b0:0428`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VidPid {
    /// `idVendor`.
    pub vendor: u16,
    /// `idProduct`.
    pub product: u16,
}

impl fmt::Display for VidPid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:04x}", self.vendor, self.product)
    }
}

impl std::str::FromStr for VidPid {
    type Err = crate::UsbError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || crate::UsbError::VidPid { text: text.to_owned() };
        let number = |part: &str| {
            let hex = (1..=4).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit());
            hex.then(|| u16::from_str_radix(part, 16).ok()).flatten().ok_or_else(bad)
        };
        let (vendor, product) = text.split_once(':').ok_or_else(bad)?;
        Ok(Self { vendor: number(vendor)?, product: number(product)? })
    }
}

/// Where a device is plugged in. The bus number is no part of it: it changes with the speed and with a reboot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortPath {
    /// The controller's PCI address (`0000:00:14.0`), or the name of another device that has the root hub.
    pub controller: String,
    /// Port of the root hub, then of each hub behind it: `1.4.2`.
    pub chain: String,
}

impl fmt::Display for PortPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.controller, self.chain)
    }
}

/// One way a device presents itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Persona {
    /// Still images by PTP: class 6.
    Ptp,
    /// Video: class 14.
    Uvc,
    /// A disk: class 8.
    MassStorage,
    /// A protocol of its vendor: class 255.
    Vendor,
    /// Anything else.
    Other,
}

impl Persona {
    /// What a device with interfaces of these classes is. The first of PTP, UVC, mass storage and vendor that is there.
    pub fn of(classes: impl IntoIterator<Item = u8>) -> Self {
        let rank = |class| match class {
            6 => Self::Ptp,
            14 => Self::Uvc,
            8 => Self::MassStorage,
            255 => Self::Vendor,
            _ => Self::Other,
        };
        classes.into_iter().map(rank).min().unwrap_or(Self::Other)
    }
}

impl fmt::Display for Persona {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ptp => "ptp",
            Self::Uvc => "uvc",
            Self::MassStorage => "mass-storage",
            Self::Vendor => "vendor",
            Self::Other => "other",
        })
    }
}

/// One interface of the configuration in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// `bInterfaceNumber`.
    pub number: u8,
    /// Class, subclass, protocol of its first setting.
    pub class: crate::Class,
    /// The kernel's driver; `usbfs` when a process has claimed it.
    pub driver: Option<String>,
}

/// One device as sysfs shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The kernel's name: `1-1.4`.
    pub name: String,
    /// Where it is plugged in.
    pub port: PortPath,
    /// Bus number, an observation.
    pub bus: u16,
    /// Device number, an observation: every replug changes it.
    pub number: u16,
    /// Vendor and product.
    pub id: VidPid,
    /// Serial number, when it says one. Printable and at most 126 characters, as a string descriptor can have.
    pub serial: Option<String>,
    /// Its maker, by its own words.
    pub manufacturer: Option<String>,
    /// Its name, by its own words.
    pub model: Option<String>,
    /// Mbit/s as the kernel says them: `1.5`, `12`, `480`, `5000`, ….
    pub speed: String,
    /// Interfaces of the configuration in use.
    pub interfaces: Vec<Interface>,
    /// Why its descriptors cannot be used, if so; it has no interfaces then.
    pub malformed: Option<String>,
    /// Its own node, `/dev/bus/usb/001/004`.
    pub node: PathBuf,
    /// Nodes that the kernel's drivers made of it: `/dev/video0`, `/dev/sda1`.
    pub driver_nodes: Vec<PathBuf>,
}

impl Device {
    /// How it presents itself now.
    pub fn persona(&self) -> Persona {
        Persona::of(self.interfaces.iter().map(|interface| interface.class.class))
    }
}
