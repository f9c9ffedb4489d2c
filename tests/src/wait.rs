//! Waiting for what other processes do. Each wait has a deadline that is far beyond what the thing takes: it ends a
//! test that would hang, and says nothing about speed.

use std::time::{Duration, Instant};

/// No wait of the tests is longer: guests of a busy machine boot in seconds.
pub const DEADLINE: Duration = Duration::from_secs(120);
/// Between two looks at something that tells nobody when it changes.
const LOOK: Duration = Duration::from_millis(50);

/// Looks until there is something to see, and gives it.
///
/// # Panics
/// When the deadline passes first.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let mut seen = None;
    until(what, || {
        seen = look();
        seen.is_some()
    });
    seen.unwrap()
}

/// Waits until something is so.
///
/// # Panics
/// When the deadline passes first.
pub fn until(what: &str, so: impl FnMut() -> bool) {
    assert!(within(DEADLINE, so), "waited in vain for {what}");
}

/// Waits until something is so; whether it came to be in time.
pub fn within(time: Duration, mut so: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + time;
    loop {
        if so() {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(LOOK);
    }
}
