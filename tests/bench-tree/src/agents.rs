//! Agents of a fleet in this process: real nodes, each with a certificate, a port on loopback and a server.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use fleet_pki::{Authority, Connector, Credentials, HostKey, Identity, Strangers, incoming, server};
use fleet_proto::v1::registry_client::RegistryClient;
use fleet_proto::v1::registry_server::{Registry, RegistryServer};
use fleet_proto::v1::{ControllerWord, HostWord, Member, Membership, RenewRequest};
use fleet_tree::grpc::{self, Connector as _, GrpcLink, service};
use fleet_tree::{ClockWatch, Config, ConnectError, Link, Local, Members, MemoryLog, Node, Parts, plan};
use futures::stream::BoxStream;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

const LIFE: Duration = Duration::from_secs(24 * 3600);
/// Bytes of the answer of the bare call: as many as the end of a host's part has.
const ANSWER: usize = 80;

/// Agents that serve. Dropped, they end.
pub struct Agents {
    pub members: Members,
    pub clock: Arc<ClockWatch>,
    links: Vec<ToMembers>,
    authority: Authority,
    _dir: tempfile::TempDir,
    runtime: Option<Runtime>,
}

impl Agents {
    /// So many, whose work is made for each by its name.
    pub fn start<L: Local>(count: usize, work: impl Fn(&str) -> L) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path()).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let clock = runtime.block_on(async { ClockWatch::start() });
        let (mut members, mut links) = (Vec::new(), Vec::new());
        for index in 0..count {
            let name = format!("h{index}");
            let credentials = credentials(&authority, Identity::agent(&name).unwrap());
            let link = ToMembers::new(&credentials);
            let parts = Parts {
                name: name.clone(),
                link: link.link(),
                local: Arc::new(work(&name)),
                log: Arc::new(MemoryLog::default()),
                config: Config::default(),
                clock: Arc::clone(&clock),
            };
            let address = runtime.block_on(serve(parts, &credentials));
            links.push(link);
            members.push(Member { name, address, rack: format!("r{}", index / 40) });
        }
        let members = Members::new(members).unwrap();
        Self { members, clock, links, authority, _dir: dir, runtime: Some(runtime) }
    }

    /// Makes the connections that waves with this k need between agents, one after the other: on one machine all at once
    /// would run into the deadlines of hosts that have a processor each.
    pub fn connect(&self, k: u32) -> Result<(), ConnectError> {
        let runtime = self.runtime.as_ref().unwrap();
        for (link, children) in self.below(k) {
            let connect = async move {
                for child in children {
                    link.channel(&child).await?;
                }
                Ok(())
            };
            runtime.block_on(async { tokio::spawn(connect).await.unwrap() })?;
        }
        Ok(())
    }

    /// A bare call from every agent to all that are [`below`](Self::below) it.
    pub async fn call_below(&self, below: Vec<(ToMembers, Vec<Member>)>) {
        let runtime = self.runtime.as_ref().unwrap();
        let call = async |link: ToMembers, children: Vec<Member>| call_each(&link, &children).await.unwrap();
        let calls = below.into_iter().map(|(link, children)| runtime.spawn(call(link, children)));
        for call in calls.collect::<Vec<_>>() {
            call.await.unwrap();
        }
    }

    /// Whom agents tell in a wave with this k.
    pub fn below(&self, k: u32) -> Vec<(ToMembers, Vec<Member>)> {
        let mut below = Vec::new();
        let mut runs = plan::branches(self.members.as_slice(), k);
        while let Some(run) = runs.pop() {
            let members = self.members.as_slice().get(run.clone()).unwrap_or_default();
            let branches = plan::below(members, k);
            if branches.is_empty() {
                continue;
            }
            let children = branches.iter().map(|branch| members[branch.start].clone()).collect();
            below.push((self.links[run.start].clone(), children));
            runs.extend(branches.into_iter().map(|branch| run.start + branch.start..run.start + branch.end));
        }
        below
    }

    /// The controller's way to them.
    pub fn controller(&self) -> ToMembers {
        ToMembers::new(&credentials(&self.authority, Identity::controller("controller").unwrap()))
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn credentials(authority: &Authority, identity: Identity) -> Arc<Credentials> {
    let key = HostKey::generate().unwrap();
    let issued = authority.issue(&key.public(), &identity, LIFE).unwrap();
    Credentials::new(identity, &key, issued.certificate, authority.certificate().clone()).unwrap()
}

async fn serve(parts: Parts, credentials: &Arc<Credentials>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let incoming = incoming(listener, credentials, Strangers::Refused).unwrap();
    let router = server(LIFE).add_service(service(Node::new(parts))).add_service(RegistryServer::new(Bare));
    tokio::spawn(router.serve_with_incoming(incoming));
    address
}

/// Channels over mutual TLS, kept: waves and bare calls use the same. Cheap to clone.
#[derive(Clone)]
pub struct ToMembers {
    connector: Connector,
    kept: Arc<Mutex<HashMap<String, Channel>>>,
}

impl ToMembers {
    fn new(credentials: &Arc<Credentials>) -> Self {
        Self { connector: Connector::new(Arc::clone(credentials)), kept: Arc::default() }
    }

    /// As a link of a root.
    pub fn link(&self) -> Arc<dyn Link> {
        Arc::new(GrpcLink::new(self.clone()))
    }
}

/// A bare call to each of these members at once.
pub async fn call_each(to: &ToMembers, members: &[Member]) -> Result<(), String> {
    let calls = members.iter().map(async |member| {
        let channel = to.channel(member).await.map_err(|error| error.0)?;
        RegistryClient::new(channel).renew(RenewRequest {}).await.map_err(|status| status.to_string())
    });
    futures::future::try_join_all(calls).await.map(drop)
}

#[async_trait]
impl grpc::Connector for ToMembers {
    async fn channel(&self, member: &Member) -> Result<Channel, ConnectError> {
        if let Some(channel) = self.kept.lock().unwrap().get(&member.address) {
            return Ok(channel.clone());
        }
        let made = self.connector.agent(&member.name, &member.address).await;
        let channel = made.map_err(|error| grpc::connect_error(&error))?;
        self.kept.lock().unwrap().insert(member.address.clone(), channel.clone());
        Ok(channel)
    }
}

/// The floor: a call that does nothing.
struct Bare;

#[tonic::async_trait]
impl Registry for Bare {
    type AttendStream = BoxStream<'static, Result<ControllerWord, Status>>;

    async fn renew(&self, _: Request<RenewRequest>) -> Result<Response<Membership>, Status> {
        Ok(Response::new(Membership { certificate: vec![7; ANSWER], ..Membership::default() }))
    }

    async fn attend(&self, _: Request<Streaming<HostWord>>) -> Result<Response<Self::AttendStream>, Status> {
        Err(Status::unimplemented("nobody attends a benchmark"))
    }
}
