//! The highest generation of a controller that this host knows. An older controller that comes back must not undo what
//! a newer one did, also not after this agent was started anew: the number is in a file before it counts.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use thiserror::Error;

/// The file in the folder of state.
const FILE: &str = "epoch";

/// Why the number is not to be had.
#[derive(Debug, Error)]
pub enum EpochError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It holds no number.
    #[error("{0} holds no number; it must be that of the controller's generation, or not be there")]
    Damaged(PathBuf),
    /// It cannot be written.
    #[error(transparent)]
    Write(#[from] fleet_pki::PkiError),
    /// A controller is too old.
    #[error("a controller of epoch {asked} is stale: one of epoch {known} speaks for this fleet")]
    Stale {
        /// Of the one that was refused.
        asked: u64,
        /// The highest known.
        known: u64,
    },
}

/// The number, in memory and in its file.
#[derive(Debug)]
pub struct Epoch {
    path: PathBuf,
    known: Mutex<u64>,
}

impl Epoch {
    /// Reads the file; 0 where there is none.
    ///
    /// # Errors
    /// When it is there and cannot be read or holds no number.
    pub fn open(state_dir: &Path) -> Result<Self, EpochError> {
        let path = state_dir.join(FILE);
        let known = match std::fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().map_err(|_| EpochError::Damaged(path.clone()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
            Err(source) => return Err(EpochError::Read { path, source }),
        };
        Ok(Self { path, known: Mutex::new(known) })
    }

    /// The highest known.
    pub fn known(&self) -> u64 {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a controller's generation; an older one is refused.
    ///
    /// # Errors
    /// When a newer controller has spoken before, or the number cannot be written.
    pub fn admit(&self, asked: u64) -> Result<(), EpochError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if asked < *known {
            tracing::error!(epoch = asked, known = *known, "a stale controller was refused");
            return Err(EpochError::Stale { asked, known: *known });
        }
        if asked > *known {
            fleet_pki::write_private(&self.path, format!("{asked}\n").as_bytes())?;
            *known = asked;
        }
        Ok(())
    }

    /// Begins anew: this host joins another fleet, whose controllers count for themselves.
    ///
    /// # Errors
    /// When the number cannot be written.
    pub fn reset(&self) -> Result<(), EpochError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        fleet_pki::write_private(&self.path, b"0\n")?;
        *known = 0;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_older_controller_is_refused_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let epoch = Epoch::open(dir.path()).unwrap();
        epoch.admit(3).unwrap();
        epoch.admit(3).unwrap();
        assert!(matches!(epoch.admit(2), Err(EpochError::Stale { asked: 2, known: 3 })));
        drop(epoch);
        let epoch = Epoch::open(dir.path()).unwrap();
        assert!(matches!(epoch.admit(2), Err(EpochError::Stale { .. })));
        epoch.admit(4).unwrap();
        epoch.reset().unwrap();
        epoch.admit(1).unwrap();
        assert_eq!(Epoch::open(dir.path()).unwrap().known(), 1);
    }

    #[test]
    fn a_damaged_file_is_told_and_not_taken_for_zero() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "many").unwrap();
        assert!(Epoch::open(dir.path()).unwrap_err().to_string().contains("epoch"));
    }
}
