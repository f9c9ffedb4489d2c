//! Documents a second through the whole writer into the local server, beside the floor: the same documents inserted by
//! the bare driver. Run it with `cargo bench -p fleet-telemetry-db`.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use fleet_proto::v1::{TelemetryBatch, VmSample};
use fleet_telemetry_db::{ServerConfig, ServerState, ServerSupervisor, Writer, WriterConfig, document};
use mongodb::bson::Document;

const BATCHES: u64 = 60;
const SAMPLES: u64 = 1000;

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().unwrap();
    let server = ServerSupervisor::start(ServerConfig::local(folder.path()));
    let mut state = server.state();
    state.wait_for(|state| matches!(state, ServerState::Running(_))).await.unwrap();
    let config = WriterConfig { queue_capacity: (BATCHES * SAMPLES) as usize, ..WriterConfig::default() };
    let writer = Writer::start(config, server.state());
    let mut status = writer.status();
    status.wait_for(|status| status.connected).await.unwrap();

    let began = Instant::now();
    for instant in 0..BATCHES {
        writer.sink().offer(batch(instant));
    }
    let offered = began.elapsed();
    status.wait_for(|status| status.written == BATCHES * SAMPLES).await.unwrap();
    let written = began.elapsed();

    let collection = writer.database().unwrap().collection::<Document>("vm_samples");
    let documents: Vec<Vec<Document>> =
        (0..BATCHES).map(|instant| document::samples(&batch(BATCHES + instant), 0).remove(0).documents).collect();
    let began = Instant::now();
    for documents in documents {
        collection.insert_many(documents).ordered(false).await.unwrap();
    }
    let floor = began.elapsed();

    println!(
        "writer: {:.0} documents/s; a producer spent {offered:?} for {} samples",
        rate(written),
        BATCHES * SAMPLES
    );
    println!("floor, bare driver: {:.0} documents/s", rate(floor));
    println!("ratio of times {:.2}", written.as_secs_f64() / floor.as_secs_f64());
    writer.shutdown(Duration::from_secs(10)).await;
    server.stop().await.unwrap();
}

fn rate(time: Duration) -> f64 {
    (BATCHES * SAMPLES) as f64 / time.as_secs_f64()
}

fn batch(instant: u64) -> TelemetryBatch {
    let sample = |index| VmSample {
        experiment: "bench".into(),
        host: "h1".into(),
        vm: format!("web[{index}]"),
        cpu_percent: index as f64 / 7.0,
        memory: 30 << 20,
        cpu_time_ms: instant * 100,
    };
    TelemetryBatch {
        ts_ms: 1_700_000_000_000 + instant * 5000,
        vms: (0..SAMPLES).map(sample).collect(),
        ..Default::default()
    }
}
