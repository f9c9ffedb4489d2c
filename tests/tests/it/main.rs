//! The program used as a user does: real VMs, networks, kills, many hosts. One binary for all files: it is linked once, and its tests
//! fill the time in which others wait.
#![allow(missing_docs)]

mod backup;
mod bad_input;
mod changes;
mod cli;
mod cp;
mod examples;
mod faults;
mod joining;
mod lab;
mod lifecycle;
mod operations;
mod planning;
mod push;
mod qemu;
mod recovery;
mod session;
mod snapshots;
mod telemetry;
mod tree;
mod usb;
