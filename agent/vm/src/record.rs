//! What is written down about a VM, so that an agent that is killed at any moment finds everything again.
//!
//! The record is written twice before the program runs: as an intent, and with the process that waits to become the VM
//! (see spawn.rs). A record without a process therefore means that no program was ever started. Each write is a new
//! file that is renamed over the old one.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::VmError;
use crate::exit::VmExit;
use crate::hypervisor::FdRole;
use crate::spec::VmSpec;
use crate::template::Origin;

/// Grows when the meaning of a field changes. A field that is added has a default, so that a newer agent reads what an
/// older one wrote and keeps its VMs; a record of a newer agent is refused.
const VERSION: u32 = 1;

/// A process, named for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    /// Process id.
    pub pid: i32,
    /// When it started, in ticks since the host's boot.
    pub start: u64,
}

/// The content of `vm.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// [`VERSION`] of the agent that wrote it.
    pub version: u32,
    /// What it is to be.
    pub spec: VmSpec,
    /// The boot of the host that `process` belongs to.
    pub boot_id: String,
    /// What the process's descriptors are for.
    pub fds: Vec<FdRole>,
    /// Its control group.
    pub cgroup: Option<PathBuf>,
    /// Its process, from just before the program is run.
    pub process: Option<ProcessId>,
    /// The template that it started from.
    #[serde(default)]
    pub origin: Option<Origin>,
    /// It was paused.
    #[serde(default)]
    pub paused: bool,
    /// It stands still only while a snapshot is taken.
    #[serde(default)]
    pub snapshotting: bool,
    /// It is being filled from a snapshot, and its guest has not run yet.
    #[serde(default)]
    pub filling: bool,
    /// How it ended.
    #[serde(default)]
    pub exit: Option<VmExit>,
}

impl Record {
    /// An intent.
    pub(crate) fn new(spec: VmSpec, boot_id: String, fds: Vec<FdRole>, cgroup: Option<PathBuf>) -> Record {
        Record {
            version: VERSION,
            spec,
            boot_id,
            fds,
            cgroup,
            process: None,
            origin: None,
            paused: false,
            snapshotting: false,
            filling: false,
            exit: None,
        }
    }

    /// Reads a record.
    pub(crate) fn read(path: &Path) -> Result<Record, VmError> {
        let text = fs::read(path).map_err(VmError::io("cannot read", path))?;
        let bad = |problem: String| VmError::BadRecord { path: path.to_owned(), problem };
        let record: Record = serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
        if record.version > VERSION {
            let theirs = record.version;
            return Err(bad(format!(
                "a newer fleet wrote it (version {theirs}, this one knows {VERSION}): run that one"
            )));
        }
        Ok(record)
    }

    /// Writes it, whole or not at all.
    pub(crate) fn write(&self, path: &Path) -> Result<(), VmError> {
        let text = serde_json::to_vec_pretty(self)
            .map_err(|error| VmError::BadRecord { path: path.to_owned(), problem: error.to_string() })?;
        let new = path.with_extension("json.new");
        fs::write(&new, text).map_err(VmError::io("cannot write", &new))?;
        fs::rename(&new, path).map_err(VmError::io("cannot rename to", path))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// What an agent wrote before there were templates, shared roots and kernels without ACPI.
    const OLD: &str = r#"{
        "version": 1,
        "spec": {
            "experiment": "old", "name": "a", "hypervisor": "uml", "accelerator": null, "memory_bytes": 50331648,
            "cpus": 1, "kernel": "/k", "initrd": "/i", "cmdline": "root=/dev/ram0 rdinit=/init quiet",
            "lpj": 13836288, "nics": [{ "name": "eth0", "mac": [2, 0, 10, 0, 0, 16], "mtu": 1450 }]
        },
        "boot_id": "0777dc1c-82bc-4fa3-b6e9-a7b862638d64",
        "fds": ["held_control", "guest_control", "held_console", "guest_console", "console_log", { "tap": 0 }],
        "cgroup": "/sys/fs/cgroup/fleet/old/a",
        "process": { "pid": 7045, "start": 2014329 },
        "paused": false,
        "exit": null
    }"#;

    #[test]
    fn a_record_of_an_older_agent_is_read_so_that_an_upgrade_keeps_its_vm() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vm.json");
        fs::write(&path, OLD).unwrap();
        let record = Record::read(&path).unwrap();
        assert_eq!((record.spec.name.as_str(), record.process.unwrap().pid), ("a", 7045));
        fs::write(&path, OLD.replace("\"version\": 1", "\"version\": 1000")).unwrap();
        assert!(Record::read(&path).unwrap_err().to_string().contains("newer fleet"));
    }

    #[test]
    fn a_record_of_another_version_is_refused_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vm.json");
        fs::write(&path, "{\"version\": 1, \"spec\": {}}").unwrap();
        let error = Record::read(&path).unwrap_err().to_string();
        assert!(error.contains("vm.json") && error.contains("remove the VM"), "{error}");
    }
}
