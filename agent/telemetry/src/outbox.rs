//! The way of events: bounded, kept until acknowledged, each id once.
//!
//! A reader (one a connection) gets everything that is not acknowledged yet, oldest first, then what comes. A reader
//! that is lost loses nothing: the next one begins again at the oldest unacknowledged event. So an event may be sent
//! twice, but is never lost while its outbox lives, and its id makes the second one harmless.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fleet_proto::v1::Event;
use tokio::sync::watch;

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// It is kept until it is acknowledged.
    Kept,
    /// One of this id is kept, or was acknowledged a short while ago.
    Repeated,
    /// The outbox is full of unacknowledged events; this one is lost and counted. The earlier ones are kept, since
    /// they tell how it began.
    Full,
}

#[derive(Debug)]
struct State {
    /// By the order in which they came.
    kept: BTreeMap<u64, Event>,
    position_of: HashMap<String, u64>,
    /// Ids acknowledged last, as many as the capacity: a late repeat is known.
    acknowledged: VecDeque<String>,
    acknowledged_set: HashSet<String>,
    next: u64,
    lost: u64,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    capacity: usize,
    /// The position that the next event will have: readers wait for it to move.
    came: watch::Sender<u64>,
}

/// Events that wait for their acknowledgement. Clones share them.
#[derive(Debug, Clone)]
pub struct EventOutbox {
    shared: Arc<Shared>,
}

impl EventOutbox {
    /// An outbox for at most `capacity` unacknowledged events (at least 1).
    pub fn new(capacity: usize) -> Self {
        let state = State {
            kept: BTreeMap::new(),
            position_of: HashMap::new(),
            acknowledged: VecDeque::new(),
            acknowledged_set: HashSet::new(),
            next: 0,
            lost: 0,
        };
        let (came, _) = watch::channel(0);
        Self { shared: Arc::new(Shared { state: Mutex::new(state), capacity: capacity.max(1), came }) }
    }

    /// Keeps an event until it is acknowledged. Never waits.
    pub fn record(&self, event: Event) -> Recorded {
        let mut state = self.lock();
        if state.position_of.contains_key(&event.id) || state.acknowledged_set.contains(&event.id) {
            return Recorded::Repeated;
        }
        if state.kept.len() >= self.shared.capacity {
            state.lost += 1;
            return Recorded::Full;
        }
        let position = state.next;
        state.next += 1;
        state.position_of.insert(event.id.clone(), position);
        state.kept.insert(position, event);
        self.shared.came.send_replace(state.next);
        Recorded::Kept
    }

    /// The far side has these events for good: they are forgotten. Unknown ids are no error.
    pub fn acknowledge<I: AsRef<str>>(&self, ids: impl IntoIterator<Item = I>) {
        let mut state = self.lock();
        for id in ids {
            let Some((id, position)) = state.position_of.remove_entry(id.as_ref()) else { continue };
            state.kept.remove(&position);
            if state.acknowledged.len() >= self.shared.capacity
                && let Some(oldest) = state.acknowledged.pop_front()
            {
                state.acknowledged_set.remove(&oldest);
            }
            state.acknowledged_set.insert(id.clone());
            state.acknowledged.push_back(id);
        }
    }

    /// A reader that begins at the oldest unacknowledged event.
    pub fn reader(&self) -> EventReader {
        EventReader { outbox: self.clone(), came: self.shared.came.subscribe(), position: 0 }
    }

    /// How many events wait for their acknowledgement.
    pub fn pending(&self) -> usize {
        self.lock().kept.len()
    }

    /// How many events were lost because the outbox was full.
    pub fn lost(&self) -> u64 {
        self.lock().lost
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that may panic runs between two changes that belong together.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads an outbox from its oldest unacknowledged event on.
#[derive(Debug)]
pub struct EventReader {
    outbox: EventOutbox,
    came: watch::Receiver<u64>,
    position: u64,
}

impl EventReader {
    /// The next events, at most `max` (at least 1), waiting until there is one. Cancel safe.
    pub async fn next(&mut self, max: usize) -> Vec<Event> {
        loop {
            let events = self.try_next(max);
            if !events.is_empty() {
                return events;
            }
            let position = self.position;
            // The sender lives in `self.outbox`, so the channel cannot close while we wait.
            let _ = self.came.wait_for(|next| *next > position).await;
        }
    }

    /// The next events if there are any.
    pub fn try_next(&mut self, max: usize) -> Vec<Event> {
        let state = self.outbox.lock();
        let mut events = Vec::new();
        for (position, event) in state.kept.range(self.position..).take(max.max(1)) {
            self.position = position + 1;
            events.push(event.clone());
        }
        if events.is_empty() {
            // Everything up to here is acknowledged.
            self.position = state.next;
        }
        events
    }

    /// Begins again at the oldest unacknowledged event, as after a failed write.
    pub fn rewind(&mut self) {
        self.position = 0;
    }
}
