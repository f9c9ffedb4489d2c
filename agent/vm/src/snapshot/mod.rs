//! Snapshots: a VM's memory and the state of its devices, kept on disk by content, from which the VM goes on later.
//!
//! ```text
//! DIR/chunks/<2 digits>/<SHA-256>                     64 KiB of memory, or a state of devices; each content once
//! DIR/manifests/<experiment>/<name>/<vm>.json         what makes up one snapshot of one VM; see [`Manifest`]
//! DIR/new/                                            what is being written
//! ```
//! Chunks of zeroes are not stored. VMs that came from one template, and snapshots of one VM, have most chunks in common.
//! The manifest is written last, in one rename, after everything is on disk: a snapshot is whole or not there. Chunks
//! that no manifest names are removed when the store is opened and whenever a snapshot is.
//!
//! The guest is stopped while its memory is read out of its process (memory.rs), and goes on after. To restore, a new
//! process is made with the same machine; its memory is filled before the devices get their state. Where the VM's
//! template is there the memory begins as a copy of that, and only pages that differ are written.

mod chunks;
mod memory;
mod restore;
mod take;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio::sync::{RwLock, Semaphore};
use tracing::warn;

use crate::control::ControlError;
use crate::error::VmError;
use crate::host::subdirectories;
use crate::paths::safe_name;
use crate::spec::VmSpec;
use chunks::Chunks;

/// Grows when the meaning of a manifest's field changes.
const VERSION: u32 = 1;
/// Bytes of memory in a chunk.
const CHUNK: usize = 64 * 1024;
/// Snapshots taken or restored at once: it is the disk's work.
const AT_ONCE: usize = 2;
/// Left free on the disk, in bytes.
const RESERVE: u64 = 256 << 20;
/// For a monitor to save or load the state of devices.
const MONITOR_DEADLINE: Duration = Duration::from_secs(60);

/// What can go wrong with a snapshot.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// Of the VM.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// Of its guest.
    #[error(transparent)]
    Guest(#[from] ControlError),
    /// There is none.
    #[error("there is no snapshot \"{name}\" of {vm}: `fleet vm snapshots` lists those that are there")]
    NotFound {
        /// `experiment.vm`.
        vm: String,
        /// Its name.
        name: String,
    },
    /// The hypervisor has none.
    #[error("{vm} runs on {hypervisor}, which has no snapshots: give it `hypervisor qemu`")]
    NotSupported {
        /// `experiment.vm`.
        vm: String,
        /// Its hypervisor.
        hypervisor: String,
    },
    /// The VM is not what it was.
    #[error("{vm} has changed since its snapshot \"{name}\" was taken ({what}): it cannot go on from that")]
    Changed {
        /// `experiment.vm`.
        vm: String,
        /// Its name.
        name: String,
        /// What differs.
        what: &'static str,
    },
    /// Something of it is damaged.
    #[error("the snapshot is damaged: {} {problem}; take a new one", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The disk is short.
    #[error(
        "no room for a snapshot of {vm}: it may take {needed} MiB, and {} has {free} MiB free, of which {reserve} are \
         left free; remove snapshots (`fleet vm snapshots --remove`) or make room", dir.display()
    )]
    NoSpace {
        /// `experiment.vm`.
        vm: String,
        /// Where snapshots are.
        dir: PathBuf,
        /// MiB at most.
        needed: u64,
        /// MiB free.
        free: u64,
        /// MiB that stay free.
        reserve: u64,
    },
}

/// The content of a manifest: one snapshot of one VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    version: u32,
    /// What the VM was.
    spec: VmSpec,
    /// Name of the snapshot.
    name: String,
    /// When it was taken, ms since 1970.
    taken_ms: u64,
    /// What its guest said last of its boot.
    boot_id: u64,
    /// The state of the devices.
    state: String,
    /// The memory in order; `None` are zeroes.
    chunks: Vec<Option<String>>,
}

/// A snapshot of one VM, as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The experiment.
    pub experiment: String,
    /// The VM.
    pub vm: String,
    /// Name of the snapshot.
    pub name: String,
    /// SHA-256 of its manifest: equal content has equal ids.
    pub id: String,
    /// When it was taken, ms since 1970.
    pub taken_ms: u64,
    /// Bytes of memory that are not zero, and of the devices' state.
    pub bytes: u64,
    /// Of these, bytes that other snapshots have as well.
    pub shared_bytes: u64,
}

/// The snapshots of a host.
#[derive(Debug)]
pub struct SnapshotStore {
    dir: PathBuf,
    chunks: Chunks,
    /// Read by those who write chunks that no manifest names yet; written by who removes such chunks.
    sweeping: RwLock<()>,
    at_once: Semaphore,
}

impl SnapshotStore {
    /// The store in this directory, which is made with the first snapshot. Removes what an interrupted one has left.
    pub fn open(dir: PathBuf) -> SnapshotStore {
        let chunks = Chunks::new(&dir);
        let store = SnapshotStore { dir, chunks, sweeping: RwLock::default(), at_once: Semaphore::new(AT_ONCE) };
        if store.dir.exists()
            && let Err(error) = store.sweep()
        {
            warn!("what is left of an interrupted snapshot stays: {error}");
        }
        store
    }

    /// All snapshots of an experiment, or of all. Reads every manifest: call it where blocking is allowed.
    ///
    /// # Errors
    /// When the directory cannot be read; a damaged manifest is left out, with a warning.
    pub fn list(&self, experiment: Option<&str>) -> Result<Vec<Snapshot>, SnapshotError> {
        let manifests = self.manifests()?;
        let mut uses = std::collections::HashMap::<String, (u32, u64)>::new();
        for (_, _, manifest) in &manifests {
            for hash in manifest.hashes() {
                let size = || self.chunks.size(hash);
                uses.entry(hash.to_owned()).or_insert_with(|| (0, size())).0 += 1;
            }
        }
        let wanted = manifests
            .into_iter()
            .filter(|(_, _, manifest)| experiment.is_none_or(|name| manifest.spec.experiment == name));
        let shown = wanted.map(|(_, id, manifest)| {
            let sizes = |least: u32| {
                let counted = manifest.hashes().filter_map(|hash| uses.get(hash)).filter(|(uses, _)| *uses >= least);
                counted.map(|(_, size)| size).sum()
            };
            let (bytes, shared_bytes) = (sizes(1), sizes(2));
            let Manifest { spec, name, taken_ms, .. } = manifest;
            Snapshot { experiment: spec.experiment, vm: spec.name, name, id, taken_ms, bytes, shared_bytes }
        });
        let mut shown: Vec<_> = shown.collect();
        shown.sort_by(|a, b| (&a.experiment, a.taken_ms, &a.vm).cmp(&(&b.experiment, b.taken_ms, &b.vm)));
        Ok(shown)
    }

    /// Removes the snapshot of this name of a VM, and the chunks that nobody else has. It is no error when there is none.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub async fn remove(&self, experiment: &str, vm: &str, name: &str) -> Result<bool, SnapshotError> {
        let _sweeping = self.sweeping.write().await;
        let path = self.manifest_path(experiment, name, vm);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            removed => removed.map_err(VmError::io("cannot remove", &path))?,
        }
        // The directories go with the last one in them; while there are others, this fails and is meant to.
        let _ = path.ancestors().skip(1).take(3).try_for_each(fs::remove_dir);
        self.sweep()?;
        Ok(true)
    }

    /// Whether a VM can go on from the snapshot of this name.
    ///
    /// # Errors
    /// When there is none, a chunk is missing, or the VM has changed.
    pub fn check(&self, spec: &VmSpec, name: &str) -> Result<(), SnapshotError> {
        let manifest = self.manifest(spec, name)?;
        for hash in manifest.hashes() {
            let path = self.chunks.path(hash);
            if !path.exists() {
                return Err(SnapshotError::Damaged { path, problem: "is missing".to_owned() });
            }
        }
        Ok(())
    }

    fn manifest(&self, spec: &VmSpec, name: &str) -> Result<Manifest, SnapshotError> {
        let path = self.manifest_path(&spec.experiment, name, &spec.name);
        let (vm, name) = (spec.label(), name.to_owned());
        if !path.exists() {
            return Err(SnapshotError::NotFound { vm, name });
        }
        let (_, manifest) = read(&path)?;
        let was = &manifest.spec;
        let same = [
            (was.hypervisor == spec.hypervisor && was.accelerator == spec.accelerator, "its hypervisor"),
            (was.memory_bytes == spec.memory_bytes, "its memory"),
            (was.cpus == spec.cpus, "its processors"),
            (was.nics == spec.nics, "its interfaces"),
            (was.kernel == spec.kernel && was.acpi == spec.acpi, "its kernel"),
        ];
        match same.into_iter().find(|(same, _)| !same) {
            Some((_, what)) => Err(SnapshotError::Changed { vm, name, what }),
            None => Ok(manifest),
        }
    }

    fn manifest_path(&self, experiment: &str, name: &str, vm: &str) -> PathBuf {
        let dir = self.dir.join("manifests").join(safe_name(experiment)).join(safe_name(name));
        dir.join(format!("{}.json", safe_name(vm)))
    }

    /// Every manifest with its path and id.
    fn manifests(&self) -> Result<Vec<(PathBuf, String, Manifest)>, SnapshotError> {
        let mut found = Vec::new();
        let top = self.dir.join("manifests");
        for experiment in if top.is_dir() { subdirectories(&top)? } else { Vec::new() } {
            for name in subdirectories(&experiment)? {
                let entries = fs::read_dir(&name).map_err(VmError::io("cannot list", &name))?;
                for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
                    match read(&path) {
                        Ok((id, manifest)) => found.push((path, id, manifest)),
                        Err(error) => warn!("{error}"),
                    }
                }
            }
        }
        Ok(found)
    }

    /// Removes what is half written, and chunks that no manifest names.
    fn sweep(&self) -> Result<(), SnapshotError> {
        let named: std::collections::HashSet<String> =
            self.manifests()?.iter().flat_map(|(_, _, manifest)| manifest.hashes().map(str::to_owned)).collect();
        self.chunks.sweep(&named)?;
        // With nothing in it, nothing is left of the store.
        for dir in [self.dir.join("manifests"), self.dir.clone()] {
            let _ = fs::remove_dir(dir);
        }
        Ok(())
    }

    /// Refuses a snapshot that might not fit.
    fn has_room(&self, spec: &VmSpec) -> Result<(), SnapshotError> {
        fs::create_dir_all(&self.dir).map_err(VmError::io("cannot make", &self.dir))?;
        let stat = statvfs(&self.dir).map_err(|errno| VmError::io("cannot examine", &self.dir)(errno.into()))?;
        let free = stat.blocks_available().saturating_mul(stat.fragment_size());
        if free < spec.memory_bytes.saturating_add(RESERVE) {
            let (vm, dir, needed) = (spec.label(), self.dir.clone(), spec.memory_mib());
            return Err(SnapshotError::NoSpace { vm, dir, needed, free: free >> 20, reserve: RESERVE >> 20 });
        }
        Ok(())
    }
}

impl Manifest {
    /// All chunks that it needs, some of them more than once.
    fn hashes(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.state).chain(self.chunks.iter().flatten()).map(String::as_str)
    }
}

/// Reads a manifest and gives it with its id.
fn read(path: &Path) -> Result<(String, Manifest), SnapshotError> {
    let text = fs::read(path).map_err(VmError::io("cannot read", path))?;
    let damaged = |problem: String| SnapshotError::Damaged { path: path.to_owned(), problem };
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
    if manifest.version != VERSION {
        return Err(damaged(format!("is of version {}, not {VERSION}", manifest.version)));
    }
    Ok((hash(&text), manifest))
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
