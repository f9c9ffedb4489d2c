//! What the core of an exporter wants done, and what came of it.

use fleet_usbredir::{Packet, Status};

/// Names one transfer between the core and whoever carries it out. Not the id of a packet: a guest may use one twice.
pub(crate) type Token = u64;

/// One thing to do, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Act {
    /// Send this to the guest.
    Send(u64, Packet),
    /// Begin a transfer; its end is told with this token. Those of one endpoint are begun, and end, in order.
    Begin(Token, Transfer),
    /// Let a transfer that was begun end early. Its end is told all the same.
    Cancel(Token),
    /// Do this. What it touches has no transfers under way. Nothing more is taken from the guest until it is done.
    Perform(Change),
    /// The guest refuses the device.
    Rejected,
}

/// A transfer over the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Transfer {
    /// Endpoint 0, data to the host.
    ControlIn { request_type: u8, request: u8, value: u16, index: u16, length: u16 },
    /// Endpoint 0, data to the device.
    ControlOut { request_type: u8, request: u8, value: u16, index: u16, data: Vec<u8> },
    /// Another endpoint, to the host.
    In { endpoint: u8, length: u32 },
    /// Another endpoint, to the device.
    Out { endpoint: u8, data: Vec<u8> },
}

impl Transfer {
    /// Its endpoint; 0 for both directions of endpoint 0.
    pub(crate) fn endpoint(&self) -> u8 {
        match self {
            Self::ControlIn { .. } | Self::ControlOut { .. } => 0,
            Self::In { endpoint, .. } | Self::Out { endpoint, .. } => *endpoint,
        }
    }

    /// Bytes that it holds while it is under way.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::ControlIn { length, .. } => (*length).into(),
            Self::In { length, .. } => usize::try_from(*length).unwrap_or(usize::MAX),
            Self::ControlOut { data, .. } | Self::Out { data, .. } => data.len(),
        }
    }
}

/// A change of the whole device, or of a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Reset,
    Configuration(u8),
    Alternate { interface: u8, alt: u8 },
    ClearHalt { endpoint: u8 },
}

/// How a transfer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Done {
    pub(crate) status: Status,
    /// Bytes that came, or how many went.
    pub(crate) data: Vec<u8>,
    pub(crate) moved: usize,
}
