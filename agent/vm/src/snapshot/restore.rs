//! Going on from a snapshot.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::memory::Memory;
use super::{MONITOR_DEADLINE, Manifest, SnapshotError, SnapshotStore};
use crate::error::VmError;
use crate::host::VmHost;
use crate::launch::{Begin, Launched};
use crate::machine::Machine;
use crate::spec::VmSpec;

impl VmHost {
    /// Starts a VM from its snapshot of this name, in the place of one that was removed; `taps` as for
    /// [`VmHost::launch`]. Its guest gets a new random seed and the right time before it counts as there.
    ///
    /// # Errors
    /// As [`SnapshotStore::check`] and [`VmHost::launch`]; all is undone then.
    pub async fn restore(
        &self,
        spec: VmSpec,
        taps: Vec<OwnedFd>,
        store: &Arc<SnapshotStore>,
        name: &str,
    ) -> Result<Machine, SnapshotError> {
        let _place = store.turn(&spec).await?;
        let _sweeping = store.sweeping.read().await;
        let manifest = store.manifest(&spec, name)?;
        let _hold = self.expect([]);
        // Only to begin from: without it all pages are written.
        let template = self.template_of(&spec).await;
        let begin = Begin::Snapshot { template, boot_id: manifest.boot_id };
        let mut launched = self.start(spec, Arc::new(taps), begin).await?;
        fill(&launched, store, manifest).await?;
        launched.restored()?;
        Ok(launched.into_machine(None)?)
    }
}

/// Makes memory and devices what they were, and lets the guest go on.
async fn fill(launched: &Launched, store: &Arc<SnapshotStore>, manifest: Manifest) -> Result<(), SnapshotError> {
    let parts = launched.parts();
    let (hypervisor, paths) = (parts.hypervisor, &parts.paths);
    let address = hypervisor.ram_address(paths, MONITOR_DEADLINE).await?;
    let state = store.chunks.path(&manifest.state);
    store.chunks.get(&manifest.state)?; // it is whole
    let (pid, length, filling) = (parts.process.pid, parts.record.spec.memory_mib() << 20, Arc::clone(store));
    let filled =
        tokio::task::spawn_blocking(move || Memory::open(pid, address, length)?.fill(&manifest, &filling.chunks));
    filled.await.map_err(|error| VmError::io("cannot read", &store.dir)(std::io::Error::other(error)))??;
    let state = File::open(&state).map_err(VmError::io("cannot open", &state))?;
    Ok(hypervisor.load(paths, &state, MONITOR_DEADLINE).await?)
}
