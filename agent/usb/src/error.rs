//! What can go wrong with a host's USB devices.

use std::path::PathBuf;

use thiserror::Error;

/// An error of the inventory.
#[derive(Debug, Error)]
pub enum UsbError {
    /// A folder or file of sysfs or procfs cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The kernel's events cannot be had.
    #[error("cannot listen to the kernel's device events (netlink, group {group}): {source}")]
    Listen {
        /// 1 for the kernel's, 2 for udev's.
        group: u32,
        /// Why.
        source: std::io::Error,
    },
    /// Not a vendor and a product.
    #[error("`{text}` is not a vendor and product: write two hexadecimal numbers, as in 04b0:0428")]
    VidPid {
        /// What was given.
        text: String,
    },
}
