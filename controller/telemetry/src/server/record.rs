//! The record of a running server: who it is, so that a controller that did not start it can find it again.
//!
//! A pid alone may be another process by now. With the start time (ticks since boot) and the boot's id it names one
//! process for good.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use fleet_telemetry::procfs;
use serde::{Deserialize, Serialize};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// One process, for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) pid: u32,
    start_ticks: u64,
    boot_id: String,
}

impl Identity {
    /// Of a process that runs now.
    pub(super) fn of(pid: u32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let stat = procfs::process_stat(&stat).map_err(io::Error::other)?;
        let boot_id = fs::read_to_string(BOOT_ID)?.trim().to_owned();
        Ok(Self { pid, start_ticks: stat.start_ticks, boot_id })
    }

    /// Whether the pid still means this process.
    pub(super) fn holds(&self) -> bool {
        Self::of(self.pid).is_ok_and(|now| now == *self)
    }
}

/// What is known of the server of a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) identity: Identity,
    pub(super) program: PathBuf,
    /// Not known between its start and its first words.
    pub(super) port: Option<u16>,
}

impl Record {
    /// The folder's record. One that cannot be read or understood is none: the data folder's own lock still keeps a
    /// second server out.
    pub(super) fn load(folder: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(file(folder)).ok()?).ok()
    }

    /// Replaces the folder's record in one step.
    pub(super) fn save(&self, folder: &Path) -> io::Result<()> {
        let temporary = folder.join("server.json.new");
        fs::write(&temporary, serde_json::to_vec(self)?)?;
        fs::rename(temporary, file(folder))
    }

    /// Forgets it.
    pub(super) fn remove(folder: &Path) -> io::Result<()> {
        match fs::remove_file(file(folder)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn file(folder: &Path) -> PathBuf {
    folder.join("server.json")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_means_the_same_process_only_with_its_start_time() {
        let identity = Identity::of(std::process::id()).unwrap();
        assert!(identity.holds());
        assert!(!Identity { start_ticks: identity.start_ticks + 1, ..identity.clone() }.holds());
        assert!(!Identity { boot_id: "another boot".into(), ..identity }.holds());
    }

    #[test]
    fn a_record_comes_back_and_a_broken_one_is_none() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Record::load(folder.path()), None);
        let identity = Identity::of(std::process::id()).unwrap();
        let record = Record { identity, program: "/bin/x".into(), port: Some(5) };
        record.save(folder.path()).unwrap();
        assert_eq!(Record::load(folder.path()), Some(record));
        fs::write(file(folder.path()), "{\"pid\":").unwrap();
        assert_eq!(Record::load(folder.path()), None);
        Record::remove(folder.path()).unwrap();
        Record::remove(folder.path()).unwrap();
    }
}
