//! What this host can run, found out by running it; and what a VM therefore runs on.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use fleet_images::ImageStore;
use fleet_vm::Accelerator;
use fleet_vm::probe::HostReport;
use netlang::HypervisorKind;

use crate::choose::hypervisor_name;
use crate::config::AgentConfig;

/// The UML kernel of any image: one tells as much as another, they differ in drivers, not in how they run.
fn uml_kernel(images: &ImageStore) -> Option<PathBuf> {
    let entries = images.list().ok()?;
    entries.into_iter().find_map(|entry| entry.image.ok()?.uml.map(|files| files.kernel))
}

/// The result of probing.
#[derive(Clone, Debug)]
pub struct Probed {
    report: HostReport,
    /// On a tmpfs: where a kernel is tried.
    ram_dir: PathBuf,
    /// `lpj` by kernel; `None` where it could not be measured.
    uml_lpj: Arc<Mutex<HashMap<PathBuf, Option<u64>>>>,
    features: Vec<&'static str>,
    /// A UML kernel of an image was tried.
    with_image: bool,
}

/// How a kind of VM is run here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usable {
    /// Of QEMU.
    pub accelerator: Option<Accelerator>,
}

impl Probed {
    /// Runs guest instructions under each hypervisor. Takes some seconds where something hangs.
    pub async fn probe(config: &AgentConfig, images: &ImageStore) -> Self {
        let kernel = uml_kernel(images);
        let with_image = kernel.is_some();
        let report = fleet_vm::probe::probe_host(kernel.as_deref(), &config.ram_dir).await;
        if let Some(warning) = report.warning() {
            tracing::warn!("{warning}");
        }
        let measured = kernel.map(|kernel| (kernel, report.uml_lpj));
        let uml_lpj = Arc::new(Mutex::new(measured.into_iter().collect()));
        let features = tokio::task::spawn_blocking(fleet_net::kernel_features).await.unwrap_or_default();
        Self { report, ram_dir: config.ram_dir.clone(), uml_lpj, features, with_image }
    }

    /// Whether there is an image now that UML can be tried with, and there was none then.
    pub fn is_outdated(&self, images: &ImageStore) -> bool {
        !self.with_image && uml_kernel(images).is_some()
    }

    /// `lpj=` for this UML kernel on this host: loops in a tick, so another kernel with another tick has another one.
    /// The first time a kernel is asked about it is booted once, without a root file system; that blocks for a moment.
    pub fn uml_lpj(&self, kernel: &Path) -> Option<u64> {
        let mut known = self.uml_lpj.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lpj) = known.get(kernel) {
            return *lpj;
        }
        let measure = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
            runtime.block_on(fleet_vm::probe::probe_uml(Some(kernel), &self.ram_dir)).1
        };
        // A thread of its own, as a runtime cannot be entered from within another.
        let lpj = std::thread::scope(|scope| scope.spawn(measure).join().ok().flatten());
        known.insert(kernel.to_owned(), lpj);
        lpj
    }

    /// What was seen, for `fleet doctor`.
    pub fn report(&self) -> &HostReport {
        &self.report
    }

    /// What the kernel has for networks: "vxlan", "netem".
    pub fn features(&self) -> &[&'static str] {
        &self.features
    }

    /// The kind of VMs whose file names none.
    pub fn default_kind(&self) -> HypervisorKind {
        match self.report.choose(None, None) {
            Ok(choice) if choice.hypervisor == hypervisor_name(HypervisorKind::Qemu) => HypervisorKind::Qemu,
            // Where nothing works, `usable` says why.
            _ => HypervisorKind::Uml,
        }
    }

    /// How VMs of this kind are run.
    ///
    /// # Errors
    /// Why they cannot be, with the mend.
    pub fn usable(&self, kind: HypervisorKind) -> Result<Usable, String> {
        let choice = self.report.choose(Some(hypervisor_name(kind)), None).map_err(|error| error.to_string())?;
        Ok(Usable { accelerator: choice.accelerator })
    }

    /// What works, the default first: "uml", "qemu/tcg".
    pub fn names(&self) -> Vec<String> {
        let mut kinds = [self.default_kind(), HypervisorKind::Uml, HypervisorKind::Qemu].to_vec();
        kinds.dedup();
        let mut names: Vec<String> = Vec::new();
        for kind in kinds {
            let Ok(usable) = self.usable(kind) else { continue };
            let name = match usable.accelerator {
                Some(accelerator) => format!("{}/{}", hypervisor_name(kind), accelerator.as_str()),
                None => hypervisor_name(kind).to_owned(),
            };
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }
}
