//! The leases of the fleet's cameras, durable: a change is in the store before anybody acts on it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use fleet_usb::lease::{CameraId, Lease, LeaseError, Leases};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::daemon::store::{Store, StoreError};

/// Why the leases cannot be used or changed.
#[derive(Debug, Error)]
pub enum LedgerError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The record.
    #[error("the controller's store holds leases of cameras that do not decode ({0}); restore a backup")]
    Record(#[from] serde_json::Error),
    /// The lease is refused.
    #[error(transparent)]
    Lease(#[from] LeaseError),
}

/// What is remembered of cameras.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Who has which.
    pub leases: Leases,
    /// VMs whose camera was taken away on purpose, and the generation of their experiment then: they get no other by
    /// themselves, though their file says that they need one, until it is brought up anew.
    pub waived: BTreeMap<String, u64>,
}

/// The ledger and its place on disk.
pub struct Book {
    store: Arc<Store>,
    ledger: Mutex<Arc<Ledger>>,
}

impl Book {
    /// Reads it.
    ///
    /// # Errors
    /// When the store cannot be read or the record is damaged.
    pub fn open(store: Arc<Store>) -> Result<Self, LedgerError> {
        let ledger = Mutex::new(Arc::new(read(&store)?));
        Ok(Self { store, ledger })
    }

    /// As it is now.
    pub fn now(&self) -> Arc<Ledger> {
        Arc::clone(&self.locked())
    }

    /// Who has a camera.
    pub fn lease(&self, camera: &CameraId) -> Option<Lease> {
        self.now().leases.get(camera).cloned()
    }

    /// Changes it: on disk first. What is refused changes nothing.
    ///
    /// # Errors
    /// When `act` refuses, or the store cannot be written.
    pub fn change<T>(&self, act: impl FnOnce(&mut Ledger) -> Result<T, LeaseError>) -> Result<T, LedgerError> {
        let mut held = self.locked();
        let mut ledger = Ledger::clone(&held);
        let value = act(&mut ledger)?;
        if ledger != **held {
            self.store.put_cameras(&serde_json::to_vec(&ledger)?)?;
            *held = Arc::new(ledger);
        }
        Ok(value)
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Arc<Ledger>> {
        // Only whole ledgers are exchanged under this lock.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(store: &Store) -> Result<Ledger, LedgerError> {
    let record = store.cameras()?;
    if record.is_empty() { Ok(Ledger::default()) } else { Ok(serde_json::from_slice(&record)?) }
}

/// Gives all leases of a store that was put back epochs above `from`.
///
/// # Errors
/// When the store cannot be used.
pub fn renew(store: &Store, from: u64) -> Result<(), LedgerError> {
    let mut ledger = read(store)?;
    ledger.leases.renew(from)?;
    Ok(store.put_cameras(&serde_json::to_vec(&ledger)?)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn camera(id: &str) -> CameraId {
        CameraId { host: "h1".into(), camera: id.into() }
    }

    #[test]
    fn leases_are_there_again_after_a_restart_and_what_was_refused_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.redb");
        let book = Book::open(Arc::new(Store::open(&path).unwrap())).unwrap();
        let lease = book.change(|ledger| ledger.leases.acquire(&camera("a"), "x/v", 0, false)).unwrap();
        let refused = book.change(|ledger| {
            ledger.waived.insert("x/v".into(), 1);
            ledger.leases.acquire(&camera("a"), "x/w", 0, false)
        });
        assert!(matches!(refused, Err(LedgerError::Lease(LeaseError::Taken { .. }))));
        drop(book);
        let book = Book::open(Arc::new(Store::open(&path).unwrap())).unwrap();
        assert_eq!(book.lease(&camera("a")), Some(lease));
        assert!(book.now().waived.is_empty());
    }

    #[test]
    fn what_is_put_back_has_epochs_that_no_host_has_seen() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&dir.path().join("store.redb")).unwrap());
        let book = Book::open(Arc::clone(&store)).unwrap();
        book.change(|ledger| ledger.leases.acquire(&camera("a"), "x/v", 0, false)).unwrap();
        renew(&store, 500).unwrap();
        let book = Book::open(store).unwrap();
        assert!(book.lease(&camera("a")).unwrap().epoch > 500);
    }
}
