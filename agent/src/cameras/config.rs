//! What a host is told of its cameras: the table `[cameras]` of its configuration file.
//!
//! ```toml
//! [cameras]
//! include = ["1234:5678"]                 # cameras though their class does not say so
//! exclude = ["18d1:4ee2"]                 # none, as a telephone that speaks PTP; wins over everything
//! shared_serials = ["04b0:000000000000"]  # numbers that more than one camera of a vendor says
//! servers = ["unix:/run/cam.sock", "192.0.2.7:4000"]
//! ```

use fleet_usb::{Look, SharedSerial, VidPid};
use fleet_usbexport::{ExportError, ServerAddress};
use serde::Deserialize;

/// Which devices are cameras, and which cameras are elsewhere than on a port.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(try_from = "Raw")]
pub struct CamerasConfig {
    /// Devices that are cameras though their class does not say so.
    pub include: Vec<VidPid>,
    /// Devices that are none, as a telephone that speaks PTP. Wins over everything.
    pub exclude: Vec<VidPid>,
    /// Serial numbers that more than one device says: such a camera is known by its port.
    pub shared_serials: Vec<SharedSerial>,
    /// usbredir servers with one camera behind each: "unix:PATH" or "HOST:PORT".
    pub servers: Vec<ServerAddress>,
    /// Where devices and processes are looked up; others only in tests.
    pub look: Look,
}

/// As it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Raw {
    include: Vec<String>,
    exclude: Vec<String>,
    shared_serials: Vec<String>,
    servers: Vec<String>,
}

impl TryFrom<Raw> for CamerasConfig {
    type Error = String;

    fn try_from(raw: Raw) -> Result<Self, String> {
        let ids = |texts: Vec<String>| {
            texts.iter().map(|text| text.parse::<VidPid>().map_err(|error| error.to_string())).collect::<Result<_, _>>()
        };
        Ok(Self {
            include: ids(raw.include)?,
            exclude: ids(raw.exclude)?,
            shared_serials: raw.shared_serials.iter().map(|text| shared_serial(text)).collect::<Result<_, _>>()?,
            servers: raw
                .servers
                .iter()
                .map(|text| text.parse().map_err(|error: ExportError| error.to_string()))
                .collect::<Result<_, _>>()?,
            look: Look::default(),
        })
    }
}

fn shared_serial(text: &str) -> Result<SharedSerial, String> {
    let parts = text.split_once(':').filter(|(vendor, serial)| vendor.len() == 4 && !serial.is_empty());
    let parsed = parts.and_then(|(vendor, serial)| Some((u16::from_str_radix(vendor, 16).ok()?, serial)));
    let (vendor, serial) =
        parsed.ok_or_else(|| format!("\"{text}\" is no vendor with a serial number; write it as \"04b0:3001234\""))?;
    Ok(SharedSerial { vendor, serial: serial.to_owned() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_serial_number_has_its_vendor() {
        let shared = shared_serial("04b0:00:1").unwrap();
        assert_eq!((shared.vendor, shared.serial.as_str()), (0x04b0, "00:1"));
        for bad in ["04b0", "04b0:", "nikon:1", ":1"] {
            assert!(shared_serial(bad).unwrap_err().contains("04b0:3001234"), "{bad}");
        }
    }
}
