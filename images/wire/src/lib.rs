//! The messages between an agent and the init of its guests, and how they are framed.
//!
//! The channel is a byte stream that outlives the agent (a QEMU chardev socket in server mode, or a socket pair whose
//! both ends the UML process holds). A new agent can therefore arrive in the middle of a frame that its predecessor
//! left half written. Frames are made so that this heals itself: postcard, then COBS, ended by a zero byte, with a
//! CRC-32 inside. Whoever opens the channel writes one zero byte first; whatever does not check is dropped silently.
//!
//! The agent speaks first after opening: [`ToGuest::Attach`]. The guest answers [`ToAgent::Hello`] and ends whatever
//! an earlier session started. A guest that has just come up says `Hello` with session 0 by itself: then the agent
//! attaches again, for what it sent before may be lost, and a guest that rebooted knows of no session.
//!
//! A guest can be frozen and cloned: it is told [`ToGuest::Settle`] before, and each clone [`ToGuest::Become`], with which
//! it gets what no two guests may share (random seed, MACs, clock) and draws a boot id of its own.
//!
//! Towards the guest, the agent has no more than [`LINK_BYTES`] under way (see [`Pacer`]).

mod frame;
mod message;
mod pace;

pub use frame::{Decoder, FrameError, MAX_FRAME, encode, encode_note};
pub use message::{
    Address, ExecId, MacAddress, Nic, ProbeTarget, Route, Settings, ToAgent, ToGuest, VERSION, WINDOW_BYTES,
};
pub use pace::{LINK_BYTES, NOTE_EVERY, Pacer};
