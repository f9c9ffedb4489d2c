//! Waves over gRPC.
//!
//! [`GrpcLink`] keeps a warm channel for each address. How a channel is made is a [`Connector`]'s business: plain here,
//! mutual TLS elsewhere. Liveness is HTTP/2's: a connection that does not answer pings breaks, however long a wave
//! takes. [`TreeService`] serves a [`Node`](crate::Node).

mod link;
mod server;

pub use link::{Connector, GrpcLink, Plain, connect_error, endpoint};
pub use server::{TreeService, keepalive, service};
