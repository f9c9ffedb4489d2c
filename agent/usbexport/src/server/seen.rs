//! What is plugged in at a server.

use fleet_usb::{Class, Persona, VidPid};
use fleet_usbredir::Speed;

/// A camera as it says itself, in the forms of [`fleet_usb::Device`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Vendor and product.
    pub id: VidPid,
    /// Interfaces of the configuration in use: number and class.
    pub interfaces: Vec<(u8, Class)>,
    /// Serial number, when it says one. Printable and at most 126 characters, like the other words.
    pub serial: Option<String>,
    /// Its maker, by its own words.
    pub manufacturer: Option<String>,
    /// Its name, by its own words.
    pub model: Option<String>,
    /// Mbit/s as the kernel would say them: `1.5`, `12`, `480`, `5000`, or `unknown`.
    pub speed: String,
    /// Why its descriptors cannot be used, if so.
    pub malformed: Option<String>,
}

impl Seen {
    /// How it presents itself.
    pub fn persona(&self) -> Persona {
        Persona::of(self.interfaces.iter().map(|(_, class)| class.class))
    }
}

/// As sysfs writes speeds.
pub(super) fn speed(speed: Speed) -> String {
    match speed {
        Speed::Low => "1.5",
        Speed::Full => "12",
        Speed::High => "480",
        Speed::Super => "5000",
        Speed::Unknown => "unknown",
    }
    .to_owned()
}
