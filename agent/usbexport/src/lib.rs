//! Gives a camera out by usbredir.
//!
//! - [`export_device`]: a camera on a port of this host, by its node.
//! - [`Server`]: a camera that is behind a usbredir server already: seen, and lent by a relay.
//!
//! What is here moves bytes and tells how it ended. Who may have a camera is decided elsewhere.

mod address;
mod device;
mod error;
mod server;

use tokio::io::{AsyncRead, AsyncWrite};

pub use address::ServerAddress;
pub use device::export_device;
pub use error::ExportError;
pub use server::{Seen, Server};

/// How a conversation ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By the caller's token.
    Cancelled,
    /// The camera is gone; the other end was told so.
    Unplugged,
    /// The other end closed its stream.
    PeerClosed,
}

/// A stream to whoever gets the camera.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}
