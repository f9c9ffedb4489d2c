//! The settings that the host had before fleet touched them: written down before the first change, put back at the
//! end. KSM is one resource of the host, so the place is one for the host too, not an agent's own: whichever agent comes
//! next after a crash finds them.
//!
//! `lock` is held (flock) by who regulates; it falls with its process. `found.json` is there as long as something is to
//! be put back; it is exchanged by a rename, so it is whole or not there.

use std::fs::File;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::error::KsmError;
use crate::settings::Settings;
use crate::sysfs::Sysfs;

const LOCK: &str = "lock";
const FOUND: &str = "found.json";

#[derive(Serialize, Deserialize)]
struct Found {
    /// Settings of an earlier boot are nobody's.
    boot_id: String,
    settings: Settings,
}

/// The right to change KSM's settings, and the duty to put them back. Dropped, it gives the right up and leaves the
/// duty to the next one.
#[derive(Debug)]
pub struct Custody {
    _lock: Flock<File>,
    file: PathBuf,
    boot_id: String,
    found: Option<Settings>,
}

impl Custody {
    /// Whether an earlier keeper left something to be put back in `dir`.
    pub fn is_owed(dir: &Path) -> bool {
        dir.join(FOUND).exists()
    }

    /// Takes the right, and what an earlier keeper of this boot has written down. `boot_id` is that of
    /// `/proc/sys/kernel/random/boot_id`.
    ///
    /// # Errors
    /// When somebody else has it, or the folder cannot be used.
    pub fn take(dir: &Path, boot_id: &str) -> Result<Self, KsmError> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(KsmError::keep(dir))?;
        let path = dir.join(LOCK);
        let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let lock = match Flock::lock(file.map_err(KsmError::keep(&path))?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => return Err(KsmError::Held(path)),
            Err((_, errno)) => return Err(KsmError::keep(&path)(errno.into())),
        };
        let file = dir.join(FOUND);
        let found = match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice::<Found>(&bytes)
                .inspect_err(|error| tracing::warn!(file = %file.display(), %error, "the settings found are damaged"))
                .ok()
                .filter(|found| found.boot_id == boot_id)
                .map(|found| found.settings),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(KsmError::keep(&file)(error)),
        };
        Ok(Self { _lock: lock, file, boot_id: boot_id.to_owned(), found })
    }

    /// What is to be put back.
    pub fn found(&self) -> Option<Settings> {
        self.found
    }

    /// Writes down what is to be put back. To be called before the first change.
    ///
    /// # Errors
    /// When it cannot be written; then nothing may be changed.
    pub fn keep(&mut self, mut settings: Settings) -> Result<(), KsmError> {
        // "Undo all merging" is a deed rather than a setting; what it leaves is a ksmd that stands.
        settings.run = if settings.run == 2 { 0 } else { settings.run };
        let new = self.file.with_extension("new");
        let found = Found { boot_id: self.boot_id.clone(), settings };
        let text = serde_json::to_vec(&found).map_err(|error| KsmError::keep(&self.file)(error.into()))?;
        std::fs::write(&new, text).map_err(KsmError::keep(&new))?;
        std::fs::rename(&new, &self.file).map_err(KsmError::keep(&self.file))?;
        self.found = Some(settings);
        Ok(())
    }

    /// Puts everything back and forgets it. What cannot be put back yet (`max_page_sharing`, while pages are merged)
    /// stays written down.
    ///
    /// # Errors
    /// The first setting that could not be written; the others are.
    pub fn put_back(&mut self, sysfs: &Sysfs) -> Result<(), KsmError> {
        let Some(found) = self.found else { return Ok(()) };
        sysfs.set(&found)?;
        match std::fs::remove_file(&self.file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(KsmError::keep(&self.file)(error));
            }
            _ => {}
        }
        self.found = None;
        Ok(())
    }
}
