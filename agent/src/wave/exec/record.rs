//! Commands of the host that run, on disk: the next agent ends what one that was killed has left.

use std::io;
use std::path::{Path, PathBuf};

use fleet_vm::Session;

/// The folder of records in the run folder, which a boot empties. No experiment's folder has such a name.
const DIR: &str = ".commands";

/// The record of a command. It goes when it is dropped.
pub struct Record(PathBuf);

impl Record {
    /// Writes it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(run_dir: &Path, session: Session) -> io::Result<Self> {
        let dir = run_dir.join(DIR);
        // The last record of another command takes the folder with it, maybe between two steps of this: once more, then.
        let path = dir.join(uuid::Uuid::new_v4().to_string());
        let write = || {
            std::fs::create_dir_all(&dir)?;
            std::fs::write(&path, serde_json::to_vec(&session)?)
        };
        write().or_else(|_| write())?;
        Ok(Self(path))
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "the record of a command stays");
        }
        // Not while there are others.
        let _ = self.0.parent().map(std::fs::remove_dir);
    }
}

/// Ends the commands of an earlier agent: nobody waits for them.
pub async fn end_left(run_dir: &Path) {
    for entry in std::fs::read_dir(run_dir.join(DIR)).into_iter().flatten().flatten() {
        let record = Record(entry.path());
        let session = std::fs::read(&record.0).ok().and_then(|bytes| serde_json::from_slice::<Session>(&bytes).ok());
        // One that is not whole was being written when the command had hardly begun.
        let Some(session) = session else { continue };
        tracing::warn!("ending a command that an earlier agent left");
        if let Err(error) = session.end().await {
            tracing::error!(%error, "it is still there");
        }
    }
}
