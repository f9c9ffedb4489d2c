//! From what a file says to what can be started here: hypervisor, image, memory.

use std::collections::HashMap;
use std::sync::Arc;

use fleet_images::{Image, ImageStore};
use fleet_vm::{Merge, RootFs, VmSpec};
use netlang::{HypervisorKind, KsmMode};
use thiserror::Error;

use crate::probe::Probed;
use crate::slice::WantedVm;
use crate::slot::Wanted;

const MIB: u64 = 1024 * 1024;

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
    /// More processors than the hypervisor has or the image's kernel uses.
    #[error("{vm}: `cpu {given}` is more than {what}, which takes {most} at most; {mend}")]
    TooManyCpus {
        /// The VM.
        vm: String,
        /// Processors given.
        given: u32,
        /// What does not take them: the hypervisor, or the image's kernel.
        what: String,
        /// Processors that it takes.
        most: u32,
        /// What to do.
        mend: String,
    },
    /// A USB controller for a kernel that cannot find it.
    #[error(
        "{vm}: `needs camera`, and the kernel for qemu of the image {image} can have no USB; give it an image that can \
         (`fleet image build camera`)"
    )]
    NoUsb {
        /// The VM.
        vm: String,
        /// Its image.
        image: String,
    },
    /// The hypervisor does not work here.
    #[error("{vm}: {reason}")]
    Hypervisor {
        /// The first VM that needs it.
        vm: String,
        /// What the probe found, and the mend.
        reason: String,
    },
}

/// What the VMs of a slice are made of on this host.
pub struct Chooser<'a> {
    images: &'a ImageStore,
    probed: &'a Probed,
    preferred: Option<HypervisorKind>,
    merge: Merge,
    resolved: HashMap<Arc<str>, Image>,
}

impl<'a> Chooser<'a> {
    /// `preferred` is for VMs whose file names no hypervisor, `merge` for those whose file says nothing of KSM.
    pub fn new(images: &'a ImageStore, probed: &'a Probed, preferred: Option<HypervisorKind>, merge: Merge) -> Self {
        Self { images, probed, preferred, merge, resolved: HashMap::new() }
    }

    /// What one VM is to be. Reads files: call it where blocking is allowed.
    ///
    /// # Errors
    /// When this host cannot run it.
    pub fn choose(&mut self, experiment: &str, vm: WantedVm) -> Result<Wanted, ChooseError> {
        let name = || format!("{experiment}.{}", vm.vm.name);
        let class = &vm.vm.class;
        // User-mode Linux has no USB; the language refuses a file that asks for both.
        let with_usb = class.needs_camera.then_some(HypervisorKind::Qemu);
        let kind = class.hypervisor.or(with_usb).or(self.preferred).unwrap_or(self.probed.default_kind());
        let usable = self.probed.usable(kind).map_err(|reason| ChooseError::Hypervisor { vm: name(), reason })?;
        if !self.resolved.contains_key(&class.image) {
            let image = self.images.resolve(&class.image);
            let image = image.map_err(|source| ChooseError::Image { vm: name(), source })?;
            self.resolved.insert(class.image.clone(), image);
        }
        let image = &self.resolved[&class.image];
        let hypervisor = hypervisor_name(kind);
        let no_kernel = || ChooseError::NoKernel { vm: name(), image: class.image.to_string(), hypervisor };
        let (kernel, root, cmdline, acpi, usb, default, least, kernel_cpus) = match kind {
            HypervisorKind::Uml => {
                let files = image.uml.as_ref().ok_or_else(no_kernel)?;
                let root = match &files.root {
                    fleet_images::RootFs::Initrd(path) => RootFs::Initrd(path.clone()),
                    fleet_images::RootFs::Erofs(path) => RootFs::Erofs(path.clone()),
                };
                let (default, least) = (files.default_mem_mib, files.min_mem_mib);
                (&files.kernel, root, &files.cmdline, true, false, default, least, files.max_cpus)
            }
            HypervisorKind::Qemu => {
                let files = image.x86.as_ref().ok_or_else(no_kernel)?;
                let root = RootFs::Initrd(files.initrd.clone());
                let (default, least) = (files.default_mem_mib, files.min_mem_mib);
                (&files.vmlinux, root, &files.cmdline, files.acpi, files.usb, default, least, files.max_cpus)
            }
        };
        let memory_bytes = class.memory.unwrap_or(u64::from(default) * MIB);
        if memory_bytes < u64::from(least) * MIB {
            let (given, image) = (memory_bytes / MIB, class.image.to_string());
            return Err(ChooseError::TooLittle { vm: name(), image, hypervisor, given, least: least.into() });
        }
        too_many(kind, kernel_cpus, &vm).map_or(Ok(()), |(what, most, mend)| {
            Err(ChooseError::TooManyCpus { vm: name(), given: class.cpu, what, most, mend })
        })?;
        if class.needs_camera && !acpi {
            return Err(ChooseError::NoUsb { vm: name(), image: class.image.to_string() });
        }
        let spec = VmSpec {
            experiment: experiment.to_owned(),
            name: vm.vm.name.clone(),
            hypervisor: hypervisor.to_owned(),
            accelerator: usable.accelerator,
            memory_bytes,
            cpus: class.cpu,
            kernel: kernel.clone(),
            root,
            cmdline: cmdline.clone(),
            acpi,
            usb: usb || class.needs_camera,
            lpj: (kind == HypervisorKind::Uml).then(|| self.probed.uml_lpj(kernel)).flatten(),
            nics: vm.nics.clone(),
            merge: match kind {
                // Its memory is a shared file, which KSM never merges.
                HypervisorKind::Uml => Merge::Off,
                HypervisorKind::Qemu => class.ksm.map_or(self.merge, merge),
            },
        };
        Ok(Wanted { vm, spec })
    }
}

/// What takes fewer processors than a VM is to have, how many, and the mend.
fn too_many(kind: HypervisorKind, kernel: Option<u32>, vm: &WantedVm) -> Option<(String, u32, String)> {
    let name = hypervisor_name(kind);
    let most = fleet_vm::hypervisor::find(name).map_or(1, |hypervisor| hypervisor.capabilities().max_cpus);
    let (image, given) = (&vm.vm.class.image, vm.vm.class.cpu);
    if given > most {
        let mend = match kind {
            HypervisorKind::Uml => "give it `hypervisor qemu`, or `cpu 1`".to_owned(),
            HypervisorKind::Qemu => format!("give it `cpu {most}` or less"),
        };
        return Some((format!("the hypervisor {name}"), most, mend));
    }
    let most = kernel.filter(|most| given > *most)?;
    let mend = format!(
        "give it `cpu {most}`, or an image with a kernel for more (`fleet image build tiny` has Debian's; `fleet image show \
         {image}` tells what this one has)"
    );
    Some((format!("the kernel for {name} of the image {image}"), most, mend))
}

/// The word of a network file.
fn merge(mode: KsmMode) -> Merge {
    match mode {
        KsmMode::Off => Merge::Off,
        KsmMode::On => Merge::On,
        KsmMode::Aggressive => Merge::Aggressive,
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
