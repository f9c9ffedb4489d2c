//! The controller's memory: an embedded ACID store with the experiments that were asked for and a journal of
//! operations. The truth about VMs is not here: the agents hold it.

use std::path::Path;

use fleet_proto::v1::OperationSummary;
use prost::Message;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use thiserror::Error;

/// The records of fleet-core, by its own keys.
pub(super) const CORE: TableDefinition<&str, &[u8]> = TableDefinition::new("core");
/// Operation id -> its [`OperationSummary`], empty while it is under way.
const OPERATIONS: TableDefinition<&str, &[u8]> = TableDefinition::new("operations");
/// Order of arrival -> operation id: what is forgotten first.
const ARRIVALS: TableDefinition<u64, &str> = TableDefinition::new("arrivals");
/// The leases of cameras, under the one key [`LEDGER`].
pub(super) const CAMERAS: TableDefinition<&str, &[u8]> = TableDefinition::new("cameras");
const LEDGER: &str = "ledger";
/// Numbers of the controller itself.
pub(super) const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const EPOCH: &str = "epoch";
const ARRIVED: &str = "arrived";

/// Specs and journal are small: the default of 1 GiB would only ever be waste.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

/// How many finished operations are remembered, so that a repeated op id still finds its first outcome.
const REMEMBERED: u64 = 10_000;

/// Why the store could not serve.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The database says no.
    #[error("the controller's store at {path}: {source}")]
    Database {
        /// The file.
        path: String,
        /// Its cause.
        source: Box<redb::Error>,
    },
    /// A record is damaged.
    #[error("the controller's store holds a record of `{key}` that does not decode ({source}); restore a backup")]
    Record {
        /// Its key.
        key: String,
        /// Its cause.
        source: prost::DecodeError,
    },
}

/// What the journal knows of an operation that is about to begin.
#[derive(Debug, PartialEq)]
pub enum Begun {
    /// It is new and now in the journal.
    New,
    /// It was begun before and did not finish as far as the journal knows: to be done (again; it is idempotent).
    Unfinished,
    /// It ended before, and this was its outcome.
    Finished(Box<OperationSummary>),
}

/// The open store. Calls block for a disk write at most.
pub struct Store {
    database: Database,
    path: String,
}

impl Store {
    /// Opens or creates the store.
    ///
    /// # Errors
    /// When the file cannot be opened or is held by another controller.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let name = path.display().to_string();
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create(path)
            .map_err(|error| StoreError::Database { path: name.clone(), source: Box::new(error.into()) })?;
        let store = Self { database, path: name };
        store.write(|write| {
            write.open_table(CORE)?;
            write.open_table(OPERATIONS)?;
            write.open_table(ARRIVALS)?;
            write.open_table(CAMERAS)?;
            write.open_table(META)?;
            Ok(())
        })?;
        Ok(store)
    }

    /// The next generation of the controller: higher than any before, and than one that is known from elsewhere.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn next_epoch(&self, known: u64) -> Result<u64, StoreError> {
        self.write(|write| {
            let mut meta = write.open_table(META)?;
            if meta.get(EPOCH)?.is_none_or(|epoch| epoch.value() < known) {
                meta.insert(EPOCH, known)?;
            }
            next(&mut meta, EPOCH)
        })
    }

    /// Writes what fleet-core wants remembered, all of it or nothing.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn put_core(&self, records: &[fleet_core::Record]) -> Result<(), StoreError> {
        self.write(|write| {
            let mut table = write.open_table(CORE)?;
            for record in records {
                match &record.value {
                    Some(value) => drop(table.insert(record.key.as_str(), value.as_slice())?),
                    None => drop(table.remove(record.key.as_str())?),
                }
            }
            Ok(())
        })
    }

    /// Everything that fleet-core wanted remembered.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn core(&self) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.read(|read| {
            let table = read.open_table(CORE)?;
            let mut rows = Vec::new();
            for row in table.iter()? {
                let (key, value) = row?;
                rows.push((key.value().to_owned(), value.value().to_vec()));
            }
            Ok(rows)
        })
    }

    /// The leases of cameras; empty: there never was one.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn cameras(&self) -> Result<Vec<u8>, StoreError> {
        self.read(|read| {
            let table = read.open_table(CAMERAS)?;
            let record = table.get(LEDGER)?;
            Ok(record.map(|record| record.value().to_vec()).unwrap_or_default())
        })
    }

    /// Writes the leases of cameras.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn put_cameras(&self, record: &[u8]) -> Result<(), StoreError> {
        self.write(|write| {
            write.open_table(CAMERAS)?.insert(LEDGER, record)?;
            Ok(())
        })
    }

    /// Writes an operation into the journal before it acts.
    ///
    /// # Errors
    /// When the store cannot be written or the record is damaged.
    pub fn begin(&self, op_id: &str) -> Result<Begun, StoreError> {
        let known = self.write(|write| {
            let mut operations = write.open_table(OPERATIONS)?;
            if let Some(value) = operations.get(op_id)? {
                return Ok(Some(value.value().to_vec()));
            }
            operations.insert(op_id, [].as_slice())?;
            let arrived = next(&mut write.open_table(META)?, ARRIVED)?;
            let mut arrivals = write.open_table(ARRIVALS)?;
            arrivals.insert(arrived, op_id)?;
            if let Some(oldest) = arrived.checked_sub(REMEMBERED)
                && let Some(forgotten) = arrivals.remove(oldest)?
            {
                operations.remove(forgotten.value())?;
            }
            Ok(None)
        })?;
        match known {
            None => Ok(Begun::New),
            Some(bytes) if bytes.is_empty() => Ok(Begun::Unfinished),
            Some(bytes) => Ok(Begun::Finished(Box::new(decode(op_id, &bytes)?))),
        }
    }

    /// Writes the outcome of an operation into the journal.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn finish(&self, op_id: &str, summary: &OperationSummary) -> Result<(), StoreError> {
        let bytes = summary.encode_to_vec();
        self.write(|write| {
            write.open_table(OPERATIONS)?.insert(op_id, bytes.as_slice())?;
            Ok(())
        })
    }

    /// Makes what was put back from a backup newer than anything that hosts can have seen since that was made: epoch,
    /// generations and leases go on from `from`, which is higher than all that were ever given.
    ///
    /// # Errors
    /// When the store cannot be written or a record is damaged.
    pub fn renew(&self, from: u64) -> Result<(), super::backup::BackupError> {
        self.next_epoch(from)?;
        let records = fleet_core::renewed(self.core()?, from)?;
        self.write(|write| {
            write.delete_table(CORE)?;
            let mut core = write.open_table(CORE)?;
            for (key, value) in &records {
                core.insert(key.as_str(), value.as_slice())?;
            }
            Ok(())
        })?;
        Ok(super::cameras::renew(self, from)?)
    }

    pub(super) fn write<T>(
        &self,
        act: impl FnOnce(&redb::WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let run = || {
            let transaction = self.database.begin_write()?;
            let value = act(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        run().map_err(|source| self.error(source))
    }

    pub(super) fn read<T>(
        &self,
        look: impl FnOnce(&redb::ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let run = || look(&self.database.begin_read()?);
        run().map_err(|source| self.error(source))
    }

    fn error(&self, source: redb::Error) -> StoreError {
        StoreError::Database { path: self.path.clone(), source: Box::new(source) }
    }
}

/// Counts a number of the controller up and gives the new value; the first is 1.
fn next(meta: &mut redb::Table<'_, &str, u64>, name: &str) -> Result<u64, redb::Error> {
    let value = meta.get(name)?.map_or(0, |value| value.value()) + 1;
    meta.insert(name, value)?;
    Ok(value)
}

pub(super) fn decode<M: Message + Default>(key: &str, bytes: &[u8]) -> Result<M, StoreError> {
    M::decode(bytes).map_err(|source| StoreError::Record { key: key.to_owned(), source })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.redb")).unwrap();
        (dir, store)
    }

    #[test]
    fn every_opening_has_a_higher_epoch() {
        let (dir, store) = store();
        assert_eq!(store.next_epoch(0).unwrap(), 1);
        drop(store);
        let store = Store::open(&dir.path().join("store.redb")).unwrap();
        assert_eq!(store.next_epoch(0).unwrap(), 2);
        assert_eq!(store.next_epoch(7).unwrap(), 8, "one that an agent knows counts too");
    }

    #[test]
    fn a_repeated_operation_finds_its_first_outcome() {
        let (_dir, store) = store();
        assert_eq!(store.begin("a").unwrap(), Begun::New);
        assert_eq!(store.begin("a").unwrap(), Begun::Unfinished);
        let summary = OperationSummary { targets: 3, ..OperationSummary::default() };
        store.finish("a", &summary).unwrap();
        assert_eq!(store.begin("a").unwrap(), Begun::Finished(Box::new(summary)));
    }

    #[test]
    fn records_of_the_core_come_back_as_they_were_put() {
        let (_dir, store) = store();
        let record =
            |key: &str, value: Option<&[u8]>| fleet_core::Record { key: key.into(), value: value.map(<[u8]>::to_vec) };
        store.put_core(&[record("a", Some(b"1")), record("b", Some(b"2"))]).unwrap();
        store.put_core(&[record("a", None), record("b", Some(b"3"))]).unwrap();
        assert_eq!(store.core().unwrap(), [("b".to_owned(), b"3".to_vec())]);
    }

    #[test]
    fn a_second_controller_on_one_store_is_refused() {
        let (dir, _store) = store();
        assert!(matches!(Store::open(&dir.path().join("store.redb")), Err(StoreError::Database { .. })));
    }
}
