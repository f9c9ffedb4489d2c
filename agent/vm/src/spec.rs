//! What a virtual machine is to be. Everything that is the same for all guests of an image stays out: who a guest is
//! (name, addresses, routes) is told to it over the control channel when it runs.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// How a `qemu` VM runs guest instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The processor's own virtualisation.
    Kvm,
    /// QEMU's translator, in software.
    Tcg,
}

impl Accelerator {
    /// The word for it: "kvm" or "tcg".
    pub fn as_str(self) -> &'static str {
        match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg",
        }
    }
}

/// How much of a VM's memory the kernel may merge with equal pages of other processes (KSM), once somebody lets KSM run.
/// Only private memory can be merged: `uml` keeps the guest's in a shared file, so there it is always `Off`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Merge {
    /// None: what is in the VM's memory cannot be guessed from how long a write takes.
    #[default]
    Off,
    /// The guest's memory.
    On,
    /// All memory of the process, which starts without address space randomisation so that pages with addresses in them
    /// (heap, relocations, translations) are equal too.
    Aggressive,
}

/// One network interface. Its other end is a tap, handed to [`crate::VmHost::launch`] as a file descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicSpec {
    /// Name within the VM: "eth0".
    pub name: String,
    /// Address in transmission order.
    pub mac: [u8; 6],
    /// Bytes.
    pub mtu: u16,
}

impl NicSpec {
    /// The address as "02:00:0a:00:00:01".
    pub fn mac_text(&self) -> String {
        self.mac.map(|byte| format!("{byte:02x}")).join(":")
    }
}

/// Where a guest's root file system is. In a record it is one key, "initrd" or "erofs".
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RootFs {
    /// An initial RAM disk.
    Initrd(PathBuf),
    /// A read-only file that guests share; each keeps its changes in its own memory. Of `uml`.
    Erofs(PathBuf),
}

impl RootFs {
    /// The file.
    pub fn path(&self) -> &Path {
        match self {
            RootFs::Initrd(path) | RootFs::Erofs(path) => path,
        }
    }
}

/// Records of before there were kernels without ACPI.
fn with_acpi() -> bool {
    true
}

/// One virtual machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSpec {
    /// The experiment that it belongs to.
    pub experiment: String,
    /// Its name within the experiment: "web[3]".
    pub name: String,
    /// A registered hypervisor: "uml" or "qemu".
    pub hypervisor: String,
    /// For `qemu`; without it, `tcg`.
    pub accelerator: Option<Accelerator>,
    /// Guest RAM in bytes; whole MiB.
    pub memory_bytes: u64,
    /// Virtual processors; `uml` has one.
    pub cpus: u32,
    /// Kernel: the `linux` program of UML, or an ELF vmlinux with a PVH entry for QEMU.
    pub kernel: PathBuf,
    /// The root file system.
    #[serde(flatten)]
    pub root: RootFs,
    /// The image's part of the kernel's command line; what depends on VM and host is put behind it.
    pub cmdline: String,
    /// The kernel finds its devices by ACPI; else on its command line. Of `qemu`.
    #[serde(default = "with_acpi")]
    pub acpi: bool,
    /// It has a USB controller, for cameras. Of `qemu`; needs ACPI.
    #[serde(default)]
    pub usb: bool,
    /// `lpj=` for a UML kernel, as measured by [`crate::probe::probe_uml`]; saves most of a small kernel's boot time.
    pub lpj: Option<u64>,
    /// Interfaces in order.
    pub nics: Vec<NicSpec>,
    /// What KSM may merge; records of earlier agents lack it.
    #[serde(default)]
    pub merge: Merge,
}

impl VmSpec {
    /// `experiment.name`, for messages.
    pub fn label(&self) -> String {
        format!("{}.{}", self.experiment, self.name)
    }

    /// Guest RAM in MiB, rounded up.
    pub fn memory_mib(&self) -> u64 {
        self.memory_bytes.div_ceil(1024 * 1024)
    }
}
