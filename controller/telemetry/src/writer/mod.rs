//! The writer: telemetry batches in, documents in MongoDB out, and nobody ever waits for it.
//!
//! Samples and events part at the sink. Samples go through a bounded queue; a batch whose write fails or takes too
//! long is lost and counted, since the next samples are seconds away. Events stay in an outbox until the server has
//! acknowledged them; their ids make a repeated write harmless.
//!
//! The count of lost samples is in [`WriterStatus`] and in the field `writer_dropped` of the next host sample.

mod connection;
mod events;
mod samples;
mod setup;
mod status;

use std::time::Duration;

use fleet_proto::v1::TelemetryBatch;
use fleet_telemetry::{EventOutbox, Pushed, QueueSender, Recorded, Weigh as _, WhenFull, queue};
use mongodb::Database;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, info_span};

use crate::server::ServerState;
use connection::Connection;
pub use connection::NotConnected;
pub use setup::Retention;
pub use status::WriterStatus;
use status::{Lost, Status};

/// How the writer behaves.
#[derive(Debug, Clone)]
pub struct WriterConfig {
    /// Samples that may wait to be written.
    pub queue_capacity: usize,
    /// What happens to samples when so many wait.
    pub when_full: WhenFull,
    /// Events that may wait for their acknowledgement.
    pub events_capacity: usize,
    /// Documents in one insert.
    pub batch: usize,
    /// How long a sample waits for others to be written with.
    pub linger: Duration,
    /// Longest time for one operation on the database.
    pub operation_deadline: Duration,
    /// First wait after a failure; doubled each time.
    pub backoff_first: Duration,
    /// Longest wait after a failure.
    pub backoff_longest: Duration,
    /// How long the database keeps documents.
    pub retention: Retention,
}

impl Default for WriterConfig {
    fn default() -> Self {
        Self {
            queue_capacity: 50_000,
            when_full: WhenFull::DropOldest,
            events_capacity: 10_000,
            batch: 1000,
            linger: Duration::from_secs(1),
            operation_deadline: Duration::from_secs(5),
            backoff_first: Duration::from_millis(200),
            backoff_longest: Duration::from_secs(10),
            retention: Retention::default(),
        }
    }
}

/// What became of everything that was still to be written at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flushed {
    /// All samples and events were written or had been lost before.
    pub complete: bool,
    /// Samples lost over the writer's whole life.
    pub dropped: u64,
    /// Events that were not acknowledged and go with the writer.
    pub events_pending: usize,
}

/// Where batches are put in. Clones share the writer.
#[derive(Debug, Clone)]
pub struct TelemetrySink {
    samples: QueueSender<TelemetryBatch>,
    events: EventOutbox,
    status: Status,
    closing: CancellationToken,
}

impl TelemetrySink {
    /// Takes a batch. Never waits, whatever state the database is in. Gives back what became of the samples; events
    /// are kept until they are written. Where telemetry is off nothing is kept, and nothing counts as lost.
    pub fn offer(&self, mut batch: TelemetryBatch) -> Pushed {
        if self.closing.is_cancelled() || self.status.is_off() {
            return Pushed::Closed;
        }
        for event in std::mem::take(&mut batch.events) {
            if self.events.record(event) == Recorded::Full {
                self.status.events_lost(1, "more events wait for the database than are kept");
            }
        }
        if batch.weight() == 0 {
            return Pushed::Kept;
        }
        let pushed = self.samples.offer(batch);
        if let Pushed::Dropped(count) = pushed {
            self.status.dropped(count, Lost::QueueFull);
        }
        pushed
    }
}

/// Owns the writer's tasks. Dropping it ends them at once; [`Writer::shutdown`] writes first what is there.
#[derive(Debug)]
pub struct Writer {
    sink: TelemetrySink,
    connection: Connection,
    tasks: Vec<JoinHandle<()>>,
}

impl Writer {
    /// Starts the writer's tasks on the current runtime. `server` is [`crate::ServerSupervisor::state`].
    pub fn start(config: WriterConfig, server: watch::Receiver<ServerState>) -> Self {
        let status = Status::new();
        let closing = CancellationToken::new();
        let (samples, receiver) = queue(config.queue_capacity, config.when_full);
        let events = EventOutbox::new(config.events_capacity);
        let (connection, connecting) = connection::connection(&config, server, status.clone());
        let sink = TelemetrySink { samples, events: events.clone(), status: status.clone(), closing: closing.clone() };
        let samples = samples::SampleWriter {
            config: config.clone(),
            queue: receiver,
            connection: connection.clone(),
            status: status.clone(),
            closing: closing.clone(),
        };
        let events = events::EventWriter { config, outbox: events, connection: connection.clone(), status, closing };
        let tasks = vec![
            tokio::spawn(samples.run().instrument(info_span!("telemetry-samples"))),
            tokio::spawn(events.run().instrument(info_span!("telemetry-events"))),
            tokio::spawn(connecting.instrument(info_span!("telemetry-connection"))),
        ];
        Self { sink, connection, tasks }
    }

    /// Where batches are put in.
    pub fn sink(&self) -> TelemetrySink {
        self.sink.clone()
    }

    /// How it goes, and every change of that.
    pub fn status(&self) -> watch::Receiver<WriterStatus> {
        self.sink.status.subscribe()
    }

    /// The database for queries, or why there is none now. Never waits.
    pub fn database(&self) -> Result<Database, NotConnected> {
        self.connection.now().map(|ready| ready.database)
    }

    /// Takes no more batches, writes what is there, and ends; after `deadline` the rest is given up and counted.
    pub async fn shutdown(mut self, deadline: Duration) -> Flushed {
        self.sink.closing.cancel();
        let at = tokio::time::Instant::now() + deadline;
        let mut complete = true;
        // The two writers end by themselves when all is written; the connection serves them until then.
        for task in &mut self.tasks[..2] {
            if tokio::time::timeout_at(at, &mut *task).await.is_err() {
                complete = false;
                task.abort();
                // Ends now: what it held is counted as it is dropped.
                let _ = task.await;
            }
        }
        let status = self.sink.status.subscribe().borrow().clone();
        let events_pending = self.sink.events.pending();
        Flushed { complete: complete && events_pending == 0, dropped: status.dropped, events_pending }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.sink.closing.cancel();
        for task in &self.tasks {
            task.abort();
        }
    }
}
