//! The task that writes samples: batches of documents, one insert a collection, lost and counted if that fails.

use std::time::Duration;

use fleet_proto::v1::TelemetryBatch;
use fleet_telemetry::{QueueReceiver, Weigh as _};
use mongodb::Database;
use mongodb::bson::Document;
use mongodb::error::ErrorKind;
use mongodb::options::{Acknowledgment, WriteConcern};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::WriterConfig;
use super::connection::Connection;
use super::status::{Lost, Status};
use crate::document::{self, Documents};
use crate::metric_definitions::WRITE_SECONDS;
use crate::schema::Collection;

pub(super) struct SampleWriter {
    pub(super) config: WriterConfig,
    pub(super) queue: QueueReceiver<TelemetryBatch>,
    pub(super) connection: Connection,
    pub(super) status: Status,
    pub(super) closing: CancellationToken,
}

impl SampleWriter {
    /// Runs until the writer closes and the queue is empty.
    pub(super) async fn run(mut self) {
        loop {
            // Nothing is taken out before it can be written: while the database is away samples wait in the queue,
            // whose bound and policy count.
            let ready = tokio::select! {
                ready = self.connection.ready() => ready,
                () = self.closed_and_empty() => return,
            };
            let Some(held) = self.gather().await else { return };
            if !self.write(&ready.database, held).await {
                self.connection.report(&ready);
            }
        }
    }

    /// Ends when there is nothing to write and nothing will come.
    async fn closed_and_empty(&self) {
        self.closing.cancelled().await;
        if self.queue.waiting() > 0 {
            std::future::pending::<()>().await;
        }
    }

    /// Batches worth an insert: until there are enough samples, or the first has waited long enough. `None` at the end.
    async fn gather(&mut self) -> Option<Held> {
        let mut held = Held { batches: Vec::new(), samples: 0, status: self.status.clone() };
        tokio::select! {
            biased;
            first = self.queue.recv() => held.add(first?),
            () = self.closing.cancelled() => held.add(self.queue.try_recv()?),
        }
        let until = Instant::now() + self.config.linger;
        while held.samples < self.config.batch {
            let next = match self.closing.is_cancelled() {
                true => self.queue.try_recv(),
                false => tokio::select! {
                    next = timeout_at(until, self.queue.recv()) => next.ok().flatten(),
                    () = self.closing.cancelled() => continue,
                },
            };
            match next {
                Some(batch) => held.add(batch),
                None => break,
            }
        }
        Some(held)
    }

    /// Writes everything that is held. False if the database did not answer.
    async fn write(&self, database: &Database, mut held: Held) -> bool {
        let mut documents: [Vec<Document>; Collection::SERIES.len()] = Default::default();
        let lost = self.status.samples_dropped();
        for batch in &held.batches {
            for Documents { collection, documents: more } in document::samples(batch, lost) {
                if let Some(at) = Collection::SERIES.iter().position(|of| *of == collection) {
                    documents[at].extend(more);
                }
            }
        }
        held.batches.clear();
        for (collection, documents) in Collection::SERIES.into_iter().zip(documents) {
            for chunk in documents.chunks(self.config.batch.max(1)) {
                let size = chunk.len();
                match insert(database, collection, chunk, self.config.operation_deadline).await {
                    Ok(written) => {
                        self.status.written(collection, written as u64);
                        self.status.dropped((size - written) as u64, Lost::WriteFailed);
                        held.samples -= size;
                    }
                    Err(error) => {
                        debug!(%error, %collection, size, "samples were not written");
                        self.status.failed(&error.to_string());
                        // The rest would most likely wait as long and be lost as well: `held` counts it.
                        return false;
                    }
                }
            }
        }
        true
    }
}

/// Samples on their way from the queue to the database. Those that are still here when it is dropped are lost, also
/// when that is because the task was aborted.
struct Held {
    batches: Vec<TelemetryBatch>,
    samples: usize,
    status: Status,
}

impl Held {
    fn add(&mut self, batch: TelemetryBatch) {
        self.samples += batch.weight();
        self.batches.push(batch);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.status.dropped(self.samples as u64, Lost::WriteFailed);
    }
}

impl Drop for SampleWriter {
    fn drop(&mut self) {
        self.status.dropped(self.queue.waiting() as u64, Lost::Shutdown);
    }
}

/// Why an insert came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum InsertError {
    /// The driver's word.
    #[error("{0}")]
    Driver(#[from] mongodb::error::Error),
    /// The server is too slow.
    #[error("the telemetry database did not take {documents} documents within {} s", .deadline.as_secs_f32())]
    Deadline { documents: usize, deadline: Duration },
}

/// One unordered insert; how many documents were written. Documents that the server refuses one by one are no error.
async fn insert(
    database: &Database,
    collection: Collection,
    documents: &[Document],
    deadline: Duration,
) -> Result<usize, InsertError> {
    match insert_many(database, collection, documents, deadline).await {
        Ok(()) => Ok(documents.len()),
        Err(InsertError::Driver(error)) => match error.kind.as_ref() {
            ErrorKind::InsertMany(many) if many.write_concern_error.is_none() => {
                let refused = many.write_errors.as_ref().map_or(0, Vec::len);
                Ok(documents.len().saturating_sub(refused))
            }
            _ => Err(error.into()),
        },
        Err(error) => Err(error),
    }
}

/// One unordered insert with a deadline, timed.
pub(super) async fn insert_many(
    database: &Database,
    collection: Collection,
    documents: &[Document],
    deadline: Duration,
) -> Result<(), InsertError> {
    let began = Instant::now();
    let target = database.collection::<Document>(collection.name());
    let mut insert = target.insert_many(documents).ordered(false);
    if collection == Collection::Events {
        // An event is forgotten here once it is acknowledged, so that must mean that it is on the disk.
        insert = insert.write_concern(WriteConcern::builder().w(Acknowledgment::Nodes(1)).journal(true).build());
    }
    let inserted = timeout(deadline, async { insert.await }).await;
    metrics::histogram!(WRITE_SECONDS).record(began.elapsed().as_secs_f64());
    match inserted {
        Ok(inserted) => Ok(inserted.map(drop)?),
        Err(_) => Err(InsertError::Deadline { documents: documents.len(), deadline }),
    }
}
