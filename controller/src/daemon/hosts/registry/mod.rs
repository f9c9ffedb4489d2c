//! The registry: what is known of each host, in memory for readers and in the store for good.
//!
//! Changes are made one after the other under `changing`, the store first; readers take `members`, which is held for an
//! assignment only. So `fleet host ls` waits for no disk.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fleet_pki::{Authority, Credentials, HostKey, Identity, Serial};
use fleet_proto::v1::{Host, HostRecord, HostState, RevokedCertificate, RevokedList};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::records::{self, Change};
use crate::cli::now_ms;
use crate::daemon::store::Store;

mod error;
mod joining;
mod presence;
mod reading;
mod tokens;

pub use error::HostsError;
pub(super) use tokens::check_labels;

/// Beats that may be missed before a host is unknown.
const MISSED: u32 = 3;
/// Valid certificates that a host can have at once: it asks for the next one near the end of the last.
const CERTIFICATES: usize = 16;
/// Folder of the CA in the state folder.
pub const PKI_DIR: &str = "pki";
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
    revoked: watch::Sender<u64>,
    /// Counts what changed of hosts: who is there, and what they say of themselves.
    changes: watch::Sender<u64>,
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
            revoked: watch::Sender::new(0),
            changes: watch::Sender::new(0),
        };
        hosts.prune()?;
        Ok(hosts)
    }

    /// The controller's own credentials, for its server and for its channels to agents.
    pub fn credentials(&self) -> &Arc<Credentials> {
        &self.credentials
    }

    /// A backup of the store and of the CA.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub fn backup(&self) -> Result<Vec<u8>, crate::daemon::backup::BackupError> {
        crate::daemon::backup::make(&self.store, &self.settings.state_dir, &self.settings.name)
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

    /// Tells of every change of hosts.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
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

    /// Puts a record in memory. A host that had another key before, or comes anew, is heard of by its next hello.
    fn put(&self, record: HostRecord) {
        let name = record.host.as_ref().map(|host| host.name.clone()).unwrap_or_default();
        let mut members = locked(&self.members);
        match members.get_mut(&name) {
            Some(member) if member.record.key == record.key && !member.removed() => member.record = record,
            _ => drop(members.insert(name, Member { record, missed: None, session: CancellationToken::new() })),
        }
        drop(members);
        self.changed();
    }

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
    /// are free. `wanted`: the experiments of which each is to have something.
    ///
    /// # Errors
    /// When one is not known, is the controller's own, or runs VMs, or is to run some, and `force` is not set.
    pub fn remove(
        &self,
        names: &[String],
        force: bool,
        wanted: &HashMap<String, Vec<String>>,
    ) -> Result<u32, HostsError> {
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
            let experiments = wanted.get(name).filter(|experiments| !force && !experiments.is_empty());
            if let Some(experiments) = experiments {
                return Err(HostsError::Wanted { host: name.clone(), experiments: experiments.join(", ") });
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
        self.changed();
        self.revoke()?;
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
}
