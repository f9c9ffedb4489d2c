//! Tests that cross crates: real VMs, faults, clean ends.
//!
//! Every test has a fleet of its own: [`Fleet`] is a folder (`--root`), a configuration and the program `fleet`, run as
//! a user runs it. Nothing of fleet is linked in: what a test sees is what the program prints, what its exit code says
//! and what the kernel shows. When a `Fleet` is dropped, also by a test that failed, everything of it is taken down;
//! a test that went well fails when something is left ([`Traces`]).
//!
//! The program is the one that `FLEET_BIN` names, else the one beside the test's own folder (`target/debug/fleet`).
//! The tests need root and the image `tiny`; `make test` sets both up.
#![allow(clippy::unwrap_used, reason = "a harness of tests: what goes wrong ends the test, with its place")]

mod daemon;
mod fleet;
pub mod image;
mod lab;
mod process;
mod pty;
mod traces;
mod vm;
mod wait;
mod wire;

pub use daemon::Daemon;
pub use fleet::{Answer, Fleet, Options, run};
pub use lab::{Host, Lab};
pub use process::{alive, kill, signal, stat};
pub use pty::Pty;
pub use traces::{Traces, links};
pub use vm::Vm;
pub use wait::{eventually, until, within};
