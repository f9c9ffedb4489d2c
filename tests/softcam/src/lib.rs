//! A camera in software, for tests without hardware.
//!
//! [`Responder`] is what a camera is behind its bulk endpoints: the responder of PTP (ISO 15740; over USB, the still image class).
//! Bytes from the host go in, bytes to the host come out. It does no I/O and knows no transport.

mod dataset;
mod responder;

pub use responder::{File, NotPtp, Policy, Responder};
