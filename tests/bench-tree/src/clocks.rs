//! Processor time, in seconds.

use nix::sys::resource::{UsageWho, getrusage};
use nix::time::{ClockId, clock_gettime};

/// Of the calling thread.
pub fn thread() -> f64 {
    seconds(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

/// Of this process.
pub fn process() -> f64 {
    seconds(ClockId::CLOCK_PROCESS_CPUTIME_ID)
}

/// Of children that ended and were waited for, and of theirs.
pub fn children() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    seconds(usage.user_time()) + seconds(usage.system_time())
}

fn seconds(clock: ClockId) -> f64 {
    std::time::Duration::from(clock_gettime(clock).unwrap()).as_secs_f64()
}

/// The middle value; of an even number, the upper one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
