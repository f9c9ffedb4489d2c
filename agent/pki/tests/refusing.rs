//! Who is let in and who is not, over real connections on loopback: each refusal with its reason.
#![allow(clippy::unwrap_used, missing_docs)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fleet_pki::{
    Authority, ConnectError, Connector, Credentials, HostKey, Identity, Peer, PublicKey, Refusal, Role, Strangers,
    Token, Who, connect_to_join, incoming, peer, require, server,
};
use fleet_proto::v1::join_client::JoinClient;
use fleet_proto::v1::join_server::{Join, JoinServer};
use fleet_proto::v1::registry_client::RegistryClient;
use fleet_proto::v1::registry_server::{Registry, RegistryServer};
use fleet_proto::v1::{ControllerWord, HostWord, JoinRequest, Membership, RenewRequest};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

const DAY: Duration = Duration::from_secs(24 * 3600);

struct Fleet {
    authority: Authority,
    _dir: tempfile::TempDir,
}

impl Fleet {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { authority: Authority::open(dir.path()).unwrap(), _dir: dir }
    }

    fn member(&self, identity: Identity) -> Arc<Credentials> {
        self.member_at(identity, SystemTime::now())
    }

    fn member_at(&self, identity: Identity, now: SystemTime) -> Arc<Credentials> {
        let key = HostKey::generate().unwrap();
        let issued = self.authority.issue_at(&key.public(), &identity, now, DAY).unwrap();
        Credentials::new(identity, &key, issued.certificate, self.authority.certificate().clone()).unwrap()
    }

    fn agent(&self, name: &str) -> Arc<Credentials> {
        self.member(Identity::agent(name).unwrap())
    }

    fn controller(&self) -> Arc<Credentials> {
        self.member(Identity::controller("c").unwrap())
    }
}

/// Answers with who asked.
struct Answering {
    peers: mpsc::Sender<Peer>,
}

type Words = ReceiverStream<Result<ControllerWord, Status>>;

impl Answering {
    async fn note<T>(&self, request: &Request<T>) -> Result<(), Status> {
        self.peers.send(peer(request)?.clone()).await.map_err(|_| Status::internal("nobody listens"))
    }
}

#[tonic::async_trait]
impl Registry for Answering {
    type AttendStream = Words;

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<Membership>, Status> {
        self.note(&request).await?;
        Ok(Response::new(Membership::default()))
    }

    async fn attend(&self, request: Request<Streaming<HostWord>>) -> Result<Response<Words>, Status> {
        self.note(&request).await?;
        let (sender, receiver) = mpsc::channel(1);
        // Open until the caller is gone.
        tokio::spawn(async move { sender.closed().await });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

#[tonic::async_trait]
impl Join for Answering {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<Membership>, Status> {
        self.note(&request).await?;
        Ok(Response::new(Membership::default()))
    }
}

struct Served {
    address: String,
    peers: mpsc::Receiver<Peer>,
    task: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves the Registry for controllers and agents, and Join for everybody who comes in.
async fn serve(credentials: &Arc<Credentials>, strangers: Strangers) -> Served {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let incoming = incoming(listener, credentials, strangers).unwrap();
    let (sender, peers) = mpsc::channel(16);
    let registry = RegistryServer::with_interceptor(
        Answering { peers: sender.clone() },
        require(&[Role::Agent, Role::Controller]),
    );
    let router = server(DAY).add_service(registry).add_service(JoinServer::new(Answering { peers: sender }));
    let task = tokio::spawn(async move { router.serve_with_incoming(incoming).await.unwrap() });
    Served { address, peers, task }
}

async fn refused(result: Result<tonic::transport::Channel, ConnectError>) -> Refusal {
    match result {
        Err(ConnectError::Refused { refusal, .. }) => refusal,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn members_of_one_fleet_reach_one_another_and_know_who_it_is() {
    let fleet = Fleet::new();
    let mut h1 = serve(&fleet.agent("h1"), Strangers::Refused).await;
    for (caller, who) in [(fleet.controller(), "controller c"), (fleet.agent("h2"), "agent h2")] {
        let channel = Connector::new(caller).agent("h1", &h1.address).await.unwrap();
        RegistryClient::new(channel).renew(RenewRequest {}).await.unwrap();
        let seen = h1.peers.recv().await.unwrap();
        assert_eq!(seen.identity().unwrap().to_string(), who);
    }
}

#[tokio::test]
async fn a_stranger_is_refused_by_an_agent() {
    let fleet = Fleet::new();
    let h1 = serve(&fleet.agent("h1"), Strangers::Refused).await;
    // One of another fleet trusts nobody here either.
    let other = Connector::new(Fleet::new().agent("h2"));
    assert_eq!(refused(other.agent("h1", &h1.address).await).await, Refusal::Stranger);
    // One that trusts this fleet but is none of it: with a certificate of its own making.
    let key = HostKey::generate().unwrap();
    let controller = serve(&fleet.controller(), Strangers::Refused).await;
    let refusal = refused(connect_to_join(&controller.address, fleet.authority.fingerprint(), &key).await).await;
    assert!(refusal.to_string().contains("not of its fleet"), "{refusal}");
}

#[tokio::test]
async fn a_stranger_may_ask_the_controller_to_join_and_nothing_else() {
    let fleet = Fleet::new();
    let mut controller = serve(&fleet.controller(), Strangers::MayJoin).await;
    let key = HostKey::generate().unwrap();
    let channel = connect_to_join(&controller.address, fleet.authority.fingerprint(), &key).await.unwrap();
    JoinClient::new(channel.clone()).join(JoinRequest::default()).await.unwrap();
    let seen = controller.peers.recv().await.unwrap();
    assert!(matches!(seen.who, Who::Stranger));
    assert_eq!(seen.key, key.public(), "the key is proved by the handshake");
    let status = RegistryClient::new(channel).renew(RenewRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
}

#[tokio::test]
async fn a_member_of_another_fleet_is_a_stranger_at_the_controller_whatever_its_certificate_says() {
    let (fleet, other) = (Fleet::new(), Fleet::new());
    let mut controller = serve(&fleet.controller(), Strangers::MayJoin).await;
    // It says it is an agent, by a CA that calls itself what it likes, and trusts this fleet's controller.
    let (key, identity) = (HostKey::generate().unwrap(), Identity::agent("h1").unwrap());
    let issued = other.authority.issue(&key.public(), &identity, DAY).unwrap();
    let liar = Credentials::new(identity, &key, issued.certificate, fleet.authority.certificate().clone()).unwrap();
    let channel = Connector::new(liar).controller(&controller.address).await.unwrap();
    let status = RegistryClient::new(channel.clone()).renew(RenewRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    JoinClient::new(channel).join(JoinRequest::default()).await.unwrap();
    assert!(matches!(controller.peers.recv().await.unwrap().who, Who::Stranger));
}

#[tokio::test]
async fn a_joining_host_refuses_a_controller_with_another_ca() {
    let (fleet, other) = (Fleet::new(), Fleet::new());
    let controller = serve(&fleet.controller(), Strangers::MayJoin).await;
    let key = HostKey::generate().unwrap();
    let refusal = refused(connect_to_join(&controller.address, other.authority.fingerprint(), &key).await).await;
    assert_eq!(refusal, Refusal::OtherCa { wanted: other.authority.fingerprint() });
    // An agent of the right fleet is no controller.
    let agent = serve(&fleet.agent("h1"), Strangers::MayJoin).await;
    let refusal = refused(connect_to_join(&agent.address, fleet.authority.fingerprint(), &key).await).await;
    assert_eq!(
        refusal,
        Refusal::WrongRole { meant: Role::Controller, found: Identity::agent("h1").unwrap() },
        "a member cannot pose as the controller"
    );
}

#[tokio::test]
async fn an_expired_certificate_is_refused_on_both_sides() {
    let fleet = Fleet::new();
    let before = SystemTime::now() - 2 * DAY;
    let old = fleet.member_at(Identity::agent("old").unwrap(), before);
    let h1 = serve(&fleet.agent("h1"), Strangers::Refused).await;
    let refusal = refused(Connector::new(Arc::clone(&old)).agent("h1", &h1.address).await).await;
    assert!(refusal.to_string().contains("expired"), "{refusal}");
    let served = serve(&old, Strangers::Refused).await;
    let connector = Connector::new(fleet.controller());
    assert_eq!(refused(connector.agent("old", &served.address).await).await, Refusal::Expired);
    // Expired is not the same as unknown: it may not pass for somebody who wants to join.
    let controller = serve(&fleet.controller(), Strangers::MayJoin).await;
    let refusal = refused(Connector::new(old).controller(&controller.address).await).await;
    assert!(refusal.to_string().contains("expired"), "{refusal}");
}

#[tokio::test]
async fn a_certificate_of_the_future_is_refused() {
    let fleet = Fleet::new();
    let early = fleet.member_at(Identity::agent("early").unwrap(), SystemTime::now() + DAY);
    let served = serve(&early, Strangers::Refused).await;
    let connector = Connector::new(fleet.controller());
    assert_eq!(refused(connector.agent("early", &served.address).await).await, Refusal::NotYetValid);
}

#[tokio::test]
async fn the_host_that_answers_must_be_the_one_that_was_meant() {
    let fleet = Fleet::new();
    let h1 = serve(&fleet.agent("h1"), Strangers::Refused).await;
    let connector = Connector::new(fleet.controller());
    let found = Identity::agent("h1").unwrap();
    let refusal = refused(connector.agent("h2", &h1.address).await).await;
    assert_eq!(refusal, Refusal::WrongName { meant: "h2".into(), found: found.clone() });
    let refusal = refused(connector.controller(&h1.address).await).await;
    assert_eq!(refusal, Refusal::WrongRole { meant: Role::Controller, found });
    let controller = serve(&fleet.controller(), Strangers::Refused).await;
    let refusal = refused(connector.agent("c", &controller.address).await).await;
    assert!(matches!(refusal, Refusal::WrongRole { meant: Role::Agent, .. }), "{refusal}");
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_and_its_connections_end() {
    let fleet = Fleet::new();
    let identity = Identity::agent("h2").unwrap();
    let key = HostKey::generate().unwrap();
    let issued = fleet.authority.issue(&key.public(), &identity, DAY).unwrap();
    let ca = fleet.authority.certificate().clone();
    let h2 = Credentials::new(identity, &key, issued.certificate.clone(), ca).unwrap();
    let own = fleet.agent("h1");
    let h1 = serve(&own, Strangers::Refused).await;
    let connector = Connector::new(Arc::clone(&h2));
    let mut client = RegistryClient::new(connector.agent("h1", &h1.address).await.unwrap());
    let mut stream = client.attend(tokio_stream::pending()).await.unwrap().into_inner();

    own.revoked().set([(issued.serial.clone(), issued.not_after_ms)]);
    // The open stream ends with the connection, though neither side said a word.
    assert!(stream.message().await.is_err());
    let refusal = refused(connector.agent("h1", &h1.address).await).await;
    assert!(refusal.is_removal(), "{refusal}");
    // It is not accepted as a server either, nor as somebody who wants to join.
    let served = serve(&h2, Strangers::Refused).await;
    assert_eq!(refused(Connector::new(own).agent("h2", &served.address).await).await, Refusal::Revoked);
    let controller = fleet.controller();
    controller.revoked().set([(issued.serial, issued.not_after_ms)]);
    let served = serve(&controller, Strangers::MayJoin).await;
    assert!(refused(connector.controller(&served.address).await).await.is_removal());
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_from_then_on() {
    let fleet = Fleet::new();
    let identity = Identity::agent("h1").unwrap();
    let key = HostKey::generate().unwrap();
    let old = fleet.authority.issue_at(&key.public(), &identity, SystemTime::now() - 2 * DAY, DAY).unwrap();
    let ca = fleet.authority.certificate().clone();
    let h1 = Credentials::new(identity.clone(), &key, old.certificate, ca).unwrap();
    let served = serve(&h1, Strangers::Refused).await;
    let connector = Connector::new(fleet.controller());
    assert_eq!(refused(connector.agent("h1", &served.address).await).await, Refusal::Expired);
    let new = fleet.authority.issue(&key.public(), &identity, DAY).unwrap();
    h1.renew(new.certificate).unwrap();
    connector.agent("h1", &served.address).await.unwrap();
    // Not one of another key.
    let other = fleet.authority.issue(&HostKey::generate().unwrap().public(), &identity, DAY).unwrap();
    assert!(h1.renew(other.certificate).is_err());
}

#[tokio::test]
async fn who_speaks_no_tls_or_shows_nothing_is_refused() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let fleet = Fleet::new();
    let h1 = serve(&fleet.agent("h1"), Strangers::MayJoin).await;
    let mut plain = tokio::net::TcpStream::connect(&h1.address).await.unwrap();
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    drop(plain.read_to_end(&mut answer).await);
    // An alert at most (content type 21), and nothing of HTTP/2.
    assert!(answer.is_empty() || answer[0] == 21, "{answer:?}");
    // The server is there for others still.
    Connector::new(fleet.controller()).agent("h1", &h1.address).await.unwrap();
}

#[tokio::test]
async fn nobody_at_the_address_is_told_from_a_refusal() {
    let fleet = Fleet::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let error = Connector::new(fleet.controller()).agent("h1", &address).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains(&address), "{error}");
}

#[tokio::test]
async fn only_its_own_agent_is_reached_by_a_local_socket() {
    let fleet = Fleet::new();
    let connector = Connector::new(fleet.controller());
    let error = connector.agent("h1", "unix:/run/other.sock").await.unwrap_err();
    assert!(matches!(error, ConnectError::NotLocal(_)), "{error:?}");
}

#[test]
fn a_token_names_the_ca_that_is_pinned() {
    let fleet = Fleet::new();
    let token = Token::new(fleet.authority.fingerprint()).unwrap();
    assert_eq!(token.to_string().parse::<Token>().unwrap().ca, fleet.authority.fingerprint());
    let key = HostKey::generate().unwrap();
    let identity = Identity::agent("h1").unwrap();
    let issued = fleet.authority.issue(&key.public(), &identity, DAY).unwrap();
    assert_eq!(PublicKey::of(&issued.certificate).unwrap().fingerprint(), key.public().fingerprint());
}
