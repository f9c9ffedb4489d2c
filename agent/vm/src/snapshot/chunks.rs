//! Pieces of content on disk, each once, named by their hash.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{SnapshotError, hash};
use crate::error::VmError;
use crate::host::subdirectories;
use crate::template::remove_all;

/// The chunks of a store.
#[derive(Debug)]
pub(super) struct Chunks {
    dir: PathBuf,
    new: PathBuf,
    next: AtomicU64,
    /// Bytes of all that are there.
    used: AtomicU64,
}

impl Chunks {
    pub(super) fn new(store: &Path) -> Chunks {
        Chunks { dir: store.join("chunks"), new: store.join("new"), next: AtomicU64::new(0), used: AtomicU64::new(0) }
    }

    pub(super) fn path(&self, hash: &str) -> PathBuf {
        self.dir.join(hash.get(..2).unwrap_or_default()).join(hash)
    }

    /// Bytes of a chunk; 0 when it is missing.
    pub(super) fn size(&self, hash: &str) -> u64 {
        fs::metadata(self.path(hash)).map_or(0, |metadata| metadata.len())
    }

    /// Bytes that all of them take, as far as it is known since the last [`Chunks::sweep`].
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// A path for something that is being written.
    pub(super) fn new_file(&self) -> Result<PathBuf, VmError> {
        fs::create_dir_all(&self.new).map_err(VmError::io("cannot make", &self.new))?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Ok(self.new.join(format!("{}-{number}", std::process::id())))
    }

    /// Stores a content unless it is there, and gives its hash.
    pub(super) fn put(&self, content: &[u8]) -> Result<String, VmError> {
        let hash = hash(content);
        let path = self.path(&hash);
        if path.exists() {
            return Ok(hash);
        }
        let new = self.new_file()?;
        fs::write(&new, content)
            .map_err(VmError::io("cannot write", &new))
            .inspect_err(|_| drop(fs::remove_file(&new)))?;
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(VmError::io("cannot make", dir))?;
        }
        fs::rename(&new, &path).map_err(VmError::io("cannot rename to", &path))?;
        self.used.fetch_add(content.len() as u64, Ordering::Relaxed);
        Ok(hash)
    }

    /// Reads a content and compares it with its hash.
    pub(super) fn get(&self, wanted: &str) -> Result<Vec<u8>, SnapshotError> {
        let path = self.path(wanted);
        let content = fs::read(&path).map_err(VmError::io("cannot read", &path))?;
        if hash(&content) != wanted {
            return Err(SnapshotError::Damaged { path, problem: "was changed".to_owned() });
        }
        Ok(content)
    }

    /// Waits until all is on disk.
    pub(super) fn sync(&self) -> Result<(), VmError> {
        let file = File::open(&self.dir).map_err(VmError::io("cannot open", &self.dir))?;
        nix::unistd::syncfs(file).map_err(|errno| VmError::io("cannot write to disk", &self.dir)(errno.into()))
    }

    /// Removes what is half written, and chunks that are not among these; counts the others. Nobody may be writing.
    pub(super) fn sweep(&self, named: &HashSet<String>) -> Result<(), VmError> {
        remove_all(&self.new)?;
        let mut used = 0;
        for dir in if self.dir.is_dir() { subdirectories(&self.dir)? } else { Vec::new() } {
            let entries = fs::read_dir(&dir).map_err(VmError::io("cannot list", &dir))?;
            for entry in entries.filter_map(Result::ok) {
                if named.contains(&*entry.file_name().to_string_lossy()) {
                    used += entry.metadata().map_or(0, |metadata| metadata.len());
                } else {
                    let removed = fs::remove_file(entry.path());
                    removed.or_else(ignore_missing).map_err(VmError::io("cannot remove", entry.path()))?;
                }
            }
            let _ = fs::remove_dir(&dir); // fails, as it should, while chunks are in it
        }
        let _ = fs::remove_dir(&self.dir);
        self.used.store(used, Ordering::Relaxed);
        Ok(())
    }
}

fn ignore_missing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn equal_content_is_stored_once_and_what_nobody_names_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let chunks = Chunks::new(dir.path());
        let (a, b) = (chunks.put(b"a").unwrap(), chunks.put(b"b").unwrap());
        assert_eq!(chunks.put(b"a").unwrap(), a);
        assert_eq!(chunks.used(), 2);
        chunks.sweep(&HashSet::from([a.clone()])).unwrap();
        assert_eq!(chunks.get(&a).unwrap(), b"a");
        assert_eq!(chunks.used(), 1);
        assert!(chunks.get(&b).is_err());
        fs::write(chunks.path(&a), b"x").unwrap();
        assert!(chunks.get(&a).unwrap_err().to_string().contains("damaged"));
        chunks.sweep(&HashSet::new()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
