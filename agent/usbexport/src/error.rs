//! Why a camera could not be given out.

use std::io;
use std::time::Duration;

use fleet_usbredir::RedirError;
use thiserror::Error;

use crate::address::ServerAddress;

/// What went wrong, where, and what to do.
#[derive(Debug, Error)]
pub enum ExportError {
    /// No address of a server.
    #[error("`{text}` is no address of a usbredir server; write unix:/PATH or HOST:PORT")]
    Address {
        /// What was written.
        text: String,
    },
    /// The server is not reached.
    #[error("the usbredir server {address} is not reached: {source}; does it run?")]
    Connect {
        /// Which.
        address: ServerAddress,
        /// Why.
        source: io::Error,
    },
    /// The server says nothing.
    #[error(
        "the usbredir server {address} did not send {what} within {} s; such servers serve one client: has it another one?",
        after.as_secs()
    )]
    Silent {
        /// Which.
        address: ServerAddress,
        /// What is due.
        what: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// The server has closed the connection.
    #[error("the usbredir server {address} closed the connection")]
    Closed {
        /// Which.
        address: ServerAddress,
    },
    /// What comes is no usbredir.
    #[error("what {from} sends cannot be used: {source}")]
    Protocol {
        /// Who.
        from: String,
        /// Why.
        source: RedirError,
    },
    /// A stream failed.
    #[error("the connection with {with} failed: {source}")]
    Stream {
        /// Who is at its other end.
        with: String,
        /// Why.
        source: io::Error,
    },
    /// Somebody has it.
    #[error("the camera of the usbredir server {address} is lent already; end that first")]
    Lent {
        /// Which.
        address: ServerAddress,
    },
    /// There is no camera now.
    #[error("the usbredir server {address} has no camera now; plug it in, or start the server")]
    Absent {
        /// Which.
        address: ServerAddress,
    },
    /// The other end does not want it.
    #[error("the other end's filter refuses the camera: it lets in another vendor, product or class")]
    Rejected,
    /// The descriptor is of something else.
    #[error("this is no node of a USB device that is open for writing: {source}; open /dev/bus/usb/BUS/DEVICE")]
    Node {
        /// Why.
        source: io::Error,
    },
    /// What the device says of itself.
    #[error("the camera's descriptors cannot be used: {source}")]
    Descriptors {
        /// Why.
        source: fleet_usb::descriptors::DescriptorError,
    },
    /// Another program has the device.
    #[error("interface {interface} of the camera is held by another program; end that, or detach the camera there")]
    Busy {
        /// Which.
        interface: u8,
    },
    /// The device does not do what it is asked.
    #[error("the camera {what}: {source}")]
    Device {
        /// What it does not.
        what: &'static str,
        /// Why.
        source: nusb::Error,
    },
    /// The device takes too long.
    #[error("the camera has not answered for {} s; unplug it and plug it in again", after.as_secs())]
    Hangs {
        /// How long was waited.
        after: Duration,
    },
    /// It was stopped.
    #[error("the usbredir server {address} is not used any more")]
    Stopped {
        /// Which.
        address: ServerAddress,
    },
}
