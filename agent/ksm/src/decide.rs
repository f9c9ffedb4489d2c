//! The decision: how much of one core ksmd may take now, and why. No clock, no input or output: what was seen goes in,
//! settings come out, with the state for the next time.
//!
//! One number is regulated, ksmd's share of a core; `pages_to_scan` and `sleep_millisecs` follow from it and from the
//! measured time of a visit to a page. What it is regulated by is the gain: bytes that merging saved *beyond what was
//! saved before*, for a second of ksmd's time. Memory that guests write and ksmd merges again and again is no gain.
//!
//! - **burst**: VMs were started. Everything is looked at twice as quickly as the mode allows, since ksmd merges a page
//!   only at a second visit that finds it unchanged.
//! - **decay**: the share is halved at every look that shows no gain worth its cost, doubled when there is one.
//! - **hold**: what is left costs less than half a percent of a core, and a quarter of that when nothing comes of it.
//!
//! Short memory makes smaller gains worthwhile and lifts the share once for every step by which it gets shorter; with
//! no gain that decays too. While VMs boot ksmd keeps out of their way, unless memory is short.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::host::Pressure;
use crate::settings::{Mode, Settings};
use crate::sysfs::Counters;

/// Bounds of what is ever written.
pub const PAGES_TO_SCAN: std::ops::RangeInclusive<u64> = 16..=100_000;
/// The same for the sleep, ms.
pub const SLEEP_MILLISECS: std::ops::RangeInclusive<u64> = 1..=1000;
/// Places that may share one frame: the more, the longer the kernel walks when it moves such a frame.
pub const MAX_PAGE_SHARING: u64 = 4096;

/// A share that counts as holding, of one core.
const HOLD: f64 = 0.004;
/// Where holding without any gain ends.
const HOLD_LEAST: f64 = 0.001;
/// While VMs boot and memory is ample.
const DURING_WAVE: f64 = 0.02;
/// While much of the memory of new VMs still changes, looking stays at least so quick.
const SETTLING: f64 = 0.02;
/// How long new VMs are thought to settle.
const SETTLING_TIME: Duration = Duration::from_secs(60);
/// Above this part of volatile pages, VMs are thought to be settling.
const VOLATILE_PART: f64 = 0.3;
/// When so much of what was saved is lost again, it is merged again at the speed of settling.
const LOST_PART: f64 = 0.05;
/// Gain that is worth its cost when memory is ample: bytes for a second of ksmd.
const WORTH: f64 = 16e6;
/// Less is noise of guests that write and are merged again, bytes.
const LEAST_GAIN: f64 = 1e6;
/// Less of ksmd's time shows nothing: its clock ticks every 10 ms.
const JUDGED: f64 = 0.03;
/// Rounds of a burst: two whole ones, since it begins anywhere within one.
const ROUNDS: u64 = 3;
/// With rounds that still bring something.
const MOST_ROUNDS: u64 = 10;
/// A visit's time, seconds, until it was measured, and its bounds.
const VISIT: f64 = 2e-6;
const VISIT_BOUNDS: (f64, f64) = (5e-8, 5e-5);
/// A step of pressure that is answered.
const PRESSURE_STEP: f64 = 0.1;
/// Memory counts as getting short below this part that is available, and as short this much lower.
const SHORT_BELOW: f64 = 0.20;
const SHORT_SPAN: f64 = 0.15;
/// PSI averages that count as full pressure, percent.
const PSI_SOME: f64 = 20.0;
const PSI_FULL: f64 = 5.0;
/// When nobody is left, ksmd frees what it kept of them; it is given so long.
const CLEARING_TIME: Duration = Duration::from_secs(3);

/// Where the regulator is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// KSM is as it was found.
    #[default]
    Off,
    /// New VMs are merged at the greatest speed that their mode allows.
    Burst,
    /// The speed follows what it brings.
    Decay,
    /// Nearly nothing is spent.
    Hold,
}

impl Phase {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Off => "off",
            Phase::Burst => "burst",
            Phase::Decay => "decay",
            Phase::Hold => "hold",
        }
    }
}

/// Waves of boots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wave {
    /// Waves that have ended so far.
    pub ended: u64,
    /// Since the last one ended.
    pub ago: Duration,
    /// One is under way.
    pub under_way: bool,
}

/// What was seen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// Since the last decision.
    pub elapsed: Duration,
    /// The greatest wish among the VMs.
    pub mode: Mode,
    /// VMs whose memory may be merged.
    pub vms: u32,
    /// Boots.
    pub wave: Wave,
    /// Memory of the host.
    pub pressure: Pressure,
    /// What KSM has done.
    pub counters: Counters,
    /// ksmd's time since boot, when it can be read.
    pub ksmd_cpu: Option<Duration>,
    /// The settings that the host had before: what "off" means.
    pub found: Settings,
    /// The settings in force.
    pub now: Settings,
}

/// What is carried from one decision to the next. The default is that of a host where nothing was regulated.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Where it is.
    pub phase: Phase,
    /// Of one core, for ksmd.
    pub share: f64,
    /// Seconds for a visit to a page; 0 until it was measured.
    visit: f64,
    /// Counters and ksmd's time when the gain was judged last.
    mark: Option<(Counters, Option<Duration>)>,
    /// Greatest profit lately, bytes.
    best: f64,
    /// `full_scans` when the burst began.
    burst_from: u64,
    /// VMs at the last decision.
    vms: u32,
    /// Waves that were answered.
    waves: u64,
    /// Pressure that was answered, 0 to 1.
    answered: f64,
    /// Spent on clearing up after the last VM.
    clearing: Duration,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The settings that are to be in force.
    pub settings: Settings,
    /// For the next decision; its phase and share are this one's.
    pub state: State,
    /// Why, in words.
    pub reason: String,
    /// When to look again, if nothing happens before; `None`: not at all.
    pub next: Option<Duration>,
}

/// Decides.
pub fn decide(state: &State, input: &Input) -> Decision {
    if input.mode == Mode::Off || input.vms == 0 {
        return finish(state, input);
    }
    let mut next = state.clone();
    next.clearing = Duration::ZERO;
    let pressure = shortness(&input.pressure);
    let gain = judge(&mut next, input);
    let worth = gain.map(|gain| gain.bytes >= LEAST_GAIN && gain.rate >= WORTH * (1.0 - 0.9 * pressure));
    let most = match input.mode {
        Mode::Aggressive => 1.0,
        // A quarter of a core, and all of it when memory is short.
        _ => 0.25 + 0.75 * pressure,
    };

    let began = !input.wave.under_way && (input.wave.ended > state.waves || input.vms > state.vms);
    let pushed = pressure > state.answered + PRESSURE_STEP;
    let mut reason =
        step(&mut next, input, &Judged { pressure, most, worth, rate: gain.map_or(0.0, |gain| gain.rate) });
    if began {
        next.phase = Phase::Burst;
        next.share = most;
        next.burst_from = input.counters.full_scans;
        reason = format!("{} VMs can be merged, and some are new: all memory is looked at twice", input.vms);
    } else if pushed && next.share < pressure * most {
        next.phase = if input.wave.under_way { next.phase } else { Phase::Decay };
        next.share = pressure * most;
        reason = format!("memory is getting short ({:.0} %): merging is given more time", pressure * 100.0);
    }
    if !input.wave.under_way {
        next.waves = input.wave.ended;
        next.vms = input.vms;
    }
    // Answered pressure wears off in a minute, so that the next rise is answered again.
    let worn = (input.elapsed.as_secs_f64() / 60.0).min(1.0) * (state.answered - pressure).max(0.0);
    next.answered = if pushed { pressure } else { pressure.max(state.answered - worn) };

    let settings = settings(&next, input);
    let known = input.counters.known() as f64;
    let wait = match next.phase {
        // A few looks a round, so that the burst ends soon after it has done its work.
        Phase::Burst => (known * visit(&next) / next.share / 4.0).clamp(0.1, 1.0),
        Phase::Decay => 2.0,
        Phase::Hold if input.wave.under_way => 1.0,
        Phase::Hold | Phase::Off => 30.0,
    };
    Decision { settings, state: next, reason, next: Some(Duration::from_secs_f64(wait)) }
}

/// What the phases go by.
struct Judged {
    /// 0 to 1.
    pressure: f64,
    /// The greatest share that is allowed.
    most: f64,
    /// Whether the gain was worth its cost; `None`: ksmd has not run enough to tell.
    worth: Option<bool>,
    /// Gain, bytes for a second of ksmd.
    rate: f64,
}

/// The phases' own rules, before new VMs and pressure have their say. Gives the reason.
fn step(next: &mut State, input: &Input, judged: &Judged) -> String {
    let Judged { pressure, most, worth, rate } = *judged;
    let mb = rate / 1e6;
    if input.wave.under_way {
        next.phase = Phase::Hold;
        if pressure <= PRESSURE_STEP {
            next.share = next.share.clamp(HOLD_LEAST, DURING_WAVE);
            return "VMs are booting: the processor is theirs".to_owned();
        }
        next.share = match worth {
            Some(false) => (next.share / 2.0).clamp(DURING_WAVE, most),
            _ => next.share.max(pressure * most),
        };
        return format!("VMs are booting, and memory is short ({:.0} %)", pressure * 100.0);
    }
    // A counter that stepped back starts anew.
    next.burst_from = next.burst_from.min(input.counters.full_scans);
    let rounds = input.counters.full_scans - next.burst_from;
    let all = input.counters.known().max(1) as f64;
    let settling =
        input.wave.ended > 0 && input.wave.ago < SETTLING_TIME && input.counters.volatile as f64 / all > VOLATILE_PART;
    // The best wears off when they go on writing, so that this ends.
    let lost = next.best - input.counters.profit as f64;
    let lost = lost > LOST_PART * next.best && lost > 8.0 * LEAST_GAIN;
    let least = if settling || lost { SETTLING.min(most) } else { HOLD };
    match next.phase {
        Phase::Burst => {
            let done = rounds >= MOST_ROUNDS || (rounds >= ROUNDS && worth != Some(true));
            if !done {
                next.share = most;
                return format!("after the boots: round {} of {ROUNDS}, {mb:.0} MB for a second of ksmd", rounds + 1);
            }
            next.phase = Phase::Decay;
            next.share = (most / 2.0).max(least);
            format!("{rounds} rounds are done: slowing down ({mb:.0} MB for a second of ksmd)")
        }
        Phase::Decay if worth == Some(true) => {
            next.share = (next.share * 2.0).min(most);
            format!("it is worth it: {mb:.0} MB for a second of ksmd")
        }
        Phase::Decay => {
            next.share = (next.share / 2.0).clamp(least, most);
            if next.share > HOLD {
                let why = match (settling, lost) {
                    (true, _) => "new VMs settle",
                    (_, true) => "pages that guests have written are merged again",
                    _ => "little is left to merge",
                };
                return format!("{why}: {mb:.0} MB for a second of ksmd");
            }
            next.phase = Phase::Hold;
            "what can be merged is merged".to_owned()
        }
        Phase::Hold if worth == Some(true) => {
            next.phase = Phase::Decay;
            next.share = (next.share.max(HOLD) * 2.0).min(most);
            format!("there is something to merge again: {mb:.0} MB for a second of ksmd")
        }
        Phase::Hold if lost => {
            next.phase = Phase::Decay;
            next.share = next.share.max(least);
            "pages that guests have written are merged again".to_owned()
        }
        Phase::Hold | Phase::Off => {
            next.phase = Phase::Hold;
            next.share = match worth {
                Some(_) => next.share / 2.0,
                None => next.share,
            }
            .clamp(HOLD_LEAST, HOLD);
            "nothing new to merge".to_owned()
        }
    }
}

/// Nobody wants it any more, or nobody is left.
fn finish(state: &State, input: &Input) -> Decision {
    let why = if input.mode == Mode::Off { "not asked for" } else { "no VM that may be merged runs" };
    // The time before the last VM went does not count.
    let clearing = if state.vms > 0 { Duration::ZERO } else { state.clearing + input.elapsed };
    let busy = input.vms == 0
        && input.counters.shared > 0
        && input.now.max_page_sharing != input.found.max_page_sharing
        && state.phase != Phase::Off
        && clearing < CLEARING_TIME;
    if busy {
        // ksmd still keeps books of those that are gone, and `max_page_sharing` can be put back only without them.
        let next = State { phase: Phase::Decay, share: 0.5, clearing, vms: 0, ..state.clone() };
        let settings = settings(&next, input);
        let reason = format!("{why}: ksmd clears its books before everything is put back");
        return Decision { settings, state: next, reason, next: Some(Duration::from_millis(200)) };
    }
    let next = State { waves: input.wave.ended, visit: state.visit, ..State::default() };
    Decision { settings: input.found, state: next, reason: why.to_owned(), next: None }
}

/// How short memory is: 0 ample, 1 very short.
pub fn shortness(pressure: &Pressure) -> f64 {
    let part = if pressure.total == 0 { 1.0 } else { pressure.available as f64 / pressure.total as f64 };
    let levels = [pressure.some / PSI_SOME, pressure.full / PSI_FULL, (SHORT_BELOW - part) / SHORT_SPAN];
    levels.into_iter().fold(0.0, f64::max).min(1.0)
}

/// What merging has brought since it was judged last.
#[derive(Clone, Copy)]
struct Gain {
    /// More than was ever saved lately.
    bytes: f64,
    /// The same for a second of ksmd.
    rate: f64,
}

/// Judges the gain once ksmd has run long enough since the last time, and measures the time of a visit.
fn judge(next: &mut State, input: &Input) -> Option<Gain> {
    let profit = input.counters.profit as f64;
    // Counters that stepped back start anew.
    let forward = |(before, cpu): &(Counters, Option<Duration>)| {
        before.scanned <= input.counters.scanned && cpu.is_none_or(|cpu| Some(cpu) <= input.ksmd_cpu)
    };
    let Some((before, cpu_before)) = next.mark.filter(forward) else {
        next.mark = Some((input.counters, input.ksmd_cpu));
        next.best = profit;
        return None;
    };
    let visits = input.counters.scanned.saturating_sub(before.scanned) as f64;
    let measured = input.ksmd_cpu.zip(cpu_before).map(|(now, before)| now.saturating_sub(before).as_secs_f64());
    let seconds = measured.unwrap_or(visits * visit(next));
    if seconds < JUDGED {
        return None;
    }
    if measured.is_some() && visits > 0.0 {
        let seen = (seconds / visits).clamp(VISIT_BOUNDS.0, VISIT_BOUNDS.1);
        next.visit = if next.visit > 0.0 { (next.visit + seen) / 2.0 } else { seen };
    }
    let bytes = profit - next.best;
    next.mark = Some((input.counters, input.ksmd_cpu));
    // When memory is given back the best wears off slowly: the same pages merged again are no gain.
    next.best = if bytes > 0.0 { profit } else { next.best + bytes / 8.0 };
    if input.vms < next.vms {
        next.best = profit;
    }
    Some(Gain { bytes, rate: bytes.max(0.0) / seconds })
}

fn visit(state: &State) -> f64 {
    if state.visit > 0.0 { state.visit } else { VISIT }
}

/// The settings of a share.
fn settings(state: &State, input: &Input) -> Settings {
    let (pages, sleep) = speed(state.share, visit(state));
    let sharing = input.now.max_page_sharing.map(|now| {
        let wish = u64::from(input.vms).saturating_mul(2).next_power_of_two().min(MAX_PAGE_SHARING);
        // The kernel takes it only while nothing is merged.
        if input.counters.shared == 0 { now.max(wish) } else { now }
    });
    Settings {
        run: 1,
        pages_to_scan: pages,
        sleep_millisecs: sleep,
        use_zero_pages: input.now.use_zero_pages.map(|_| 1),
        smart_scan: input.now.smart_scan.map(|_| 1),
        max_page_sharing: sharing,
        // It would choose pages_to_scan by itself, blind to what merging brings and to how short memory is.
        advisor: input.now.advisor.map(|_| 0),
    }
}

/// Pages at a time and the sleep between, ms, with which ksmd takes so much of a core when a visit takes so many
/// seconds. Slow ones sleep long: each waking costs too.
fn speed(share: f64, visit: f64) -> (u64, u64) {
    let (most, least) = (*PAGES_TO_SCAN.end(), *PAGES_TO_SCAN.start());
    if share >= 0.95 {
        return (most, *SLEEP_MILLISECS.start());
    }
    let sleep: u64 = match share {
        share if share >= 0.05 => 20,
        share if share >= 0.005 => 200,
        _ => *SLEEP_MILLISECS.end(),
    };
    let pages = share / (1.0 - share) * (sleep as f64 / 1000.0) / visit;
    // A cast of a float saturates.
    ((pages as u64).clamp(least, most), sleep)
}
