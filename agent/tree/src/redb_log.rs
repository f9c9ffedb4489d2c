//! The log of operations in an embedded ACID store: what survives the agent.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use fleet_proto::v1::WaveEnd;
use prost::Message;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::log::{Key, LogError, OpLog, REMEMBERED};

/// [`Key`] as bytes -> [`INTENT`], or [`OUTCOME`] and the encoded [`WaveEnd`].
const OPERATIONS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("operations");
/// Order of arrival -> key: what is forgotten first.
const ARRIVALS: TableDefinition<u64, &[u8]> = TableDefinition::new("arrivals");
/// First byte of a record.
const INTENT: u8 = 0;
const OUTCOME: u8 = 1;

/// Records are small: the default of 1 GiB would only ever be waste.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// A log in a file. The last [`REMEMBERED`] operations are kept.
pub struct RedbLog {
    store: Arc<Store>,
}

struct Store {
    database: Database,
    path: String,
}

impl RedbLog {
    /// Opens or creates the file. Blocks for a disk write.
    ///
    /// # Errors
    /// When it cannot be opened, or another agent holds it.
    pub fn open(path: &Path) -> Result<Self, LogError> {
        let name = path.display().to_string();
        let error = |error: redb::Error| LogError(format!("the log of operations {name} cannot be opened: {error}"));
        let database =
            Database::builder().set_cache_size(CACHE_BYTES).create(path).map_err(|source| error(source.into()))?;
        let store = Store { database, path: name.clone() };
        store.write(|write| {
            write.open_table(OPERATIONS)?;
            write.open_table(ARRIVALS)?;
            Ok(())
        })?;
        Ok(Self { store: Arc::new(store) })
    }

    /// Operations that were begun and have no outcome: a crash broke them off.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn unfinished(&self) -> Result<Vec<Key>, LogError> {
        self.store.read(|read| {
            let mut keys = Vec::new();
            for row in read.open_table(OPERATIONS)?.iter()? {
                let (key, record) = row?;
                if record.value().first() == Some(&INTENT) {
                    keys.extend(key_of(key.value()));
                }
            }
            Ok(keys)
        })
    }

    /// Runs what blocks where it may.
    async fn on_disk<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Store) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, LogError> {
        let store = Arc::clone(&self.store);
        let done = tokio::task::spawn_blocking(move || act(&store)).await;
        done.map_err(|error| LogError(format!("the log of operations was not written: {error}")))?
    }
}

#[async_trait]
impl OpLog for RedbLog {
    async fn outcome(&self, key: &Key) -> Result<Option<WaveEnd>, LogError> {
        let key = bytes_of(key);
        self.on_disk(move |store| {
            let record = store.read(|read| {
                let operations = read.open_table(OPERATIONS)?;
                Ok(operations.get(key.as_slice())?.map(|record| record.value().to_vec()))
            })?;
            match record.as_deref() {
                Some([OUTCOME, end @ ..]) => WaveEnd::decode(end).map(Some).map_err(|error| {
                    LogError(format!("the log of operations {} holds a damaged record: {error}", store.path))
                }),
                _ => Ok(None),
            }
        })
        .await
    }

    async fn intend(&self, key: &Key) -> Result<(), LogError> {
        let key = bytes_of(key);
        self.on_disk(move |store| store.put(&key, None)).await
    }

    async fn finish(&self, key: &Key, end: &WaveEnd) -> Result<(), LogError> {
        let key = bytes_of(key);
        let mut record = vec![OUTCOME];
        // Writing to a Vec cannot fail.
        let _ = end.encode(&mut record);
        self.on_disk(move |store| store.put(&key, Some(&record))).await
    }
}

impl Store {
    /// Writes an outcome, or an intent where there is nothing yet.
    fn put(&self, key: &[u8], outcome: Option<&[u8]>) -> Result<(), LogError> {
        self.write(|write| {
            let mut operations = write.open_table(OPERATIONS)?;
            let known = operations.get(key)?.is_some();
            if outcome.is_some() || !known {
                operations.insert(key, outcome.unwrap_or(&[INTENT]))?;
            }
            if known {
                return Ok(());
            }
            let mut arrivals = write.open_table(ARRIVALS)?;
            let number = arrivals.last()?.map_or(0, |(last, _)| last.value() + 1);
            arrivals.insert(number, key)?;
            if let Some(oldest) = number.checked_sub(REMEMBERED as u64)
                && let Some(forgotten) = arrivals.remove(oldest)?
            {
                operations.remove(forgotten.value())?;
            }
            Ok(())
        })
    }

    fn write<T>(&self, act: impl FnOnce(&redb::WriteTransaction) -> Result<T, redb::Error>) -> Result<T, LogError> {
        let run = || {
            let transaction = self.database.begin_write()?;
            let value = act(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        run().map_err(|error: redb::Error| LogError(format!("the log of operations {}: {error}", self.path)))
    }

    fn read<T>(&self, look: impl FnOnce(&redb::ReadTransaction) -> Result<T, redb::Error>) -> Result<T, LogError> {
        let run = || look(&self.database.begin_read()?);
        run().map_err(|error: redb::Error| LogError(format!("the log of operations {}: {error}", self.path)))
    }
}

/// The hash first: it has a fixed length.
fn bytes_of(key: &Key) -> Vec<u8> {
    [key.members.as_slice(), key.op_id.as_bytes()].concat()
}

fn key_of(bytes: &[u8]) -> Option<Key> {
    let (members, op_id) = bytes.split_first_chunk()?;
    Some(Key { op_id: String::from_utf8(op_id.to_vec()).ok()?, members: *members })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use fleet_proto::v1::{Outcome, OutcomeFold};

    use super::*;

    fn key(op: usize) -> Key {
        Key { op_id: format!("op-{op}"), members: [7; 32] }
    }

    fn end(count: u32) -> WaveEnd {
        let hosts = vec![OutcomeFold { outcome: Outcome::Ok.into(), count, ..OutcomeFold::default() }];
        WaveEnd { hosts, ..WaveEnd::default() }
    }

    #[tokio::test]
    async fn intents_and_outcomes_survive_a_crash() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("operations.redb");
        let log = RedbLog::open(&path).unwrap();
        log.intend(&key(1)).await.unwrap();
        log.intend(&key(2)).await.unwrap();
        log.finish(&key(1), &end(3)).await.unwrap();
        // What is on disk now is what a process that was killed leaves.
        let crashed = dir.path().join("crashed.redb");
        std::fs::copy(&path, &crashed).unwrap();
        let again = RedbLog::open(&crashed).unwrap();
        assert_eq!(again.outcome(&key(1)).await.unwrap(), Some(end(3)));
        assert_eq!(again.outcome(&key(2)).await.unwrap(), None);
        assert_eq!(again.unfinished().unwrap(), [key(2)]);
        // An intent does not undo an outcome.
        again.intend(&key(1)).await.unwrap();
        assert_eq!(again.outcome(&key(1)).await.unwrap(), Some(end(3)));
        // Another branch of the same operation is another one.
        let other = Key { members: [8; 32], ..key(1) };
        assert_eq!(again.outcome(&other).await.unwrap(), None);
        assert!(RedbLog::open(&path).is_err(), "the first agent still holds it");
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let log = RedbLog::open(&dir.path().join("operations.redb")).unwrap();
        let rows = |log: &RedbLog| log.store.read(|read| Ok(read.open_table(OPERATIONS)?.iter()?.count())).unwrap();
        log.store.put(&bytes_of(&key(0)), Some(&[OUTCOME])).unwrap();
        // As if so many had come since.
        let put_far = |number: u64| {
            log.store.write(|write| {
                write.open_table(ARRIVALS)?.insert(number, bytes_of(&key(9_999)).as_slice())?;
                Ok(())
            })
        };
        put_far(REMEMBERED as u64 - 1).unwrap();
        assert_eq!(rows(&log), 1);
        log.store.put(&bytes_of(&key(1)), None).unwrap();
        assert_eq!(rows(&log), 1, "the new one is in, the first is out");
        assert_eq!(log.unfinished().unwrap(), [key(1)]);
    }
}
