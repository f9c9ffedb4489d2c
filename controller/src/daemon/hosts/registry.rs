//! The registry: what is known of each host, in memory for readers and in the store for good.
//!
//! Changes are made one after the other under `changing`, the store first; readers take `members`, which is held for an
//! assignment only. So `fleet host ls` waits for no disk.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fleet_pki::{
    Authority, Credentials, Fingerprint, HostKey, Identity, Issued, NameError, PkiError, PublicKey, Serial, Token,
    check_name,
};
use fleet_proto::v1::{
    Beat, Hello, Host, HostInfo, HostRecord, HostState, JoinRequest, Membership, RevokedCertificate, RevokedList,
    TokenInfo, TokenRecord,
};
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::address::{reached_at, underlay_of};
use super::records::{self, Change};
use crate::cli::now_ms;
use crate::daemon::store::{Store, StoreError};

/// Beats that may be missed before a host is unknown.
const MISSED: u32 = 3;
/// Valid certificates that a host can have at once: it asks for the next one near the end of the last.
const CERTIFICATES: usize = 16;
/// Folder of the CA in the state folder.
const PKI_DIR: &str = "pki";
/// What the controller is called in its certificate when the host's own name does not fit there.
const CONTROLLER: &str = "controller";

/// What the registry is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The controller's folder of state.
    pub state_dir: std::path::PathBuf,
    /// Name of the controller's host.
    pub name: String,
    /// How long certificates live.
    pub certificate_life: Duration,
    /// Between two beats of a host.
    pub beat: Duration,
    /// Generation of this controller.
    pub epoch: u64,
}

/// Why something about hosts could not be done. The messages go to the user.
#[derive(Debug, Error)]
pub enum HostsError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Keys and certificates.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// A name that no host can have.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The name is taken.
    #[error(
        "there is a host `{0}` already, with another key\nhelp: `--name` gives another name; `fleet host rm {0}` frees this one"
    )]
    Taken(String),
    /// The key is taken.
    #[error("this host is `{0}` in this fleet already\nhelp: `fleet host rm {0}` first, then join with a new token")]
    Renamed(String),
    /// A token is needed.
    #[error("no host of this fleet has this key\nhelp: `fleet host token` gives a token to join with")]
    NoToken,
    /// It was removed.
    #[error("`{0}` was removed from this fleet\nhelp: a new token (`fleet host token`) lets it in again")]
    Removed(String),
    /// Nobody knows the token, or its secret is another.
    #[error(
        "the token `{0}` is not known here, or its secret is wrong\nhelp: `fleet host token` on the controller's host gives one"
    )]
    BadToken(String),
    /// Its time is over.
    #[error("the token `{0}` has expired\nhelp: `fleet host token --ttl TIME` gives one that lives longer")]
    Expired(String),
    /// It let as many in as it may.
    #[error(
        "the token `{0}` was used {1} times, and that is all it was for\nhelp: `fleet host token --uses N` gives one for N hosts"
    )]
    UsedUp(String, u32),
    /// No such host.
    #[error("no host `{0}`\nhelp: `fleet host ls` lists them")]
    Unknown(String),
    /// What a host says of itself makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The host runs VMs.
    #[error(
        "`{0}` runs {1} VMs\nhelp: `fleet host drain {0}` first, or `--force`: its VMs go on running, and no fleet knows of them"
    )]
    Runs(String, u32),
    /// The controller's own host.
    #[error("`{0}` is the controller's own host, and stays as long as the controller does")]
    Own(String),
    /// More certificates than anybody needs.
    #[error("`{0}` has {CERTIFICATES} valid certificates already; wait until the first of them ends")]
    TooMany(String),
}

/// One host in memory.
struct Member {
    record: HostRecord,
    /// Beats that were due since the last one; `None`: it has said nothing since this controller started.
    missed: Option<u32>,
    /// Ends the stream by which it is heard.
    session: CancellationToken,
}

impl Member {
    fn host(&self) -> Host {
        let mut host = self.record.host.clone().unwrap_or_default();
        let heard = self.missed.is_some_and(|missed| missed < MISSED);
        let state = match (host.state(), heard, host.draining) {
            (HostState::Removed, ..) => HostState::Removed,
            (_, false, _) => HostState::Unknown,
            (_, true, true) => HostState::Draining,
            (_, true, false) => HostState::Ready,
        };
        host.set_state(state);
        host
    }

    fn removed(&self) -> bool {
        self.record.host.as_ref().is_some_and(|host| host.state() == HostState::Removed)
    }
}

/// A host's stream of beats; see [`Hosts::arrive`].
pub struct Session {
    name: String,
    /// Cancelled when the host says hello anew elsewhere, or is removed.
    pub over: CancellationToken,
}

/// The registry.
pub struct Hosts {
    store: Arc<Store>,
    authority: Authority,
    credentials: Arc<Credentials>,
    key: HostKey,
    settings: Settings,
    changing: Mutex<()>,
    members: Mutex<BTreeMap<String, Member>>,
    changed: watch::Sender<u64>,
    revoked: watch::Sender<u64>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that can panic runs between two changes that belong together.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn valid(certificates: &[RevokedCertificate], now: u64) -> Vec<RevokedCertificate> {
    certificates.iter().filter(|certificate| certificate.not_after_ms > now).cloned().collect()
}

impl Hosts {
    /// Opens the registry: the CA, the hosts that joined before, what was revoked.
    ///
    /// # Errors
    /// When the store or the CA's files cannot be used.
    pub fn open(store: Arc<Store>, settings: Settings) -> Result<Self, HostsError> {
        records::create(&store)?;
        let authority = Authority::open(&settings.state_dir.join(PKI_DIR))?;
        // A key of each process's own: nobody needs to know the controller by more than its role.
        let key = HostKey::generate()?;
        let identity = Identity::controller(&settings.name).or_else(|_| Identity::controller(CONTROLLER))?;
        let issued = authority.issue(&key.public(), &identity, settings.certificate_life)?;
        let credentials = Credentials::new(identity, &key, issued.certificate, authority.certificate().clone())?;
        credentials.revoked().set(records::revoked(&store)?);
        let member = |record: HostRecord| {
            let name = record.host.as_ref().map(|host| host.name.clone()).unwrap_or_default();
            (name, Member { record, missed: None, session: CancellationToken::new() })
        };
        let members = records::hosts(&store)?.into_iter().map(member).collect();
        let hosts = Self {
            store,
            authority,
            credentials,
            key,
            settings,
            changing: Mutex::new(()),
            members: Mutex::new(members),
            changed: watch::Sender::new(0),
            revoked: watch::Sender::new(0),
        };
        hosts.prune()?;
        Ok(hosts)
    }

    /// The controller's own credentials, for its server and for its channels to agents.
    pub fn credentials(&self) -> &Arc<Credentials> {
        &self.credentials
    }

    /// How long certificates live.
    pub fn certificate_life(&self) -> Duration {
        self.settings.certificate_life
    }

    /// Time between two beats of a host.
    pub fn beat_interval(&self) -> Duration {
        self.settings.beat
    }

    /// Generation of this controller.
    pub fn epoch(&self) -> u64 {
        self.settings.epoch
    }

    /// All hosts that were not removed, by name.
    pub fn list(&self) -> Vec<Host> {
        locked(&self.members).values().filter(|member| !member.removed()).map(Member::host).collect()
    }

    /// One host that was not removed.
    pub fn get(&self, name: &str) -> Option<Host> {
        locked(&self.members).get(name).filter(|member| !member.removed()).map(Member::host)
    }

    /// Tells of every change of who is there, in what state, where; not of beats.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Tells of every change of the list of revoked certificates.
    pub fn revocations(&self) -> watch::Receiver<u64> {
        self.revoked.subscribe()
    }

    /// Certificates that are not accepted any more.
    pub fn revoked_list(&self) -> RevokedList {
        let listed = self.credentials.revoked().list().into_iter();
        let certificates = listed.map(|(serial, not_after_ms)| RevokedCertificate { serial: serial.0, not_after_ms });
        RevokedList { certificates: certificates.collect() }
    }

    // ---- joining ----

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
    fn certify(&self, record: &mut HostRecord, key: &PublicKey) -> Result<Issued, HostsError> {
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

    fn issue(&self, name: &str, key: &PublicKey) -> Result<Issued, HostsError> {
        Ok(self.authority.issue(key, &Identity::agent(name)?, self.settings.certificate_life)?)
    }

    fn membership(&self, issued: &Issued) -> Membership {
        Membership {
            certificate: issued.certificate.to_vec(),
            ca: self.authority.certificate().to_vec(),
            issued_ms: issued.issued_ms,
            not_after_ms: issued.not_after_ms,
            epoch: self.settings.epoch,
        }
    }

    /// The record of a member that shows this key.
    fn record_of(&self, name: &str, key: &PublicKey) -> Result<HostRecord, HostsError> {
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

    fn name_of(&self, key: &[u8], but: &str) -> Option<String> {
        let members = locked(&self.members);
        let mut others = members.iter().filter(|(name, member)| *name != but && !member.removed());
        others.find(|(_, member)| member.record.key == key).map(|(name, _)| name.clone())
    }

    /// Puts a record in memory. A host that had another key before, or comes anew, is heard of by its next hello.
    fn put(&self, record: HostRecord) {
        let name = record.host.as_ref().map(|host| host.name.clone()).unwrap_or_default();
        let mut members = locked(&self.members);
        match members.get_mut(&name) {
            Some(member) if member.record.key == record.key && !member.removed() => member.record = record,
            _ => drop(members.insert(name, Member { record, missed: None, session: CancellationToken::new() })),
        }
        drop(members);
        self.tell();
    }

    fn tell(&self) {
        self.changed.send_modify(|version| *version = version.wrapping_add(1));
    }

    // ---- being there ----

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
        self.tell();
        Ok(())
    }

    /// A host is there still.
    pub fn beat(&self, session: &Session, beat: &Beat) {
        let mut members = locked(&self.members);
        let Some(member) = members.get_mut(&session.name).filter(|_| !session.over.is_cancelled()) else { return };
        let was_unknown = member.missed.is_none_or(|missed| missed >= MISSED);
        member.missed = Some(0);
        if let Some(host) = &mut member.record.host {
            host.last_seen_ms = now_ms();
            let info = host.info.get_or_insert_default();
            info.memory_available_bytes = beat.memory_available_bytes;
            info.memory_committed_bytes = beat.memory_committed_bytes;
            info.vms = beat.vms;
        }
        drop(members);
        if was_unknown {
            self.tell();
        }
    }

    /// The controller's own host says what it is. It needs no key: it is behind a local socket.
    ///
    /// # Errors
    /// When the store cannot be written, or a host of its name has joined.
    pub fn own_host(&self, info: HostInfo, address: &str, underlay: &str) -> Result<(), HostsError> {
        let _changing = locked(&self.changing);
        let before = locked(&self.members).get(&info.name).map(|member| member.record.clone());
        if before.as_ref().is_some_and(|record| !record.key.is_empty()) {
            return Err(HostsError::Taken(info.name));
        }
        let stale: Vec<String> = locked(&self.members)
            .iter()
            .filter(|(name, member)| member.record.key.is_empty() && **name != info.name)
            .map(|(name, _)| name.clone())
            .collect();
        let name = info.name.clone();
        let mut record = before.clone().unwrap_or_default();
        let host = record.host.get_or_insert_default();
        host.joined_ms = if host.joined_ms == 0 { now_ms() } else { host.joined_ms };
        host.name.clone_from(&name);
        host.address = address.to_owned();
        host.underlay = underlay.to_owned();
        host.last_seen_ms = now_ms();
        host.info = Some(info);
        if before.is_none() || !stale.is_empty() {
            let forgotten = stale.iter().map(String::as_str).collect();
            records::write(&self.store, &Change { hosts: vec![&record], forgotten, ..Change::default() })?;
        }
        let mut members = locked(&self.members);
        stale.iter().for_each(|name| drop(members.remove(name)));
        let told = before.as_ref().and_then(|record| record.host.as_ref()).map(|host| &host.address);
        let new = told != Some(&address.to_owned()) || members.get(&name).is_none_or(|member| member.missed.is_none());
        members.insert(name, Member { record, missed: Some(0), session: CancellationToken::new() });
        drop(members);
        if new {
            self.tell();
        }
        Ok(())
    }

    /// A beat was due. Counted by this process's own ticks and not by a clock: if it was paused itself, it has counted
    /// nothing meanwhile, and declares nobody lost who could not be heard.
    pub fn tick(&self) {
        let mut lost = Vec::new();
        for (name, member) in locked(&self.members).iter_mut() {
            if member.removed() {
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
        for (name, _) in &lost {
            tracing::warn!(host = name, beats = MISSED, "a host is unknown: it missed its beats");
        }
        let change = Change { hosts: lost.iter().map(|(_, record)| record).collect(), ..Change::default() };
        let _changing = locked(&self.changing);
        if let Err(error) = records::write(&self.store, &change) {
            tracing::warn!(%error, "when hosts were last seen could not be noted");
        }
        self.tell();
    }

    // ---- changing ----

    /// Changes hosts, all or none, and gives how many were not so already.
    ///
    /// # Errors
    /// When one of them is not known, or the change makes no sense for it.
    pub fn change(
        &self,
        names: &[String],
        change: impl Fn(&mut Host) -> Result<bool, HostsError>,
    ) -> Result<u32, HostsError> {
        let _changing = locked(&self.changing);
        let mut changed = Vec::new();
        for name in names {
            let member = locked(&self.members).get(name).filter(|member| !member.removed()).map(|m| m.record.clone());
            let mut record = member.ok_or_else(|| HostsError::Unknown(name.clone()))?;
            if change(record.host.get_or_insert_default())? {
                changed.push(record);
            }
        }
        records::write(&self.store, &Change { hosts: changed.iter().collect(), ..Change::default() })?;
        let count = u32::try_from(changed.len()).unwrap_or(u32::MAX);
        changed.into_iter().for_each(|record| self.put(record));
        Ok(count)
    }

    /// Removes hosts from the fleet, all or none: their certificates are revoked, their connections end, their names
    /// are free.
    ///
    /// # Errors
    /// When one is not known, is the controller's own, or runs VMs and `force` is not set.
    pub fn remove(&self, names: &[String], force: bool) -> Result<u32, HostsError> {
        let _changing = locked(&self.changing);
        let now = now_ms();
        let mut removed = Vec::new();
        for name in names {
            let members = locked(&self.members);
            let member = members.get(name).filter(|member| !member.removed());
            let mut record = member.ok_or_else(|| HostsError::Unknown(name.clone()))?.record.clone();
            if record.key.is_empty() {
                return Err(HostsError::Own(name.clone()));
            }
            let host = record.host.get_or_insert_default();
            let vms = host.info.as_ref().map_or(0, |info| info.vms);
            if vms > 0 && !force {
                return Err(HostsError::Runs(name.clone(), vms));
            }
            host.set_state(HostState::Removed);
            record.certificates = valid(&record.certificates, now);
            removed.push(record);
        }
        let revoked = removed.iter().flat_map(|record| &record.certificates).collect();
        records::write(&self.store, &Change { hosts: removed.iter().collect(), revoked, ..Change::default() })?;
        let count = u32::try_from(removed.len()).unwrap_or(u32::MAX);
        for record in removed {
            let name = record.host.as_ref().map(|host| host.name.clone()).unwrap_or_default();
            tracing::info!(host = name, "a host was removed; its certificates are revoked");
            if let Some(member) = locked(&self.members).get_mut(&name) {
                member.record = record;
                member.session.cancel();
            }
        }
        self.revoke()?;
        self.tell();
        Ok(count)
    }

    /// Takes the list of revoked certificates from the store, and tells it to all.
    fn revoke(&self) -> Result<(), HostsError> {
        self.credentials.revoked().set(records::revoked(&self.store)?);
        self.revoked.send_modify(|version| *version = version.wrapping_add(1));
        Ok(())
    }

    /// Forgets what is of no use any more: revoked certificates and tokens whose time has come, and removed hosts
    /// without a valid certificate.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub fn prune(&self) -> Result<(), HostsError> {
        let _changing = locked(&self.changing);
        let now = now_ms();
        let revoked = records::revoked(&self.store)?;
        let over: Vec<&Serial> = revoked.iter().filter(|(_, until)| *until <= now).map(|(serial, _)| serial).collect();
        let tokens = records::tokens(&self.store)?;
        let infos = tokens.iter().filter_map(|token| token.info.as_ref());
        let forgotten_tokens: Vec<&str> =
            infos.filter(|info| info.expires_ms <= now).map(|info| info.id.as_str()).collect();
        let gone: Vec<String> = locked(&self.members)
            .iter()
            .filter(|(_, member)| member.removed() && valid(&member.record.certificates, now).is_empty())
            .map(|(name, _)| name.clone())
            .collect();
        if over.is_empty() && forgotten_tokens.is_empty() && gone.is_empty() {
            return Ok(());
        }
        let forgotten = gone.iter().map(String::as_str).collect();
        records::write(&self.store, &Change { forgotten, forgotten_tokens, over, ..Change::default() })?;
        gone.iter().for_each(|name| drop(locked(&self.members).remove(name)));
        self.revoke()
    }

    /// Gives the controller a new certificate.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn rotate(&self) -> Result<(), HostsError> {
        let identity = self.credentials.identity();
        let issued = self.authority.issue(&self.key.public(), identity, self.settings.certificate_life)?;
        Ok(self.credentials.renew(issued.certificate)?)
    }

    // ---- tokens ----

    /// Makes a token.
    ///
    /// # Errors
    /// When the store cannot be written, or its labels cannot be.
    pub fn issue_token(&self, wanted: TokenInfo) -> Result<(Token, TokenInfo), HostsError> {
        check_labels(&wanted.rack, &wanted.tags)?;
        let token = Token::new(self.authority.fingerprint())?;
        let info = TokenInfo { id: token.id.clone(), used: 0, issued_ms: now_ms(), ..wanted };
        let record = TokenRecord { info: Some(info.clone()), secret: Token::secret_hash(&token.secret).to_vec() };
        let _changing = locked(&self.changing);
        records::write(&self.store, &Change { token: Some(&record), ..Change::default() })?;
        Ok((token, info))
    }

    /// Tokens that let somebody in still.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn tokens(&self) -> Result<Vec<TokenInfo>, HostsError> {
        let now = now_ms();
        let infos = records::tokens(&self.store)?.into_iter().filter_map(|token| token.info);
        Ok(infos.filter(|info| info.expires_ms > now && info.used < info.uses).collect())
    }

    /// Revokes tokens, all or none.
    ///
    /// # Errors
    /// When one is not known.
    pub fn revoke_tokens(&self, ids: &[String]) -> Result<u32, HostsError> {
        let _changing = locked(&self.changing);
        let known = records::tokens(&self.store)?;
        let known = |id: &str| known.iter().any(|token| token.info.as_ref().is_some_and(|info| info.id == id));
        if let Some(id) = ids.iter().find(|id| !known(id)) {
            return Err(HostsError::Invalid(format!("no token `{id}`\nhelp: `fleet host token --ls` lists them")));
        }
        let forgotten_tokens = ids.iter().map(String::as_str).collect();
        records::write(&self.store, &Change { forgotten_tokens, ..Change::default() })?;
        Ok(u32::try_from(ids.len()).unwrap_or(u32::MAX))
    }

    fn check_token(&self, id: &str, secret: &[u8]) -> Result<TokenRecord, HostsError> {
        let tokens = records::tokens(&self.store)?;
        let found = tokens.into_iter().find(|token| token.info.as_ref().is_some_and(|info| info.id == id));
        // Hashes are compared, so that the time it takes tells nothing of the secret.
        let token = found.filter(|token| token.secret == Token::secret_hash(secret));
        let token = token.ok_or_else(|| HostsError::BadToken(id.chars().take(16).collect()))?;
        let info = token.info.clone().unwrap_or_default();
        if info.expires_ms <= now_ms() {
            return Err(HostsError::Expired(info.id));
        }
        if info.used >= info.uses {
            return Err(HostsError::UsedUp(info.id, info.used));
        }
        Ok(token)
    }

    /// The CA's fingerprint, as tokens carry it.
    pub fn fingerprint(&self) -> Fingerprint {
        self.authority.fingerprint()
    }
}

fn certificate_of(issued: &Issued) -> RevokedCertificate {
    RevokedCertificate { serial: issued.serial.0.clone(), not_after_ms: issued.not_after_ms }
}

/// Takes over what a host says of itself.
fn describe(record: &mut HostRecord, hello: &Hello, from: SocketAddr) -> Result<(), HostsError> {
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

/// Checks a rack and tags: the language writes them in quotes, tables show them, so they are of plain characters.
///
/// # Errors
/// When one of them cannot be.
pub(super) fn check_labels<'a>(
    rack: &str,
    tags: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Result<(), HostsError> {
    let plain = |text: &str| {
        text.len() <= 63 && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/'))
    };
    if !plain(rack) {
        return Err(HostsError::Invalid(format!("`{rack}` cannot be the name of a rack; {LABELS}")));
    }
    for (key, value) in tags {
        if key.is_empty() || !plain(key) || !plain(value) {
            return Err(HostsError::Invalid(format!("`{key}={value}` cannot be a tag; {LABELS}")));
        }
    }
    Ok(())
}

const LABELS: &str = "it has at most 63 letters, digits, `-`, `_`, `.` and `/`";
