//! The usbredir protocol, version 0.7: a USB device at the other end of a stream.
//!
//! The *host* has the device (an exporter, or a software device); the *guest* has the virtual machine (QEMU's `usb-redir`).
//! Each begins with a `hello` that lists its capabilities; those that both have decide the layout of some packets and the width
//! of ids. Every packet is a header (type, length of what follows, id; little-endian), a head of a fixed size that the type
//! says, and data. Requests carry an id that their answer repeats.
//!
//! This crate reads and writes packets; it does no I/O and knows no device:
//!
//! - [`Packet`]: all packets of the protocol, of both directions.
//! - [`Codec`]: the state of one end of a connection: bytes in, packets out, and the other way round.
//! - [`Caps`], capabilities.
//! - [`Passing`]: what a relay between two others hands on of their packets.
//! - [`Filter`]: which devices a guest takes, as QEMU's property `filter` says it.
//!
//! The other end is not trusted. A packet of more than [`MAX_BODY`] bytes is refused from its header, before anything is
//! stored of it, so a codec holds at most one packet of that size; each head is checked against its length and its data
//! against the length that its head says. An error ends the connection: there is no way to find the next packet.
//!
//! Why there is an own codec: the crates for this protocol are bindings to the C library, which means a system library, and
//! unsafe code that reads a stranger's bytes in the process that looks after all VMs of a host.

mod caps;
mod codec;
mod decode;
mod encode;
mod error;
mod filter;
mod packet;
mod passing;
mod wire;

pub use caps::Caps;
pub use codec::{Codec, MAX_BODY, Side};
pub use error::RedirError;
pub use filter::{Filter, FilterRule};
pub use packet::{DeviceConnect, Endpoint, EpInfo, EpType, InterfaceClass, InterfaceInfo, Packet, Speed, Status};
pub use passing::{Passed, Passing};
