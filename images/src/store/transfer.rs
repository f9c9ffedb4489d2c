//! An image on its way from one store to another: cut into pieces, each named by its content.
//!
//! ```text
//! STORE/incoming/HASH   pieces that have come; a broken-off transfer goes on with them
//! ```
//! An image appears in a store whole or not at all: its files are put together from pieces and checked, the manifest comes
//! after them, and the name last.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use nix::sys::statvfs::statvfs;

use super::{ImageId, ImageStore, Manifest, hash_of};
use crate::ImageError;

/// Bytes of a piece; the last one of a file is shorter.
pub const PIECE: usize = 256 * 1024;
/// Free disk that a transfer leaves, in bytes.
const SPARE: u64 = 256 * 1024 * 1024;
/// Pieces of a transfer that was broken off are kept for so long: a week.
const KEPT: std::time::Duration = std::time::Duration::from_secs(7 * 24 * 3600);
/// The folder of pieces in the store.
const INCOMING: &str = "incoming";

/// An image as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parcel {
    /// What it is called.
    pub name: String,
    /// The manifest; its hash is the image's id.
    pub manifest: Vec<u8>,
    /// The files that the manifest names.
    pub files: Vec<ParcelFile>,
}

/// A file of an image, in pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParcelFile {
    /// SHA-256 of all of it, in hexadecimal.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
    /// It is a program.
    pub executable: bool,
    /// SHA-256 of each piece, in hexadecimal.
    pub pieces: Vec<String>,
}

impl Parcel {
    /// The image's id.
    pub fn id(&self) -> String {
        hash_of(&self.manifest)
    }

    /// All pieces in order: of which file, and which of its pieces.
    pub fn pieces(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.files.iter().enumerate().flat_map(|(file, of)| (0..of.pieces.len()).map(move |piece| (file, piece)))
    }
}

impl ImageStore {
    /// An image, ready to be sent. Reads all of its files.
    ///
    /// # Errors
    /// When there is none of this name or id, or a file of it is damaged.
    pub fn parcel(&self, name_or_id: &str) -> Result<Parcel, ImageError> {
        let image = self.resolve(name_or_id)?;
        let manifest = self.blobs.read(image.id.as_str())?;
        let mut files: Vec<ParcelFile> = Vec::new();
        for blob in self.manifest(&image.id)?.blobs() {
            if files.iter().any(|file| file.sha256 == blob.sha256) {
                continue;
            }
            let path = self.blobs.path(&blob.sha256);
            let failed = |error| ImageError::io("reading", &path, error);
            let mut file = File::open(&path).map_err(failed)?;
            let mode = file.metadata().map_err(failed)?.permissions().mode();
            let mut pieces = Vec::new();
            let mut piece = Vec::with_capacity(PIECE);
            loop {
                piece.clear();
                let read = (&mut file).take(PIECE as u64).read_to_end(&mut piece).map_err(failed)?;
                if read == 0 {
                    break;
                }
                pieces.push(hash_of(&piece));
            }
            let executable = mode & 0o111 != 0;
            files.push(ParcelFile { sha256: blob.sha256.clone(), bytes: blob.bytes, executable, pieces });
        }
        Ok(Parcel { name: image.name, manifest, files })
    }

    /// The content of a piece of a file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn piece(&self, file: &ParcelFile, piece: usize) -> Result<Vec<u8>, ImageError> {
        let path = self.blobs.path(&file.sha256);
        let failed = |error| ImageError::io("reading", &path, error);
        let mut from = File::open(&path).map_err(failed)?;
        from.seek(SeekFrom::Start(piece as u64 * PIECE as u64)).map_err(failed)?;
        let mut bytes = Vec::with_capacity(PIECE);
        from.take(PIECE as u64).read_to_end(&mut bytes).map_err(failed)?;
        Ok(bytes)
    }

    /// What this store lacks of an image: numbers of pieces, in the order of [`Parcel::pieces`]; `None` when it has the
    /// image under this name.
    ///
    /// # Errors
    /// When the store cannot be read, or the disk has no room for what is missing.
    pub fn lacks(&self, parcel: &Parcel) -> Result<Option<Vec<usize>>, ImageError> {
        let id = parcel.id();
        if self.named(&parcel.name)?.is_some_and(|known| known.as_str() == id) && self.resolve(&parcel.name).is_ok() {
            return Ok(None);
        }
        let have: Vec<bool> =
            parcel.files.iter().map(|file| self.blobs.check(&file.sha256, file.bytes).is_ok()).collect();
        let is_here = |(file, piece): (usize, usize)| {
            have.get(file).copied().unwrap_or(false)
                || parcel.files.get(file).and_then(|f| f.pieces.get(piece)).is_some_and(|p| self.incoming(p).exists())
        };
        let missing: Vec<usize> =
            parcel.pieces().enumerate().filter(|(_, at)| !is_here(*at)).map(|(number, _)| number).collect();
        // Each piece is there twice for a moment: by itself, and in its file.
        let files = parcel.files.iter().zip(&have).filter(|(_, have)| !**have).map(|(file, _)| file.bytes);
        let needed = missing.len() as u64 * PIECE as u64 + files.sum::<u64>() + SPARE;
        let stat = statvfs(&self.folder).map_err(|errno| ImageError::io("examining", &self.folder, errno.into()))?;
        let free = stat.blocks_available() as u64 * stat.fragment_size() as u64;
        if needed > free {
            return Err(ImageError::NoRoomFor { path: self.folder.clone(), needed, free });
        }
        Ok(Some(missing))
    }

    /// Keeps a piece that came; its name is what its content says.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep_piece(&self, bytes: &[u8]) -> Result<(), ImageError> {
        let folder = self.folder.join(INCOMING);
        fs::create_dir_all(&folder).map_err(|error| ImageError::io("creating", &folder, error))?;
        let failed = |error| ImageError::io("writing", &folder, error);
        // Not the store's `tmp`, which is swept by whoever changes the store. What a killed agent leaves here goes with
        // the pieces.
        let mut temp = tempfile::NamedTempFile::new_in(&folder).map_err(failed)?;
        temp.write_all(bytes).map_err(failed)?;
        temp.persist(self.incoming(&hash_of(bytes))).map_err(|error| failed(error.error))?;
        Ok(())
    }

    /// Puts an image together from the pieces that came, and gives it its name.
    ///
    /// # Errors
    /// When a piece is missing, or a file is not what the manifest says; nothing of it is visible then.
    pub fn install(&self, parcel: &Parcel) -> Result<ImageId, ImageError> {
        let lock = self.lock()?;
        let manifest: Manifest = serde_json::from_slice(&parcel.manifest)
            .map_err(|error| ImageError::io("decoding the manifest of", &parcel.name, error.into()))?;
        for blob in manifest.blobs() {
            if self.blobs.check(&blob.sha256, blob.bytes).is_ok() {
                continue;
            }
            let file = parcel.files.iter().find(|file| file.sha256 == blob.sha256);
            let pieces: Vec<PathBuf> =
                file.iter().flat_map(|file| &file.pieces).map(|piece| self.incoming(piece)).collect();
            self.blobs.join(&blob.sha256, &pieces, file.is_some_and(|file| file.executable))?;
        }
        let id = self.put(&lock, &parcel.manifest, false)?.sha256;
        let id = ImageId::parse(&id).ok_or(ImageError::BadName(id))?;
        self.name(&lock, &parcel.name, &id)?;
        for piece in parcel.files.iter().flat_map(|file| &file.pieces) {
            // One that stays is swept with the old ones.
            drop(fs::remove_file(self.incoming(piece)));
        }
        self.sweep_pieces();
        Ok(id)
    }

    /// Removes pieces that nobody has come back for.
    fn sweep_pieces(&self) {
        for entry in fs::read_dir(self.folder.join(INCOMING)).into_iter().flatten().flatten() {
            let age = entry.metadata().and_then(|metadata| metadata.modified()).ok().and_then(|at| at.elapsed().ok());
            if age.is_some_and(|age| age > KEPT) {
                drop(fs::remove_file(entry.path()));
            }
        }
        // Only when it is empty.
        drop(fs::remove_dir(self.folder.join(INCOMING)));
    }

    fn incoming(&self, piece: &str) -> PathBuf {
        self.folder.join(INCOMING).join(piece)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{Blob, Kernel, SCHEMAS};
    use super::*;
    use crate::{KernelOrigin, RootForm};

    /// A store with an image `small`: a kernel of two and a half pieces, and a root of one byte.
    fn store_with_image() -> (tempfile::TempDir, ImageStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(dir.path()).unwrap();
        let lock = store.lock().unwrap();
        let kernel: Vec<u8> = (0..PIECE * 5 / 2).map(|at| (at % 251) as u8).collect();
        let origin = KernelOrigin { name: "k".into(), tiny: false, version: "6".into() };
        let put = |bytes: &[u8], executable| -> Blob { store.put(&lock, bytes, executable).unwrap() };
        let kernel = Kernel {
            origin,
            kernel: put(&kernel, true),
            root: put(b"r", false),
            root_form: RootForm::Initrd,
            acpi: false,
            usb: false,
            cmdline: String::new(),
            default_mem_mib: 32,
            min_mem_mib: 16,
            max_cpus: Some(1),
        };
        let manifest = Manifest { schema: *SCHEMAS.end(), description: String::new(), uml: Some(kernel), x86: None };
        store.publish(&lock, "small", &manifest).unwrap();
        drop(lock);
        (dir, store)
    }

    fn send(from: &ImageStore, to: &ImageStore, parcel: &Parcel, numbers: &[usize]) {
        let all: Vec<_> = parcel.pieces().collect();
        for number in numbers {
            let (file, piece) = all[*number];
            to.keep_piece(&from.piece(&parcel.files[file], piece).unwrap()).unwrap();
        }
    }

    #[test]
    fn an_image_that_was_sent_is_the_same_by_content_and_leaves_no_pieces() {
        let (_from, store) = store_with_image();
        let parcel = store.parcel("small").unwrap();
        assert_eq!(parcel.pieces().count(), 4);
        let dir = tempfile::tempdir().unwrap();
        let other = ImageStore::open(dir.path()).unwrap();
        let missing = other.lacks(&parcel).unwrap().unwrap();
        assert_eq!(missing, [0, 1, 2, 3]);
        send(&store, &other, &parcel, &missing);
        other.install(&parcel).unwrap();
        let (one, two) = (store.resolve("small").unwrap(), other.resolve("small").unwrap());
        assert_eq!((one.id, one.size_bytes), (two.id, two.size_bytes));
        let kernel = two.uml.unwrap().kernel;
        assert!(fs::metadata(kernel).unwrap().permissions().mode() & 0o111 != 0, "a program stays one");
        assert_eq!(other.lacks(&parcel).unwrap(), None);
        assert!(!dir.path().join(INCOMING).exists());
    }

    #[test]
    fn a_broken_off_transfer_goes_on_with_what_came_and_shows_no_image_before() {
        let (_from, store) = store_with_image();
        let parcel = store.parcel("small").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let other = ImageStore::open(dir.path()).unwrap();
        send(&store, &other, &parcel, &[1, 3]);
        assert_eq!(other.lacks(&parcel).unwrap().unwrap(), [0, 2]);
        assert!(other.install(&parcel).unwrap_err().to_string().contains("incoming"));
        assert!(other.list().unwrap().is_empty());
        send(&store, &other, &parcel, &[0, 2]);
        other.install(&parcel).unwrap();
        assert_eq!(other.list().unwrap().len(), 1);
    }

    #[test]
    fn a_damaged_piece_makes_no_image() {
        let (_from, store) = store_with_image();
        let parcel = store.parcel("small").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let other = ImageStore::open(dir.path()).unwrap();
        send(&store, &other, &parcel, &[0, 1, 2, 3]);
        fs::write(other.incoming(&parcel.files[0].pieces[0]), "other").unwrap();
        assert!(other.install(&parcel).is_err());
        assert!(other.list().unwrap().is_empty());
    }
}
