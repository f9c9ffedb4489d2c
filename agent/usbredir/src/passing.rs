//! What goes by between two others: a relay hands on whole packets that are right, and nothing else.
//!
//! QEMU 7.2 ends itself, and so the VM, when the packet that it reads is wrong and bytes follow (an assertion in
//! `usbredir_chardev_read`). So what a stranger sends is checked before QEMU sees it: every packet as
//! [`Codec`](crate::Codec) checks it, of a bulk packet the head, whose data is then handed on as it comes. In a `hello` only
//! capabilities are left that there are packets for here, so that both ends speak what can be checked.
//!
//! Stored is one packet of at most 65,535 bytes with its heads, and of bulk packets the heads.

use crate::caps::Caps;
use crate::codec::{Side, header_length, limit};
use crate::decode;
use crate::encode;
use crate::error::RedirError;
use crate::packet::{DeviceConnect, Packet};
use crate::wire::Reader;

/// What a relay is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Passed {
    /// The first packet, with the capabilities of its sender that were handed on.
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
    /// Capabilities of both ends, which decide how packets are laid out.
    both: Option<Caps>,
    greeted: bool,
    /// A packet, as far as it has come; of a bulk packet the heads.
    partial: Vec<u8>,
    /// Bytes of a bulk packet that are still to be handed on.
    data: usize,
}

impl Passing {
    /// From its first byte on.
    pub fn new(sender: Side) -> Self {
        Self { sender, both: None, greeted: false, partial: Vec::new(), data: 0 }
    }

    /// Says the capabilities that both ends have, of those that were handed on; due before anything follows the `hello`.
    pub fn agreed(&mut self, both: Caps) {
        self.both = Some(both);
    }

    /// Takes bytes from the front, and puts those that may go on into `out`, until a packet tells something, which is in `out`
    /// then; `None` when all were taken. Call it again until then.
    ///
    /// # Errors
    /// What is wrong with the next packet, of which nothing is in `out`. The connection is to be closed: this is of no more use.
    pub fn pass(&mut self, bytes: &mut &[u8], out: &mut Vec<u8>) -> Result<Option<Passed>, RedirError> {
        loop {
            let (data, rest) = bytes.split_at(self.data.min(bytes.len()));
            out.extend_from_slice(data);
            self.data -= data.len();
            *bytes = rest;
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
            let mut reader = Reader(&self.partial);
            let (kind, length) = (reader.u32().unwrap_or_default(), reader.u32().unwrap_or_default());
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            if self.greeted == (kind == decode::HELLO) {
                let expected = if self.greeted { "anything but a second hello" } else { "hello" };
                return Err(RedirError::Order { kind, expected });
            }
            if length > limit(kind) {
                return Err(RedirError::TooLong { kind, length, limit: limit(kind) });
            }
            let caps = self.both.filter(|_| self.greeted);
            let stored = match caps {
                Some(caps) if kind == decode::BULK => length.min(decode::bulk_head(caps)),
                _ => length,
            };
            if !self.fill(bytes, header + stored) {
                return Ok(None);
            }
            let body = self.partial.get(header..).unwrap_or_default();
            let told = match caps {
                None => {
                    let Packet::Hello { version, caps } = decode::hello(body)? else {
                        return Err(RedirError::Type { kind });
                    };
                    let caps = caps.and(Caps::OURS);
                    out.extend(encode::hello(caps, &version));
                    self.greeted = true;
                    Some(Passed::Hello(caps))
                }
                Some(caps) if kind == decode::BULK => {
                    decode::bulk(body, length, self.sender, caps)?;
                    self.data = length - stored;
                    out.extend_from_slice(&self.partial);
                    None
                }
                Some(caps) => {
                    let packet = decode::packet(kind, body, self.sender, caps)?;
                    out.extend_from_slice(&self.partial);
                    match packet {
                        Packet::DeviceConnect(device) => Some(Passed::DeviceConnect(device)),
                        Packet::DeviceDisconnect => Some(Passed::DeviceDisconnect),
                        Packet::FilterReject => Some(Passed::FilterReject),
                        _ => None,
                    }
                }
            };
            self.partial.clear();
            if told.is_some() {
                return Ok(told);
            }
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
}
