//! Waves over real connections: Unix sockets and loopback.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::sync::Arc;

use fleet_proto::v1::{Member, Outcome};
use fleet_tree::grpc::{GrpcLink, Plain, keepalive, service};
use fleet_tree::{Call, ClockWatch, Config, Event, Members, MemoryLog, Node, Parts, Root, recommended_k};
use support::*;
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Runtime;
use tokio::time::Duration;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::Server;

/// Real agents, the even ones behind sockets, the odd ones on loopback.
struct Agents {
    _dir: tempfile::TempDir,
    /// Each in a runtime of its own, as in a process of its own.
    runtimes: Vec<Option<Runtime>>,
    members: Members,
    root: Root,
    ledger: Arc<Ledger>,
}

impl Agents {
    async fn start(count: usize, takes: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Arc::new(Ledger::default());
        let clock = ClockWatch::start();
        let (mut runtimes, mut members) = (Vec::new(), Vec::new());
        for index in 0..count {
            let local = Work { name: name(index), ledger: Arc::clone(&ledger), takes };
            let node = Node::new(Parts {
                name: name(index),
                link: Arc::new(link()),
                local: Arc::new(local),
                log: Arc::new(MemoryLog::default()),
                config: Config::default(),
                clock: Arc::clone(&clock),
            });
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let dir = dir.path().to_owned();
            let address = runtime.spawn(async move { serve(node, index, &dir).await }).await.unwrap();
            runtimes.push(Some(runtime));
            members.push(Member { name: name(index), address, rack: String::new() });
        }
        let members = Members::new(members).unwrap();
        let root = Root::new(Arc::new(link()), Config::default(), clock);
        Self { _dir: dir, runtimes, members, root, ledger }
    }

    /// As `kill -9` would: connections break, and nobody listens.
    fn kill(&mut self, index: usize) {
        self.runtimes[index].take().unwrap().shutdown_background();
    }

    fn call(&self, call: Call) -> Call {
        Call { members: self.members.clone(), k: 2, ..call }
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        self.runtimes.iter_mut().filter_map(Option::take).for_each(Runtime::shutdown_background);
    }
}

fn link() -> GrpcLink {
    GrpcLink::new(Plain { connect_timeout: Duration::from_secs(5) })
}

async fn serve(node: Node, index: usize, dir: &Path) -> String {
    let router = keepalive(Server::builder()).add_service(service(node));
    if index.is_multiple_of(2) {
        let path = dir.join(format!("{index}.sock"));
        let incoming = UnixListenerStream::new(UnixListener::bind(&path).unwrap());
        tokio::spawn(router.serve_with_incoming(incoming));
        return format!("unix:{}", path.display());
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

fn call(agents: &Agents, op: &str, task: fleet_proto::v1::task::Task) -> Call {
    agents.call(Call {
        op: fleet_proto::v1::OpHeader { op_id: op.to_owned(), epoch: 1, generation: 0 },
        members: agents.members.clone(),
        k: recommended_k(1),
        dead: Vec::new(),
        task: fleet_proto::v1::Task { task: Some(task) },
        content: Vec::new(),
        deadline: Duration::from_secs(60),
        again: false,
    })
}

fn apply(agents: &Agents, op: &str) -> Call {
    let spec = vec![1_u8; 100_000];
    let apply = fleet_proto::v1::ApplyTask { spec: fleet_tree::hash_of(&spec).to_vec(), dry_run: false };
    Call { content: vec![spec.into()], ..call(agents, op, fleet_proto::v1::task::Task::Apply(apply)) }
}

#[tokio::test]
async fn a_wave_goes_over_sockets_and_loopback() {
    let agents = Agents::start(12, Duration::ZERO).await;
    for op in ["first", "second", "second"] {
        let end = agents.root.wave(apply(&agents, op)).unwrap().end().await.unwrap();
        assert_eq!((count(&end, Outcome::Ok), hosts(&end)), (12, 12), "{:?}", end.hosts);
    }
    assert!((0..12).all(|host| agents.ledger.begun(&name(host), "second") == 1));
    let mut wave = agents.root.wave(call(&agents, "info", info())).unwrap();
    let mut replies = 0;
    while let Some(event) = wave.next().await {
        replies += u32::from(matches!(event, Event::Reply(_)));
    }
    assert_eq!(replies, 12);
}

#[tokio::test]
async fn a_dead_interior_agent_costs_only_itself() {
    let mut agents = Agents::start(12, Duration::ZERO).await;
    let end = agents.root.wave(apply(&agents, "before")).unwrap().end().await.unwrap();
    assert_eq!(count(&end, Outcome::Ok), 12);
    // 0 and 6 are the root's children; warm channels to them exist.
    agents.kill(0);
    let end = agents.root.wave(apply(&agents, "after")).unwrap().end().await.unwrap();
    assert_eq!((count(&end, Outcome::Ok), hosts(&end)), (11, 12), "{:?}", end.hosts);
    // What was on its way over a warm connection may have been told.
    let lost = [named(&end, Outcome::NotReached), named(&end, Outcome::Unknown)].concat();
    assert_eq!(lost, ["h0"]);
    let end = agents.root.wave(apply(&agents, "later")).unwrap().end().await.unwrap();
    assert_eq!((named(&end, Outcome::NotReached), end.dead), (vec!["h0".to_owned()], vec![0]));
}

#[tokio::test]
async fn an_agent_that_dies_in_the_middle_is_unknown_and_its_children_act_once() {
    let mut agents = Agents::start(12, Duration::from_millis(500)).await;
    let wave = agents.root.wave(apply(&agents, "op")).unwrap();
    // Until all have begun.
    while (0..12).any(|host| agents.ledger.begun(&name(host), "op") == 0) {
        tokio::task::yield_now().await;
    }
    agents.kill(6);
    let end = wave.end().await.unwrap();
    assert_eq!((count(&end, Outcome::Ok), hosts(&end)), (11, 12), "{:?}", end.hosts);
    assert_eq!(named(&end, Outcome::Unknown), ["h6"]);
    assert!((0..12).all(|host| agents.ledger.begun(&name(host), "op") == 1));
}

#[tokio::test]
async fn a_stale_controller_and_a_wrong_address_are_refused() {
    let agents = Agents::start(3, Duration::ZERO).await;
    let mut newer = apply(&agents, "newer");
    newer.op.epoch = 5;
    assert_eq!(count(&agents.root.wave(newer).unwrap().end().await.unwrap(), Outcome::Ok), 3);
    let end = agents.root.wave(apply(&agents, "stale")).unwrap().end().await.unwrap();
    assert_eq!((count(&end, Outcome::Failed), count(&end, Outcome::NotReached), hosts(&end)), (2, 1, 3));
    assert!(end.hosts.iter().all(|fold| fold.reason == "refused: epoch 1 is over, 5 was seen"), "{:?}", end.hosts);

    let mut list = agents.members.as_slice().to_vec();
    let (first, last) = (list[0].address.clone(), list[2].address.clone());
    (list[0].address, list[2].address) = (last, first);
    let mut swapped = apply(&agents, "swapped");
    swapped.op.epoch = 5;
    swapped.members = Members::new(list).unwrap();
    let end = agents.root.wave(swapped).unwrap().end().await.unwrap();
    assert_eq!((named(&end, Outcome::Ok), named(&end, Outcome::Failed)), (vec![name(1)], vec![name(0), name(2)]));
    assert_eq!(agents.ledger.begun("h0", "swapped"), 0);
}
