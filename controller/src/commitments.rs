//! What VMs come to use on a host: their memory, which an image may decide, and the process around it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use fleet_images::ImageStore;
use fleet_proto::v1::Options;
use netlang::{HypervisorKind, VmShape};

/// Memory of a VM whose file gives none, as long as its image is not here to say so: that of the image `tiny`.
const DEFAULT_UML: u64 = 48 * MIB;
const DEFAULT_QEMU: u64 = 96 * MIB;
const MIB: u64 = 1024 * 1024;

/// Sizes of VMs; each image is looked up once.
pub struct Commitments {
    store: PathBuf,
    preferred: Option<String>,
    images: Mutex<HashMap<String, Defaults>>,
}

/// What an image decides.
#[derive(Clone, Copy)]
struct Defaults {
    /// Memory of VMs whose file gives none, on UML and on QEMU.
    uml: u64,
    qemu: u64,
    usb: bool,
}

impl Commitments {
    /// Of VMs whose images are in this folder, if there is one. `preferred` runs those whose file names no hypervisor.
    pub fn new(store: &Path, preferred: Option<String>) -> Self {
        Self { store: store.to_owned(), preferred, images: Mutex::default() }
    }

    /// The folder of images.
    pub fn store(&self) -> &Path {
        &self.store
    }

    /// Looks images up anew: they may have been built since.
    pub fn refresh(&self) {
        self.images().clear();
    }

    /// Bytes that a VM may come to use: its memory and its process.
    pub fn bytes(&self, options: &Options, vm: &VmShape<'_>) -> u64 {
        let preferred = Some(options.hypervisor.as_str()).filter(|name| !name.is_empty());
        let preferred = match preferred.or(self.preferred.as_deref()) {
            Some("qemu") => HypervisorKind::Qemu,
            _ => HypervisorKind::Uml,
        };
        let kind = vm.hypervisor.unwrap_or(preferred);
        let image = self.of_image(vm.image);
        let memory = vm.memory.unwrap_or(if kind == HypervisorKind::Uml { image.uml } else { image.qemu });
        vm.committed(memory).saturating_add(fleet_agent::overhead(kind, memory, image.usb))
    }

    fn of_image(&self, name: &str) -> Defaults {
        *self.images().entry(name.to_owned()).or_insert_with(|| {
            // Opening a store makes it; looking makes nothing.
            let store = self.store.is_dir().then(|| ImageStore::open(&self.store).ok()).flatten();
            let image = store.and_then(|store| store.resolve(name).ok());
            let bytes = |mib: Option<u32>, other: u64| mib.map_or(other, |mib| u64::from(mib) * MIB);
            let uml = image.as_ref().and_then(|image| image.uml.as_ref()).map(|files| files.default_mem_mib);
            let qemu = image.as_ref().and_then(|image| image.x86.as_ref()).map(|files| files.default_mem_mib);
            let usb = image.as_ref().and_then(|image| image.x86.as_ref()).is_some_and(|files| files.usb);
            Defaults { uml: bytes(uml, DEFAULT_UML), qemu: bytes(qemu, DEFAULT_QEMU), usb }
        })
    }

    fn images(&self) -> std::sync::MutexGuard<'_, HashMap<String, Defaults>> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
