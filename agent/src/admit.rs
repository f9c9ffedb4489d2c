//! Admission: VMs that this host cannot bear are refused before any of them is started, with the sums.
//!
//! Memory is promised, not used: a VM counts for all the memory that it was given, unless its file says `overcommit`.
//! Beside it, a host has only so many tasks, and the agent only so many open files. Pure: what there is comes from
//! [`room`](crate::room).

use fleet_vm::VmSpec;
use netlang::HypervisorKind;
use thiserror::Error;

use crate::choose::hypervisor_kind;
use crate::slot::Wanted;

const MIB: u64 = 1024 * 1024;
/// What a QEMU process needs beside its guest's memory and translated code: heap, relocations, stacks (measured: 10 MB).
const QEMU_OVERHEAD: u64 = 10 * MIB;
/// What QEMU needs more for a VM with a USB controller: that, its cameras, and what is under way with them (measured: 8 MB).
const USB_OVERHEAD: u64 = 8 * MIB;
/// What a UML process needs beside its guest's memory.
const UML_OVERHEAD: u64 = 2 * MIB;
/// What is left to the host, in bytes.
pub const RESERVE: u64 = 256 * MIB;
/// Tasks of a UML VM: the kernel, its helpers, and the guest's address spaces.
const UML_TASKS: u64 = 5;
/// Tasks of a QEMU VM beside one a virtual processor: main loop, RCU, I/O.
const QEMU_TASKS: u64 = 4;
/// Tasks that are left to the host.
const RESERVED_TASKS: u64 = 512;
/// Files that the agent keeps open for a VM: its process, control channel, console and log, and what a start needs.
const FILES: u64 = 6;
/// Files that are left to the agent for everything else.
const RESERVED_FILES: u64 = 256;
/// The highest factor that a file can give.
const MOST_OVERCOMMIT: u32 = 100;

/// The VMs do not fit.
#[derive(Debug, Error)]
pub enum AdmissionError {
    /// Into the memory.
    #[error(
        "no memory for {count} VMs: they need {needed} MiB ({detail}), and {host} has {free} MiB to give ({what}); \
         start fewer, give them less `mem`, or add hosts{}", overcommit(*.factor)
    )]
    Memory {
        /// How many are to be started.
        count: usize,
        /// Their sum in MiB.
        needed: u64,
        /// How the sum comes about.
        detail: String,
        /// The host.
        host: String,
        /// What is left, in MiB.
        free: u64,
        /// Of what.
        what: String,
        /// The least overcommit with which they would fit; `None` when none would do.
        factor: Option<u32>,
    },
    /// Into what the kernel has of tasks.
    #[error(
        "too many tasks for {count} VMs: they need {needed} (5 a VM on uml, 4 and one a processor on qemu), and {host} \
         has {free} left (of {limit} by {name}, {used} are in use, {RESERVED_TASKS} stay free); {mend}, or start fewer"
    )]
    Tasks {
        /// How many are to be started.
        count: usize,
        /// Tasks that they need.
        needed: u64,
        /// The host.
        host: String,
        /// What is left.
        free: u64,
        /// How many there may be.
        limit: u64,
        /// What says so.
        name: String,
        /// How many there are.
        used: u64,
        /// How to have more.
        mend: String,
    },
    /// Into the files that the agent may have open.
    #[error(
        "too many open files for {count} VMs: the agent needs {needed} ({FILES} a VM), and it has {free} left (of \
         {limit} by RLIMIT_NOFILE, {used} are open, {RESERVED_FILES} stay free); raise `LimitNOFILE=` of its service or \
         `ulimit -Hn` and start it again, or start fewer"
    )]
    Files {
        /// How many are to be started.
        count: usize,
        /// Files that they need.
        needed: u64,
        /// What is left.
        free: u64,
        /// How many there may be.
        limit: u64,
        /// How many there are.
        used: u64,
    },
}

fn overcommit(factor: Option<u32>) -> String {
    factor.map_or_else(String::new, |factor| {
        format!(
            "\nhelp: guests seldom use all that they are given: `default vm {{ overcommit {factor} }}` in the file \
             counts a VM's memory for a part (1/{factor}) of it"
        )
    })
}

/// Bytes that the process of a VM, with or without a USB controller, needs beside its guest's memory, of which there are
/// `memory` bytes.
pub fn overhead(hypervisor: HypervisorKind, memory: u64, usb: bool) -> u64 {
    let usb = if usb { USB_OVERHEAD } else { 0 };
    match hypervisor {
        HypervisorKind::Uml => UML_OVERHEAD,
        HypervisorKind::Qemu => {
            QEMU_OVERHEAD + usb + fleet_vm::hypervisor::translations_mib(memory.div_ceil(MIB)) * MIB
        }
    }
}

/// What counts of a VM on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    kind: HypervisorKind,
    memory: u64,
    cpus: u32,
    usb: bool,
    overcommit: u32,
}

impl Demand {
    /// Of a VM that runs as `spec` says, whose file gives this overcommit.
    pub fn new(spec: &VmSpec, overcommit: u32) -> Self {
        let kind = hypervisor_kind(&spec.hypervisor).unwrap_or(HypervisorKind::Qemu);
        Self { kind, memory: spec.memory_bytes, cpus: spec.cpus, usb: spec.usb, overcommit }
    }

    /// Of a VM that is to be started.
    pub fn of(wanted: &Wanted) -> Self {
        Self::new(&wanted.spec, wanted.vm.vm.class.overcommit)
    }

    /// Bytes that count of its guest's memory.
    fn guest(self) -> u64 {
        netlang::committed(self.memory, self.overcommit)
    }

    /// Bytes that count in all: of its guest's memory, and its process.
    pub fn bytes(self) -> u64 {
        self.guest().saturating_add(overhead(self.kind, self.memory, self.usb))
    }

    fn tasks(self) -> u64 {
        match self.kind {
            HypervisorKind::Uml => UML_TASKS,
            HypervisorKind::Qemu => QEMU_TASKS + u64::from(self.cpus),
        }
    }
}

/// A limit on a number of things, and how many there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What sets it, as the system's administrator knows it.
    pub name: String,
    /// How many there may be.
    pub limit: u64,
    /// How many there are.
    pub used: u64,
    /// How to have more.
    pub mend: String,
}

/// What this host has left.
#[derive(Clone, Debug, Default)]
pub struct Room {
    /// Bytes that the kernel would give to new processes.
    pub available: u64,
    /// Bytes free in the tmpfs of UML guests' memory.
    pub ram_files: u64,
    /// Bytes promised to VMs that run, and not used by them yet.
    pub promised: u64,
    /// Limits of tasks; all of them hold.
    pub tasks: Vec<Limit>,
    /// Files the agent may open and has open; `None` when that is not known.
    pub files: Option<(u64, u64)>,
}

/// Refuses VMs that would not fit, before any is started.
///
/// # Errors
/// With the sums, when they do not fit.
pub fn admit(host: &str, starting: &[Demand], room: &Room) -> Result<(), AdmissionError> {
    let count = starting.len();
    memory(host, starting, room)?;
    let needed: u64 = starting.iter().map(|vm| vm.tasks()).sum();
    for Limit { name, limit, used, mend } in room.tasks.iter().cloned() {
        let free = limit.saturating_sub(used).saturating_sub(RESERVED_TASKS);
        if needed > free {
            return Err(AdmissionError::Tasks { count, needed, host: host.to_owned(), free, limit, name, used, mend });
        }
    }
    if let Some((limit, used)) = room.files {
        let needed = FILES.saturating_mul(count as u64);
        let free = limit.saturating_sub(used).saturating_sub(RESERVED_FILES);
        if needed > free {
            return Err(AdmissionError::Files { count, needed, free, limit, used });
        }
    }
    Ok(())
}

fn memory(host: &str, starting: &[Demand], room: &Room) -> Result<(), AdmissionError> {
    let sum = |vms: &[Demand]| vms.iter().fold(0u64, |sum, vm| sum.saturating_add(vm.bytes()));
    let in_files = |vms: &[Demand]| {
        let uml = vms.iter().filter(|vm| vm.kind == HypervisorKind::Uml);
        uml.fold(0u64, |sum, vm| sum.saturating_add(vm.guest()))
    };
    let free = room.available.saturating_sub(RESERVE).saturating_sub(room.promised);
    let file_room = room.ram_files.saturating_sub(room.promised);
    let fits = |vms: &[Demand]| sum(vms) <= free && in_files(vms) <= file_room;
    if fits(starting) {
        return Ok(());
    }
    let factor = (2..=MOST_OVERCOMMIT).find(|factor| {
        let with = |vm: &Demand| Demand { overcommit: vm.overcommit.max(*factor), ..*vm };
        fits(&starting.iter().map(with).collect::<Vec<_>>())
    });
    let (needed, free, what) = if sum(starting) > free {
        let (available, promised) = (room.available / MIB, room.promised / MIB);
        let reserve = RESERVE / MIB;
        let what =
            format!("{available} MiB available, less {promised} promised to running VMs and {reserve} for the host");
        (sum(starting), free, what)
    } else {
        let what = "free in the tmpfs of guest memory; enlarge it with `mount -o remount,size=… /dev/shm`";
        (in_files(starting), file_room, what.to_owned())
    };
    Err(AdmissionError::Memory {
        count: starting.len(),
        needed: needed.div_ceil(MIB),
        detail: detail(starting),
        host: host.to_owned(),
        free: free / MIB,
        what,
        factor,
    })
}

/// "30 x 50 MiB, 2 x 120 MiB".
fn detail(starting: &[Demand]) -> String {
    let mut sizes: Vec<u64> = starting.iter().map(|vm| vm.bytes().div_ceil(MIB)).collect();
    sizes.sort_unstable();
    let parts: Vec<_> = sizes.chunk_by(|a, b| a == b).map(|same| format!("{} x {} MiB", same.len(), same[0])).collect();
    parts.join(", ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const GIB: u64 = 1024 * MIB;

    fn vms(count: usize, mib: u64, overcommit: u32) -> Vec<Demand> {
        vec![Demand { kind: HypervisorKind::Uml, memory: mib * MIB, cpus: 1, usb: false, overcommit }; count]
    }

    fn room(available: u64, promised: u64) -> Room {
        Room { available, ram_files: available, promised, ..Room::default() }
    }

    #[test]
    fn what_fits_is_admitted() {
        admit("h", &vms(30, 48, 1), &room(2 * GIB, 0)).unwrap();
    }

    #[test]
    fn what_a_camera_needs_counts() {
        let demand = Demand { kind: HypervisorKind::Qemu, ..vms(1, 128, 1)[0] };
        assert_eq!(Demand { usb: true, ..demand }.bytes(), demand.bytes() + USB_OVERHEAD);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_sum() {
        let error = admit("h", &vms(30, 48, 1), &room(2 * GIB, 1000 * MIB)).unwrap_err().to_string();
        assert!(error.contains("1500 MiB") && error.contains("30 x 50 MiB") && error.contains("792 MiB"), "{error}");
    }

    #[test]
    fn three_thousand_small_vms_are_admitted_on_24_gib_when_the_file_says_so() {
        let room = room(23 * GIB, 0);
        let error = admit("h", &vms(3000, 16, 1), &room).unwrap_err().to_string();
        assert!(error.contains("54000 MiB") && error.contains("`default vm { overcommit 3 }`"), "{error}");
        admit("h", &vms(3000, 16, 3), &room).unwrap();
    }

    #[test]
    fn no_overcommit_is_named_where_none_would_do() {
        let error = admit("h", &vms(3000, 16, 1), &room(4 * GIB, 0)).unwrap_err().to_string();
        assert!(!error.contains("overcommit"), "{error}");
    }

    #[test]
    fn a_small_tmpfs_is_named() {
        let room = Room { ram_files: 100 * MIB, ..room(20 * GIB, 0) };
        let error = admit("h", &vms(30, 48, 1), &room).unwrap_err().to_string();
        assert!(error.contains("tmpfs") && error.contains("remount"), "{error}");
    }

    #[test]
    fn tasks_and_open_files_are_limits_too() {
        let limit = |limit, name: &str| Limit { name: name.into(), limit, used: 400, mend: format!("raise {name}") };
        let mut room = room(23 * GIB, 0);
        room.tasks = vec![limit(1 << 20, "kernel.threads-max"), limit(4096, "kernel.pid_max")];
        let error = admit("h", &vms(1000, 16, 1), &room).unwrap_err().to_string();
        assert!(
            error.contains("5000") && error.contains("3184 left") && error.contains("raise kernel.pid_max"),
            "{error}"
        );
        admit("h", &vms(600, 16, 1), &room).unwrap();
        room.files = Some((1024, 50));
        let error = admit("h", &vms(600, 16, 1), &room).unwrap_err().to_string();
        assert!(error.contains("3600") && error.contains("718 left") && error.contains("LimitNOFILE"), "{error}");
    }
}
