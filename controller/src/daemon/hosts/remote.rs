//! The services for hosts: Join for whoever has a token, Registry for agents of the fleet.
//!
//! A host's stream of beats is served by the stream of answers itself: there is no task for it, and it ends with the
//! connection.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use fleet_pki::{Peer, PublicKey, Role, peer, require};
use fleet_proto::v1::controller_word::Word;
use fleet_proto::v1::join_server::{Join, JoinServer};
use fleet_proto::v1::registry_server::{Registry, RegistryServer};
use fleet_proto::v1::{ControllerWord, Hello, HostWord, JoinRequest, Membership, RenewRequest, Welcome, host_word};
use futures::Stream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic::{Request, Response, Status, Streaming};

use super::registry::{Hosts, HostsError, Session};

/// How long a host may take to say hello after it has opened its stream.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);

/// The services, ready to be served to hosts.
pub fn router(mut server: Server, hosts: &Arc<Hosts>, stop: &CancellationToken) -> Router {
    let service = Service { hosts: Arc::clone(hosts), stop: stop.clone() };
    let registry = RegistryServer::with_interceptor(service.clone(), require(&[Role::Agent]));
    server.add_service(JoinServer::new(service)).add_service(registry)
}

#[derive(Clone)]
struct Service {
    hosts: Arc<Hosts>,
    stop: CancellationToken,
}

/// As the caller may see it: what a store or a key has to say of itself stays in the log.
fn refused(error: &HostsError) -> Status {
    let message = error.to_string();
    match error {
        HostsError::Store(_) | HostsError::Pki(_) => {
            Status::internal("the controller could not do it; its log says why")
        }
        HostsError::Name(_) | HostsError::Invalid(_) => Status::invalid_argument(message),
        HostsError::Taken(_) | HostsError::Renamed(_) | HostsError::Own(_) | HostsError::OwnName { .. } => {
            Status::already_exists(message)
        }
        HostsError::Unknown(_) => Status::not_found(message),
        HostsError::NoToken
        | HostsError::Removed(_)
        | HostsError::BadToken(_)
        | HostsError::Expired(_)
        | HostsError::UsedUp(..) => Status::permission_denied(message),
        HostsError::Runs(..) | HostsError::Wanted { .. } => Status::failed_precondition(message),
        HostsError::TooMany(_) => Status::resource_exhausted(message),
    }
}

/// Logs a refusal with the caller's address.
fn logged(peer: &Peer, what: &str, error: HostsError) -> Status {
    let first = error.to_string();
    let reason = first.lines().next().unwrap_or_default();
    tracing::warn!(peer = %peer.address, reason, "{what} was refused");
    refused(&error)
}

impl From<HostsError> for Status {
    fn from(error: HostsError) -> Self {
        match error {
            // On the local socket the cause is for the user.
            HostsError::Store(_) | HostsError::Pki(_) => Status::internal(error.to_string()),
            error => refused(&error),
        }
    }
}

/// The name of a member that calls.
fn name_of(peer: &Peer) -> Result<String, Status> {
    let identity = peer.identity().ok_or_else(|| Status::unauthenticated("only members of the fleet may call this"))?;
    Ok(identity.name.clone())
}

#[tonic::async_trait]
impl Join for Service {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<Membership>, Status> {
        let caller = peer(&request)?.clone();
        let membership = self.hosts.join(request.get_ref(), &caller.key, caller.address);
        membership.map(Response::new).map_err(|error| logged(&caller, "joining", error))
    }
}

#[tonic::async_trait]
impl Registry for Service {
    type AttendStream = Pin<Box<dyn Stream<Item = Result<ControllerWord, Status>> + Send>>;

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<Membership>, Status> {
        let caller = peer(&request)?.clone();
        let membership = self.hosts.renew(&name_of(&caller)?, &caller.key);
        membership.map(Response::new).map_err(|error| logged(&caller, "a new certificate", error))
    }

    async fn attend(&self, request: Request<Streaming<HostWord>>) -> Result<Response<Self::AttendStream>, Status> {
        let caller = peer(&request)?.clone();
        let name = name_of(&caller)?;
        let mut input = request.into_inner();
        let first = tokio::time::timeout(HELLO_DEADLINE, input.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no hello in time"))??;
        let Some(HostWord { word: Some(host_word::Word::Hello(hello)) }) = first else {
            return Err(Status::invalid_argument("the first word of a host must be its hello"));
        };
        self.check_epoch(&name, &hello)?;
        // Before the list is looked at: what is revoked after that is told.
        let revoked = self.hosts.revocations();
        let session = self.hosts.arrive(&name, &caller.key, &hello, caller.address);
        let session = session.map_err(|error| logged(&caller, "attending", error))?;
        tracing::info!(host = name, peer = %caller.address, "a host is there");
        let welcome = Welcome {
            epoch: self.hosts.epoch(),
            beat_ms: u32::try_from(self.hosts.beat_interval().as_millis()).unwrap_or(u32::MAX),
            revoked: Some(self.hosts.revoked_list()),
        };
        let attending = Attending {
            hosts: Arc::clone(&self.hosts),
            name,
            key: caller.key,
            from: caller.address,
            session,
            input,
            revoked,
            stop: self.stop.clone(),
            welcome: Some(welcome),
            ended: false,
        };
        Ok(Response::new(Box::pin(futures::stream::unfold(attending, Attending::next))))
    }
}

impl Service {
    /// A host that knows a newer controller must not be told anything by this one.
    fn check_epoch(&self, name: &str, hello: &Hello) -> Result<(), Status> {
        let own = self.hosts.epoch();
        if hello.epoch > own {
            tracing::error!(
                host = name,
                epoch = own,
                known = hello.epoch,
                "this controller is stale: a newer one spoke to a host"
            );
            return Err(Status::failed_precondition(format!(
                "this controller, of epoch {own}, is stale: one of epoch {} speaks for this fleet",
                hello.epoch
            )));
        }
        Ok(())
    }
}

/// A host that is there, until one side ends.
struct Attending {
    hosts: Arc<Hosts>,
    name: String,
    key: PublicKey,
    from: SocketAddr,
    session: Session,
    input: Streaming<HostWord>,
    revoked: watch::Receiver<u64>,
    stop: CancellationToken,
    welcome: Option<Welcome>,
    ended: bool,
}

impl Attending {
    /// The next word for the host.
    async fn next(mut self) -> Option<(Result<ControllerWord, Status>, Self)> {
        if self.ended {
            return None;
        }
        if let Some(welcome) = self.welcome.take() {
            return Some((Ok(ControllerWord { word: Some(Word::Welcome(welcome)) }), self));
        }
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return None,
                () = self.session.over.cancelled() => {
                    let why = "another process of this host said hello, or the host was removed";
                    return self.end(Status::aborted(why));
                }
                changed = self.revoked.changed() => {
                    changed.ok()?;
                    return Some((Ok(ControllerWord { word: Some(Word::Revoked(self.hosts.revoked_list())) }), self));
                }
                word = self.input.message() => match word {
                    Ok(Some(HostWord { word: Some(host_word::Word::Beat(beat)) })) => {
                        self.hosts.beat(&self.session, &beat);
                    }
                    Ok(Some(HostWord { word: Some(host_word::Word::Hello(hello)) })) => {
                        if let Err(error) = self.hosts.hello(&self.name, &self.key, &hello, self.from) {
                            return self.end(refused(&error));
                        }
                    }
                    Ok(Some(HostWord { word: None })) => {}
                    Ok(None) | Err(_) => {
                        tracing::info!(host = self.name, "a host's stream has ended");
                        return None;
                    }
                },
            }
        }
    }

    fn end(mut self, status: Status) -> Option<(Result<ControllerWord, Status>, Self)> {
        self.ended = true;
        Some((Err(status), self))
    }
}
