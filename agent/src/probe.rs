//! What this host can run, found out by running it; and what a VM therefore runs on.

use fleet_images::ImageStore;
use fleet_vm::Accelerator;
use fleet_vm::probe::HostReport;
use netlang::HypervisorKind;

use crate::choose::hypervisor_name;
use crate::config::AgentConfig;

/// The result of probing.
#[derive(Clone, Debug)]
pub struct Probed {
    report: HostReport,
}

/// How a kind of VM is run here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usable {
    /// Of QEMU.
    pub accelerator: Option<Accelerator>,
    /// Of UML: how fast the guest's delay loop runs here.
    pub lpj: Option<u64>,
}

impl Probed {
    /// Runs guest instructions under each hypervisor. Takes some seconds where something hangs.
    pub async fn probe(config: &AgentConfig, images: &ImageStore) -> Self {
        // Any image's UML kernel tells as much as another: they differ in drivers, not in how they run.
        let kernel = images
            .list()
            .ok()
            .and_then(|entries| entries.into_iter().find_map(|entry| entry.image.ok()?.uml.map(|files| files.kernel)));
        let report = fleet_vm::probe::probe_host(kernel.as_deref(), &config.ram_dir).await;
        if let Some(warning) = report.warning() {
            tracing::warn!("{warning}");
        }
        Self { report }
    }

    /// What was seen, for `fleet doctor`.
    pub fn report(&self) -> &HostReport {
        &self.report
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
        let lpj = self.report.uml_lpj.filter(|_| kind == HypervisorKind::Uml);
        Ok(Usable { accelerator: choice.accelerator, lpj })
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
