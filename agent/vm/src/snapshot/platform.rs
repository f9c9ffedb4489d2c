//! What the state of a VM's devices can be read by: the hypervisor of one version, with one machine. QEMU keeps the form of
//! that state from version to version for machines with a version in their name only, and `microvm` has none.

use serde::{Deserialize, Serialize};

use crate::error::VmError;
use crate::hypervisor::{self, Hypervisor};
use crate::spec::VmSpec;
use crate::versions::Versions;

/// Hypervisor, version and machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Platform {
    /// "qemu 7.2.22"
    pub(super) program: String,
    /// Its machine and processor: "microvm,…; tcg; qemu64,+arat".
    pub(super) machine: String,
}

impl Platform {
    /// Of a VM under a hypervisor of this version.
    pub(super) fn new(hypervisor: &dyn Hypervisor, version: &str, spec: &VmSpec) -> Platform {
        Platform { program: format!("{} {version}", hypervisor.name()), machine: hypervisor.machine(spec) }
    }

    /// Of a VM if it were started now.
    pub(super) async fn now(versions: &Versions, spec: &VmSpec) -> Result<Platform, VmError> {
        let hypervisor = hypervisor::find(&spec.hypervisor)?;
        let version = match hypervisor.program(spec) {
            Some(program) => versions.of(&program.find()?).await?,
            None => String::new(),
        };
        Ok(Platform::new(hypervisor, &version, spec))
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.program, self.machine)
    }
}
