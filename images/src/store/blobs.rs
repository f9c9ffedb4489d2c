//! Files named by the SHA-256 of their content, and the atomic writes that everything in the store goes through:
//! a temporary file in the same file system, fsync, rename, fsync of the folder.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Mutex,
};

use sha2::{Digest, Sha256};

use crate::ImageError;

/// A SHA-256 in lower-case hexadecimal.
pub(crate) type Hash = String;

/// What a file was when it was last read through, so that it is read through only once: inode, size, mtime (ns).
type Stamp = (u64, u64, i64);

/// The folder of blobs, and the one of temporary files beside it.
#[derive(Debug)]
pub(super) struct Blobs {
    folder: PathBuf,
    temp: PathBuf,
    verified: Mutex<HashMap<Hash, Stamp>>,
}

impl Blobs {
    pub(super) fn open(store: &Path) -> Result<Self, ImageError> {
        let blobs =
            Self { folder: store.join("blobs/sha256"), temp: store.join("tmp"), verified: Mutex::new(HashMap::new()) };
        for folder in [&blobs.folder, &blobs.temp] {
            fs::create_dir_all(folder).map_err(|error| ImageError::io("creating", folder, error))?;
        }
        Ok(blobs)
    }

    pub(super) fn path(&self, hash: &str) -> PathBuf {
        self.folder.join(hash)
    }

    /// Stores bytes; `executable` for a kernel that is a program. A blob that is there already is left alone.
    pub(super) fn put(&self, bytes: &[u8], executable: bool) -> Result<Hash, ImageError> {
        let hash = hash_of(bytes);
        let path = self.path(&hash);
        let mode = if executable { 0o755 } else { 0o644 };
        if self.check(&hash, bytes.len() as u64).is_ok() {
            if executable {
                fs::set_permissions(&path, fs::Permissions::from_mode(mode))
                    .map_err(|error| ImageError::io("making executable", &path, error))?;
            }
        } else {
            self.write(&path, bytes, mode)?;
        }
        Ok(hash)
    }

    /// Checks that a blob is there with this size and that its content is what its name says. The content is read
    /// once a process for each version of the file.
    pub(super) fn check(&self, hash: &str, size: u64) -> Result<(), ImageError> {
        let path = self.path(hash);
        let damaged = |problem: String| ImageError::Damaged { path: path.clone(), problem };
        let mut file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(damaged("is missing".to_owned())),
            opened => opened.map_err(|error| ImageError::io("opening", &path, error))?,
        };
        let metadata = file.metadata().map_err(|error| ImageError::io("reading", &path, error))?;
        if metadata.len() != size {
            return Err(damaged(format!("has {} bytes instead of {size}", metadata.len())));
        }
        let mtime_ns = metadata.mtime().wrapping_mul(1_000_000_000).wrapping_add(metadata.mtime_nsec());
        let stamp = (metadata.ino(), metadata.len(), mtime_ns);
        if self.verified().get(hash) == Some(&stamp) {
            return Ok(());
        }
        if hash_of_reader(&mut file).map_err(|error| ImageError::io("reading", &path, error))? != hash {
            return Err(damaged("has other content than its name says".to_owned()));
        }
        self.verified().insert(hash.to_owned(), stamp);
        Ok(())
    }

    /// Reads a small blob and checks it.
    pub(super) fn read(&self, hash: &str) -> Result<Vec<u8>, ImageError> {
        let path = self.path(hash);
        let damaged = |problem: &str| ImageError::Damaged { path: path.clone(), problem: problem.to_owned() };
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(damaged("is missing")),
            read => read.map_err(|error| ImageError::io("reading", &path, error))?,
        };
        if hash_of(&bytes) == hash { Ok(bytes) } else { Err(damaged("has other content than its name says")) }
    }

    /// Writes a file of the store so that it is there whole or not at all, also after a loss of power.
    pub(super) fn write(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<(), ImageError> {
        let failed = |error: io::Error| ImageError::io("writing", path, error);
        let mut temp = tempfile::NamedTempFile::new_in(&self.temp).map_err(failed)?; // removed when dropped
        temp.write_all(bytes).map_err(failed)?;
        temp.as_file().set_permissions(fs::Permissions::from_mode(mode)).map_err(failed)?;
        temp.as_file().sync_all().map_err(failed)?;
        temp.persist(path).map_err(|error| failed(error.error))?;
        match path.parent() {
            Some(folder) => File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed),
            None => Ok(()),
        }
    }

    /// Makes a blob of files, one after the other; it appears only if its content is what `hash` says.
    pub(super) fn join(&self, hash: &str, pieces: &[PathBuf], executable: bool) -> Result<(), ImageError> {
        let path = self.path(hash);
        let failed = |error: io::Error| ImageError::io("writing", &path, error);
        let mut temp = tempfile::NamedTempFile::new_in(&self.temp).map_err(failed)?; // removed when dropped
        for piece in pieces {
            let mut from = File::open(piece).map_err(|error| ImageError::io("reading", piece, error))?;
            io::copy(&mut from, &mut temp).map_err(failed)?;
        }
        let mut written = temp.reopen().map_err(failed)?;
        if hash_of_reader(&mut written).map_err(failed)? != hash {
            let problem = "was sent with other content than its name says".to_owned();
            return Err(ImageError::Damaged { path, problem });
        }
        let mode = if executable { 0o755 } else { 0o644 };
        temp.as_file().set_permissions(fs::Permissions::from_mode(mode)).map_err(failed)?;
        temp.as_file().sync_all().map_err(failed)?;
        temp.persist(&path).map_err(|error| failed(error.error))?;
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(failed)
    }

    /// Removes the temporary files that a killed builder left. Only under the store's lock.
    pub(super) fn sweep_temp(&self) -> Result<(), ImageError> {
        for path in files_in(&self.temp)? {
            fs::remove_file(&path).map_err(|error| ImageError::io("removing", &path, error))?;
        }
        Ok(())
    }

    /// Removes every blob for which `keep` says no; gives the bytes freed. Only under the store's lock.
    pub(super) fn retain(&self, keep: impl Fn(&str) -> bool) -> Result<u64, ImageError> {
        let mut freed = 0;
        for path in files_in(&self.folder)? {
            if path.file_name().and_then(|name| name.to_str()).is_some_and(&keep) {
                continue;
            }
            let size = fs::metadata(&path).map_or(0, |metadata| metadata.len());
            fs::remove_file(&path).map_err(|error| ImageError::io("removing", &path, error))?;
            freed += size;
        }
        Ok(freed)
    }

    fn verified(&self) -> std::sync::MutexGuard<'_, HashMap<Hash, Stamp>> {
        self.verified.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// SHA-256 of bytes.
pub(crate) fn hash_of(bytes: &[u8]) -> Hash {
    hex(&Sha256::digest(bytes))
}

/// SHA-256 of all that a reader gives.
pub(crate) fn hash_of_reader(reader: &mut impl Read) -> io::Result<Hash> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(hex(&hasher.finalize())),
            Ok(length) => hasher.update(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The files in a folder, sorted.
pub(super) fn files_in(folder: &Path) -> Result<Vec<PathBuf>, ImageError> {
    let read = |error| ImageError::io("listing", folder, error);
    let mut paths = fs::read_dir(folder)
        .map_err(read)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(read)?;
    paths.sort();
    Ok(paths)
}
