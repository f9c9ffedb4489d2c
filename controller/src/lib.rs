//! The controller, and the program `fleet` over it.
//!
//! - [`config`]: where things are and what the user settled.
//! - [`commitments`]: what VMs come to use on a host.
//! - [`daemon`]: the controller process: its store and journal, the service that the program talks to, telemetry.
//! - [`size`]: sizes as people write them.
//! - [`cli`]: the command line, one file a command.

pub mod cli;
pub mod commitments;
pub mod config;
pub mod daemon;
pub mod size;
