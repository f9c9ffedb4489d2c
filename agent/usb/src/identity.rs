//! Which devices are cameras, and which camera a device is.
//!
//! A camera keeps its identity through replugs, other ports, other speeds and other modes. Its serial number with its
//! vendor is the identity, without the product: a mode switch changes that. A serial number that two devices say at
//! once is worth nothing; such cameras, and those without one, are known by their port.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::device::{Device, Persona, PortPath, VidPid};

/// Vendors whose disks are cameras (from the public list of USB ids): Canon, Nikon, Fujifilm, Olympus, Leica, Ricoh
/// Imaging, GoPro.
const CAMERA_VENDORS: &[u16] = &[0x04a9, 0x04b0, 0x04cb, 0x07b4, 0x1a98, 0x25fb, 0x2672];

/// Which camera, on this host.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Identity {
    /// By vendor and serial number: the same wherever it is plugged in.
    Serial {
        /// `idVendor`.
        vendor: u16,
        /// The serial number.
        serial: String,
    },
    /// By the port it is plugged into.
    Port {
        /// `idVendor`: another maker's camera on this port is another camera.
        vendor: u16,
        /// The port.
        port: PortPath,
    },
}

impl Identity {
    /// By serial number where there is one, else by port.
    pub(crate) fn natural(device: &Device) -> Self {
        match &device.serial {
            Some(serial) => Self::Serial { vendor: device.id.vendor, serial: serial.clone() },
            None => Self::by_port(device),
        }
    }

    pub(crate) fn by_port(device: &Device) -> Self {
        Self::Port { vendor: device.id.vendor, port: device.port.clone() }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serial { vendor, serial } => write!(f, "{vendor:04x}:{serial}"),
            Self::Port { vendor, port } => write!(f, "{vendor:04x}@{port}"),
        }
    }
}

/// What the host's configuration says of its devices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Devices that are cameras though their class does not say so.
    pub cameras: Vec<VidPid>,
    /// Devices that are none, as a telephone that speaks PTP. Wins over everything.
    pub ignore: Vec<VidPid>,
}

impl Rules {
    /// Whether a device is a camera. A disk is one when its vendor makes cameras only, or when it is `known` as one
    /// that has switched its mode.
    pub(crate) fn is_camera(&self, device: &Device, known: impl FnOnce() -> bool) -> bool {
        if self.ignore.contains(&device.id) {
            return false;
        }
        if self.cameras.contains(&device.id) {
            return true;
        }
        match device.persona() {
            Persona::Ptp | Persona::Uvc => true,
            Persona::MassStorage => CAMERA_VENDORS.contains(&device.id.vendor) || known(),
            // A known camera that cannot be read, or has no configuration, is still that camera.
            Persona::Vendor | Persona::Other => known(),
        }
    }
}
