//! A camera in software, for tests without hardware. No part does I/O.
//!
//! - [`Device`]: a USB device as the device side of usbredir: packets of the guest in, packets to it out.
//! - [`Responder`]: what is behind its bulk endpoints, the responder of PTP (ISO 15740; over USB, the still image class).

mod dataset;
mod device;
mod responder;

pub use device::Device;
pub use responder::{File, NotPtp, Policy, Responder};
