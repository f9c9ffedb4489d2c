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
mod error;
mod memory;
mod platform;
mod quota;
mod restore;
mod take;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::{RwLock, Semaphore, SemaphorePermit};
use tokio::time::timeout;
use tracing::warn;

use crate::error::VmError;
use crate::host::subdirectories;
use crate::hypervisor;
use crate::paths::safe_name;
use crate::spec::VmSpec;
use crate::versions::Versions;
use chunks::Chunks;
pub use error::SnapshotError;
use platform::Platform;
pub use quota::SnapshotQuota;

/// Grows when the meaning of a manifest's field changes.
const VERSION: u32 = 1;
/// Bytes of memory in a chunk.
const CHUNK: usize = 64 * 1024;
/// Snapshots taken or restored at once: it is the disk's work.
const AT_ONCE: usize = 2;
/// For a VM's turn to come. Each of those before it takes a second or so: this is for a disk that hangs.
const TURN_DEADLINE: Duration = Duration::from_secs(1800);
/// For a monitor to save or load the state of devices.
const MONITOR_DEADLINE: Duration = Duration::from_secs(60);

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
    /// What it was taken under; those of before lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    platform: Option<Platform>,
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
    quota: SnapshotQuota,
    /// Bytes that snapshots which are being taken may still need.
    promised: Mutex<u64>,
    versions: Versions,
}

impl SnapshotStore {
    /// The store in this directory, which is made with the first snapshot. Removes what an interrupted one has left.
    pub fn open(dir: PathBuf, quota: SnapshotQuota) -> SnapshotStore {
        let store = SnapshotStore {
            chunks: Chunks::new(&dir),
            dir,
            sweeping: RwLock::default(),
            at_once: Semaphore::new(AT_ONCE),
            quota,
            promised: Mutex::default(),
            versions: Versions::default(),
        };
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

    /// Removes the snapshots of this name of an experiment, and the chunks that nobody else has; gives how many there
    /// were.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub async fn remove(self: &Arc<Self>, experiment: &str, name: &str) -> Result<u32, SnapshotError> {
        let dir = self.name_dir(experiment, name);
        self.alone(move |store| {
            let mut removed = 0;
            for entry in fs::read_dir(&dir).into_iter().flatten() {
                let path = entry.map_err(VmError::io("cannot list", &dir))?.path();
                fs::remove_file(&path).map_err(VmError::io("cannot remove", &path))?;
                removed += 1;
            }
            // The directories go with the last one in them; while there are others, this fails and is meant to.
            let _ = dir.ancestors().take(2).try_for_each(fs::remove_dir);
            store.sweep()?;
            Ok(removed)
        })
        .await
    }

    /// Does something while no snapshot is taken, restored or removed, where blocking is allowed.
    async fn alone<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&SnapshotStore) -> Result<T, SnapshotError> + Send + 'static,
    ) -> Result<T, SnapshotError> {
        let store = Arc::clone(self);
        let alone = async move {
            let _sweeping = store.sweeping.write().await;
            let working = Arc::clone(&store);
            let done = tokio::task::spawn_blocking(move || work(&working)).await;
            done.map_err(|error| VmError::io("cannot change", &store.dir)(io::Error::other(error)))?
        };
        // In a task of its own: the lock is not let go of while the work goes on, also when the caller has gone.
        let done = tokio::spawn(alone).await;
        done.map_err(|error| VmError::io("cannot change", &self.dir)(io::Error::other(error)))?
    }

    /// Waits until it is a VM's turn.
    async fn turn(&self, spec: &VmSpec) -> Result<SemaphorePermit<'_>, SnapshotError> {
        let busy = || SnapshotError::Busy { vm: spec.label(), waited: TURN_DEADLINE };
        // The semaphore is never closed.
        timeout(TURN_DEADLINE, self.at_once.acquire()).await.map_err(|_| busy())?.map_err(|_| busy())
    }

    fn promised(&self) -> MutexGuard<'_, u64> {
        self.promised.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a VM can go on from the snapshot of this name on this host.
    ///
    /// # Errors
    /// When there is none, a chunk is missing, the VM has changed or the hypervisor has.
    pub async fn check(&self, spec: &VmSpec, name: &str) -> Result<(), SnapshotError> {
        supported(spec)?;
        let manifest = self.manifest(spec, name)?;
        for hash in manifest.hashes() {
            let path = self.chunks.path(hash);
            if !path.exists() {
                return Err(SnapshotError::Damaged { path, problem: "is missing".to_owned() });
            }
        }
        let Some(was) = manifest.platform else { return Ok(()) };
        let now = Platform::now(&self.versions, spec).await?;
        if was != now {
            let (vm, name) = (spec.label(), name.to_owned());
            return Err(SnapshotError::OtherPlatform { vm, name, was: was.to_string(), now: now.to_string() });
        }
        Ok(())
    }

    fn manifest(&self, spec: &VmSpec, name: &str) -> Result<Manifest, SnapshotError> {
        let path = self.manifest_path(&spec.experiment, name, &spec.name);
        let (vm, name) = (spec.label(), name.to_owned());
        if !path.exists() {
            let there = self.names_of(spec);
            return Err(SnapshotError::NotFound { vm, name, there });
        }
        let (_, manifest) = read(&path)?;
        let was = &manifest.spec;
        let same = [
            (was.hypervisor == spec.hypervisor && was.accelerator == spec.accelerator, "its hypervisor"),
            (was.memory_bytes == spec.memory_bytes, "its memory"),
            (was.cpus == spec.cpus, "its processors"),
            (was.nics == spec.nics, "its interfaces"),
            (was.kernel == spec.kernel && was.acpi == spec.acpi, "its kernel"),
            (was.usb == spec.usb, "its USB controller"),
        ];
        match same.into_iter().find(|(same, _)| !same) {
            Some((_, what)) => Err(SnapshotError::Changed { vm, name, what }),
            None => Ok(manifest),
        }
    }

    fn name_dir(&self, experiment: &str, name: &str) -> PathBuf {
        self.dir.join("manifests").join(safe_name(experiment)).join(safe_name(name))
    }

    fn manifest_path(&self, experiment: &str, name: &str, vm: &str) -> PathBuf {
        self.name_dir(experiment, name).join(format!("{}.json", safe_name(vm)))
    }

    /// Names of the snapshots that a VM has, for a message.
    fn names_of(&self, spec: &VmSpec) -> Vec<String> {
        let file = format!("{}.json", safe_name(&spec.name));
        let names = subdirectories(&self.dir.join("manifests").join(safe_name(&spec.experiment))).unwrap_or_default();
        let named = names.into_iter().filter_map(|dir| read(&dir.join(&file)).ok());
        named.map(|(_, manifest)| manifest.name).collect()
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
}

impl Manifest {
    /// All chunks that it needs, some of them more than once.
    fn hashes(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.state).chain(self.chunks.iter().flatten()).map(String::as_str)
    }
}

/// Refuses a VM whose hypervisor has no snapshots.
fn supported(spec: &VmSpec) -> Result<(), SnapshotError> {
    if hypervisor::find(&spec.hypervisor)?.capabilities().snapshots {
        return Ok(());
    }
    Err(SnapshotError::NotSupported { vm: spec.label(), hypervisor: spec.hypervisor.clone() })
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
