//! What goes by between two others: a relay looks at headers, and steps over bodies.
//!
//! Nothing is stored but a header, and the few bytes of a packet that tells something. What goes by is not checked as
//! [`Codec`](crate::Codec) checks it: the two ends do that. Only what would make the relay lose its place is an error.

use crate::caps::Caps;
use crate::codec::{MAX_BODY, Side, header_length};
use crate::decode;
use crate::error::RedirError;
use crate::packet::{DeviceConnect, Packet};

/// Bytes of a `hello` at most: a version and the words of capabilities, of which one is defined.
const MAX_HELLO: usize = 4096;

/// What a relay is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Passed {
    /// The first packet, with the capabilities of its sender.
    Hello(Caps),
    /// A device is there.
    DeviceConnect(DeviceConnect),
    /// It is gone.
    DeviceDisconnect,
    /// The guest does not want it.
    FilterReject,
}

/// One direction of a connection that goes by.
#[derive(Debug)]
pub struct Passing {
    sender: Side,
    /// Capabilities of both ends, which decide how long headers are.
    both: Option<Caps>,
    greeted: bool,
    /// A header, and the body of a packet that tells something, as far as they have come.
    partial: Vec<u8>,
    /// Bytes of a body that are still to be stepped over.
    skip: usize,
}

impl Passing {
    /// From its first byte on.
    pub fn new(sender: Side) -> Self {
        Self { sender, both: None, greeted: false, partial: Vec::new(), skip: 0 }
    }

    /// Says the capabilities that both ends have; due before anything follows the `hello`.
    pub fn agreed(&mut self, both: Caps) {
        self.both = Some(both);
    }

    /// Looks at bytes, from the front, until one tells something; `None` when all were looked at. Call it again until then.
    ///
    /// # Errors
    /// When the next packet cannot be found any more; this is of no more use then.
    pub fn look(&mut self, bytes: &mut &[u8]) -> Result<Option<Passed>, RedirError> {
        loop {
            let skipped = self.skip.min(bytes.len());
            *bytes = bytes.get(skipped..).unwrap_or_default();
            self.skip -= skipped;
            if bytes.is_empty() {
                return Ok(None);
            }
            let header = header_length(self.both.filter(|_| self.greeted));
            if self.greeted && self.both.is_none() {
                let kind = decode::HELLO;
                return Err(RedirError::Order { kind, expected: "the other end's hello" });
            }
            if !self.fill(bytes, header) {
                return Ok(None);
            }
            let mut reader = crate::wire::Reader(&self.partial);
            let (kind, length) = (reader.u32().unwrap_or_default(), reader.u32().unwrap_or_default());
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let tells = matches!(
                kind,
                decode::HELLO | decode::DEVICE_CONNECT | decode::DEVICE_DISCONNECT | decode::FILTER_REJECT
            );
            if self.greeted == (kind == decode::HELLO) {
                return Err(RedirError::Order {
                    kind,
                    expected: if self.greeted { "no second hello" } else { "hello" },
                });
            }
            let limit = if tells { MAX_HELLO } else { MAX_BODY };
            if length > limit {
                return Err(RedirError::TooLong { kind, length, limit });
            }
            if !tells {
                self.partial.clear();
                self.skip = length;
                continue;
            }
            if !self.fill(bytes, header + length) {
                return Ok(None);
            }
            let told = self.told(kind, header);
            self.partial.clear();
            return told.map(Some);
        }
    }

    /// Whether `length` bytes are there now.
    fn fill(&mut self, bytes: &mut &[u8], length: usize) -> bool {
        let missing = length.saturating_sub(self.partial.len()).min(bytes.len());
        let (taken, rest) = bytes.split_at(missing);
        self.partial.extend_from_slice(taken);
        *bytes = rest;
        self.partial.len() >= length
    }

    fn told(&mut self, kind: u32, header: usize) -> Result<Passed, RedirError> {
        let body = self.partial.get(header..).unwrap_or_default();
        let packet = match self.both.filter(|_| self.greeted) {
            None => decode::hello(body)?,
            Some(caps) => decode::packet(kind, body, self.sender, caps)?,
        };
        match packet {
            Packet::Hello { caps, .. } => {
                self.greeted = true;
                Ok(Passed::Hello(caps))
            }
            Packet::DeviceConnect(device) => Ok(Passed::DeviceConnect(device)),
            Packet::DeviceDisconnect => Ok(Passed::DeviceDisconnect),
            Packet::FilterReject => Ok(Passed::FilterReject),
            _ => Err(RedirError::Type { kind }),
        }
    }
}
