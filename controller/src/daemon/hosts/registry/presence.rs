//! Who is there: hosts that say hello and send beats, and the controller's own, which is asked.

use std::net::SocketAddr;

use fleet_pki::PublicKey;
use fleet_proto::v1::{Beat, Hello, HostInfo};
use tokio_util::sync::CancellationToken;

use super::joining::describe;
use super::{Hosts, HostsError, MISSED, Member, Session, locked};
use crate::cli::now_ms;
use crate::daemon::hosts::records::{self, Change};

impl Hosts {
    /// A member says hello. An earlier stream of the same host is over: it is of a process that ended, or of one that
    /// has lost its connection.
    ///
    /// # Errors
    /// When it is no member (any more), or what it says makes no sense.
    pub fn arrive(&self, name: &str, key: &PublicKey, hello: &Hello, from: SocketAddr) -> Result<Session, HostsError> {
        let over = CancellationToken::new();
        self.hello(name, key, hello, from)?;
        if let Some(member) = locked(&self.members).get_mut(name) {
            std::mem::replace(&mut member.session, over.clone()).cancel();
        }
        Ok(Session { name: name.to_owned(), over })
    }

    /// A member says what it is.
    ///
    /// # Errors
    /// As for [`Hosts::arrive`].
    pub fn hello(&self, name: &str, key: &PublicKey, hello: &Hello, from: SocketAddr) -> Result<(), HostsError> {
        let _changing = locked(&self.changing);
        let mut record = self.record_of(name, key)?;
        describe(&mut record, hello, from)?;
        if let Some(host) = &mut record.host {
            host.last_seen_ms = now_ms();
        }
        records::write(&self.store, &Change { hosts: vec![&record], ..Change::default() })?;
        if let Some(member) = locked(&self.members).get_mut(name) {
            member.record = record;
            member.missed = Some(0);
        }
        self.changed();
        Ok(())
    }

    /// A host is there still.
    pub fn beat(&self, session: &Session, beat: &Beat) {
        let mut members = locked(&self.members);
        let Some(member) = members.get_mut(&session.name).filter(|_| !session.over.is_cancelled()) else { return };
        let heard_again = member.missed.replace(0).is_none_or(|missed| missed >= MISSED);
        let mut emptied = false;
        if let Some(host) = &mut member.record.host {
            host.last_seen_ms = now_ms();
            let info = host.info.get_or_insert_default();
            info.memory_available_bytes = beat.memory_available_bytes;
            info.memory_committed_bytes = beat.memory_committed_bytes;
            emptied = info.vms > 0 && beat.vms == 0;
            info.vms = beat.vms;
        }
        drop(members);
        if heard_again || emptied {
            self.changed();
        }
    }

    /// The controller's own host says what it is. It needs no key: it is behind a local socket.
    ///
    /// # Errors
    /// When the store cannot be written, a host of its name has joined, or the fleet knows it by another name.
    pub fn own_host(&self, info: HostInfo, address: &str, underlay: &str) -> Result<(), HostsError> {
        let _changing = locked(&self.changing);
        let before = locked(&self.members).get(&info.name).map(|member| member.record.clone());
        if before.as_ref().is_some_and(|record| !record.key.is_empty()) {
            return Err(HostsError::Taken(info.name));
        }
        if let Some(known) = self.own_host_but(&info.name) {
            return Err(HostsError::OwnName { known, said: info.name });
        }
        let name = info.name.clone();
        let mut record = before.clone().unwrap_or_default();
        let host = record.host.get_or_insert_default();
        host.joined_ms = if host.joined_ms == 0 { now_ms() } else { host.joined_ms };
        host.name.clone_from(&name);
        host.address = address.to_owned();
        host.underlay = underlay.to_owned();
        host.last_seen_ms = now_ms();
        host.info = Some(info);
        if before.is_none() {
            records::write(&self.store, &Change { hosts: vec![&record], ..Change::default() })?;
        }
        let member = Member { record, missed: Some(0), session: CancellationToken::new() };
        locked(&self.members).insert(name, member);
        self.changed();
        Ok(())
    }

    /// The controller's own host, when it is known by another name than this one.
    fn own_host_but(&self, name: &str) -> Option<String> {
        let members = locked(&self.members);
        let other = members.iter().find(|(known, member)| member.record.key.is_empty() && *known != name);
        other.map(|(known, _)| known.clone())
    }

    /// The agent of the controller's own host does not answer.
    pub fn own_host_is_silent(&self) {
        let mut members = locked(&self.members);
        if let Some(member) = members.values_mut().find(|member| member.record.key.is_empty()) {
            member.missed = Some(MISSED);
        }
        drop(members);
        self.changed();
    }

    /// A beat was due. Counted by this process's own ticks and not by a clock: if it was paused itself, it has counted
    /// nothing meanwhile, and declares nobody lost who could not be heard.
    pub fn tick(&self) {
        let mut lost = Vec::new();
        for (name, member) in locked(&self.members).iter_mut() {
            // The controller's own host sends none: it is asked.
            if member.removed() || member.record.key.is_empty() {
                continue;
            }
            if let Some(missed) = &mut member.missed {
                *missed = missed.saturating_add(1);
                if *missed == MISSED {
                    lost.push((name.clone(), member.record.clone()));
                }
            }
        }
        if lost.is_empty() {
            return;
        }
        self.changed();
        for (name, _) in &lost {
            tracing::warn!(host = name, beats = MISSED, "a host is unknown: it missed its beats");
        }
        let change = Change { hosts: lost.iter().map(|(_, record)| record).collect(), ..Change::default() };
        let _changing = locked(&self.changing);
        if let Err(error) = records::write(&self.store, &change) {
            tracing::warn!(%error, "when hosts were last seen could not be noted");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::Settings;
    use super::*;
    use crate::daemon::store::Store;

    #[test]
    fn the_own_host_is_refused_under_another_name() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&dir.path().join("store.redb")).unwrap());
        let says = |name: &str| {
            let settings = Settings {
                state_dir: dir.path().to_owned(),
                name: name.to_owned(),
                certificate_life: Duration::from_secs(3600),
                beat: Duration::from_secs(5),
                epoch: 1,
            };
            let hosts = Hosts::open(Arc::clone(&store), settings).unwrap();
            hosts.own_host(HostInfo { name: name.to_owned(), ..HostInfo::default() }, "unix:/agent.sock", "")
        };
        says("before").unwrap();
        let error = says("after").unwrap_err().to_string();
        assert!(error.contains("`before`") && error.contains("`host = \"before\"`"), "{error}");
        assert_eq!(records::own_host(&store).unwrap().as_deref(), Some("before"));
        says("before").unwrap();
    }
}
