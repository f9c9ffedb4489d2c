//! Was it us? A process that was stopped for a while wakes to find all its timers run out, and would take its healthy
//! children for dead. A tick that comes late tells; a wait that a gap fell into is no evidence against others.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::time::{Duration, Instant, MissedTickBehavior};

/// Between two ticks.
const TICK: Duration = Duration::from_millis(250);
/// A tick that is later than this was a gap.
const GAP: Duration = Duration::from_millis(1_500);

/// Notes when this process did not run.
#[derive(Debug)]
pub struct ClockWatch {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    ticked: Instant,
    /// When the last gap ended.
    gap: Option<Instant>,
}

impl ClockWatch {
    /// A watch with a task of its own, which ends with it. One serves a whole process. Needs a tokio runtime.
    pub fn start() -> Arc<Self> {
        let watch = Arc::new(Self { state: Mutex::new(State { ticked: Instant::now(), gap: None }) });
        tokio::spawn(tick(Arc::downgrade(&watch)));
        watch
    }

    /// Whether this process stood still at any time since then.
    pub fn gap_since(&self, since: Instant) -> bool {
        let now = Instant::now();
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        now.duration_since(state.ticked) > GAP || state.gap.is_some_and(|gap| gap >= since)
    }
}

async fn tick(watch: Weak<ClockWatch>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(watch) = watch.upgrade() else { return };
        let now = Instant::now();
        let mut state = watch.state.lock().unwrap_or_else(PoisonError::into_inner);
        if now.duration_since(state.ticked) > GAP {
            state.gap = Some(now);
        }
        state.ticked = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn standing_still_is_told_from_waiting() {
        let watch = ClockWatch::start();
        let start = Instant::now();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!watch.gap_since(start));
        // The clock jumps: nobody ran meanwhile.
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(watch.gap_since(start));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(watch.gap_since(start));
        assert!(!watch.gap_since(Instant::now()));
    }
}
