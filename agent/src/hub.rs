//! Where everything that is measured and everything that happens on this host goes, and whence readers take it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use fleet_proto::v1::{Event, TelemetryBatch};
use fleet_telemetry::{EventOutbox, EventReader, Fanout, QueueReceiver, Recorded, WhenFull};
use tokio::sync::watch;

/// Events that wait for a controller to store them.
const OUTBOX: usize = 50_000;
/// Samples that wait for one slow reader.
const SAMPLES: usize = 20_000;

/// The telemetry of one host.
pub struct Hub {
    host: String,
    /// Told apart from an earlier agent's events: ids must never come again.
    incarnation: String,
    count: AtomicU64,
    samples: Fanout,
    outbox: EventOutbox,
    moved: watch::Sender<u64>,
}

impl Hub {
    /// The hub of this host.
    pub fn new(host: &str) -> Self {
        Self {
            host: host.to_owned(),
            incarnation: format!("{:x}-{:x}", now_ms(), std::process::id()),
            count: AtomicU64::new(0),
            samples: Fanout::new(),
            outbox: EventOutbox::new(OUTBOX),
            moved: watch::Sender::new(0),
        }
    }

    /// Something happened. Never waits.
    pub fn event(&self, kind: &str, experiment: &str, vm: &str, message: &str) {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let event = Event {
            ts_ms: now_ms(),
            id: format!("{}-{}-{number}", self.host, self.incarnation),
            kind: kind.to_owned(),
            experiment: experiment.to_owned(),
            host: self.host.clone(),
            vm: vm.to_owned(),
            message: message.to_owned(),
        };
        if self.outbox.record(event.clone()) == Recorded::Full {
            metrics::counter!(crate::metric_definitions::EVENTS_LOST).increment(1);
        }
        self.samples.publish(&TelemetryBatch { ts_ms: event.ts_ms, events: vec![event], ..TelemetryBatch::default() });
    }

    /// A VM of this host is in another state, or there is another set of them.
    pub fn move_on(&self) {
        self.moved.send_modify(|count| *count += 1);
    }

    /// Counts changes of the states of VMs.
    pub fn moved(&self) -> watch::Receiver<u64> {
        self.moved.subscribe()
    }

    /// Gives samples to every reader. Never waits.
    pub fn publish(&self, batch: &TelemetryBatch) {
        self.samples.publish(batch);
    }

    /// Samples that readers have lost since the start.
    pub fn dropped(&self) -> u64 {
        self.samples.dropped()
    }

    /// What is published from now on.
    pub fn subscribe(&self) -> QueueReceiver<TelemetryBatch> {
        self.samples.subscribe(SAMPLES, WhenFull::DropOldest)
    }

    /// The events that nobody has acknowledged yet, and those to come.
    pub fn events(&self) -> EventReader {
        self.outbox.reader()
    }

    /// These events are stored.
    pub fn acknowledge(&self, ids: &[String]) {
        self.outbox.acknowledge(ids);
    }
}

/// Now, in ms since 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
