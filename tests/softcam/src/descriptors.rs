//! What the device says of itself: descriptors by persona and speed, and wrong ones for tests of what reads them.

use fleet_usbredir::{Endpoint, EpInfo, EpType, InterfaceClass, Speed};

use crate::Hostile;

/// Nikon.
pub const VENDOR: u16 = 0x04b0;
/// Release 1.00.
pub(crate) const RELEASE: u16 = 0x0100;
pub(crate) const BULK_IN: u8 = 0x81;
pub(crate) const BULK_OUT: u8 = 0x02;
pub(crate) const INTERRUPT_IN: u8 = 0x83;

/// What the camera is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Persona {
    /// A D7000 by PTP.
    #[default]
    Ptp,
    /// A disk. The D7000 has no such mode (its menu offers PTP only); Nikons that have it use the product number before that
    /// of PTP, and so does this. The number behind it is a D5100 by PTP.
    MassStorage,
}

impl Persona {
    /// Its name, as the control socket has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ptp => "ptp",
            Self::MassStorage => "mass-storage",
        }
    }

    /// `idProduct`.
    pub const fn product(self) -> u16 {
        match self {
            Self::Ptp => 0x0428,
            Self::MassStorage => 0x0427,
        }
    }

    /// Class, subclass and protocol: still images by PIMA 15740; SCSI over bulk only.
    pub(crate) const fn interface(self) -> InterfaceClass {
        match self {
            Self::Ptp => InterfaceClass { number: 0, class: 6, subclass: 1, protocol: 1 },
            Self::MassStorage => InterfaceClass { number: 0, class: 8, subclass: 6, protocol: 0x50 },
        }
    }

    /// Address, kind, interval and bytes of a packet.
    pub(crate) fn endpoints(self, speed: Speed) -> Vec<(u8, EpType, u8, u16)> {
        let bulk = max_packet(speed);
        let mut all = vec![(BULK_IN, EpType::Bulk, 0, bulk), (BULK_OUT, EpType::Bulk, 0, bulk)];
        if self == Self::Ptp {
            all.push((INTERRUPT_IN, EpType::Interrupt, 9, 8));
        }
        all
    }

    pub(crate) fn ep_info(self, speed: Speed) -> EpInfo {
        let mut endpoints = [Endpoint::NONE; 32];
        let control = (EpType::Control, 0, if speed == Speed::Super { 512 } else { 64 });
        let own = self.endpoints(speed);
        let own = own.into_iter().map(|(address, kind, interval, max)| (address, (kind, interval, max)));
        for (address, (kind, interval, max_packet)) in [(0, control), (0x80, control)].into_iter().chain(own) {
            endpoints[EpInfo::index(address)] = Endpoint { kind, interval, interface: 0, max_packet };
        }
        EpInfo { endpoints }
    }
}

/// Bytes of a bulk packet.
pub(crate) const fn max_packet(speed: Speed) -> u16 {
    match speed {
        Speed::Super => 1024,
        Speed::High => 512,
        _ => 64,
    }
}

/// A descriptor by its type and number; none when there is none. What is asked for by a hostile camera is answered wrong.
pub(crate) fn answer(
    kind: u8,
    number: u8,
    persona: Persona,
    speed: Speed,
    serial: &str,
    hostile: Option<Hostile>,
) -> Option<Vec<u8>> {
    let fast = speed == Speed::Super;
    let mut bytes = match (kind, number) {
        (1, 0) => device(persona, fast),
        (2, 0) => configuration(persona, speed),
        (3, 0) => vec![4, 3, 9, 4],
        (3, 1) => string("NIKON"),
        (3, 2) => string("NIKON DSC D7000"),
        (3, 3) => string(serial),
        (15, 0) if fast => binary_objects(),
        _ => return None,
    };
    match (hostile, kind) {
        // Longer than it is; an interface of no length; an endpoint that reaches behind the end.
        (Some(Hostile::Lengths), 2) => {
            bytes[2] = 0xff;
            bytes[3] = 0xff;
            bytes[9] = 0;
            bytes[18] = 0xff;
        }
        // No end within what any host reads, and halves of characters.
        (Some(Hostile::Strings), 3) => bytes = [[0xff, 3].as_slice(), &[0xd8; 4094]].concat(),
        _ => {}
    }
    Some(bytes)
}

fn device(persona: Persona, fast: bool) -> Vec<u8> {
    let version = if fast { 0x0300u16 } else { 0x0200 };
    let mut bytes = vec![18, 1];
    bytes.extend(version.to_le_bytes());
    bytes.extend([0, 0, 0, if fast { 9 } else { 64 }]);
    bytes.extend([VENDOR, persona.product(), RELEASE].iter().flat_map(|word| word.to_le_bytes()));
    bytes.extend([1, 2, 3, 1]);
    bytes
}

fn configuration(persona: Persona, speed: Speed) -> Vec<u8> {
    let InterfaceClass { number, class, subclass, protocol } = persona.interface();
    let endpoints = persona.endpoints(speed);
    let count = u8::try_from(endpoints.len()).unwrap_or(0);
    let mut bytes = vec![9, 2, 0, 0, 1, 1, 0, 0xc0, 1];
    bytes.extend([9, 4, number, 0, count, class, subclass, protocol, 0]);
    for (address, kind, interval, max_packet) in endpoints {
        let [low, high] = max_packet.to_le_bytes();
        bytes.extend([7, 5, address, kind as u8, low, high, interval]);
        if speed == Speed::Super {
            // A companion: one packet a burst; what an interrupt endpoint may send in an interval.
            let each = if kind == EpType::Interrupt { low } else { 0 };
            bytes.extend([6, 48, 0, 0, each, 0]);
        }
    }
    let total = u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_le_bytes();
    bytes[2..4].copy_from_slice(&total);
    bytes
}

/// What a device of 5 Gbit/s has to say beside: link power management, and its speeds.
fn binary_objects() -> Vec<u8> {
    let mut bytes = vec![5, 15, 22, 0, 2];
    bytes.extend([7, 16, 2, 2, 0, 0, 0]);
    bytes.extend([10, 16, 3, 0, 0x0e, 0, 1, 10, 0, 0x20]);
    bytes
}

fn string(text: &str) -> Vec<u8> {
    let units: Vec<u16> = text.encode_utf16().take(126).collect();
    let mut bytes = vec![u8::try_from(2 + 2 * units.len()).unwrap_or(u8::MAX), 3];
    bytes.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
    bytes
}
