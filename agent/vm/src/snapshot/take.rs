//! Taking a snapshot.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::OwnedMutexGuard;

use super::memory::Memory;
use super::{MONITOR_DEADLINE, Manifest, Platform, SnapshotError, SnapshotStore, VERSION, supported};
use crate::error::VmError;
use crate::machine::Machine;
use crate::spec::VmSpec;
use crate::usb::UsbError;

/// For a guest to say who it is; it does so when it has come up.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);

impl Machine {
    /// Takes a snapshot under this name; an earlier one of this name is replaced. The guest stands still meanwhile and goes on
    /// after, unless it was paused. Once begun it comes to its end, also when the future is dropped.
    ///
    /// # Errors
    /// When the hypervisor has no snapshots, the guest has not come up, or the disk is short. The guest goes on.
    pub async fn snapshot(&self, store: &Arc<SnapshotStore>, name: &str) -> Result<(), SnapshotError> {
        let (machine, store, name) = (self.clone(), Arc::clone(store), name.to_owned());
        let task = tokio::spawn(async move { machine.take(&store, &name).await });
        task.await.map_err(|error| VmError::BadSpec {
            vm: self.spec().label(),
            problem: format!("its snapshot was broken off: {error}"),
        })?
    }

    async fn take(&self, store: &Arc<SnapshotStore>, name: &str) -> Result<(), SnapshotError> {
        let spec = self.spec().clone();
        supported(&spec)?;
        let _cameras = self.without_cameras().await?;
        let _place = store.turn(&spec).await?;
        let _room = match store.promise(&spec) {
            Err(SnapshotError::NoSpace { .. } | SnapshotError::OverQuota { .. }) => {
                // What a snapshot had alone that was since replaced by another of its name is still there.
                store.alone(SnapshotStore::sweep).await?;
                store.promise(&spec)?
            }
            promised => promised?,
        };
        let _sweeping = store.sweeping.read().await;
        let control = self.control();
        let known = control.link().borrow().hello.clone();
        let boot_id = match known {
            Some(hello) => hello.boot_id,
            None => control.hello(HELLO_DEADLINE).await?.boot_id,
        };
        // What came between the saving of the devices and that of the memory would be in one and not in the other.
        let silence = control.silence();
        let was_paused = self.is_paused();
        if !was_paused {
            self.stand_still(true).await?;
        }
        let saved = self.save(store, &spec).await;
        // Whatever came of it, the guest goes on.
        let went_on = if was_paused { Ok(()) } else { self.stand_still(false).await };
        drop(silence);
        let (platform, state, chunks) = saved?;
        went_on?;
        let taken = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let taken_ms = u64::try_from(taken.as_millis()).unwrap_or(u64::MAX);
        let (name, platform) = (name.to_owned(), Some(platform));
        let manifest = Manifest { version: VERSION, spec, name, taken_ms, boot_id, platform, state, chunks };
        let writing = Arc::clone(store);
        let written = tokio::task::spawn_blocking(move || writing.write(&manifest)).await;
        Ok(written.map_err(|error| VmError::io("cannot write", &store.dir)(std::io::Error::other(error)))??)
    }

    /// Keeps cameras out while a snapshot is taken. A device of the host, or behind a stream, has a state of its own, which
    /// is not in the VM and would be another one when the VM goes on from here.
    async fn without_cameras(&self) -> Result<Option<OwnedMutexGuard<()>>, SnapshotError> {
        if !self.spec().usb {
            return Ok(None);
        }
        let turn = self.usb_turn().lock_owned().await;
        let cameras = self.usb_devices().await.map_err(|error| match error {
            UsbError::Vm(error) => error,
            error => VmError::BadSpec { vm: self.spec().label(), problem: error.to_string() },
        })?;
        if cameras.is_empty() {
            return Ok(Some(turn));
        }
        Err(SnapshotError::HasCameras { vm: self.spec().label(), cameras: cameras.join(", ") })
    }

    /// Stores memory and devices of a guest that stands still.
    async fn save(
        &self,
        store: &Arc<SnapshotStore>,
        spec: &VmSpec,
    ) -> Result<(Platform, String, Vec<Option<String>>), SnapshotError> {
        let (hypervisor, paths) = (self.parts().hypervisor, self.paths());
        // Of the process, which may be older than the program that is installed now.
        let version = hypervisor.version(paths, MONITOR_DEADLINE).await?;
        let platform = Platform::new(hypervisor, &version, spec);
        let file = store.chunks.new_file()?;
        let writing = fs::File::create(&file).map_err(VmError::io("cannot make", &file))?;
        hypervisor.save(paths, &writing, MONITOR_DEADLINE).await?;
        let address = hypervisor.ram_address(paths, MONITOR_DEADLINE).await?;
        let (pid, length, saving) = (self.pid(), self.spec().memory_mib() << 20, Arc::clone(store));
        let saved = tokio::task::spawn_blocking(move || {
            let state = fs::read(&file).map_err(VmError::io("cannot read", &file))?;
            let state = saving.chunks.put(&state)?;
            let _ = fs::remove_file(&file); // swept later if it stays
            Ok::<_, VmError>((platform, state, Memory::open(pid, address, length)?.save(&saving.chunks)?))
        });
        Ok(saved.await.map_err(|error| VmError::io("cannot write", &store.dir)(std::io::Error::other(error)))??)
    }
}

impl SnapshotStore {
    /// Puts a manifest in its place, when all that it names is on disk.
    fn write(&self, manifest: &Manifest) -> Result<(), VmError> {
        self.chunks.sync()?;
        let path = self.manifest_path(&manifest.spec.experiment, &manifest.name, &manifest.spec.name);
        let text = serde_json::to_vec(manifest)
            .map_err(|error| VmError::BadRecord { path: path.clone(), problem: error.to_string() })?;
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(VmError::io("cannot make", dir))?;
        }
        let new = self.chunks.new_file()?;
        fs::write(&new, text).map_err(VmError::io("cannot write", &new))?;
        fs::rename(&new, &path).map_err(VmError::io("cannot rename to", &path))?;
        self.chunks.sync()
    }
}
