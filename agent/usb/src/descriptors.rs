//! USB descriptors as bytes (USB 2.0, chapter 9): what a device says of itself.
//!
//! A device writes these bytes, so nothing in them is trusted: lengths are checked against what is there, unknown
//! descriptors are stepped over by their length, and what is kept is bounded. Sysfs's file `descriptors` holds the device
//! descriptor and then all configurations, each with its `wTotalLength`.

use thiserror::Error;

/// Descriptor types (USB 2.0, table 9-5).
const DEVICE: u8 = 1;
const CONFIGURATION: u8 = 2;
const INTERFACE: u8 = 4;
const ENDPOINT: u8 = 5;

/// More interface descriptors (with alternate settings) than this, of all configurations, are refused.
pub const MAX_INTERFACES: usize = 1024;
/// More endpoint descriptors than this, of all configurations, are refused.
pub const MAX_ENDPOINTS: usize = 4096;

/// Why descriptors cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DescriptorError {
    /// Something ends before its length says.
    #[error("descriptors end at byte {at}, inside of a descriptor of {length} bytes")]
    Short {
        /// Where the descriptor begins.
        at: usize,
        /// What it says of its length.
        length: usize,
    },
    /// A descriptor whose length cannot be.
    #[error("the descriptor of type {kind} at byte {at} says that it has {length} bytes")]
    Length {
        /// Where it begins.
        at: usize,
        /// Its type.
        kind: u8,
        /// What it says.
        length: usize,
    },
    /// The first descriptor is not that of a device.
    #[error("the first descriptor has type {kind}, not that of a device (1)")]
    NotADevice {
        /// Its type.
        kind: u8,
    },
    /// An interface outside of a configuration, or an endpoint outside of an interface.
    #[error("the descriptor of type {kind} at byte {at} belongs to nothing")]
    Astray {
        /// Where it begins.
        at: usize,
        /// Its type.
        kind: u8,
    },
    /// More than a device can have.
    #[error("more than {limit} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
}

/// The device descriptor and the configurations behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptors {
    /// `idVendor`.
    pub vendor: u16,
    /// `idProduct`.
    pub product: u16,
    /// `bcdDevice`.
    pub release: u16,
    /// `bDeviceClass`, `bDeviceSubClass`, `bDeviceProtocol`.
    pub class: Class,
    /// Configurations, in their order.
    pub configurations: Vec<Configuration>,
}

/// Class, subclass and protocol, of a device or an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Class {
    /// The class, as 6 for still images.
    pub class: u8,
    /// Its subclass.
    pub subclass: u8,
    /// Its protocol.
    pub protocol: u8,
}

/// One configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    /// `bConfigurationValue`.
    pub value: u8,
    /// Interfaces with all their alternate settings, in their order.
    pub interfaces: Vec<InterfaceSetting>,
}

/// One alternate setting of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceSetting {
    /// `bInterfaceNumber`.
    pub number: u8,
    /// `bAlternateSetting`.
    pub alternate: u8,
    /// What it speaks.
    pub class: Class,
    /// Its endpoints.
    pub endpoints: Vec<EndpointInfo>,
}

/// One endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndpointInfo {
    /// `bEndpointAddress`; the highest bit is set for those to the host.
    pub address: u8,
    /// The lowest two bits of `bmAttributes`: control, isochronous, bulk, interrupt.
    pub kind: u8,
    /// Bytes of a packet, without the bits for high bandwidth.
    pub max_packet: u16,
    /// `bInterval`.
    pub interval: u8,
}

/// Reads a device descriptor and the configurations behind it.
///
/// # Errors
/// When lengths do not fit one another, or there is more than a device can have. Never panics.
pub fn parse(bytes: &[u8]) -> Result<Descriptors, DescriptorError> {
    let device = Walk { bytes, at: 0 }.next().unwrap_or(Err(DescriptorError::Short { at: 0, length: 18 }))?;
    if device.kind != DEVICE {
        return Err(DescriptorError::NotADevice { kind: device.kind });
    }
    device.at_least(18)?;
    let body = device.body;
    let mut found = Descriptors {
        vendor: word(body, 8),
        product: word(body, 10),
        release: word(body, 12),
        class: Class { class: byte(body, 4), subclass: byte(body, 5), protocol: byte(body, 6) },
        configurations: Vec::new(),
    };
    let (mut interfaces, mut endpoints) = (0, 0);
    for descriptor in (Walk { bytes, at: body.len() }) {
        let descriptor = descriptor?;
        let astray = DescriptorError::Astray { at: descriptor.at, kind: descriptor.kind };
        let body = descriptor.body;
        match descriptor.kind {
            CONFIGURATION => {
                descriptor.at_least(9)?;
                // At most 255 can be told apart by their values.
                if found.configurations.len() == 255 {
                    return Err(DescriptorError::TooMany { what: "configurations", limit: 255 });
                }
                found.configurations.push(Configuration { value: byte(body, 5), interfaces: Vec::new() });
            }
            INTERFACE => {
                descriptor.at_least(9)?;
                interfaces += 1;
                if interfaces > MAX_INTERFACES {
                    return Err(DescriptorError::TooMany { what: "interfaces", limit: MAX_INTERFACES });
                }
                found.configurations.last_mut().ok_or(astray)?.interfaces.push(InterfaceSetting {
                    number: byte(body, 2),
                    alternate: byte(body, 3),
                    class: Class { class: byte(body, 5), subclass: byte(body, 6), protocol: byte(body, 7) },
                    endpoints: Vec::new(),
                });
            }
            ENDPOINT => {
                descriptor.at_least(7)?;
                endpoints += 1;
                if endpoints > MAX_ENDPOINTS {
                    return Err(DescriptorError::TooMany { what: "endpoints", limit: MAX_ENDPOINTS });
                }
                let interface = found.configurations.last_mut().and_then(|c| c.interfaces.last_mut());
                interface.ok_or(astray)?.endpoints.push(EndpointInfo {
                    address: byte(body, 2),
                    kind: byte(body, 3) & 3,
                    max_packet: word(body, 4) & 0x7ff,
                    interval: byte(body, 6),
                });
            }
            _ => {}
        }
    }
    Ok(found)
}

/// One descriptor and where it begins.
struct Piece<'a> {
    at: usize,
    kind: u8,
    body: &'a [u8],
}

impl Piece<'_> {
    fn at_least(&self, length: usize) -> Result<(), DescriptorError> {
        if self.body.len() < length {
            return Err(DescriptorError::Length { at: self.at, kind: self.kind, length: self.body.len() });
        }
        Ok(())
    }
}

/// Steps from descriptor to descriptor; ends after the first error, because what follows has no known beginning.
struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Walk<'a> {
    type Item = Result<Piece<'a>, DescriptorError>;

    fn next(&mut self) -> Option<Self::Item> {
        let at = self.at;
        let rest = self.bytes.get(at..).filter(|rest| !rest.is_empty())?;
        let length = usize::from(byte(rest, 0));
        self.at = self.bytes.len();
        if length < 2 {
            return Some(Err(DescriptorError::Length { at, kind: byte(rest, 1), length }));
        }
        let Some(body) = rest.get(..length) else {
            return Some(Err(DescriptorError::Short { at, length }));
        };
        self.at = at + length;
        Some(Ok(Piece { at, kind: byte(body, 1), body }))
    }
}

/// A byte, zero behind the end; callers have checked the length where it matters.
fn byte(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([byte(bytes, at), byte(bytes, at + 1)])
}
