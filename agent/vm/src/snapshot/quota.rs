//! How much of the disk snapshots may take.

use nix::sys::statvfs::statvfs;

use super::{SnapshotError, SnapshotStore};
use crate::error::VmError;
use crate::spec::VmSpec;

/// Left free on the disk, in bytes: the host needs some for itself.
const RESERVE: u64 = 256 << 20;

/// What all snapshots of a host may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotQuota {
    /// So many bytes.
    Bytes(u64),
    /// So many percent of what the disk would have free without them.
    Percent(u8),
}

impl Default for SnapshotQuota {
    /// Half: a range of VMs that is snapshotted again and again does not fill the disk for others.
    fn default() -> Self {
        SnapshotQuota::Percent(50)
    }
}

impl SnapshotQuota {
    /// Bytes that they may take, when they take `used` and the disk has `free` beside them.
    fn bytes(self, used: u64, free: u64) -> u64 {
        match self {
            SnapshotQuota::Bytes(bytes) => bytes,
            // Percent of the two in an order that neither overflows nor loses what matters.
            SnapshotQuota::Percent(percent) => used.saturating_add(free) / 100 * u64::from(percent.min(100)),
        }
    }
}

/// Room that a snapshot may need, kept for it until it is taken or given up.
#[derive(Debug)]
pub(super) struct Room<'a> {
    store: &'a SnapshotStore,
    bytes: u64,
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        *self.store.promised() -= self.bytes;
    }
}

impl SnapshotStore {
    /// Promises room for a snapshot of a VM, whose memory is the most that it can take. Nothing is written.
    ///
    /// # Errors
    /// When the disk is short, or all snapshots together would take more than they may.
    pub(super) fn promise(&self, spec: &VmSpec) -> Result<Room<'_>, SnapshotError> {
        let there = self.dir.ancestors().find(|dir| dir.exists()).unwrap_or(&self.dir);
        let stat = statvfs(there).map_err(|errno| VmError::io("cannot examine", there)(errno.into()))?;
        let free = stat.blocks_available().saturating_mul(stat.fragment_size());
        let mut promised = self.promised();
        let (vm, dir, needed) = (spec.label(), self.dir.clone(), spec.memory_mib());
        let bytes = spec.memory_mib() << 20;
        if free < promised.saturating_add(bytes).saturating_add(RESERVE) {
            return Err(SnapshotError::NoSpace { vm, dir, needed, free: free >> 20, reserve: RESERVE >> 20 });
        }
        let used = self.chunks.used().saturating_add(*promised);
        let quota = self.quota.bytes(self.chunks.used(), free);
        if used.saturating_add(bytes) > quota {
            return Err(SnapshotError::OverQuota { vm, dir, needed, used: used >> 20, quota: quota >> 20 });
        }
        *promised += bytes;
        drop(promised);
        Ok(Room { store: self, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_of_what_would_be_free_without_snapshots() {
        let gib = 1 << 30;
        assert_eq!(
            SnapshotQuota::Percent(50).bytes(0, 100 * gib),
            SnapshotQuota::Percent(50).bytes(40 * gib, 60 * gib)
        );
        assert!(SnapshotQuota::Percent(50).bytes(0, 100 * gib).abs_diff(50 * gib) < 100);
        assert_eq!(SnapshotQuota::Bytes(gib).bytes(5, 5), gib);
        assert_eq!(SnapshotQuota::Percent(200).bytes(500, 500), 1000);
    }
}
