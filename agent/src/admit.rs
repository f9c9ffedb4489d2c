//! Admission: VMs that would not fit into this host's memory are refused before any of them is started.

use std::path::Path;

use fleet_vm::VmSpec;
use netlang::HypervisorKind;
use thiserror::Error;

use crate::choose::hypervisor_kind;

const MIB: u64 = 1024 * 1024;
/// What a QEMU process needs beside its guest's memory: code, heap, translated blocks (16 MiB under TCG).
const QEMU_OVERHEAD: u64 = 40 * MIB;
/// What a UML process needs beside its guest's memory.
const UML_OVERHEAD: u64 = 2 * MIB;
/// What is left to the host, in bytes.
pub const RESERVE: u64 = 256 * MIB;

/// The VMs do not fit.
#[derive(Debug, Error)]
#[error(
    "no memory for {count} VMs: they need {needed} MiB ({detail}), and {host} has {free} MiB to give \
         ({what}); start fewer, give them less `mem`, or add hosts"
)]
pub struct AdmissionError {
    /// How many are to be started.
    pub count: usize,
    /// Their sum in MiB.
    pub needed: u64,
    /// How the sum comes about.
    pub detail: String,
    /// The host.
    pub host: String,
    /// What is left, in MiB.
    pub free: u64,
    /// Of what.
    pub what: String,
}

/// Bytes that a VM's process needs beside its guest's memory.
pub fn overhead(hypervisor: HypervisorKind) -> u64 {
    match hypervisor {
        HypervisorKind::Uml => UML_OVERHEAD,
        HypervisorKind::Qemu => QEMU_OVERHEAD,
    }
}

/// Bytes that a VM may come to use: its guest's memory and its process.
fn commitment(spec: &VmSpec) -> u64 {
    spec.memory_bytes + hypervisor_kind(&spec.hypervisor).map_or(QEMU_OVERHEAD, overhead)
}

/// Memory of the host, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// What the kernel would give to new processes.
    pub available: u64,
    /// Free in the tmpfs of UML guests' memory.
    pub ram_files: u64,
    /// Promised to VMs that run, and not used by them yet.
    pub promised: u64,
}

/// Refuses VMs that would not fit, before any is started.
///
/// # Errors
/// With the sum, when they do not fit.
pub fn admit(host: &str, starting: &[VmSpec], room: Room) -> Result<(), AdmissionError> {
    let needed: u64 = starting.iter().map(commitment).sum();
    let in_files: u64 = starting.iter().filter(|spec| spec.hypervisor == "uml").map(|spec| spec.memory_bytes).sum();
    let free = room.available.saturating_sub(RESERVE).saturating_sub(room.promised);
    let file_room = room.ram_files.saturating_sub(room.promised);
    let refuse = |needed: u64, free: u64, what: String| AdmissionError {
        count: starting.len(),
        needed: needed.div_ceil(MIB),
        detail: detail(starting),
        host: host.to_owned(),
        free: free / MIB,
        what,
    };
    let promised = room.promised / MIB;
    if needed > free {
        let available = room.available / MIB;
        return Err(refuse(
            needed,
            free,
            format!(
                "{available} MiB available, less {promised} promised to running VMs and {} for the host",
                RESERVE / MIB
            ),
        ));
    }
    if in_files > file_room {
        let what = "free in the tmpfs of guest memory; enlarge it with `mount -o remount,size=… /dev/shm`";
        return Err(refuse(in_files, file_room, what.to_owned()));
    }
    Ok(())
}

/// "30 x 50 MiB, 2 x 120 MiB".
fn detail(starting: &[VmSpec]) -> String {
    let mut sizes: Vec<u64> = starting.iter().map(|spec| commitment(spec).div_ceil(MIB)).collect();
    sizes.sort_unstable();
    let parts: Vec<_> = sizes.chunk_by(|a, b| a == b).map(|same| format!("{} x {} MiB", same.len(), same[0])).collect();
    parts.join(", ")
}

/// Free bytes of the file system of a folder.
pub fn free_bytes(dir: &Path) -> u64 {
    nix::sys::statvfs::statvfs(dir).map_or(u64::MAX, |stat| stat.blocks_available() * stat.fragment_size())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn specs(count: usize, mib: u64) -> Vec<VmSpec> {
        let spec = VmSpec {
            experiment: "e".into(),
            name: "a".into(),
            hypervisor: "uml".into(),
            accelerator: None,
            memory_bytes: mib * MIB,
            cpus: 1,
            kernel: "/k".into(),
            initrd: "/i".into(),
            cmdline: String::new(),
            lpj: None,
            merge: fleet_vm::Merge::Off,
            nics: Vec::new(),
        };
        vec![spec; count]
    }

    #[test]
    fn what_fits_is_admitted() {
        let room = Room { available: 2048 * MIB, ram_files: 2048 * MIB, promised: 0 };
        admit("h", &specs(30, 48), room).unwrap();
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_sum() {
        let room = Room { available: 2048 * MIB, ram_files: 2048 * MIB, promised: 1000 * MIB };
        let error = admit("h", &specs(30, 48), room).unwrap_err().to_string();
        assert!(error.contains("1500 MiB") && error.contains("30 x 50 MiB") && error.contains("792 MiB"), "{error}");
    }

    #[test]
    fn a_small_tmpfs_is_named() {
        let room = Room { available: 20_480 * MIB, ram_files: 100 * MIB, promised: 0 };
        let error = admit("h", &specs(30, 48), room).unwrap_err().to_string();
        assert!(error.contains("tmpfs") && error.contains("remount"), "{error}");
    }
}
