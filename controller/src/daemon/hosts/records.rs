//! The tables of hosts, tokens and revoked certificates in the controller's store.

use fleet_pki::Serial;
use fleet_proto::v1::{HostRecord, RevokedCertificate, TokenRecord};
use prost::Message;
use redb::{ReadableTable, TableDefinition, WriteTransaction};

use crate::daemon::store::{Store, StoreError, decode};

/// Host name -> [`HostRecord`].
pub const HOSTS: TableDefinition<&str, &[u8]> = TableDefinition::new("hosts");
/// Token id -> [`TokenRecord`].
pub const TOKENS: TableDefinition<&str, &[u8]> = TableDefinition::new("tokens");
/// Serial number -> the end of its validity, ms since 1970.
pub const REVOKED: TableDefinition<&[u8], u64> = TableDefinition::new("revoked");

/// Makes the tables where there are none.
///
/// # Errors
/// When the store cannot be written.
pub fn create(store: &Store) -> Result<(), StoreError> {
    store.write(|write| {
        write.open_table(HOSTS)?;
        write.open_table(TOKENS)?;
        write.open_table(REVOKED)?;
        Ok(())
    })
}

/// All hosts, also removed ones.
///
/// # Errors
/// When the store cannot be read or a record is damaged.
pub fn hosts(store: &Store) -> Result<Vec<HostRecord>, StoreError> {
    all(store, HOSTS)
}

/// The name under which a fleet knows its controller's own host, which is the one without a key.
///
/// # Errors
/// When the store cannot be used or a record is damaged.
pub fn own_host(store: &Store) -> Result<Option<String>, StoreError> {
    create(store)?;
    let own = hosts(store)?.into_iter().find(|record| record.key.is_empty());
    Ok(own.and_then(|record| record.host).map(|host| host.name))
}

/// All tokens, also those that let nobody in any more.
///
/// # Errors
/// When the store cannot be read or a record is damaged.
pub fn tokens(store: &Store) -> Result<Vec<TokenRecord>, StoreError> {
    all(store, TOKENS)
}

fn all<M: Message + Default>(store: &Store, table: TableDefinition<&str, &[u8]>) -> Result<Vec<M>, StoreError> {
    let rows = store.read(|read| {
        let mut rows = Vec::new();
        for row in read.open_table(table)?.iter()? {
            let (key, value) = row?;
            rows.push((key.value().to_owned(), value.value().to_vec()));
        }
        Ok(rows)
    })?;
    rows.iter().map(|(key, bytes)| decode(key, bytes)).collect()
}

/// Revoked certificates.
///
/// # Errors
/// When the store cannot be read.
pub fn revoked(store: &Store) -> Result<Vec<(Serial, u64)>, StoreError> {
    store.read(|read| {
        let mut rows = Vec::new();
        for row in read.open_table(REVOKED)?.iter()? {
            let (key, value) = row?;
            rows.push((Serial(key.value().to_vec()), value.value()));
        }
        Ok(rows)
    })
}

/// What is written at once.
#[derive(Default)]
pub struct Change<'a> {
    /// Hosts as they are from now on.
    pub hosts: Vec<&'a HostRecord>,
    /// Hosts that are forgotten.
    pub forgotten: Vec<&'a str>,
    /// A token as it is from now on.
    pub token: Option<&'a TokenRecord>,
    /// Tokens that are forgotten.
    pub forgotten_tokens: Vec<&'a str>,
    /// Certificates that are revoked.
    pub revoked: Vec<&'a RevokedCertificate>,
    /// Serial numbers whose time has come anyway.
    pub over: Vec<&'a Serial>,
}

/// Writes a change, all of it or nothing.
///
/// # Errors
/// When the store cannot be written.
pub fn write(store: &Store, change: &Change<'_>) -> Result<(), StoreError> {
    store.write(|write| {
        for host in &change.hosts {
            let name = host.host.as_ref().map(|host| host.name.as_str()).unwrap_or_default();
            write.open_table(HOSTS)?.insert(name, host.encode_to_vec().as_slice())?;
        }
        for name in &change.forgotten {
            write.open_table(HOSTS)?.remove(name)?;
        }
        if let Some(token) = change.token {
            let id = token.info.as_ref().map(|info| info.id.as_str()).unwrap_or_default();
            write.open_table(TOKENS)?.insert(id, token.encode_to_vec().as_slice())?;
        }
        for id in &change.forgotten_tokens {
            write.open_table(TOKENS)?.remove(id)?;
        }
        revoke(write, change)
    })
}

fn revoke(write: &WriteTransaction, change: &Change<'_>) -> Result<(), redb::Error> {
    let mut table = write.open_table(REVOKED)?;
    for certificate in &change.revoked {
        table.insert(certificate.serial.as_slice(), certificate.not_after_ms)?;
    }
    for serial in &change.over {
        table.remove(serial.0.as_slice())?;
    }
    Ok(())
}
