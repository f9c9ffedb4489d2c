//! A real server in a folder of its own, gone when the test ends, however it ends.
#![allow(dead_code, clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use fleet_proto::v1::{Event, HostSample, PortSample, TelemetryBatch, TelemetryQueryRequest, VmSample};
use fleet_telemetry_db::server::RunningServer;
use fleet_telemetry_db::{
    ProgramSearch, Query, Selection, ServerConfig, ServerState, ServerSupervisor, Writer, WriterConfig, WriterStatus,
};
use mongodb::Database;
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::watch;
use tokio::time::timeout;

/// No test asserts a time: this only turns a hang into a failure.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A folder for a server; at its end no process of it is left.
pub struct Folder(pub tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// The server that the set-up installed.
    pub fn config(&self) -> ServerConfig {
        let search = ProgramSearch { path: None, ..ProgramSearch::from_env() };
        let tools = search.tools.clone().unwrap_or_default();
        assert!(
            tools.join("bin/secantusd-rs").exists(),
            "the telemetry server is not installed in {}; run deploy/telemetry-server.sh (`make test` does)",
            tools.display()
        );
        ServerConfig { search, cache_mib: 64, ..ServerConfig::local(self.0.path()) }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        for pid in processes_in(self.0.path()) {
            kill(pid);
        }
    }
}

/// Pids of the processes whose arguments name this folder.
pub fn processes_in(folder: &Path) -> Vec<u32> {
    let folder = folder.to_str().unwrap();
    let pids =
        std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        *pid != std::process::id() && String::from_utf8_lossy(&arguments).contains(folder)
    })
    .collect()
}

pub fn kill(pid: u32) {
    let _ = kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL);
}

/// The server once it runs; one that cannot even start fails the test at once, with its words.
pub async fn running(state: &mut watch::Receiver<ServerState>) -> RunningServer {
    let done = |state: &ServerState| match state {
        ServerState::Running(_) => true,
        ServerState::Down { reason } => reason.contains("before it listened"),
        ServerState::Off { .. } | ServerState::Starting => false,
    };
    let found = timeout(PATIENCE, state.wait_for(done)).await.map(|state| state.unwrap().clone());
    match found {
        Ok(ServerState::Running(server)) => server,
        _ => panic!("no server runs: {:?}", *state.borrow()),
    }
}

/// The writer's status once it is so.
pub async fn status(writer: &Writer, so: impl FnMut(&WriterStatus) -> bool) -> WriterStatus {
    let mut status = writer.status();
    let found = timeout(PATIENCE, status.wait_for(so)).await.map(|status| status.unwrap().clone());
    match found {
        Ok(status) => status,
        Err(_) => panic!("the status did not come to that: {:?}", *status.borrow()),
    }
}

/// A server with a writer that is connected to it.
pub struct Rig {
    pub writer: Writer,
    pub server: ServerSupervisor,
    pub folder: Folder,
}

impl Rig {
    pub async fn new() -> Self {
        Self::with(WriterConfig::default()).await
    }

    pub async fn with(config: WriterConfig) -> Self {
        let folder = Folder::new();
        let server = ServerSupervisor::start(folder.config());
        running(&mut server.state()).await;
        let writer = Writer::start(config, server.state());
        status(&writer, |status| status.connected).await;
        Self { writer, server, folder }
    }

    pub fn database(&self) -> Database {
        self.writer.database().unwrap()
    }

    /// Writes batches and waits until the database has acknowledged every sample and event of them.
    pub async fn write(&self, batches: Vec<TelemetryBatch>) {
        let sink = self.writer.sink();
        let before = self.writer.status().borrow().clone();
        let (mut samples, mut events) = (before.written, before.events_written);
        for batch in batches {
            samples += (batch.hosts.len() + batch.vms.len() + batch.ports.len()) as u64;
            events += batch.events.len() as u64;
            sink.offer(batch);
        }
        status(&self.writer, |status| status.written >= samples && status.events_written >= events).await;
    }

    /// The rows of a query, the columns first.
    pub async fn query(&self, request: &TelemetryQueryRequest, selection: Selection) -> Vec<Vec<String>> {
        let query = Query::from_request(request, selection).unwrap();
        let mut rows = query.run(&self.database(), PATIENCE).await.unwrap();
        let mut all = vec![rows.columns().to_vec()];
        while let Some(row) = rows.next_row().await.unwrap() {
            all.push(row.values);
        }
        all
    }

    pub async fn end(self) {
        let flushed = self.writer.shutdown(PATIENCE).await;
        assert!(flushed.complete, "{flushed:?}");
        self.server.stop().await.unwrap();
        assert_eq!(processes_in(self.folder.0.path()), [] as [u32; 0]);
    }
}

/// A whole minute in the past: buckets of 30 s begin with it.
pub const T0: u64 = 1_700_000_040_000;

pub fn vm(ts_ms: u64, vm: &str, cpu: f64) -> TelemetryBatch {
    let sample = VmSample {
        experiment: "hello".into(),
        host: "h1".into(),
        vm: vm.into(),
        cpu_percent: cpu,
        memory: 1000,
        cpu_time_ms: 5,
    };
    TelemetryBatch { ts_ms, vms: vec![sample], ..TelemetryBatch::default() }
}

pub fn port(ts_ms: u64, vm: &str, rx_bytes: u64) -> TelemetryBatch {
    let sample = PortSample {
        experiment: "hello".into(),
        host: "h1".into(),
        vm: vm.into(),
        port: "eth0".into(),
        segment: "office".into(),
        rx_bytes,
        ..PortSample::default()
    };
    TelemetryBatch { ts_ms, ports: vec![sample], ..TelemetryBatch::default() }
}

pub fn host(ts_ms: u64, dropped: u64) -> TelemetryBatch {
    let sample = HostSample { host: "h1".into(), cpu_percent: 12.5, dropped, ..HostSample::default() };
    TelemetryBatch { ts_ms, hosts: vec![sample], ..TelemetryBatch::default() }
}

pub fn event(ts_ms: u64, id: &str) -> TelemetryBatch {
    let event = Event {
        ts_ms,
        id: id.into(),
        kind: "vm.running".into(),
        experiment: "hello".into(),
        host: "h1".into(),
        vm: "web[0]".into(),
        message: "answered".into(),
    };
    TelemetryBatch { ts_ms, events: vec![event], ..TelemetryBatch::default() }
}

pub fn request(metrics: &[&str]) -> TelemetryQueryRequest {
    let metrics = metrics.iter().map(ToString::to_string).collect();
    TelemetryQueryRequest { metrics, ..TelemetryQueryRequest::default() }
}
