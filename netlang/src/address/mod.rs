//! Addresses that never move: prefixes, the lock file, and first-fit allocation.

pub(crate) mod difference;
pub(crate) mod extents;
pub mod lock;
pub mod prefix;
pub(crate) mod space;
