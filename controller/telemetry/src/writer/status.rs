//! How the writer is doing, for everyone who wants to know: a watch channel and the `metrics` facade, kept together.

use std::sync::Arc;

use tokio::sync::watch;

use crate::metric_definitions::{CONNECTED, DOCUMENTS_WRITTEN, EVENTS_LOST, SAMPLES_DROPPED};
use crate::schema::Collection;

/// How the writer is doing. Counts are since its start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WriterStatus {
    /// Whether there is a server at all, or at least one that is being tried.
    pub on: bool,
    /// Whether the database answers.
    pub connected: bool,
    /// The server's URI without its password; empty while there is none.
    pub server: String,
    /// Why it is off or not connected; empty while it is connected.
    pub reason: String,
    /// Samples that the database has acknowledged.
    pub written: u64,
    /// Samples that were lost.
    pub dropped: u64,
    /// Events that the database has acknowledged.
    pub events_written: u64,
    /// Events that were lost: too many waited, or the server refused them.
    pub events_lost: u64,
    /// The last thing that went wrong, also when all is well again.
    pub last_error: Option<String>,
}

/// Why samples were lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    QueueFull,
    WriteFailed,
    Shutdown,
}

impl Lost {
    const fn label(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::WriteFailed => "write_failed",
            Self::Shutdown => "shutdown",
        }
    }
}

/// The one place where the status is changed. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Status {
    sender: Arc<watch::Sender<WriterStatus>>,
}

impl Status {
    pub(super) fn new() -> Self {
        Self { sender: Arc::new(watch::channel(WriterStatus::default()).0) }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<WriterStatus> {
        self.sender.subscribe()
    }

    /// Whether there is no server and none will come. Before the first word on that it is open, and so not off.
    pub(super) fn is_off(&self) -> bool {
        let status = self.sender.borrow();
        !status.on && !status.reason.is_empty()
    }

    pub(super) fn samples_dropped(&self) -> u64 {
        self.sender.borrow().dropped
    }

    pub(super) fn connected(&self, server: &str) {
        metrics::gauge!(CONNECTED).set(1.0);
        self.sender.send_modify(|status| {
            status.on = true;
            status.connected = true;
            status.server = server.to_owned();
            status.reason.clear();
        });
    }

    /// Not connected now; `on` says whether it is tried again.
    pub(super) fn disconnected(&self, on: bool, server: &str, reason: &str) {
        metrics::gauge!(CONNECTED).set(0.0);
        self.sender.send_modify(|status| {
            status.on = on;
            status.connected = false;
            status.server = server.to_owned();
            status.reason = reason.to_owned();
        });
    }

    pub(super) fn failed(&self, error: &str) {
        self.sender.send_modify(|status| status.last_error = Some(error.to_owned()));
    }

    pub(super) fn written(&self, collection: Collection, count: u64) {
        metrics::counter!(DOCUMENTS_WRITTEN, "collection" => collection.name()).increment(count);
        self.sender.send_modify(|status| match collection {
            Collection::Events => status.events_written += count,
            _ => status.written += count,
        });
    }

    pub(super) fn dropped(&self, count: u64, why: Lost) {
        if count > 0 {
            metrics::counter!(SAMPLES_DROPPED, "reason" => why.label()).increment(count);
            self.sender.send_modify(|status| status.dropped += count);
        }
    }

    pub(super) fn events_lost(&self, count: u64, error: &str) {
        if count > 0 {
            metrics::counter!(EVENTS_LOST).increment(count);
            self.sender.send_modify(|status| {
                status.events_lost += count;
                status.last_error = Some(error.to_owned());
            });
        }
    }
}
