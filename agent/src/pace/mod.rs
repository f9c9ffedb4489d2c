//! The pace of starts: at full speed, never too much.
//!
//! One [`Gate`] a host lets VMs through that are to be started, whatever experiment or operation they belong to. Who is
//! through holds a [`Place`] until the VM is up or failed. How many places there are is decided by a pure
//! [`controller`] from what the kernel says of the host ([`look`]), whenever a VM came up, or every [`TICK`] while one
//! waits, and at most some ten times a second: reading four small files, it costs a fifth of a percent of a core.

mod controller;
mod look;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use controller::{Controller, Look, PERIOD};

/// Between two looks while VMs wait and none comes up.
const TICK: Duration = Duration::from_millis(250);

struct State {
    controller: Controller,
    /// Places that there are, in the semaphore's eyes.
    places: usize,
    /// Places that must go as soon as they are given back.
    surplus: usize,
    taken: usize,
    waiting: usize,
    looked: Option<Instant>,
}

/// Lets so many VMs start at once as the host can bear.
pub struct Gate {
    semaphore: Arc<Semaphore>,
    /// Whoever waits and holds this looks at the host from time to time.
    lookout: tokio::sync::Mutex<()>,
    /// `None`: the number of places is fixed.
    adaptive: bool,
    state: Mutex<State>,
    began: Instant,
}

/// The right to be starting, until dropped.
pub struct Place {
    gate: Arc<Gate>,
    permit: Option<OwnedSemaphorePermit>,
    since: Instant,
}

/// Counts one that waits, until dropped.
struct Waiting<'a>(&'a Gate);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lock().waiting -= 1;
    }
}

impl Gate {
    /// A gate that follows the host.
    pub fn adaptive() -> Arc<Self> {
        let cores = std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1));
        let controller = Controller::new(cores);
        Self::new(controller.limit() as usize, controller, true)
    }

    /// A gate with so many places, at least one.
    pub fn fixed(places: usize) -> Arc<Self> {
        Self::new(places.clamp(1, Semaphore::MAX_PERMITS), Controller::new(1), false)
    }

    fn new(places: usize, controller: Controller, adaptive: bool) -> Arc<Self> {
        let state = State { controller, places, surplus: 0, taken: 0, waiting: 0, looked: None };
        Arc::new(Self {
            semaphore: Arc::new(Semaphore::new(places)),
            lookout: tokio::sync::Mutex::default(),
            adaptive,
            state: Mutex::new(state),
            began: Instant::now(),
        })
    }

    /// Waits for a place, first come first served.
    pub async fn enter(self: &Arc<Self>) -> Place {
        let permit = {
            self.lock().waiting += 1;
            let _waiting = Waiting(self);
            let acquire = Arc::clone(&self.semaphore).acquire_owned();
            tokio::select! {
                biased;
                // Nobody closes the semaphore; if somebody did, all would pass.
                permit = acquire => permit.ok(),
                never = self.keep_looking() => match never {},
            }
        };
        self.lock().taken += 1;
        Place { gate: Arc::clone(self), permit, since: Instant::now() }
    }

    /// Looks at the host again and again: one of all that wait does so.
    async fn keep_looking(&self) -> std::convert::Infallible {
        if !self.adaptive {
            return std::future::pending().await;
        }
        let _lookout = self.lookout.lock().await;
        loop {
            self.look();
            tokio::time::sleep(TICK).await;
        }
    }

    /// Looks at the host and adapts the number of places; not more often than every [`PERIOD`].
    fn look(&self) {
        if !self.adaptive {
            return;
        }
        let mut state = self.lock();
        if state.looked.is_some_and(|looked| looked.elapsed() < PERIOD) {
            return;
        }
        state.looked = Some(Instant::now());
        // A host that cannot be read keeps the places it has.
        let Some(seen) = look::host() else { return };
        let starting = u32::try_from(state.taken).unwrap_or(u32::MAX);
        let look = Look { at: self.began.elapsed(), starting, waiting: state.waiting > 0, ..seen };
        let limit = state.controller.look(&look) as usize;
        if limit != state.places {
            tracing::debug!(places = limit, before = state.places, ?look, "the pace of starts changes");
        }
        self.resize(&mut state, limit);
        metrics::gauge!(crate::metric_definitions::START_PLACES).set(f64::from(state.controller.limit()));
    }

    fn resize(&self, state: &mut State, places: usize) {
        if places > state.places {
            let more = places - state.places;
            // Places that were about to go stay instead.
            let kept = more.min(state.surplus);
            state.surplus -= kept;
            self.semaphore.add_permits(more - kept);
        } else {
            let fewer = state.places - places;
            // Those that are taken go when they are given back.
            state.surplus += fewer - self.semaphore.forget_permits(fewer);
        }
        state.places = places;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// The VM came up: how long that took is worth knowing.
    pub fn booted(&self) {
        let took = self.since.elapsed();
        self.gate.lock().controller.booted(took);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        {
            let mut state = self.gate.lock();
            state.taken -= 1;
            match self.permit.take() {
                Some(permit) if state.surplus > 0 => {
                    state.surplus -= 1;
                    permit.forget();
                }
                permit => drop(permit),
            }
        }
        self.gate.look();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A place, if there is one now.
    async fn now(gate: &Arc<Gate>) -> Option<Place> {
        tokio::select! {
            biased;
            place = gate.enter() => Some(place),
            () = tokio::task::yield_now() => None,
        }
    }

    #[tokio::test]
    async fn a_gate_has_as_many_places_as_it_was_given() {
        let gate = Gate::fixed(2);
        let first = gate.enter().await;
        let _second = gate.enter().await;
        assert!(now(&gate).await.is_none());
        drop(first);
        assert!(now(&gate).await.is_some());
        assert_eq!(gate.lock().waiting, 0, "who gave up waits no more");
    }

    #[tokio::test]
    async fn a_gate_that_shrinks_takes_back_places_that_are_in_use() {
        let gate = Gate::fixed(4);
        let mut places = Vec::new();
        for _ in 0..4 {
            places.push(gate.enter().await);
        }
        gate.resize(&mut gate.lock(), 1);
        places.truncate(1); // three go
        assert!(now(&gate).await.is_none(), "the one place is taken");
        gate.resize(&mut gate.lock(), 3);
        let _second = gate.enter().await;
        let _third = gate.enter().await;
        assert!(now(&gate).await.is_none());
        places.clear();
        assert!(now(&gate).await.is_some());
    }

    #[tokio::test]
    async fn a_shrink_that_is_taken_back_at_once_takes_no_place() {
        let gate = Gate::fixed(3);
        let places = [gate.enter().await, gate.enter().await];
        gate.resize(&mut gate.lock(), 1);
        gate.resize(&mut gate.lock(), 3);
        assert!(now(&gate).await.is_some());
        drop(places);
        let _places = [gate.enter().await, gate.enter().await, gate.enter().await];
        assert!(now(&gate).await.is_none());
    }

    #[test]
    fn this_host_can_be_read() {
        let look = look::host().unwrap();
        assert!(look.cpu.total > 0 && look.memory.available > 0 && look.runnable > 0);
    }
}
