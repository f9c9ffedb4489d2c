//! This host as a member of a fleet: it joins once, serves the controller and other members over mutual TLS, and tells
//! the controller that it is there.
//!
//! ```text
//!  prepare(folder, flags) ──► Prepared: who this host is, or wants to be
//!       │ join(agent): with a token, if it is no member yet
//!       ▼
//!  Membership ─┬─ server: the Agent service on this host's own address
//!              └─ attend: hello, beats, renewal of the certificate; anew after every break, with jitter
//! ```
//!
//! What makes the host a member is in one file, [`IDENTITY_FILE`]; with it the host comes back without a token, also
//! after its certificate has expired. VMs know nothing of all this: a host that is cut off, or was removed, keeps them.

mod attend;
mod error;
mod join;
mod wait;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fleet_pki::{
    Connector, Credentials, Fingerprint, HostKey, Identity, Stored, StoredMembership, Strangers, Token, check_name,
    incoming, server,
};
use fleet_proto::v1::Hello;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use error::MembershipError;
pub(crate) use wait::Waits;

use crate::agent::Agent;
use crate::service;

/// The file in the folder of state that makes this host a member.
pub const IDENTITY_FILE: &str = "identity.json";
/// How long answers that are under way may take after the end was asked for.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

/// What the command line says.
#[derive(Clone, Debug)]
pub struct JoinArgs {
    /// Where the controller is, "address:port"; `None`: where it was.
    pub controller: Option<String>,
    /// What lets this host in.
    pub token: Option<Token>,
    /// What it is to be called; `None`: as before, or as the machine is.
    pub name: Option<String>,
    /// Where to serve.
    pub listen: SocketAddr,
    /// Where others reach that, "address:port"; `None`: at the address that this host calls the controller from.
    pub advertise: Option<String>,
    /// Address for segments over hosts; `None`: that of the agent.
    pub underlay: Option<String>,
    /// Where it stands; told when it joins.
    pub rack: String,
    /// What else is known of it; told when it joins.
    pub tags: HashMap<String, String>,
}

/// A host that is a member, or wants to be.
#[derive(Debug)]
pub struct Prepared {
    stored: Stored,
    path: PathBuf,
    args: JoinArgs,
}

/// Looks at what this host is. `None`: no member, and nobody asks it to be. `host` is the machine's own name.
///
/// # Errors
/// When the file is damaged, or the flags do not go with it or with one another.
pub fn prepare(state_dir: &Path, host: &str, args: JoinArgs) -> Result<Option<Prepared>, MembershipError> {
    let path = state_dir.join(IDENTITY_FILE);
    let known = Stored::read(&path)?;
    let member = known.as_ref().is_some_and(|stored| stored.membership.is_some());
    if known.is_none() && args.controller.is_none() {
        return if args.token.is_some() { Err(MembershipError::NoController) } else { Ok(None) };
    }
    if !member && args.token.is_none() {
        return Err(MembershipError::NoToken);
    }
    let name = args.name.clone().or_else(|| known.as_ref().map(|stored| stored.name.clone()));
    let name = name.unwrap_or_else(|| host.to_owned());
    check_name(&name).map_err(fleet_pki::PkiError::from)?;
    let mut stored = match known {
        Some(stored) => stored,
        None => Stored {
            name: name.clone(),
            controller: String::new(),
            token: String::new(),
            key: HostKey::generate()?.to_pem(),
            membership: None,
        },
    };
    let anew = args.token.as_ref().is_some_and(|token| token.id != stored.token);
    if stored.name != name && member && !anew {
        return Err(MembershipError::Renamed { now: stored.name, wanted: name });
    }
    stored.name = name;
    if let Some(controller) = &args.controller {
        stored.controller.clone_from(controller);
    }
    if stored.controller.is_empty() {
        return Err(MembershipError::NoController);
    }
    Ok(Some(Prepared { stored, path, args }))
}

impl Prepared {
    /// The name of this host in its fleet.
    pub fn host(&self) -> &str {
        &self.stored.name
    }

    /// Joins, if this host is no member yet or has a new token, and serves from then on.
    ///
    /// # Errors
    /// When the address cannot be had, the controller refuses, or it is not reached in time.
    pub async fn join(self, agent: &Arc<Agent>, stop: &CancellationToken) -> Result<Membership, MembershipError> {
        let Self { mut stored, path, args } = self;
        let listener = TcpListener::bind(args.listen)
            .await
            .map_err(|source| MembershipError::Listen { address: args.listen, source })?;
        let listens =
            listener.local_addr().map_err(|source| MembershipError::Listen { address: args.listen, source })?;
        let about = About {
            agent: Arc::clone(agent),
            address: advertised(args.advertise.as_deref(), listens),
            underlay: args.underlay.clone().unwrap_or_default(),
        };
        if let Some(token) = args.token.as_ref().filter(|token| token.id != stored.token) {
            join::join(&mut stored, &path, token, &args, &about, stop).await?;
        }
        let membership = stored.membership.clone().ok_or(MembershipError::NoToken)?;
        let key = HostKey::from_pem(&stored.key)?;
        let credentials =
            Credentials::new(Identity::agent(&stored.name)?, &key, membership.certificate()?, membership.ca()?)?;
        let life = Duration::from_millis(membership.not_after_ms.saturating_sub(membership.issued_ms));
        let incoming = incoming(listener, &credentials, Strangers::Refused)?;
        let connector = Connector::new(Arc::clone(&credentials));
        if let Some(cameras) = agent.cameras() {
            cameras.joined(connector.clone(), &stored.controller);
        }
        let router = service::remote_router(server(life), Arc::clone(agent), connector);
        tracing::info!(host = stored.name, address = %listens, controller = stored.controller, "agent serves its fleet");
        let over = stop.child_token();
        let stopped = over.clone().cancelled_owned();
        let server = tokio::spawn(async move {
            if let Err(error) = router.serve_with_incoming_shutdown(incoming, stopped).await {
                tracing::error!(%error, "the server for the fleet ended");
            }
        });
        let attend = attend::Attend { stored, path, key, credentials: Arc::clone(&credentials), about, over };
        let attend = tokio::spawn(attend.run());
        Ok(Membership { credentials, server, attend })
    }
}

/// A host that belongs to a fleet and serves it.
pub struct Membership {
    credentials: Arc<Credentials>,
    server: JoinHandle<()>,
    attend: JoinHandle<()>,
}

impl Membership {
    /// Makes channels to other members.
    pub fn connector(&self) -> Connector {
        Connector::new(Arc::clone(&self.credentials))
    }

    /// Waits until its tasks ended, which they do soon after their token was cancelled.
    pub async fn ended(self) {
        for task in [self.attend, self.server] {
            if tokio::time::timeout(DRAIN_DEADLINE, task).await.is_err() {
                tracing::warn!("answers to the fleet still under way were cut off");
            }
        }
    }
}

/// What this host tells of itself.
struct About {
    agent: Arc<Agent>,
    address: String,
    underlay: String,
}

impl About {
    fn hello(&self) -> Hello {
        Hello {
            incarnation: self.agent.incarnation().to_owned(),
            info: Some(self.agent.info()),
            address: self.address.clone(),
            underlay: self.underlay.clone(),
            epoch: self.agent.epoch().known(),
        }
    }
}

/// The address that is told: what the user says, with the port that is listened on if that says none; else the address
/// that is listened on; else only the port, and the controller sees where the call comes from.
fn advertised(says: Option<&str>, listens: SocketAddr) -> String {
    let port = listens.port();
    match says {
        Some(text) => match text.parse::<std::net::IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, port).to_string(),
            Err(_) if text.rsplit_once(':').is_some_and(|(_, digits)| digits.parse::<u16>().is_ok()) => text.to_owned(),
            Err(_) => format!("{text}:{port}"),
        },
        None if listens.ip().is_unspecified() => format!(":{port}"),
        None => listens.to_string(),
    }
}

/// The CA of the fleet that this host belongs to.
fn ca_of(membership: &StoredMembership) -> Result<Fingerprint, MembershipError> {
    Ok(Fingerprint::of(&membership.ca()?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn args() -> JoinArgs {
        JoinArgs {
            controller: None,
            token: None,
            name: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            advertise: None,
            underlay: None,
            rack: String::new(),
            tags: HashMap::new(),
        }
    }

    #[test]
    fn a_host_that_nobody_asks_to_join_is_no_member() {
        let dir = tempfile::tempdir().unwrap();
        assert!(prepare(dir.path(), "h1", args()).unwrap().is_none());
        let first = JoinArgs { controller: Some("c:7117".into()), ..args() };
        assert!(matches!(prepare(dir.path(), "h1", first), Err(MembershipError::NoToken)));
        let token = Some(Token::new(Fingerprint::of(b"ca")).unwrap());
        assert!(matches!(prepare(dir.path(), "h1", JoinArgs { token, ..args() }), Err(MembershipError::NoController)));
    }

    #[test]
    fn a_member_needs_no_flags_and_keeps_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let stored = Stored {
            name: "h1".into(),
            controller: "c:7117".into(),
            token: "t".into(),
            key: HostKey::generate().unwrap().to_pem(),
            membership: Some(StoredMembership {
                certificate: String::new(),
                ca: String::new(),
                issued_ms: 0,
                not_after_ms: 0,
            }),
        };
        stored.write(&dir.path().join(IDENTITY_FILE)).unwrap();
        let prepared = prepare(dir.path(), "machine", args()).unwrap().unwrap();
        assert_eq!(prepared.host(), "h1");
        let error = prepare(dir.path(), "machine", JoinArgs { name: Some("h2".into()), ..args() }).unwrap_err();
        assert!(error.to_string().contains("h1"), "{error}");
        let moved = JoinArgs { controller: Some("d:7117".into()), ..args() };
        assert_eq!(prepare(dir.path(), "machine", moved).unwrap().unwrap().stored.controller, "d:7117");
    }

    #[test]
    fn what_is_advertised_has_the_port_that_is_served() {
        let any = "0.0.0.0:7118".parse().unwrap();
        let one = "10.0.0.5:7118".parse().unwrap();
        assert_eq!(advertised(None, any), ":7118");
        assert_eq!(advertised(None, one), "10.0.0.5:7118");
        assert_eq!(advertised(Some("192.0.2.1"), any), "192.0.2.1:7118");
        assert_eq!(advertised(Some("192.0.2.1:80"), any), "192.0.2.1:80");
        assert_eq!(advertised(Some("h1.example"), any), "h1.example:7118");
        assert_eq!(advertised(Some("2001:db8::1"), any), "[2001:db8::1]:7118");
    }
}
