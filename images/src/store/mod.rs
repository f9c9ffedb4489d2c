//! The image store: a folder in which every file is named by its content.
//!
//! ```text
//! STORE/blobs/sha256/HASH   kernels, initrds and manifests
//! STORE/images/NAME         the id of the image that has this name: the hash of its manifest
//! STORE/builds/KEY          the id that these inputs of a build gave (see `builder`)
//! STORE/tmp/                files being written
//! STORE/lock                held (flock) by whoever changes the store
//! ```
//! Readers take no lock: a file appears whole by rename, its name last. A writer that is killed leaves at most
//! temporary files and unused blobs; the next writer removes the first, [`ImageStore::gc`] the second.

mod blobs;
mod manifest;
mod transfer;

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};

use crate::{ImageError, RootForm, recipe::is_image_name};
use blobs::{Blobs, files_in};
pub(crate) use blobs::{hash_of, hash_of_reader};
use manifest::Form;
pub(crate) use manifest::{Blob, Kernel, Manifest, SCHEMAS};
pub use manifest::{Image, ImageId, KernelOrigin, RootFs, UmlFiles, X86Files};
pub use transfer::{PIECE, Parcel, ParcelFile};

/// A line of `fleet image ls`.
#[derive(Clone, Debug)]
pub struct ImageEntry {
    /// Its name.
    pub name: String,
    /// By content.
    pub id: ImageId,
    /// The image, or what is wrong with it.
    pub image: Result<Image, String>,
}

/// What a removal did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// The names that are gone.
    pub names: Vec<String>,
    /// Space freed; files shared with other images stay.
    pub freed_bytes: u64,
}

/// A folder of images.
#[derive(Debug)]
pub struct ImageStore {
    folder: PathBuf,
    blobs: Blobs,
}

/// Held while the store is changed.
pub(crate) struct StoreLock {
    _lock: Flock<File>,
}

impl ImageStore {
    /// Opens the store in this folder, and makes it when it is not there.
    ///
    /// # Errors
    /// When the folder cannot be made or written.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, ImageError> {
        let folder = folder.into();
        for part in ["images", "builds"] {
            let part = folder.join(part);
            fs::create_dir_all(&part).map_err(|error| ImageError::io("creating", part, error))?;
        }
        let blobs = Blobs::open(&folder)?;
        Ok(Self { folder, blobs })
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Finds an image by name, id or the start of an id (4 digits at least), and checks every file of it.
    ///
    /// # Errors
    /// When there is none, when several ids fit, or when a file of it is missing or damaged.
    pub fn resolve(&self, name_or_id: &str) -> Result<Image, ImageError> {
        if is_image_name(name_or_id)
            && let Some(id) = self.named(name_or_id)?
        {
            return self.image(&id, name_or_id);
        }
        let names = self.names()?;
        let is_prefix = name_or_id.len() >= 4 && name_or_id.bytes().all(|byte| byte.is_ascii_hexdigit());
        let mut fitting: Vec<&(String, ImageId)> =
            names.iter().filter(|(_, id)| is_prefix && id.as_str().starts_with(name_or_id)).collect();
        fitting.dedup_by(|one, other| one.1 == other.1);
        match fitting.as_slice() {
            [(name, id)] => self.image(id, name),
            [] => Err(self.unknown(name_or_id, &names)),
            several => Err(ImageError::AmbiguousId {
                prefix: name_or_id.to_owned(),
                ids: several.iter().map(|(_, id)| id.short().to_owned()).collect(),
            }),
        }
    }

    /// All names, sorted, each with its image. A damaged image does not hide the others.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn list(&self) -> Result<Vec<ImageEntry>, ImageError> {
        let names = self.names()?;
        Ok(names
            .into_iter()
            .map(|(name, id)| {
                let image = self.image(&id, &name).map_err(|error| error.to_string());
                ImageEntry { name, id, image }
            })
            .collect())
    }

    /// Removes a name (or, by an id, every name of it) and the files that no other image uses.
    ///
    /// # Errors
    /// When there is no such image, or a file cannot be removed.
    pub fn remove(&self, name_or_id: &str) -> Result<Removed, ImageError> {
        let lock = self.lock()?;
        let names = self.names()?;
        let by_name: Vec<&String> = names.iter().map(|(name, _)| name).filter(|name| *name == name_or_id).collect();
        let is_prefix = name_or_id.len() >= 4;
        let gone: Vec<&String> = if by_name.is_empty() {
            let fitting = names.iter().filter(|(_, id)| is_prefix && id.as_str().starts_with(name_or_id));
            let ids: HashSet<&ImageId> = fitting.clone().map(|(_, id)| id).collect();
            if ids.len() > 1 {
                let ids = ids.into_iter().map(|id| id.short().to_owned()).collect();
                return Err(ImageError::AmbiguousId { prefix: name_or_id.to_owned(), ids });
            }
            fitting.map(|(name, _)| name).collect()
        } else {
            by_name
        };
        if gone.is_empty() {
            return Err(self.unknown(name_or_id, &names));
        }
        for name in &gone {
            let path = self.name_path(name);
            fs::remove_file(&path).map_err(|error| ImageError::io("removing", path, error))?;
        }
        Ok(Removed { names: gone.into_iter().cloned().collect(), freed_bytes: self.sweep(&lock)? })
    }

    /// Removes what no name leads to; gives the bytes freed.
    ///
    /// # Errors
    /// When the store cannot be read or a file cannot be removed.
    pub fn gc(&self) -> Result<u64, ImageError> {
        let lock = self.lock()?;
        self.sweep(&lock)
    }

    /// Takes the store's lock; waits for another builder.
    pub(crate) fn lock(&self) -> Result<StoreLock, ImageError> {
        let path = self.folder.join("lock");
        let lock = lock_file(&path)?;
        self.blobs.sweep_temp()?;
        Ok(StoreLock { _lock: lock })
    }

    /// Stores one file. The lock proves that no gc runs between this and the manifest that names it.
    pub(crate) fn put(&self, _lock: &StoreLock, bytes: &[u8], executable: bool) -> Result<Blob, ImageError> {
        Ok(Blob { sha256: self.blobs.put(bytes, executable)?, bytes: bytes.len() as u64 })
    }

    /// Stores a manifest and gives it a name.
    pub(crate) fn publish(&self, lock: &StoreLock, name: &str, manifest: &Manifest) -> Result<ImageId, ImageError> {
        // A struct of strings and numbers has no value that JSON cannot hold.
        let bytes = serde_json::to_vec(manifest).map_err(|error| ImageError::io("encoding", name, error.into()))?;
        let blob = self.put(lock, &bytes, false)?;
        self.name(lock, name, &ImageId::parse(&blob.sha256).ok_or(ImageError::BadName(blob.sha256))?)
    }

    /// Gives a name to a stored image.
    pub(crate) fn name(&self, _lock: &StoreLock, name: &str, id: &ImageId) -> Result<ImageId, ImageError> {
        if !is_image_name(name) {
            return Err(ImageError::BadName(name.to_owned()));
        }
        if self.named(name)?.as_ref() != Some(id) {
            self.blobs.write(&self.name_path(name), format!("{id}\n").as_bytes(), 0o644)?;
        }
        Ok(id.clone())
    }

    /// The image that a build with these inputs gave, if it is still there and whole.
    pub(crate) fn built(&self, key: &str) -> Option<ImageId> {
        let text = fs::read_to_string(self.folder.join("builds").join(key)).ok()?;
        let id = ImageId::parse(text.trim())?;
        self.image(&id, "build").ok().map(|_| id)
    }

    /// Notes what a build with these inputs gave.
    pub(crate) fn note_built(&self, _lock: &StoreLock, key: &str, id: &ImageId) -> Result<(), ImageError> {
        self.blobs.write(&self.folder.join("builds").join(key), format!("{id}\n").as_bytes(), 0o644)
    }

    /// Reads an image's manifest and checks all of its files.
    pub(crate) fn image(&self, id: &ImageId, name: &str) -> Result<Image, ImageError> {
        let manifest = self.manifest(id)?;
        let mut size_bytes = 0;
        for blob in manifest.blobs() {
            self.blobs.check(&blob.sha256, blob.bytes)?;
            size_bytes += blob.bytes;
        }
        let path = |blob: &Blob| self.blobs.path(&blob.sha256);
        let uml = manifest.uml.as_ref().map(|uml| UmlFiles {
            kernel: path(&uml.kernel),
            origin: uml.origin.clone(),
            root: match uml.root_form {
                RootForm::Initrd => RootFs::Initrd(path(&uml.root)),
                RootForm::Erofs => RootFs::Erofs(path(&uml.root)),
            },
            cmdline: uml.cmdline.clone(),
            default_mem_mib: uml.default_mem_mib,
            min_mem_mib: uml.min_mem_mib,
            max_cpus: uml.max_cpus,
        });
        let x86 = manifest.x86.as_ref().map(|x86| X86Files {
            vmlinux: path(&x86.kernel),
            origin: x86.origin.clone(),
            initrd: path(&x86.root),
            acpi: x86.acpi,
            usb: x86.usb,
            cmdline: x86.cmdline.clone(),
            default_mem_mib: x86.default_mem_mib,
            min_mem_mib: x86.min_mem_mib,
            max_cpus: x86.max_cpus,
        });
        let built_at = fs::metadata(self.name_path(name)).and_then(|metadata| metadata.modified()).ok();
        Ok(Image { id: id.clone(), name: name.to_owned(), uml, x86, built_at, size_bytes })
    }

    fn manifest(&self, id: &ImageId) -> Result<Manifest, ImageError> {
        let bytes = self.blobs.read(id.as_str())?;
        let damaged = |problem: String| ImageError::Damaged { path: self.blobs.path(id.as_str()), problem };
        let no_manifest = |error: serde_json::Error| damaged(format!("is no manifest ({error})"));
        let Form { schema } = serde_json::from_slice(&bytes).map_err(no_manifest)?;
        if !SCHEMAS.contains(&schema) {
            return Err(damaged(format!("is of form {schema}, which another version of fleet made")));
        }
        serde_json::from_slice(&bytes).map_err(no_manifest)
    }

    fn name_path(&self, name: &str) -> PathBuf {
        self.folder.join("images").join(name)
    }

    /// The id that a name stands for.
    fn named(&self, name: &str) -> Result<Option<ImageId>, ImageError> {
        let path = self.name_path(name);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|error| ImageError::io("reading", &path, error))?,
        };
        match ImageId::parse(text.trim_end()) {
            Some(id) => Ok(Some(id)),
            None => Err(ImageError::Damaged { path, problem: "holds no id".to_owned() }),
        }
    }

    fn names(&self) -> Result<Vec<(String, ImageId)>, ImageError> {
        let paths = files_in(&self.folder.join("images"))?;
        let names = paths.iter().filter_map(|path| path.file_name()?.to_str()).filter(|name| is_image_name(name));
        names.filter_map(|name| Some(self.named(name).transpose()?.map(|id| (name.to_owned(), id)))).collect()
    }

    /// Removes what no name leads to. An image whose manifest is damaged has to be built again anyway: its files go.
    pub(crate) fn sweep(&self, _lock: &StoreLock) -> Result<u64, ImageError> {
        let mut used = HashSet::new();
        for (_, id) in self.names()? {
            if let Ok(manifest) = self.manifest(&id) {
                used.extend(manifest.blobs().map(|blob| blob.sha256.clone()));
            }
            used.insert(id.as_str().to_owned());
        }
        let builds = self.folder.join("builds");
        for path in files_in(&builds)? {
            let id = fs::read_to_string(&path).unwrap_or_default();
            if !used.contains(id.trim_end()) {
                fs::remove_file(&path).map_err(|error| ImageError::io("removing", path, error))?;
            }
        }
        self.blobs.retain(|hash| used.contains(hash))
    }

    fn unknown(&self, name: &str, names: &[(String, ImageId)]) -> ImageError {
        let mut near: Vec<String> =
            names.iter().map(|(known, _)| known.clone()).filter(|known| distance(known, name) <= 2).collect();
        near.dedup();
        ImageError::UnknownImage { name: name.to_owned(), near }
    }
}

/// Takes an exclusive lock on a file, made when it is not there; waits for the one who holds it.
pub(crate) fn lock_file(path: &Path) -> Result<Flock<File>, ImageError> {
    let file = File::options().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(|error| ImageError::io("opening", path, error))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| ImageError::io("locking", path, errno.into()))
}

/// Levenshtein's distance: how many letters to add, drop or change.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut corner = i;
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let change = corner + usize::from(a != *b);
            corner = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(corner + 1);
        }
    }
    row[other.len()]
}
