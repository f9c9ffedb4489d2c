//! Fleet's gRPC API, version 1: the types and services that `proto/fleet/v1/*.proto` declare.
//!
//! The protobuf files are the reference; this crate only holds what `tonic` and `prost` generate from them.

/// Version 1 of the API.
#[allow(missing_docs, clippy::all, clippy::unwrap_used)]
pub mod v1 {
    tonic::include_proto!("fleet.v1");
}

/// In place of the address of a camera's host: the controller itself gives its own host's cameras out, where hosts call it.
pub const AT_THE_CONTROLLER: &str = "controller";

/// Largest message, in bytes, that either side accepts. Long answers are streams of smaller ones.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
