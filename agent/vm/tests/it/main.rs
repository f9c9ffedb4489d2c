//! VMs under both hypervisors: real processes, guests and taps.
#![allow(missing_docs)]

mod adoption;
mod clones;
mod common;
mod console;
mod control;
mod lifecycle;
mod nics;
mod probe;
mod small;
mod snapshots;
mod usb;
