//! From what a file says to what can be started here: hypervisor, image, memory; and whether it all fits.

use std::collections::HashMap;
use std::path::Path;

use fleet_images::{Image, ImageStore};
use fleet_vm::VmSpec;
use netlang::HypervisorKind;
use thiserror::Error;

use crate::probe::Probed;
use crate::slice::WantedVm;
use crate::slot::Wanted;

const MIB: u64 = 1024 * 1024;
/// What a QEMU process needs beside its guest's memory: code, heap, translated blocks (16 MiB under TCG).
const QEMU_OVERHEAD: u64 = 40 * MIB;
/// What a UML process needs beside its guest's memory.
const UML_OVERHEAD: u64 = 2 * MIB;
/// What is left to the host.
const RESERVE: u64 = 256 * MIB;

/// Why a slice cannot be started on this host. Nothing was touched.
#[derive(Debug, Error)]
pub enum ChooseError {
    /// No image of that name, or it is damaged.
    #[error("{vm}: {source}")]
    Image {
        /// The first VM that needs it.
        vm: String,
        /// Its cause and mend.
        source: fleet_images::ImageError,
    },
    /// The image is not made for the hypervisor.
    #[error(
        "{vm}: the image {image} has no kernel for {hypervisor}; add one to its recipe, or choose another hypervisor"
    )]
    NoKernel {
        /// The VM.
        vm: String,
        /// Its image.
        image: String,
        /// Its hypervisor.
        hypervisor: &'static str,
    },
    /// Less memory than the image's kernel boots with.
    #[error("{vm}: {given} MiB is too little for the image {image} on {hypervisor}; give it `mem {least}MiB` or more")]
    TooLittle {
        /// The VM.
        vm: String,
        /// Its image.
        image: String,
        /// Its hypervisor.
        hypervisor: &'static str,
        /// MiB given.
        given: u64,
        /// MiB needed.
        least: u64,
    },
    /// The hypervisor does not work here.
    #[error("{vm}: {reason}")]
    Hypervisor {
        /// The first VM that needs it.
        vm: String,
        /// What the probe found, and the mend.
        reason: String,
    },
    /// The VMs do not fit.
    #[error(
        "no memory for {count} VMs: they need {needed} MiB ({detail}), and {host} has {free} MiB to give \
         ({what}); start fewer, give them less `mem`, or add hosts"
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
    },
}

/// What the VMs of a slice are made of on this host.
pub struct Chooser<'a> {
    images: &'a ImageStore,
    probed: &'a Probed,
    preferred: Option<HypervisorKind>,
    resolved: HashMap<String, Image>,
}

impl<'a> Chooser<'a> {
    /// `preferred` is for VMs whose file names no hypervisor.
    pub fn new(images: &'a ImageStore, probed: &'a Probed, preferred: Option<HypervisorKind>) -> Self {
        Self { images, probed, preferred, resolved: HashMap::new() }
    }

    /// What one VM is to be. Reads files: call it where blocking is allowed.
    ///
    /// # Errors
    /// When this host cannot run it.
    pub fn choose(&mut self, experiment: &str, vm: WantedVm) -> Result<Wanted, ChooseError> {
        let name = || format!("{experiment}.{}", vm.vm.name);
        let kind = vm.vm.hypervisor.or(self.preferred).unwrap_or(self.probed.default_kind());
        let usable = self.probed.usable(kind).map_err(|reason| ChooseError::Hypervisor { vm: name(), reason })?;
        if !self.resolved.contains_key(&vm.vm.image) {
            let image = self.images.resolve(&vm.vm.image);
            let image = image.map_err(|source| ChooseError::Image { vm: name(), source })?;
            self.resolved.insert(vm.vm.image.clone(), image);
        }
        let image = &self.resolved[&vm.vm.image];
        let hypervisor = hypervisor_name(kind);
        let no_kernel = || ChooseError::NoKernel { vm: name(), image: vm.vm.image.clone(), hypervisor };
        let (kernel, initrd, cmdline, default, least) = match kind {
            HypervisorKind::Uml => {
                let files = image.uml.as_ref().ok_or_else(no_kernel)?;
                (&files.kernel, &files.initrd, &files.cmdline, files.default_mem_mib, files.min_mem_mib)
            }
            HypervisorKind::Qemu => {
                let files = image.x86.as_ref().ok_or_else(no_kernel)?;
                (&files.vmlinux, &files.initrd, &files.cmdline, files.default_mem_mib, files.min_mem_mib)
            }
        };
        let memory_bytes = vm.vm.memory.unwrap_or(u64::from(default) * MIB);
        if memory_bytes < u64::from(least) * MIB {
            let (given, image) = (memory_bytes / MIB, vm.vm.image.clone());
            return Err(ChooseError::TooLittle { vm: name(), image, hypervisor, given, least: least.into() });
        }
        let spec = VmSpec {
            experiment: experiment.to_owned(),
            name: vm.vm.name.clone(),
            hypervisor: hypervisor.to_owned(),
            accelerator: usable.accelerator,
            memory_bytes,
            cpus: vm.vm.cpu,
            kernel: kernel.clone(),
            initrd: initrd.clone(),
            cmdline: cmdline.clone(),
            lpj: usable.lpj,
            nics: vm.nics.clone(),
        };
        Ok(Wanted { vm, spec })
    }
}

/// Its name in network files.
pub fn hypervisor_name(kind: HypervisorKind) -> &'static str {
    match kind {
        HypervisorKind::Uml => "uml",
        HypervisorKind::Qemu => "qemu",
    }
}

/// The kind of that name.
pub fn hypervisor_kind(name: &str) -> Option<HypervisorKind> {
    [HypervisorKind::Uml, HypervisorKind::Qemu].into_iter().find(|kind| hypervisor_name(*kind) == name)
}

/// Bytes that a VM may come to use: its guest's memory and its process.
fn commitment(spec: &VmSpec) -> u64 {
    spec.memory_bytes + if spec.hypervisor == "uml" { UML_OVERHEAD } else { QEMU_OVERHEAD }
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
pub fn admit(host: &str, starting: &[VmSpec], room: Room) -> Result<(), ChooseError> {
    let needed: u64 = starting.iter().map(commitment).sum();
    let in_files: u64 = starting.iter().filter(|spec| spec.hypervisor == "uml").map(|spec| spec.memory_bytes).sum();
    let free = room.available.saturating_sub(RESERVE).saturating_sub(room.promised);
    let file_room = room.ram_files.saturating_sub(room.promised);
    let refuse = |needed: u64, free: u64, what: String| ChooseError::Memory {
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
