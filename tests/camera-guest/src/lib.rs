//! A guest of the image `camera` under a bare QEMU, with no fleet around it: what tests of the camera in software see by the
//! real `gphoto2`, and what benchmarks of fleet compare with.
//!
//! - [`image`]: the image, built when the store lacks it.
//! - [`Guest`]: QEMU with an xHCI controller; cameras are plugged into it by QMP ([`Guest::plug`]).
//! - [`Session`]: commands in the guest, by its init.
//! - [`gphoto2`]: what `gphoto2` prints, read.
#![allow(clippy::unwrap_used, reason = "a harness of tests: what goes wrong ends the test, with its place")]

pub mod gphoto2;
mod guest;
mod image;
mod qmp;
mod session;

pub use guest::Guest;
pub use image::{image, init};
pub use session::{Outcome, Session};
