//! Templates: guests that were booted once and frozen, from which clones start.
//!
//! ```text
//! RAM_DIR/template-<key>/ram             the guest's memory; clones map it privately, copy on write
//!                        state           the state of its devices, some 60 KB
//!                        template.json   what it is; see [`Manifest`]
//! RAM_DIR/making-<key>/                  the same while it is made
//! RUN_DIR/.templates/vms/<key>/          the process that boots and is frozen, like any VM's
//! ```
//! The key says all that a template was made from: contents of kernel, initial RAM disk and QEMU, command line, shape
//! (key.rs). A change of any of them is another key.
//!
//! - **Made** (make.rs) for the first clone, by one caller while the others wait; after a failure VMs boot in full for
//!   a while.
//! - **Kept** while there is a VM that came from it, or somebody has said that more are to be started ([`store`]). Then
//!   it is removed. A clone that runs does not need the files: its mapping keeps the memory.
//! - **Found again** by a new agent: a template that VMs came from is kept; one that nobody uses or that was half made is
//!   removed, with its process.
//!
//! A template's files are compared with the manifest (identity, size, time of change) each time it is used; one that was
//! changed or lost is made again.

mod key;
mod make;
mod store;

use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::VmError;
use crate::spec::NicSpec;

pub(crate) use key::Shape;
pub use store::Expected;
pub(crate) use store::{RUN_NAME, Store, remove_all};

/// Grows when the meaning of a manifest's field changes, or that of a template's files.
const VERSION: u32 = 1;

/// Where a clone comes from; kept in its record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// The template's key.
    pub key: String,
    /// The boot id that the template's guest had: a clone that still says so has not become itself.
    pub boot_id: u64,
    /// Addresses of the template's interfaces, in order.
    pub macs: Vec<[u8; 6]>,
}

/// What a file was when the template was made. Whoever writes to it changes the time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileMark {
    device: u64,
    inode: u64,
    size: u64,
    changed_ns: i128,
}

impl FileMark {
    pub(crate) fn of(metadata: &Metadata) -> FileMark {
        FileMark {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            changed_ns: i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec()),
        }
    }
}

/// The content of `template.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Manifest {
    version: u32,
    origin: Origin,
    ram: FileMark,
    state: FileMark,
}

/// A template that clones can start from.
#[derive(Debug)]
pub(crate) struct Template {
    dir: PathBuf,
    ram: PathBuf,
    manifest: Manifest,
}

impl Template {
    /// Reads what is in a directory, and compares it with the manifest.
    ///
    /// # Errors
    /// When something is missing, damaged, or of another version.
    fn open(dir: &Path) -> Result<Template, VmError> {
        let path = dir.join("template.json");
        let text = fs::read(&path).map_err(VmError::io("cannot read", &path))?;
        let bad = |problem: String| VmError::Template { dir: dir.to_owned(), problem };
        let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
        if manifest.version != VERSION {
            return Err(bad(format!("it is of version {}, not {VERSION}", manifest.version)));
        }
        let template = Template { dir: dir.to_owned(), ram: dir.join("ram"), manifest };
        template.check()?;
        Ok(template)
    }

    /// Compares the files with the manifest.
    ///
    /// # Errors
    /// When one was changed or lost.
    pub(crate) fn check(&self) -> Result<(), VmError> {
        for (path, mark) in [(self.ram.clone(), &self.manifest.ram), (self.state_path(), &self.manifest.state)] {
            let metadata = fs::metadata(&path).map_err(VmError::io("cannot examine", &path))?;
            if FileMark::of(&metadata) != *mark {
                let problem = format!("{} was changed", path.display());
                return Err(VmError::Template { dir: self.dir.clone(), problem });
            }
        }
        Ok(())
    }

    /// The guest's memory.
    pub(crate) fn ram(&self) -> &Path {
        &self.ram
    }

    fn state_path(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// The state of the devices, for a clone to read.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(crate) fn state(&self) -> Result<File, VmError> {
        let path = self.state_path();
        File::open(&path).map_err(VmError::io("cannot open", path))
    }

    /// For the records of its clones.
    pub(crate) fn origin(&self) -> &Origin {
        &self.manifest.origin
    }
}

/// The interfaces of a template: as many as its clones have. Their addresses are never on a wire; those of a clone are
/// set by its init.
fn template_nics(count: usize) -> Vec<NicSpec> {
    let nic = |index: usize| NicSpec {
        name: format!("eth{index}"),
        mac: [0x02, 0xf1, 0xee, 0x7e, 0x00, u8::try_from(index).unwrap_or(u8::MAX)],
        mtu: 1500,
    };
    (0..count).map(nic).collect()
}
