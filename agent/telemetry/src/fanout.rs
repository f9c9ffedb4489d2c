//! One stream of samples to any number of readers, each with a bounded queue of its own.
//!
//! A slow reader loses its own samples only. With no reader nothing is kept and nothing counts as lost: nobody asked.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fleet_proto::v1::TelemetryBatch;

use crate::queue::{Pushed, QueueReceiver, QueueSender, WhenFull, queue};

#[derive(Debug, Default)]
struct Readers {
    senders: Vec<QueueSender<TelemetryBatch>>,
    dropped: u64,
}

/// The place where a sampler publishes and streams subscribe. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Fanout {
    readers: Arc<Mutex<Readers>>,
}

impl Fanout {
    /// A fan-out without readers.
    pub fn new() -> Self {
        Self::default()
    }

    /// A new reader, which gets what is published from now on through a queue of `capacity` samples. Dropping the
    /// receiver ends the subscription.
    pub fn subscribe(&self, capacity: usize, when_full: WhenFull) -> QueueReceiver<TelemetryBatch> {
        let (sender, receiver) = queue(capacity, when_full);
        self.lock().senders.push(sender);
        receiver
    }

    /// Gives a batch to every reader. Never waits; returns how many readers there are.
    pub fn publish(&self, batch: &TelemetryBatch) -> usize {
        let mut readers = self.lock();
        let mut lost = 0;
        readers.senders.retain(|sender| match sender.offer(batch.clone()) {
            Pushed::Kept => true,
            Pushed::Dropped(weight) => {
                lost += weight;
                true
            }
            Pushed::Closed => false,
        });
        readers.dropped += lost;
        readers.senders.len()
    }

    /// Samples that some reader has lost, since the start: what goes into the next host sample.
    pub fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    fn lock(&self) -> MutexGuard<'_, Readers> {
        // Nothing under the lock can leave the list half changed.
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use fleet_proto::v1::HostSample;

    fn batch(ts_ms: u64) -> TelemetryBatch {
        TelemetryBatch { ts_ms, hosts: vec![HostSample::default()], ..TelemetryBatch::default() }
    }

    #[tokio::test]
    async fn every_reader_gets_every_batch() {
        let fanout = Fanout::new();
        let mut first = fanout.subscribe(10, WhenFull::DropOldest);
        let mut second = fanout.subscribe(10, WhenFull::DropOldest);
        assert_eq!(fanout.publish(&batch(1)), 2);
        assert_eq!(first.recv().await.unwrap().ts_ms, 1);
        assert_eq!(second.recv().await.unwrap().ts_ms, 1);
    }

    #[test]
    fn a_slow_reader_loses_its_own_samples_only_and_they_are_counted() {
        let fanout = Fanout::new();
        let mut slow = fanout.subscribe(2, WhenFull::DropOldest);
        let mut quick = fanout.subscribe(10, WhenFull::DropOldest);
        for ts in 1..=5 {
            fanout.publish(&batch(ts));
        }
        assert_eq!(fanout.dropped(), 3);
        assert_eq!(slow.try_recv().unwrap().ts_ms, 4);
        assert_eq!(std::iter::from_fn(|| quick.try_recv()).count(), 5);
    }

    #[test]
    fn a_reader_that_went_is_forgotten_and_nothing_is_lost_without_readers() {
        let fanout = Fanout::new();
        drop(fanout.subscribe(1, WhenFull::DropNewest));
        assert_eq!(fanout.publish(&batch(1)), 0);
        assert_eq!(fanout.publish(&batch(2)), 0);
        assert_eq!(fanout.dropped(), 0);
    }
}
