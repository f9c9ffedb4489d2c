//! A bounded queue whose behaviour when full is a type, and which counts what it loses.
//!
//! The bound is on weight, not on items: a batch weighs as many samples as it holds, so a count of drops is a count of
//! samples. Whoever drops says so: [`Pushed::Dropped`] goes to the producer, the sum is in [`QueueSender::dropped`].
//! What goes in comes out, or is counted as dropped, or is still in: nothing else happens to an item.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fleet_proto::v1::TelemetryBatch;
use tokio::sync::Notify;

/// What becomes of an item that finds the queue full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// The producer waits for room, up to its own deadline; then the item is dropped.
    Block,
    /// The new item is dropped: the history is kept without holes at its start.
    DropNewest,
    /// The oldest items are dropped until the new one fits: what is kept is fresh.
    DropOldest,
}

/// How much of a queue's capacity an item takes.
pub trait Weigh {
    /// In the queue's unit; nought counts as one, so that every queue is bounded.
    fn weight(&self) -> usize;
}

impl Weigh for TelemetryBatch {
    /// The number of samples.
    fn weight(&self) -> usize {
        self.hosts.len() + self.vms.len() + self.ports.len() + self.cameras.len()
    }
}

/// What became of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It is in the queue, and nothing was lost.
    Kept,
    /// This weight was lost: of the item itself or of older ones, as [`WhenFull`] says.
    Dropped(u64),
    /// The receiver is gone; the item is dropped but not counted: nobody wants it.
    Closed,
}

#[derive(Debug)]
struct State<T> {
    items: VecDeque<T>,
    weight: usize,
    dropped: u64,
    senders: usize,
    receiver_gone: bool,
}

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    capacity: usize,
    when_full: WhenFull,
    item_came: Notify,
    room_came: Notify,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // No code that may panic runs under the lock, and a queue is whole after every line of it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A queue that holds at most `capacity` of weight (at least 1).
pub fn queue<T: Weigh>(capacity: usize, when_full: WhenFull) -> (QueueSender<T>, QueueReceiver<T>) {
    let state = State { items: VecDeque::new(), weight: 0, dropped: 0, senders: 1, receiver_gone: false };
    let shared = Arc::new(Shared {
        state: Mutex::new(state),
        capacity: capacity.max(1),
        when_full,
        item_came: Notify::new(),
        room_came: Notify::new(),
    });
    (QueueSender { shared: Arc::clone(&shared) }, QueueReceiver { shared })
}

/// The end into which items are put.
#[derive(Debug)]
pub struct QueueSender<T> {
    shared: Arc<Shared<T>>,
}

impl<T: Weigh> QueueSender<T> {
    /// Puts an item in without ever waiting. Under [`WhenFull::Block`] an item that finds no room is dropped.
    pub fn offer(&self, item: T) -> Pushed {
        match self.try_push(item, self.shared.when_full) {
            Ok(pushed) => pushed,
            Err(item) => self.drop_newest(&item),
        }
    }

    /// Puts an item in; under [`WhenFull::Block`] waits for room, but not longer than `patience`.
    ///
    /// Cancel safe: a dropped future has either put the item in or not.
    pub async fn push(&self, item: T, patience: Duration) -> Pushed {
        let mut item = match self.try_push(item, self.shared.when_full) {
            Ok(pushed) => return pushed,
            Err(item) => item,
        };
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let mut room = std::pin::pin!(self.shared.room_came.notified());
            // Registered before the look, or room that comes in between would be missed.
            room.as_mut().enable();
            item = match self.try_push(item, WhenFull::Block) {
                Ok(pushed) => return pushed,
                Err(item) => item,
            };
            if tokio::time::timeout_at(deadline, room).await.is_err() {
                return self.drop_newest(&item);
            }
        }
    }

    /// Weight that was dropped since the queue was made.
    pub fn dropped(&self) -> u64 {
        self.shared.lock().dropped
    }

    /// Hands the item back where the policy is to wait and there is no room.
    fn try_push(&self, item: T, when_full: WhenFull) -> Result<Pushed, T> {
        let weight = item.weight().max(1);
        let mut state = self.shared.lock();
        if state.receiver_gone {
            return Ok(Pushed::Closed);
        }
        let mut lost = 0;
        if state.weight.saturating_add(weight) > self.shared.capacity {
            // What is heavier than the whole queue never fits: neither waiting nor emptying would help.
            let hopeless = weight > self.shared.capacity;
            match when_full {
                WhenFull::Block if !hopeless => return Err(item),
                WhenFull::DropOldest if !hopeless => {
                    while state.weight + weight > self.shared.capacity {
                        let Some(oldest) = state.items.pop_front() else { break };
                        let oldest = oldest.weight().max(1);
                        state.weight -= oldest;
                        lost += oldest as u64;
                    }
                }
                _ => {
                    state.dropped += weight as u64;
                    return Ok(Pushed::Dropped(weight as u64));
                }
            }
        }
        state.items.push_back(item);
        state.weight += weight;
        state.dropped += lost;
        drop(state);
        self.shared.item_came.notify_one();
        Ok(if lost == 0 { Pushed::Kept } else { Pushed::Dropped(lost) })
    }

    fn drop_newest(&self, item: &T) -> Pushed {
        let weight = item.weight().max(1) as u64;
        self.shared.lock().dropped += weight;
        Pushed::Dropped(weight)
    }
}

impl<T> Clone for QueueSender<T> {
    fn clone(&self) -> Self {
        self.shared.lock().senders += 1;
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T> Drop for QueueSender<T> {
    fn drop(&mut self) {
        let last = {
            let mut state = self.shared.lock();
            state.senders -= 1;
            state.senders == 0
        };
        if last {
            self.shared.item_came.notify_one();
        }
    }
}

/// The end from which items are taken.
#[derive(Debug)]
pub struct QueueReceiver<T> {
    shared: Arc<Shared<T>>,
}

impl<T: Weigh> QueueReceiver<T> {
    /// The next item, waiting for one; `None` once the senders are gone and the queue is empty. Cancel safe.
    pub async fn recv(&mut self) -> Option<T> {
        loop {
            if let Some(item) = self.try_recv() {
                return Some(item);
            }
            if self.shared.lock().senders == 0 {
                // A sender may have pushed its last item and gone between the two looks.
                return self.try_recv();
            }
            // `notify_one` leaves a permit when nobody waits yet, so what comes before this line is not missed.
            self.shared.item_came.notified().await;
        }
    }

    /// The next item if there is one.
    pub fn try_recv(&mut self) -> Option<T> {
        let item = {
            let mut state = self.shared.lock();
            let item = state.items.pop_front()?;
            state.weight -= item.weight().max(1);
            item
        };
        // Several producers may wait and the item may have been a heavy one: all look again.
        self.shared.room_came.notify_waiters();
        Some(item)
    }

    /// Weight that was dropped since the queue was made.
    pub fn dropped(&self) -> u64 {
        self.shared.lock().dropped
    }

    /// Weight that waits in the queue.
    pub fn waiting(&self) -> usize {
        self.shared.lock().weight
    }
}

impl<T> Drop for QueueReceiver<T> {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.receiver_gone = true;
            state.items.clear();
            state.weight = 0;
        }
        self.shared.room_came.notify_waiters();
    }
}
