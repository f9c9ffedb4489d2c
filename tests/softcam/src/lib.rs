//! A camera in software, for tests without hardware: a Nikon D7000 behind a usbredir server socket.
//!
//! - [`Softcam`]: the camera as an owned task, which a test plugs, switches and breaks; the program `softcam` is the same with a
//!   [`control`] socket.
//! - [`Device`]: a USB device as the device side of usbredir: packets of the guest in, packets to it out. No I/O.
//! - [`Responder`]: what is behind its bulk endpoints, the responder of PTP (ISO 15740; over USB, the still image class).

mod address;
mod condition;
mod container;
pub mod control;
mod conversation;
mod dataset;
mod descriptors;
mod device;
mod files;
mod responder;
mod server;
mod storage;

pub use address::Address;
pub use condition::Condition;
pub use container::Container;
pub use descriptors::{Persona, VENDOR};
pub use device::{Device, Faults, Hostile};
pub use files::{folder, pictures};
pub use fleet_usbredir::Speed;
pub use responder::{File, NotPtp, Policy, Responder};
pub use server::{Options, Seen, Softcam};
