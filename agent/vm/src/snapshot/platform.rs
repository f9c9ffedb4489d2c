//! What the state of a VM's devices can be read by: the hypervisor of one version, with one machine. QEMU keeps the form of
//! that state from version to version for machines with a version in their name only, and `microvm` has none.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::time::timeout;

use crate::error::VmError;
use crate::hypervisor::{self, Hypervisor};
use crate::spec::VmSpec;
use crate::template::FileMark;

/// For a program to say its version.
const DEADLINE: Duration = Duration::from_secs(10);

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
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.program, self.machine)
    }
}

/// Versions of programs, each asked once for as long as the file stays the same.
#[derive(Debug, Default)]
pub(super) struct Versions {
    known: Mutex<HashMap<PathBuf, (FileMark, String)>>,
}

impl Versions {
    /// What a VM would run under if it were started now.
    pub(super) async fn of(&self, spec: &VmSpec) -> Result<Platform, VmError> {
        let hypervisor = hypervisor::find(&spec.hypervisor)?;
        let version = match hypervisor.programs().first() {
            Some(program) => self.version(&hypervisor::find_program(program)?).await?,
            None => String::new(),
        };
        Ok(Platform::new(hypervisor, &version, spec))
    }

    async fn version(&self, program: &Path) -> Result<String, VmError> {
        let metadata = std::fs::metadata(program).map_err(VmError::io("cannot examine", program))?;
        let mark = FileMark::of(&metadata);
        let known = |known: &HashMap<PathBuf, (FileMark, String)>| {
            known.get(program).filter(|(of, _)| *of == mark).map(|(_, version)| version.clone())
        };
        if let Some(version) = known(&self.known.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(version);
        }
        let doing = || format!("`{} --version`", program.display());
        let asked = Command::new(program).arg("--version").env("LC_ALL", "C").kill_on_drop(true).output();
        let said = timeout(DEADLINE, asked)
            .await
            .map_err(|_| VmError::Deadline { doing: doing(), deadline: DEADLINE })?
            .map_err(VmError::io("cannot start", program))?;
        let version = version_in(&String::from_utf8_lossy(&said.stdout)).ok_or_else(|| {
            let problem = "says no version".to_owned();
            VmError::NotUsable { choice: doing(), reason: problem }
        })?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(program.to_owned(), (mark, version.clone()));
        Ok(version)
    }
}

/// "7.2.22" of "QEMU emulator version 7.2.22 (Debian …)".
fn version_in(text: &str) -> Option<String> {
    let (_, rest) = text.split_once(" version ")?;
    let version = rest.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
    (!version.is_empty()).then(|| version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_found_in_what_a_program_says() {
        let said = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright (c) 2003-2022 …\n";
        assert_eq!(version_in(said).as_deref(), Some("7.2.22"));
        assert_eq!(version_in("QEMU emulator version 10.0.2"), Some("10.0.2".to_owned()));
        assert_eq!(version_in("no such option"), None);
    }
}
