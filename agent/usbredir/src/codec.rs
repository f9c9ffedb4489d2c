//! One end of a connection: which layouts hold, and what of a packet has come so far.

use crate::caps::Caps;
use crate::error::RedirError;
use crate::packet::Packet;
use crate::wire::Reader;
use crate::{decode, encode};

/// Bytes behind a header at most: what Linux lets all transfers of user space have together (16 MiB, `usbfs_memory_mb`), and
/// room for the head.
pub const MAX_BODY: usize = (16 << 20) + 64;
/// Bytes behind the header of other packets than bulk: the longest is 65,535 bytes of data with its head.
const MAX_SMALL: usize = 65_535 + 64;
/// A header with an id of 32 bits.
const HEADER_32: usize = 12;
/// A header with an id of 64 bits.
const HEADER_64: usize = 16;

/// Which end this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// It has the device.
    Host,
    /// It has the virtual machine.
    Guest,
}

impl Side {
    /// The other one.
    pub const fn other(self) -> Self {
        match self {
            Self::Host => Self::Guest,
            Self::Guest => Self::Host,
        }
    }
}

/// One end of a connection. After an error it is of no more use.
#[derive(Debug, Clone)]
pub struct Codec {
    side: Side,
    ours: Caps,
    /// Those of both, once the other's `hello` is there.
    both: Option<Caps>,
    /// What has come of the next packet; never more than one packet.
    partial: Vec<u8>,
}

impl Codec {
    /// A new connection, and the `hello` with which it begins. Capabilities beyond [`Caps::OURS`] are left out, for there
    /// are no packets for them here. `version` is free text; 63 bytes of it are sent.
    pub fn new(side: Side, caps: Caps, version: &str) -> (Self, Vec<u8>) {
        let ours = caps.and(Caps::OURS);
        let hello = encode::hello(ours, version);
        (Self { side, ours, both: None, partial: Vec::new() }, hello)
    }

    /// Capabilities of both ends, once the other's `hello` is there. Nothing but `hello` may be sent before.
    pub fn caps(&self) -> Option<Caps> {
        self.both
    }

    /// Takes bytes from the front of `bytes` until a packet is whole; gives it with its id. `None` when all were taken and more
    /// are needed. Call it again until then.
    ///
    /// # Errors
    /// What is wrong with the packet; the connection is to be closed.
    pub fn read(&mut self, bytes: &mut &[u8]) -> Result<Option<(u64, Packet)>, RedirError> {
        let header = header_length(self.both);
        self.fill(bytes, header);
        let mut reader = Reader(&self.partial);
        let (Some(kind), Some(length)) = (reader.u32(), reader.u32()) else { return Ok(None) };
        let id = if header == HEADER_64 { reader.u64() } else { reader.u32().map(u64::from) };
        let Some(id) = id else { return Ok(None) };
        // A length that does not fit an address is too long in any case.
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        self.check_header(kind, length)?;
        self.fill(bytes, header + length);
        let Some(body) = self.partial.get(header..header + length) else { return Ok(None) };
        let packet = match self.both {
            None => decode::hello(body)?,
            Some(caps) => decode::packet(kind, body, self.side.other(), caps)?,
        };
        if let Packet::Hello { caps, .. } = &packet {
            self.both = Some(self.ours.and(*caps));
        }
        // A long packet's memory is not kept for short ones.
        self.partial = Vec::new();
        Ok(Some((id, packet)))
    }

    /// The bytes of a packet to the other end.
    ///
    /// # Errors
    /// When it is not to be sent by this side, or with these capabilities, or before the other's `hello`; or when its data and
    /// lengths do not fit.
    pub fn write(&self, id: u64, packet: &Packet) -> Result<Vec<u8>, RedirError> {
        let (kind, body) = encode::body(packet, self.both.unwrap_or_default());
        let Some(caps) = self.both else { return Err(RedirError::Order { kind, expected: "the other end's hello" }) };
        // What the other end would refuse is not sent: the same rules, in one place.
        let limit = limit(kind);
        if body.len() > limit {
            return Err(RedirError::TooLong { kind, length: body.len(), limit });
        }
        let back = decode::packet(kind, &body, self.side, caps)?;
        if back != *packet {
            return Err(RedirError::Length { kind, length: body.len() });
        }
        encode::frame(kind, id, &body, caps)
    }

    /// Moves bytes over until `length` are there.
    fn fill(&mut self, bytes: &mut &[u8], length: usize) {
        let missing = length.saturating_sub(self.partial.len()).min(bytes.len());
        let (taken, rest) = bytes.split_at(missing);
        self.partial.extend_from_slice(taken);
        *bytes = rest;
    }

    /// Refuses a packet before any of its body is stored.
    fn check_header(&self, kind: u32, length: usize) -> Result<(), RedirError> {
        match (self.both.is_some(), kind == decode::HELLO) {
            (false, false) => return Err(RedirError::Order { kind, expected: "hello" }),
            (true, true) => return Err(RedirError::Order { kind, expected: "anything but a second hello" }),
            _ => {}
        }
        if length > limit(kind) {
            return Err(RedirError::TooLong { kind, length, limit: limit(kind) });
        }
        Ok(())
    }
}

/// Bytes of a header, with these capabilities of both ends; none: before they are known.
pub(crate) fn header_length(both: Option<Caps>) -> usize {
    if both.is_some_and(|caps| caps.has(Caps::IDS_64)) { HEADER_64 } else { HEADER_32 }
}

/// Bytes behind a header at most, by the type of the packet.
pub(crate) fn limit(kind: u32) -> usize {
    if kind == decode::BULK { MAX_BODY } else { MAX_SMALL }
}
