//! Finding the programs of hypervisors.

use std::ffi::OsString;
use std::path::PathBuf;

use nix::unistd::{AccessFlags, access};

use crate::error::VmError;

/// A program that a hypervisor needs on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    /// What will do, best first.
    pub names: &'static [&'static str],
    /// Debian package that holds the last of them.
    pub package: &'static str,
}

impl Program {
    /// Finds the best of its programs that is on `PATH` or in the user's cache of tools (`~/.cache/fleet/tools/bin`, where
    /// `deploy/small-qemu.sh` puts what it builds).
    ///
    /// # Errors
    /// When none is there: names the package that holds it.
    pub fn find(&self) -> Result<PathBuf, VmError> {
        let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/local/bin:/usr/bin:/bin"));
        let tools = dirs::cache_dir().map(|cache| cache.join("fleet/tools/bin"));
        let dirs: Vec<PathBuf> = std::env::split_paths(&path).chain(tools).filter(|dir| dir.is_absolute()).collect();
        self.find_in(&dirs)
    }

    /// Whether the best of its programs is what is found.
    pub fn has_best(&self) -> bool {
        self.find().is_ok_and(|file| self.names.first().is_some_and(|best| file.ends_with(best)))
    }

    fn find_in(&self, dirs: &[PathBuf]) -> Result<PathBuf, VmError> {
        let files = self.names.iter().flat_map(|name| dirs.iter().map(move |dir| dir.join(name)));
        files.into_iter().find(|file| file.is_file() && access(file, AccessFlags::X_OK).is_ok()).ok_or_else(|| {
            VmError::MissingProgram {
                program: self.names.last().copied().unwrap_or_default().to_owned(),
                package: self.package.to_owned(),
            }
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_missing_program_names_its_package() {
        let error = Program { names: &["fleet-better", "fleet-no-such"], package: "fleet-pkg" }.find().unwrap_err();
        assert_eq!(error.to_string(), "program \"fleet-no-such\" is not installed: run `apt-get install fleet-pkg`");
    }

    #[test]
    fn the_better_one_is_taken_wherever_it_is() {
        let root = tempfile::tempdir().unwrap();
        let dirs = ["a", "b"].map(|dir| root.path().join(dir));
        let make = |file: PathBuf, mode| {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, "").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            file
        };
        let program = Program { names: &["better", "usual"], package: "" };
        let usual = make(dirs[0].join("usual"), 0o755);
        assert_eq!(program.find_in(&dirs).unwrap(), usual);
        let better = make(dirs[1].join("better"), 0o644);
        assert_eq!(program.find_in(&dirs).unwrap(), usual, "what cannot be run is no program");
        make(better.clone(), 0o755);
        assert_eq!(program.find_in(&dirs).unwrap(), better);
    }
}
