//! A backup: what a controller cannot have from its hosts again, as of one moment, in one file.
//!
//! ```text
//!  fleet-backup 1\n     what it is, and the version of what follows
//!  SHA-256 of the rest  32 bytes: a damaged file is refused
//!  Backup               fleet/v1/records.proto: the tables of the store, read in one transaction, and the CA's files
//! ```
//!
//! The journal of users' operations is left out: whoever waited for an answer waits no more.
//!
//! A controller on a store that was put back must not be taken for a stale one, and must not tell hosts what they have
//! done already. So epochs, generations and the epochs of leases go on from the time of the restore, in ms since 1970: all grow by one at a
//! time and far more slowly than that, so it is above all that were given since the backup, also by a controller that
//! was restored before from the same file.

use std::path::{Path, PathBuf};

use fleet_proto::v1::{Backup, BackupFile, BackupRow, BackupTable};
use prost::Message;
use redb::{ReadableTable, TableDefinition, TableHandle};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::STORE_FILE;
use super::hosts::tables::{HOSTS, PKI_DIR, REVOKED, TOKENS};
use super::store::{CAMERAS, CORE, META, Store, StoreError};
use crate::cli::now_ms;

const MAGIC: &[u8] = b"fleet-backup 1\n";
const DIGEST: usize = 32;
/// Tables of records by name.
const BY_NAME: [TableDefinition<&str, &[u8]>; 4] = [CORE, CAMERAS, HOSTS, TOKENS];
/// Files of the CA.
const FILES: [&str; 2] = ["ca.key", "ca.crt"];

/// Why there is no backup, or why it was not put back.
#[derive(Debug, Error)]
pub enum BackupError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record of the backup.
    #[error(transparent)]
    Record(#[from] fleet_core::RestoreError),
    /// The leases of the backup.
    #[error(transparent)]
    Cameras(#[from] super::cameras::LedgerError),
    /// A file cannot be read or written.
    #[error("cannot {what} {path}: {source}")]
    File {
        /// What was tried.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A private file cannot be written.
    #[error(transparent)]
    Private(#[from] fleet_pki::PkiError),
    /// It is no backup.
    #[error("{0} is no backup of a controller, or one of a newer `fleet`")]
    Foreign(PathBuf),
    /// It was one.
    #[error("{0} is damaged: its SHA-256 is not the one that it was written with; take another copy")]
    Damaged(PathBuf),
    /// There is a controller's state here.
    #[error("{0} is there already; `--force` puts the backup in its place")]
    Exists(PathBuf),
}

/// A backup of an open store and of the CA beside it.
///
/// # Errors
/// When one of them cannot be read.
pub fn make(store: &Store, state_dir: &Path, host: &str) -> Result<Vec<u8>, BackupError> {
    let tables = store.read(|read| {
        let mut tables = Vec::new();
        for definition in BY_NAME {
            let mut rows = Vec::new();
            for row in read.open_table(definition)?.iter()? {
                let (key, value) = row?;
                rows.push(BackupRow { key: key.value().as_bytes().to_vec(), value: value.value().to_vec() });
            }
            tables.push(table(&definition, rows));
        }
        let mut rows = Vec::new();
        for row in read.open_table(META)?.iter()? {
            let (key, value) = row?;
            rows.push(BackupRow { key: key.value().as_bytes().to_vec(), value: value.value().to_le_bytes().to_vec() });
        }
        tables.push(table(&META, rows));
        let mut rows = Vec::new();
        for row in read.open_table(REVOKED)?.iter()? {
            let (key, value) = row?;
            rows.push(BackupRow { key: key.value().to_vec(), value: value.value().to_le_bytes().to_vec() });
        }
        tables.push(table(&REVOKED, rows));
        Ok(tables)
    })?;
    let mut files = Vec::new();
    for name in FILES {
        let path = state_dir.join(PKI_DIR).join(name);
        let content = std::fs::read(&path).map_err(|source| BackupError::File { what: "read", path, source })?;
        files.push(BackupFile { name: name.to_owned(), content });
    }
    let body = Backup { host: host.to_owned(), made_ms: now_ms(), tables, files }.encode_to_vec();
    Ok([MAGIC, &Sha256::digest(&body)[..], &body].concat())
}

fn table(definition: &impl TableHandle, rows: Vec<BackupRow>) -> BackupTable {
    BackupTable { name: definition.name().to_owned(), rows }
}

/// Reads a backup's file.
///
/// # Errors
/// When it cannot be read, is none, or is damaged.
pub fn read(path: &Path) -> Result<Backup, BackupError> {
    let bytes = std::fs::read(path).map_err(|source| BackupError::File { what: "read", path: path.into(), source })?;
    parse(path, &bytes)
}

/// Reads a backup. `path` is for the message.
///
/// # Errors
/// When it is none, or is damaged.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Backup, BackupError> {
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| BackupError::Foreign(path.into()))?;
    let (digest, body) = rest.split_at_checked(DIGEST).ok_or_else(|| BackupError::Damaged(path.into()))?;
    if Sha256::digest(body)[..] != *digest {
        return Err(BackupError::Damaged(path.into()));
    }
    Backup::decode(body).map_err(|_| BackupError::Foreign(path.into()))
}

/// Puts a backup in place of a controller's state. No controller may run on it: the caller holds its lock. A crash leaves
/// no store, or the whole one.
///
/// # Errors
/// When there is one already and `force` is not set, or when it cannot be written.
pub fn put_back(backup: &Backup, state_dir: &Path, force: bool) -> Result<(), BackupError> {
    let pki = state_dir.join(PKI_DIR);
    let store = state_dir.join(STORE_FILE);
    let known = [store.clone(), pki.join(FILES[0])].into_iter().find(|path| path.exists());
    if let Some(known) = known.filter(|_| !force) {
        return Err(BackupError::Exists(known));
    }
    let new = state_dir.join(format!("{STORE_FILE}.restoring"));
    remove(&new)?;
    fill(&new, backup)?;
    // The old store first: a new CA must not be used with it.
    remove(&store)?;
    for file in backup.files.iter().filter(|file| FILES.contains(&file.name.as_str())) {
        fleet_pki::write_private(&pki.join(&file.name), &file.content)?;
    }
    let failed = |source| BackupError::File { what: "write", path: store.clone(), source };
    std::fs::rename(&new, &store).map_err(failed)?;
    std::fs::File::open(state_dir).and_then(|dir| dir.sync_all()).map_err(failed)
}

fn remove(path: &Path) -> Result<(), BackupError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(BackupError::File { what: "remove", path: path.into(), source })
        }
        _ => Ok(()),
    }
}

/// The rows of a table.
fn rows<'a>(backup: &'a Backup, name: &str) -> impl Iterator<Item = &'a BackupRow> {
    let table = backup.tables.iter().find(|table| table.name == name);
    table.into_iter().flat_map(|table| &table.rows)
}

/// Makes a store of a backup.
fn fill(path: &Path, backup: &Backup) -> Result<(), BackupError> {
    let store = Store::open(path)?;
    let number = |value: &[u8]| <[u8; 8]>::try_from(value).map_or(0, u64::from_le_bytes);
    store.write(|write| {
        for definition in BY_NAME {
            let mut table = write.open_table(definition)?;
            for row in rows(backup, TableHandle::name(&definition)) {
                table.insert(&*String::from_utf8_lossy(&row.key), row.value.as_slice())?;
            }
        }
        let mut meta = write.open_table(META)?;
        for row in rows(backup, TableHandle::name(&META)) {
            meta.insert(&*String::from_utf8_lossy(&row.key), number(&row.value))?;
        }
        let mut revoked = write.open_table(REVOKED)?;
        for row in rows(backup, TableHandle::name(&REVOKED)) {
            revoked.insert(row.key.as_slice(), number(&row.value))?;
        }
        Ok(())
    })?;
    store.renew(now_ms())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn state() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join(STORE_FILE)).unwrap();
        crate::daemon::hosts::tables::create(&store).unwrap();
        fleet_pki::Authority::open(&dir.path().join(PKI_DIR)).unwrap();
        (dir, store)
    }

    #[test]
    fn a_damaged_or_foreign_file_is_refused() {
        let (dir, store) = state();
        let bytes = make(&store, dir.path(), "head").unwrap();
        let path = Path::new("backup");
        assert_eq!(parse(path, &bytes).unwrap().host, "head");
        for at in MAGIC.len()..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(matches!(parse(path, &damaged), Err(BackupError::Damaged(_))), "byte {at}");
        }
        assert!(matches!(parse(path, &bytes[..MAGIC.len() + 3]), Err(BackupError::Damaged(_))));
        assert!(matches!(parse(path, b"a shopping list"), Err(BackupError::Foreign(_))));
    }

    #[test]
    fn what_is_put_back_is_above_all_epochs_also_the_second_time() {
        let (dir, store) = state();
        store.next_epoch(0).unwrap();
        let backup = parse(Path::new("backup"), &make(&store, dir.path(), "head").unwrap()).unwrap();
        let new = tempfile::tempdir().unwrap();
        let mut known = 1;
        for force in [false, true] {
            put_back(&backup, new.path(), force).unwrap();
            let store = Store::open(&new.path().join(STORE_FILE)).unwrap();
            let epoch = store.next_epoch(0).unwrap();
            assert!(epoch > known);
            known = epoch;
        }
        assert!(matches!(put_back(&backup, new.path(), false), Err(BackupError::Exists(_))));
        let ca = |dir: &Path| std::fs::read(dir.join(PKI_DIR).join("ca.key")).unwrap();
        assert_eq!(ca(new.path()), ca(dir.path()));
    }
}
