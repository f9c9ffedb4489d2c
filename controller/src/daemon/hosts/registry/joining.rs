//! Certificates: who gets one, by a token or because its key is known.

use std::net::SocketAddr;

use fleet_pki::{Identity, Issued, PublicKey, check_name};
use fleet_proto::v1::{Hello, Host, HostInfo, HostRecord, HostState, JoinRequest, Membership, RevokedCertificate};

use super::tokens::check_labels;
use super::{CERTIFICATES, Hosts, HostsError, locked, valid};
use crate::cli::now_ms;
use crate::daemon::hosts::address::{reached_at, underlay_of};
use crate::daemon::hosts::records::{self, Change};

impl Hosts {
    /// Lets a host in: with a token, or because its key is known.
    ///
    /// # Errors
    /// When it is refused; nothing is changed then, and the token is not used up.
    pub fn join(&self, request: &JoinRequest, key: &PublicKey, from: SocketAddr) -> Result<Membership, HostsError> {
        check_name(&request.name)?;
        let hello = request.hello.clone().unwrap_or_default();
        let fingerprint = key.fingerprint().0.to_vec();
        let _changing = locked(&self.changing);
        let before = locked(&self.members).get(&request.name).map(|member| member.record.clone());
        let known = before.as_ref().filter(|record| record.host.as_ref().map(Host::state) != Some(HostState::Removed));
        if let Some(known) = known {
            if known.key != fingerprint {
                return Err(HostsError::Taken(request.name.clone()));
            }
            if request.token.is_empty() || request.token == known.token {
                return self.come_back(known.clone(), &hello, key, from);
            }
        }
        if let Some(other) = self.name_of(&fingerprint, &request.name) {
            return Err(HostsError::Renamed(other));
        }
        if request.token.is_empty() {
            let removed = before.is_some_and(|record| record.key == fingerprint);
            return Err(if removed { HostsError::Removed(request.name.clone()) } else { HostsError::NoToken });
        }
        let mut token = self.check_token(&request.token, &request.secret)?;
        let info = token.info.get_or_insert_default();
        info.used += 1;
        let mut tags = request.tags.clone();
        tags.extend(info.tags.clone());
        let rack = if info.rack.is_empty() { request.rack.clone() } else { info.rack.clone() };
        check_labels(&rack, &tags)?;
        let issued = self.issue(&request.name, key)?;
        let host = Host {
            name: request.name.clone(),
            rack,
            tags,
            joined_ms: issued.issued_ms,
            ..known.and_then(|record| record.host.clone()).unwrap_or_default()
        };
        // A host that joins again keeps the certificates that it has, and its revoked ones stay revoked.
        let mut certificates = known.map(|record| valid(&record.certificates, now_ms())).unwrap_or_default();
        certificates.push(certificate_of(&issued));
        let mut record = HostRecord { host: Some(host), key: fingerprint, token: request.token.clone(), certificates };
        describe(&mut record, &hello, from)?;
        records::write(&self.store, &Change { hosts: vec![&record], token: Some(&token), ..Change::default() })?;
        tracing::info!(host = request.name, peer = %from, token = request.token, "a host joined");
        self.put(record);
        Ok(self.membership(&issued))
    }

    /// A certificate for a member whose own has expired, or whose answer to joining was lost.
    fn come_back(
        &self,
        mut record: HostRecord,
        hello: &Hello,
        key: &PublicKey,
        from: SocketAddr,
    ) -> Result<Membership, HostsError> {
        describe(&mut record, hello, from)?;
        let issued = self.certify(&mut record, key)?;
        tracing::info!(host = record.host.as_ref().map(|host| &host.name), peer = %from, "a host came back");
        self.put(record);
        Ok(self.membership(&issued))
    }

    /// A new certificate for a member.
    ///
    /// # Errors
    /// When it is no member (any more).
    pub fn renew(&self, name: &str, key: &PublicKey) -> Result<Membership, HostsError> {
        let _changing = locked(&self.changing);
        let mut record = self.record_of(name, key)?;
        let issued = self.certify(&mut record, key)?;
        self.put(record);
        Ok(self.membership(&issued))
    }

    /// Makes a certificate and remembers it, before anybody has it: what is removed later is revoked as a whole.
    pub(super) fn certify(&self, record: &mut HostRecord, key: &PublicKey) -> Result<Issued, HostsError> {
        let name = record.host.as_ref().map(|host| host.name.clone()).unwrap_or_default();
        record.certificates = valid(&record.certificates, now_ms());
        if record.certificates.len() >= CERTIFICATES {
            return Err(HostsError::TooMany(name));
        }
        let issued = self.issue(&name, key)?;
        record.certificates.push(certificate_of(&issued));
        records::write(&self.store, &Change { hosts: vec![record], ..Change::default() })?;
        Ok(issued)
    }

    pub(super) fn issue(&self, name: &str, key: &PublicKey) -> Result<Issued, HostsError> {
        Ok(self.authority.issue(key, &Identity::agent(name)?, self.settings.certificate_life)?)
    }

    pub(super) fn membership(&self, issued: &Issued) -> Membership {
        Membership {
            certificate: issued.certificate.to_vec(),
            ca: self.authority.certificate().to_vec(),
            issued_ms: issued.issued_ms,
            not_after_ms: issued.not_after_ms,
            epoch: self.settings.epoch,
        }
    }

    /// The record of a member that shows this key.
    pub(super) fn record_of(&self, name: &str, key: &PublicKey) -> Result<HostRecord, HostsError> {
        let members = locked(&self.members);
        let member = members.get(name).ok_or_else(|| HostsError::Unknown(name.to_owned()))?;
        if member.removed() {
            return Err(HostsError::Removed(name.to_owned()));
        }
        if member.record.key != key.fingerprint().0 {
            return Err(HostsError::Taken(name.to_owned()));
        }
        Ok(member.record.clone())
    }

    pub(super) fn name_of(&self, key: &[u8], but: &str) -> Option<String> {
        let members = locked(&self.members);
        let mut others = members.iter().filter(|(name, member)| *name != but && !member.removed());
        others.find(|(_, member)| member.record.key == key).map(|(name, _)| name.clone())
    }
}

pub(super) fn certificate_of(issued: &Issued) -> RevokedCertificate {
    RevokedCertificate { serial: issued.serial.0.clone(), not_after_ms: issued.not_after_ms }
}

/// Takes over what a host says of itself.
pub(super) fn describe(record: &mut HostRecord, hello: &Hello, from: SocketAddr) -> Result<(), HostsError> {
    let address = reached_at(&hello.address, from.ip()).map_err(HostsError::Invalid)?;
    let underlay = underlay_of(&hello.underlay, &address).map_err(HostsError::Invalid)?;
    let host = record.host.get_or_insert_default();
    let name = host.name.clone();
    host.address = address;
    host.underlay = underlay;
    host.incarnation.clone_from(&hello.incarnation);
    host.info = hello.info.clone().map(|info| HostInfo { name, ..info });
    Ok(())
}
