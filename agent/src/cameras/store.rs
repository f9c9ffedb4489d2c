//! What this host remembers of cameras, in a file before it counts: the leases of its VMs, the highest epoch that each of
//! its own cameras was given out with, the leases that were ended on request, and serial numbers that are shared.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use fleet_usb::lease::{CameraId, Keeper};
use fleet_usb::{SharedSerial, VidPid};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The file in the folder of state.
const FILE: &str = "cameras.json";
/// So many leases that were ended are remembered, the newest: no order is under way for longer than so many.
const OVER: usize = 1024;

/// Why it is not to be had.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is none.
    #[error("{path} is damaged ({source}); remove it, and detach and attach the cameras of this host's VMs anew")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// It cannot be written.
    #[error(transparent)]
    Write(#[from] fleet_pki::PkiError),
}

/// One lease of a VM of this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The camera.
    pub camera: CameraId,
    /// Where its host's agent is reached; empty: it is this host.
    pub address: String,
    /// The VM's experiment.
    pub experiment: String,
    /// The VM.
    pub vm: String,
    /// Vendor and product in which it was lent.
    pub usb_id: VidPid,
    /// For messages.
    pub label: String,
    /// Where the lease is.
    pub keeper: Keeper,
    /// It never was in the VM: if that fails, there is no lease.
    pub first: bool,
    /// The VM's process that has it, or had it last.
    pub pid: Option<u32>,
    /// In this phase since, ms since 1970.
    pub since_ms: u64,
}

impl Record {
    /// "cams.viewer".
    pub fn holder(&self) -> String {
        format!("{}.{}", self.experiment, self.vm)
    }
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Kept {
    leases: Vec<Record>,
    /// Of cameras of this host, by identity.
    given: BTreeMap<String, u64>,
    /// Leases that were ended on request, by camera.
    over: BTreeMap<String, u64>,
    shared: Vec<SharedSerial>,
}

/// The file, and what is in it.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    kept: Mutex<Kept>,
}

impl Store {
    /// Reads the file; empty where there is none.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let path = state_dir.join(FILE);
        let kept = match std::fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|source| StoreError::Damaged { path: path.clone(), source })?
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Kept::default(),
            Err(source) => return Err(StoreError::Read { path, source }),
        };
        Ok(Self { path, kept: Mutex::new(kept) })
    }

    /// The leases of this host's VMs.
    pub fn leases(&self) -> Vec<Record> {
        self.lock().leases.clone()
    }

    /// Notes a lease as it is now.
    ///
    /// # Errors
    /// When it cannot be written; it is as before then.
    pub fn put(&self, record: &Record) -> Result<(), StoreError> {
        self.change(|kept| {
            match kept.leases.iter_mut().find(|known| known.camera == record.camera) {
                Some(known) => known.clone_from(record),
                None => kept.leases.push(record.clone()),
            };
        })
    }

    /// Forgets a lease, if it is the one of this epoch. `on_request`: no order of it is taken any more.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn remove(&self, camera: &CameraId, epoch: u64, on_request: bool) -> Result<(), StoreError> {
        self.change(|kept| {
            kept.leases.retain(|known| known.camera != *camera || known.keeper.epoch != epoch);
            if on_request {
                note_over(kept, camera, epoch);
            }
        })
    }

    /// A lease that this host may not have heard of is over.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn end(&self, camera: &CameraId, epoch: u64) -> Result<(), StoreError> {
        self.change(|kept| note_over(kept, camera, epoch))
    }

    /// The newest lease of a camera that was ended on request; 0: none.
    pub fn over(&self, camera: &CameraId) -> u64 {
        self.lock().over.get(&key(camera)).copied().unwrap_or(0)
    }

    /// The highest epoch that a camera of this host was given out with; 0: never.
    pub fn given(&self, camera: &str) -> u64 {
        self.lock().given.get(camera).copied().unwrap_or(0)
    }

    /// Takes note that a camera of this host is given out. Gives the highest epoch when that is a higher one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn give(&self, camera: &str, epoch: u64) -> Result<Option<u64>, StoreError> {
        let mut newer = None;
        self.change(|kept| {
            let given = kept.given.entry(camera.to_owned()).or_default();
            if epoch < *given {
                newer = Some(*given);
            } else {
                *given = epoch;
            }
        })?;
        Ok(newer)
    }

    /// Serial numbers that two devices said at once.
    pub fn shared(&self) -> Vec<SharedSerial> {
        self.lock().shared.clone()
    }

    /// Notes one of them.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn share(&self, serial: SharedSerial) -> Result<(), StoreError> {
        self.change(|kept| {
            if !kept.shared.contains(&serial) {
                kept.shared.push(serial);
            }
        })
    }

    /// Another fleet counts for itself.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn reset(&self) -> Result<(), StoreError> {
        self.change(|kept| *kept = Kept { shared: std::mem::take(&mut kept.shared), ..Kept::default() })
    }

    fn change(&self, change: impl FnOnce(&mut Kept)) -> Result<(), StoreError> {
        let mut kept = self.lock();
        let mut next = kept.clone();
        change(&mut next);
        if *kept != next {
            // Plain data with text for keys: it has a JSON.
            let bytes = serde_json::to_vec(&next).unwrap_or_default();
            fleet_pki::write_private(&self.path, &bytes)?;
            *kept = next;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Only whole values are exchanged under it.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(camera: &CameraId) -> String {
    // A host's name has no blanks.
    format!("{} {}", camera.host, camera.camera)
}

fn note_over(kept: &mut Kept, camera: &CameraId, epoch: u64) {
    let over = kept.over.entry(key(camera)).or_default();
    *over = epoch.max(*over);
    while kept.over.len() > OVER {
        let oldest = kept.over.iter().min_by_key(|(_, epoch)| **epoch).map(|(camera, _)| camera.clone());
        let Some(oldest) = oldest else { return };
        kept.over.remove(&oldest);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use fleet_usb::Persona;

    fn camera(name: &str) -> CameraId {
        CameraId { host: "h1".into(), camera: name.into() }
    }

    fn record(name: &str, epoch: u64) -> Record {
        Record {
            camera: camera(name),
            address: String::new(),
            experiment: "cams".into(),
            vm: "viewer".into(),
            usb_id: VidPid { vendor: 0x04b0, product: 0x0428 },
            label: name.into(),
            keeper: Keeper::new("cams.viewer", epoch, Persona::Ptp),
            first: true,
            pid: None,
            since_ms: 1,
        }
    }

    #[test]
    fn what_was_noted_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.put(&record("a", 1)).unwrap();
        store.put(&record("b", 2)).unwrap();
        store.put(&Record { first: false, ..record("b", 2) }).unwrap();
        assert_eq!(store.give("a", 5).unwrap(), None);
        assert_eq!(store.give("a", 4).unwrap(), Some(5));
        store.remove(&camera("a"), 1, true).unwrap();
        store.remove(&camera("b"), 1, false).unwrap();
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.leases(), [Record { first: false, ..record("b", 2) }]);
        assert_eq!((store.given("a"), store.given("b")), (5, 0));
        assert_eq!((store.over(&camera("a")), store.over(&camera("b"))), (1, 0));
        store.reset().unwrap();
        assert_eq!((store.given("a"), store.over(&camera("a")), store.leases().len()), (0, 0, 0));
    }

    #[test]
    fn so_many_ended_leases_are_remembered_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut kept = Kept::default();
        for epoch in 1..=OVER as u64 + 3 {
            note_over(&mut kept, &camera(&epoch.to_string()), epoch);
        }
        assert_eq!(kept.over.len(), OVER);
        *store.lock() = kept;
        assert_eq!((store.over(&camera("3")), store.over(&camera("4"))), (0, 4));
    }

    #[test]
    fn a_damaged_file_is_told() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(Store::open(dir.path()).unwrap_err().to_string().contains(FILE));
    }
}
