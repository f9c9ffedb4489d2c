//! A server that is killed, slow, or refuses: producers never wait, and every sample is written or counted as lost.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fleet_proto::v1::{Event, TelemetryBatch, TelemetryQueryRequest};
use fleet_telemetry::{Pushed, WhenFull};
use fleet_telemetry_db::{Selection, ServerConfig, ServerState, ServerSupervisor, Writer, WriterConfig};
use mongodb::bson::{Document, doc};
use support::{Folder, PATIENCE, Rig, T0, event, host, kill, port, request, running, status, vm};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

fn quick() -> WriterConfig {
    WriterConfig {
        operation_deadline: Duration::from_millis(500),
        linger: Duration::from_millis(20),
        backoff_first: Duration::from_millis(20),
        backoff_longest: Duration::from_millis(200),
        ..WriterConfig::default()
    }
}

async fn count(rig: &Rig, collection: &str) -> u64 {
    rig.database().collection::<Document>(collection).count_documents(doc! {}).await.unwrap()
}

#[tokio::test]
async fn an_event_that_comes_twice_is_stored_once() {
    let rig = Rig::new().await;
    rig.write(vec![event(T0, "a"), event(T0, "b")]).await;
    // A second controller, or this one after a restart, gets the same event again from its agent.
    let other = Writer::start(WriterConfig::default(), rig.server.state());
    other.sink().offer(event(T0, "a"));
    other.sink().offer(event(T0, "c"));
    status(&other, |status| status.events_written == 2).await;
    assert_eq!(count(&rig, "events").await, 3);
    assert!(other.shutdown(PATIENCE).await.complete);
    rig.end().await;
}

#[tokio::test]
async fn an_event_that_the_server_refuses_does_not_hold_up_the_others() {
    let rig = Rig::new().await;
    let validator = doc! { "kind": { "$ne": "refused" } };
    rig.database().run_command(doc! { "collMod": "events", "validator": validator }).await.unwrap();
    let mut batch = event(T0, "good");
    batch.events.push(Event { id: "bad".into(), kind: "refused".into(), ..batch.events[0].clone() });
    batch.events.extend(event(T0, "later").events);
    rig.writer.sink().offer(batch);
    let seen = status(&rig.writer, |status| status.events_written == 2 && status.events_lost == 1).await;
    assert!(seen.last_error.is_some());
    assert_eq!(count(&rig, "events").await, 2);
    rig.end().await;
}

#[tokio::test]
async fn a_server_that_is_killed_amid_writes_delays_nobody_and_writing_goes_on() {
    let rig = Rig::with(WriterConfig { queue_capacity: 200, ..quick() }).await;
    let sink = rig.writer.sink();
    let mut state = rig.server.state();
    let killed = running(&mut state).await.pid.unwrap();
    let mut offered = 0u64;
    let mut offer = |count: u64| {
        for _ in 0..count {
            // `offer` is no future: it cannot wait.
            assert_ne!(sink.offer(vm(T0 + offered, "web[0]", 1.0)), Pushed::Closed);
            if offered.is_multiple_of(50) {
                sink.offer(event(T0 + offered, &format!("event {offered}")));
            }
            offered += 1;
        }
    };
    offer(100);
    status(&rig.writer, |status| status.written > 0).await;
    kill(killed);
    // More than the queue holds, while there is no server.
    status(&rig.writer, |status| !status.connected).await;
    offer(1000);
    assert!(rig.writer.status().borrow().dropped >= 700);
    let again = |state: &ServerState| matches!(state, ServerState::Running(server) if server.pid != Some(killed));
    tokio::time::timeout(PATIENCE, state.wait_for(again)).await.unwrap().unwrap();
    status(&rig.writer, |status| status.connected).await;
    let before = rig.writer.status().borrow().written;
    offer(50);
    status(&rig.writer, |status| status.written >= before + 50 && status.events_written == 23).await;

    // The next host sample tells how many were lost.
    let lost = rig.writer.status().borrow().dropped;
    rig.write(vec![host(T0, 0)]).await;
    let rows = rig.query(&request(&["writer_dropped"]), Selection::default()).await;
    assert_eq!(rows[1][2], lost.to_string());

    assert_eq!(count(&rig, "events").await, 23);
    let seen = rig.writer.status().borrow().clone();
    // One of the written is the host sample.
    assert_eq!(seen.written + seen.dropped, offered + 1, "every sample is written or counted: {seen:?}");
    assert_eq!(count(&rig, "vm_samples").await, seen.written - 1);
    rig.end().await;
}

/// A way to the server that can be made to stand still: connections stay open and nothing passes.
struct Proxy {
    address: SocketAddr,
    open: Arc<watch::Sender<bool>>,
    _connections: JoinSet<()>,
}

impl Proxy {
    async fn to(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let open = Arc::new(watch::channel(true).0);
        let gate = open.subscribe();
        let mut connections = JoinSet::new();
        connections.spawn(async move {
            let mut pipes = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(&target).await else { continue };
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                pipes.spawn(pipe(from_client, to_server, gate.clone()));
                pipes.spawn(pipe(from_server, to_client, gate.clone()));
            }
        });
        Self { address, open, _connections: connections }
    }
}

async fn pipe(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut gate: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if gate.wait_for(|open| *open).await.is_err() || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_server_that_stands_still_delays_nobody_and_writing_goes_on_when_it_moves() {
    let folder = Folder::new();
    let server = ServerSupervisor::start(folder.config());
    let found = running(&mut server.state()).await;
    let target = found.uri.trim_start_matches("mongodb://").split('/').next().unwrap().to_owned();
    let proxy = Proxy::to(target).await;
    let uri = Some(format!("mongodb://{}/?directConnection=true", proxy.address));
    let through = ServerSupervisor::start(ServerConfig { uri, ..folder.config() });
    let writer = Writer::start(WriterConfig { queue_capacity: 100, ..quick() }, through.state());
    status(&writer, |status| status.connected).await;
    let sink = writer.sink();
    sink.offer(vm(T0, "web[0]", 1.0));
    status(&writer, |status| status.written == 1).await;

    proxy.open.send_replace(false);
    sink.offer(event(T0, "kept"));
    for index in 0..500 {
        sink.offer(vm(T0 + index, "web[0]", 1.0));
    }
    // The operation under way ends by its own deadline, and its samples are counted.
    let seen = status(&writer, |status| !status.connected && status.dropped > 0).await;
    assert!(seen.last_error.is_some(), "{seen:?}");
    assert!(writer.database().is_err());
    proxy.open.send_replace(true);
    status(&writer, |status| status.connected).await;
    sink.offer(vm(T0, "web[0]", 1.0));
    let seen = status(&writer, |status| status.events_written == 1 && status.written + status.dropped == 502).await;
    assert!(seen.written > 1 && seen.dropped >= 400, "{seen:?}");
    assert!(writer.shutdown(PATIENCE).await.complete);
    through.stop().await.unwrap();
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_shutdown_writes_what_is_there() {
    let rig = Rig::with(WriterConfig { linger: PATIENCE, ..WriterConfig::default() }).await;
    let sink = rig.writer.sink();
    for index in 0..2500 {
        sink.offer(port(T0 + index, "web[0]", index));
    }
    sink.offer(event(T0, "last words"));
    let status = rig.writer.status();
    let flushed = rig.writer.shutdown(PATIENCE).await;
    assert!(flushed.complete && flushed.dropped == 0, "{flushed:?}");
    assert_eq!((status.borrow().written, status.borrow().events_written), (2500, 1));
    assert_eq!(sink.offer(host(T0, 0)), Pushed::Closed);
    rig.server.stop().await.unwrap();
}

#[tokio::test]
async fn a_shutdown_without_a_server_ends_at_its_deadline_and_counts_what_is_lost() {
    let (_state, never) = watch::channel(ServerState::Starting);
    let writer = Writer::start(quick(), never);
    for index in 0..30 {
        writer.sink().offer(vm(T0 + index, "web[0]", 1.0));
    }
    writer.sink().offer(event(T0, "lost"));
    let flushed = writer.shutdown(Duration::from_millis(50)).await;
    assert!(!flushed.complete);
    assert_eq!((flushed.dropped, flushed.events_pending), (30, 1));
}

#[tokio::test]
async fn the_policy_says_which_samples_a_full_queue_keeps() {
    for (when_full, kept) in [(WhenFull::DropOldest, ["7", "8", "9"]), (WhenFull::DropNewest, ["0", "1", "2"])] {
        let folder = Folder::new();
        let server = ServerSupervisor::start(folder.config());
        let found = running(&mut server.state()).await;
        // The writer hears of the server only after everything was offered.
        let (tell, told) = watch::channel(ServerState::Starting);
        let writer = Writer::start(WriterConfig { queue_capacity: 3, when_full, ..WriterConfig::default() }, told);
        for index in 0..10u32 {
            writer.sink().offer(vm(T0 + u64::from(index), "web[0]", f64::from(index)));
        }
        tell.send_replace(ServerState::Running(found));
        status(&writer, |status| status.written == 3 && status.dropped == 7).await;
        let rig = Rig { writer, server, folder };
        let rows = rig.query(&TelemetryQueryRequest { limit: 10, ..request(&["cpu"]) }, Selection::default()).await;
        assert_eq!(rows[1..].iter().map(|row| row[4].as_str()).collect::<Vec<_>>(), kept, "{when_full:?}");
        rig.end().await;
    }
}

#[tokio::test]
async fn an_empty_batch_is_nothing() {
    let (_state, never) = watch::channel(ServerState::Starting);
    let writer = Writer::start(quick(), never);
    assert_eq!(writer.sink().offer(TelemetryBatch::default()), Pushed::Kept);
    assert!(writer.shutdown(PATIENCE).await.complete);
}
