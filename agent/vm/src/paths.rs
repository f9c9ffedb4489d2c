//! Where a VM keeps its things.
//!
//! ```text
//! RUN_DIR/<experiment>/vms/<name>/vm.json       the record, see record.rs
//!                                 console.log   what the guest's console and the hypervisor said
//!                                 *.sock        QEMU: control, console, monitor
//!                                 m/mconsole    UML: monitor
//! ```
//! A Unix socket's path has at most 107 bytes, and names come from users. So names are made safe and short: what is
//! not `[a-z0-9._-]` is replaced, and a name that was changed or is long ends in eight digits of its hash.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::VmError;
use crate::spec::VmSpec;

/// Longest safe name.
const MAX_NAME: usize = 28;

/// Longest path that fits into `sockaddr_un` with its ending zero.
const MAX_SOCKET_PATH: usize = 107;

/// The paths of one VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmPaths {
    /// All that belongs to the VM.
    pub dir: PathBuf,
    /// A directory in RAM where the hypervisor makes the guest's memory.
    pub ram_dir: PathBuf,
}

impl VmPaths {
    /// The paths of a VM in a run directory.
    pub fn new(run_dir: &Path, ram_dir: &Path, experiment: &str, name: &str) -> VmPaths {
        let dir = run_dir.join(safe_name(experiment)).join("vms").join(safe_name(name));
        VmPaths { dir, ram_dir: ram_dir.to_owned() }
    }

    /// The paths of a VM of a run directory, by its specification.
    pub fn of(run_dir: &Path, ram_dir: &Path, spec: &VmSpec) -> VmPaths {
        VmPaths::new(run_dir, ram_dir, &spec.experiment, &spec.name)
    }

    /// The record.
    pub fn record(&self) -> PathBuf {
        self.dir.join("vm.json")
    }

    /// The console's log.
    pub fn console_log(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    /// A socket in the directory, by file name.
    ///
    /// # Errors
    /// When the path does not fit into a socket address.
    pub fn socket(&self, name: &str) -> Result<PathBuf, VmError> {
        let path = self.dir.join(name);
        if path.as_os_str().len() > MAX_SOCKET_PATH {
            return Err(VmError::SocketPathTooLong { path, max: MAX_SOCKET_PATH });
        }
        Ok(path)
    }
}

/// A file name for any name: the name itself when it is short and harmless, else a readable start and a hash.
pub fn safe_name(name: &str) -> String {
    let harmless = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
    let clean: String = name.chars().map(|c| if harmless(c) { c } else { '_' }).collect();
    let same = clean == name && !clean.starts_with('.') && !clean.is_empty() && clean.len() <= MAX_NAME;
    if same {
        return clean;
    }
    let hash = Sha256::digest(name.as_bytes());
    let digits: String = hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let start: String = clean.trim_start_matches('.').chars().take(MAX_NAME - 9).collect();
    format!("{start}~{digits}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_harmless_name_stays_as_it_is() {
        assert_eq!(safe_name("web-3"), "web-3");
    }

    #[test]
    fn names_that_look_alike_once_cleaned_stay_apart() {
        assert_ne!(safe_name("web[3]"), safe_name("web{3}"));
        assert_ne!(safe_name("web_3_"), safe_name("web[3]"));
    }

    #[test]
    fn no_name_leaves_its_directory_or_grows_long() {
        let long = "x".repeat(300);
        for name in ["", ".", "..", "../../etc", "a/b", "Ünï", long.as_str()] {
            let safe = safe_name(name);
            assert!(safe.len() <= MAX_NAME && !safe.contains('/') && !safe.starts_with('.'), "{name:?} -> {safe:?}");
            assert!(!safe.is_empty());
        }
    }

    #[test]
    fn a_socket_path_that_is_too_long_is_refused() {
        let paths = VmPaths::new(Path::new(&format!("/{}", "r".repeat(90))), Path::new("/dev/shm"), "exp", "vm");
        assert!(matches!(paths.socket("control.sock"), Err(VmError::SocketPathTooLong { .. })));
    }
}
