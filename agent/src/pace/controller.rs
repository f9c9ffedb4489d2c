//! How many VMs may be starting at once: the decision. Pure: it is told what was seen of the host and when, and gives
//! a number.
//!
//! Boots are work of the processor with waits between, and how much of each differs by a factor of a hundred from image
//! to image. So no constant serves all, and the host is asked instead, at most some ten times a second:
//!
//! | seen | answer |
//! |---|---|
//! | tasks waited for memory, or little is available | half as many, at last one |
//! | no processor idled, and more tasks were ready to run than is of use | fewer, at last one a core |
//! | processors idled, and VMs waited for a place | more, by what would have used them twice; at most twice as many |
//! | the same, but boots take far longer than the fastest ones | no more: they wait for something else than processors |
//!
//! Memory is looked at each time. Of processors an average is taken over the time of a boot, as congestion control of
//! networks does over a round trip, and after a change only when one boot's time has passed: what it brings about shows
//! then, and boots that were begun together work and wait together. Nothing is taken away while more are starting than may, and nothing is added that nobody waits for.

use std::time::Duration;

use fleet_telemetry::procfs::{CpuTicks, Memory};

/// Places a core at first: enough for boots that wait three quarters of their time.
const FIRST_PER_CORE: u32 = 4;
/// Places a core at most: boots that wait for anything but the processor nearly all of their time.
const MOST_PER_CORE: u32 = 64;
/// Between two looks.
pub const PERIOD: Duration = Duration::from_millis(100);
/// Over how long processors are watched before anything is known of boots, and the most.
const WATCHED: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Processors that idle less than this are in full use.
const IDLE: f64 = 0.02;
/// With less idling than this, more tasks than [`CROWD`] only wait.
const BUSY: f64 = 0.005;
/// Tasks ready to run, a core, that keep it in full use whatever they do next.
const CROWD: f64 = 6.0;
/// Share of the time in which some task waited for memory: from here on nothing is added, and half is taken away.
const MEMORY_WAIT: (f64, f64) = (0.02, 0.10);
/// Memory that must be available, as a share of the host's and in bytes: the lesser counts.
const SCARCE: (f64, f64) = (0.05, 256.0 * 1024.0 * 1024.0);
/// Boots that take so many times as long as the fastest wait for something else than processors.
const STRETCHED: f64 = 6.0;
/// How fast the fastest boot is forgotten: by this factor a look.
const FORGET: f64 = 1.02;

/// What was seen of the host at one time. Totals only grow; what a kernel does not tell is `None`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Look {
    /// Since any fixed time.
    pub at: Duration,
    /// Time of all processors.
    pub cpu: CpuTicks,
    /// Time in which some task waited for a processor (`/proc/pressure/cpu`).
    pub cpu_wait: Option<Duration>,
    /// Time in which some task waited for memory (`/proc/pressure/memory`).
    pub memory_wait: Option<Duration>,
    /// Memory now.
    pub memory: Memory,
    /// Tasks that run or are ready to (`procs_running`).
    pub runnable: u32,
    /// VMs that are starting.
    pub starting: u32,
    /// Whether another one waits for a place.
    pub waiting: bool,
}

/// Decides how many VMs may be starting.
#[derive(Debug)]
pub struct Controller {
    cores: u32,
    limit: u32,
    last: Option<Look>,
    watched: Watched,
    /// Until when the last change has not shown.
    settling: Option<Duration>,
    /// Seconds: of recent boots on average, and of the fastest that is remembered.
    boot: Option<(f64, f64)>,
}

/// What the processors did since the last decision about them.
#[derive(Debug, Default)]
struct Watched {
    time: Duration,
    busy: u64,
    total: u64,
    cpu_wait: Duration,
    /// Of all looks together.
    runnable: u64,
    looks: u32,
    /// Looks that found a VM waiting for a place.
    full: u32,
}

impl Controller {
    /// For a host with so many cores.
    pub fn new(cores: u32) -> Self {
        let cores = cores.max(1);
        Self {
            cores,
            limit: cores.saturating_mul(FIRST_PER_CORE),
            last: None,
            watched: Watched::default(),
            settling: None,
            boot: None,
        }
    }

    /// The answer now.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// The highest answer there is.
    pub fn most(&self) -> u32 {
        self.cores.saturating_mul(MOST_PER_CORE)
    }

    /// A VM came up, so long after it was begun.
    pub fn booted(&mut self, took: Duration) {
        let took = took.as_secs_f64();
        self.boot = Some(match self.boot {
            None => (took, took),
            Some((mean, fastest)) => (mean + (took - mean) / 8.0, fastest.min(took)),
        });
    }

    /// Takes a look into account. Looks that follow sooner than [`PERIOD`] change nothing.
    pub fn look(&mut self, look: &Look) -> u32 {
        let Some(last) = self.last else {
            self.last = Some(*look);
            return self.limit;
        };
        let passed = look.at.saturating_sub(last.at);
        if passed < PERIOD {
            return self.limit;
        }
        self.last = Some(*look);
        if let Some((mean, fastest)) = &mut self.boot {
            *fastest = (*fastest * FORGET).min(*mean);
        }
        if let Some(settling) = self.settling {
            if look.at < settling {
                self.watched = Watched::default();
            } else {
                self.settling = None;
            }
        } else {
            self.watched.add(&last, look);
        }
        let limit = f64::from(self.limit);
        let settled = look.starting <= self.limit;
        let memory_wait = grown(look.memory_wait, last.memory_wait).as_secs_f64() / passed.as_secs_f64();
        let scarce = SCARCE.1.min(SCARCE.0 * look.memory.total as f64);
        let wanted = if memory_wait > MEMORY_WAIT.1 || (look.memory.available as f64) < scarce {
            self.watched = Watched::default();
            if settled { limit / 2.0 } else { limit }
        } else if self.watched.time >= self.watch() {
            let watched = std::mem::take(&mut self.watched);
            let cores = f64::from(self.cores);
            let (idle, crowd) = (watched.idle(), watched.crowd() / cores);
            // Where a limit of CPU time holds everything back, processors idle while tasks wait for them.
            let throttled = watched.cpu_wait.as_secs_f64() > 0.9 * watched.time.as_secs_f64() && crowd > CROWD;
            let stretched = self.boot.is_some_and(|(mean, fastest)| mean > fastest * STRETCHED);
            if idle < BUSY && crowd > CROWD && settled {
                (limit * 0.85).floor().max(limit.min(cores))
            } else if idle > IDLE && watched.is_full() && memory_wait <= MEMORY_WAIT.0 && !throttled && !stretched {
                // Twice what would have used the idle time: boots do not spread evenly.
                (limit + 1.0).max(limit / (1.0 - 2.0 * idle).max(0.5))
            } else {
                limit
            }
        } else {
            limit
        };
        // Within 1..=most, both of which are numbers of 32 bits.
        let wanted = wanted.clamp(1.0, f64::from(self.most())) as u32;
        if wanted != self.limit {
            self.limit = wanted;
            self.settling = self.boot.map(|_| look.at.saturating_add(self.watch()));
        }
        self.limit
    }

    /// How long processors are watched before the next decision.
    fn watch(&self) -> Duration {
        // A mean of durations is one, unless they were absurd.
        let boot = self.boot.map(|(mean, _)| Duration::try_from_secs_f64(mean).unwrap_or(WATCHED.1));
        boot.unwrap_or(WATCHED.0).clamp(PERIOD, WATCHED.1)
    }
}

impl Watched {
    fn add(&mut self, last: &Look, look: &Look) {
        self.time = self.time.saturating_add(look.at.saturating_sub(last.at));
        let total = look.cpu.total.saturating_sub(last.cpu.total);
        self.total = self.total.saturating_add(total);
        self.busy = self.busy.saturating_add(look.cpu.busy.saturating_sub(last.cpu.busy).min(total));
        self.cpu_wait = self.cpu_wait.saturating_add(grown(look.cpu_wait, last.cpu_wait));
        // Who looks runs, too, and is no boot.
        self.runnable += u64::from(look.runnable.saturating_sub(1));
        self.looks += 1;
        self.full += u32::from(look.waiting);
    }

    /// The share of the time in which processors had nothing to do.
    fn idle(&self) -> f64 {
        if self.total == 0 { 0.0 } else { 1.0 - self.busy as f64 / self.total as f64 }
    }

    /// Tasks ready to run, on average.
    fn crowd(&self) -> f64 {
        self.runnable as f64 / f64::from(self.looks.max(1))
    }

    /// Whether more places would have been taken most of the time.
    fn is_full(&self) -> bool {
        self.full * 2 >= self.looks
    }
}

/// By how much a total grew, where the kernel tells it.
fn grown(now: Option<Duration>, before: Option<Duration>) -> Duration {
    now.zip(before).map_or(Duration::ZERO, |(now, before)| now.saturating_sub(before))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "simulated.rs"]
mod tests;
