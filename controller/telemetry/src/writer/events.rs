//! The task that writes events: again until the server has acknowledged each, which its id makes harmless.

use fleet_telemetry::EventOutbox;
use mongodb::error::{ErrorKind, IndexedWriteError};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::WriterConfig;
use super::connection::Connection;
use super::samples::{InsertError, insert_many};
use super::status::Status;
use crate::document;
use crate::schema::Collection;

/// The server's code for "there is a document of this `_id`".
const DUPLICATE_KEY: i32 = 11000;

pub(super) struct EventWriter {
    pub(super) config: WriterConfig,
    pub(super) outbox: EventOutbox,
    pub(super) connection: Connection,
    pub(super) status: Status,
    pub(super) closing: CancellationToken,
}

impl EventWriter {
    /// Runs until the writer closes and nothing waits for its acknowledgement.
    pub(super) async fn run(self) {
        let mut reader = self.outbox.reader();
        loop {
            let events = tokio::select! {
                biased;
                events = reader.next(self.config.batch) => events,
                () = self.closing.cancelled() => return,
            };
            let ready = self.connection.ready().await;
            let documents: Vec<_> = events.iter().map(document::event).collect();
            let deadline = self.config.operation_deadline;
            let refused = match insert_many(&ready.database, Collection::Events, &documents, deadline).await {
                Ok(()) => Vec::new(),
                Err(error) => match refusals(&error) {
                    Some(refused) => refused,
                    None => {
                        debug!(%error, count = events.len(), "events were not written; they are kept");
                        self.status.failed(&error.to_string());
                        self.connection.report(&ready);
                        reader.rewind();
                        continue;
                    }
                },
            };
            // A duplicate is an event that was written before its acknowledgement was lost: all is well. What the
            // server refuses for another reason it would refuse for ever.
            let bad: Vec<_> = refused.iter().filter(|refusal| refusal.code != DUPLICATE_KEY).collect();
            if let Some(first) = bad.first() {
                self.status.events_lost(bad.len() as u64, &first.message);
            }
            self.status.written(Collection::Events, (events.len().saturating_sub(bad.len())) as u64);
            self.outbox.acknowledge(events.iter().map(|event| event.id.as_str()));
        }
    }
}

/// Which documents the server refused one by one, if that is what happened; the others are written.
fn refusals(error: &InsertError) -> Option<Vec<IndexedWriteError>> {
    let InsertError::Driver(error) = error else { return None };
    match error.kind.as_ref() {
        ErrorKind::InsertMany(many) if many.write_concern_error.is_none() => many.write_errors.clone(),
        _ => None,
    }
}
