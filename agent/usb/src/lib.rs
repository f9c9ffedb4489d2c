//! USB cameras of one host: what is plugged in, who holds it, whose it is.
//!
//! - [`Sysfs`]: the devices, from a given root; [`descriptors`]: their own words, as untrusted bytes.
//! - [`Procfs`], [`Access`]: who holds a device, and whether it may be opened.
//! - [`Inventory`]: which devices are cameras, which camera each is, what changed. Pure.
//! - [`Events`]: the kernel's hints that it is time for another look.
//! - [`Watcher`]: the task that puts these together.
//! - [`lease`]: who has a camera, with a fencing epoch. Pure.
//! - [`State`]: what a user is told of a camera, from inventory and lease.

pub mod descriptors;
mod device;
mod error;
mod events;
mod holder;
mod identity;
mod inventory;
pub mod lease;
mod state;
mod sysfs;
mod watcher;

pub use descriptors::Class;
pub use device::{Device, Interface, Persona, PortPath, VidPid};
pub use error::UsbError;
pub use events::Events;
pub use holder::{Access, Holder, Procfs, udev_rule};
pub use identity::{Identity, Rules};
pub use inventory::{Camera, Change, ChangeKind, Inventory, MAX_ABSENT, SharedSerial, Sighting};
pub use state::State;
pub use sysfs::Sysfs;
pub use watcher::{Look, Watcher};
