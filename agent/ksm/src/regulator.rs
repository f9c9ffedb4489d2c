//! The task that regulates. It sleeps until something happens: VMs were started or went, memory gets short (a PSI
//! trigger of the kernel), or the time comes that the last decision named. While KSM is not wanted it waits for a wish
//! only.
//!
//! Reading and writing the kernel's files blocks (a write to `run` waits for ksmd's batch), so it happens on a thread
//! for blocking work. What readers see is a copy of the last look.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::custody::Custody;
use crate::decide::{Decision, Input, Phase, State, Wave, decide};
use crate::error::KsmError;
use crate::host::{HostReader, Pressure};
use crate::settings::{Mode, Settings};
use crate::sysfs::{Counters, Sysfs};

/// How long the end may take: a write waits for ksmd's batch.
const END_DEADLINE: Duration = Duration::from_secs(5);
/// When something stood in the way: another agent, a setting that cannot be put back yet.
const AGAIN: Duration = Duration::from_secs(60);
/// Tasks waited for memory for 100 ms of a second.
const PSI_TRIGGER: &[u8] = b"some 100000 1000000\0";

/// Where things are.
#[derive(Clone, Debug)]
pub struct KsmConfig {
    /// `/sys/kernel/mm/ksm`.
    pub sysfs: PathBuf,
    /// `/proc`.
    pub proc: PathBuf,
    /// Lock and found settings: one folder for all agents of the host, not outliving a boot.
    pub state_dir: PathBuf,
}

impl Default for KsmConfig {
    fn default() -> Self {
        Self { sysfs: "/sys/kernel/mm/ksm".into(), proc: "/proc".into(), state_dir: "/run/fleet-ksm".into() }
    }
}

/// What is wanted of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// The greatest wish among the VMs.
    pub mode: Mode,
    /// VMs whose memory may be merged.
    pub vms: u32,
}

/// Everything that is told to the task.
#[derive(Clone, Copy, Debug, Default)]
struct Wish {
    demand: Demand,
    under_way: u32,
    ended: u64,
    ended_at: Option<Instant>,
    /// Everything is put back, and the task ends.
    stop: bool,
}

impl Wish {
    fn wave(&self) -> Wave {
        Wave {
            ended: self.ended,
            ago: self.ended_at.map(|at| at.elapsed()).unwrap_or_default(),
            under_way: self.under_way > 0,
        }
    }
}

/// What was seen and decided last.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Where it is.
    pub phase: Phase,
    /// Why, in words.
    pub reason: String,
    /// What stands in the way, in words; empty when nothing does.
    pub problem: String,
    /// What was asked for.
    pub demand: Demand,
    /// Share of one core that ksmd is given.
    pub share: f64,
    /// What KSM has done.
    pub counters: Counters,
    /// Memory of the host.
    pub pressure: Pressure,
    /// The settings in force; `None` without KSM.
    pub settings: Option<Settings>,
    /// The settings that will be put back; `None` when nothing was changed.
    pub found: Option<Settings>,
    /// ksmd's time since boot; `None` when it is out of sight.
    pub ksmd_cpu: Option<Duration>,
    /// Percent of a core that ksmd took between the last two looks.
    pub ksmd_percent: Option<f64>,
    /// ksmd's time since regulation began.
    pub ksmd_since: Option<Duration>,
}

/// The regulator of this host.
#[derive(Debug)]
pub struct Regulator {
    wishes: watch::Sender<Wish>,
    status: watch::Receiver<Status>,
    config: KsmConfig,
    host: HostReader,
    task: std::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Regulator {
    /// Starts it. What an earlier one left behind is put back at once, unless it is wanted. Must run within a runtime.
    pub fn start(config: KsmConfig, demand: Demand) -> Self {
        let (wishes, wished) = watch::channel(Wish { demand, ..Wish::default() });
        let (tell, status) = watch::channel(Status::default());
        let worker = Worker::new(config.clone());
        let host = worker.host.clone();
        let task = tokio::spawn(regulate(worker, wished, tell));
        Self { wishes, status, config, host, task: std::sync::Mutex::new(Some(task)) }
    }

    /// Says what is wanted. Costs nothing when it is what was wanted before.
    pub fn want(&self, demand: Demand) {
        self.wishes.send_if_modified(|wish| std::mem::replace(&mut wish.demand, demand) != demand);
    }

    /// A wave of boots begins.
    pub fn wave_began(&self) {
        self.wishes.send_modify(|wish| wish.under_way += 1);
    }

    /// A wave of boots that had begun has ended.
    pub fn wave_ended(&self) {
        self.wishes.send_modify(|wish| {
            wish.under_way = wish.under_way.saturating_sub(1);
            wish.ended += 1;
            wish.ended_at = Some(Instant::now());
        });
    }

    /// What was decided last, with the counters as they are now. Reads a few files.
    pub fn status(&self) -> Status {
        let mut status = self.status.borrow().clone();
        let sysfs = Sysfs::new(&self.config.sysfs);
        match (sysfs.counters(), sysfs.settings()) {
            (Ok(counters), Ok(settings)) => {
                status.counters = counters;
                status.settings = Some(settings);
            }
            (Err(error), _) | (_, Err(error)) if status.problem.is_empty() => status.problem = error.to_string(),
            _ => {}
        }
        status
    }

    /// Processor time of ksmd since boot; `None` when it is out of sight.
    pub fn ksmd_cpu(&self) -> Option<Duration> {
        self.host.ksmd_cpu()
    }

    /// The status whenever something was decided.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// What would be set now in this mode if a wave of boots had just ended. Changes nothing.
    ///
    /// # Errors
    /// When KSM cannot be read.
    pub fn preview(&self, mode: Mode) -> Result<Decision, KsmError> {
        let sysfs = Sysfs::new(&self.config.sysfs);
        let (host, now) = (&self.host, sysfs.settings()?);
        let demand = self.wishes.borrow().demand;
        Ok(decide(
            &State::default(),
            &Input {
                elapsed: Duration::ZERO,
                mode: mode.max(demand.mode),
                vms: demand.vms.max(1),
                wave: Wave { ended: 1, ..Wave::default() },
                pressure: host.pressure(),
                counters: sysfs.counters()?,
                ksmd_cpu: host.ksmd_cpu(),
                found: now,
                now,
            },
        ))
    }

    /// Puts the settings back and ends the task. What is merged stays merged.
    pub async fn shutdown(&self) {
        self.wishes.send_modify(|wish| {
            wish.demand.mode = Mode::Off;
            wish.stop = true;
        });
        let task = self.task.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let Some(mut task) = task else { return };
        if tokio::time::timeout(END_DEADLINE, &mut task).await.is_err() {
            tracing::error!("KSM's settings were not put back in time; the next agent does it");
            task.abort();
        }
    }
}

async fn regulate(mut worker: Worker, mut wishes: watch::Receiver<Wish>, tell: watch::Sender<Status>) {
    let mut trigger = None;
    loop {
        let wish = *wishes.borrow_and_update();
        let joined = tokio::task::spawn_blocking(move || {
            let looked = worker.look(&wish);
            (worker, looked)
        });
        let Ok((back, (status, next))) = joined.await else { return };
        worker = back;
        let active = status.phase != Phase::Off;
        tell.send_replace(status);
        // Clearing up may take a few looks.
        if wish.stop && !active {
            return;
        }
        if active && trigger.is_none() {
            trigger =
                pressure_trigger(&worker.host).inspect_err(|error| tracing::debug!(%error, "no PSI trigger")).ok();
        } else if !active {
            trigger = None;
        }
        tokio::select! {
            changed = wishes.changed() => if changed.is_err() { return },
            () = short_of_memory(trigger.as_ref()) => {}
            () = sleep(next) => {}
        }
    }
}

async fn sleep(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

/// A descriptor on which the kernel says when tasks wait for memory; the trigger lives as long as it.
fn pressure_trigger(host: &HostReader) -> std::io::Result<AsyncFd<std::fs::File>> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::File::options();
    let nonblocking = nix::fcntl::OFlag::O_NONBLOCK.bits();
    let mut file = options.read(true).write(true).custom_flags(nonblocking).open(host.psi_file())?;
    file.write_all(PSI_TRIGGER)?;
    // SAFETY: a `File` owns its descriptor, and gives the same one as long as it lives.
    Ok(unsafe { AsyncFd::register_with_interest(file, Interest::PRIORITY) }?)
}

async fn short_of_memory(trigger: Option<&AsyncFd<std::fs::File>>) {
    let Some(trigger) = trigger else { return std::future::pending().await };
    match trigger.ready(Interest::PRIORITY).await {
        Ok(mut ready) => ready.clear_ready(),
        Err(_) => std::future::pending().await,
    }
}

/// The blocking part: one look at a time.
#[derive(Debug)]
struct Worker {
    config: KsmConfig,
    sysfs: Sysfs,
    host: HostReader,
    custody: Option<Custody>,
    state: State,
    /// What was written last.
    set: Option<Settings>,
    looked: Instant,
    cpu: Option<Duration>,
    /// ksmd's time when regulation began.
    cpu_from: Option<Duration>,
    /// Waves that had ended when another program took KSM over.
    left_at: Option<(u64, Demand)>,
}

impl Worker {
    fn new(config: KsmConfig) -> Self {
        let sysfs = Sysfs::new(&config.sysfs);
        let host = HostReader::new(&config.proc);
        let cpu = host.ksmd_cpu();
        Self {
            sysfs,
            host,
            custody: None,
            state: State::default(),
            set: None,
            looked: Instant::now(),
            cpu,
            cpu_from: None,
            left_at: None,
            config,
        }
    }

    /// Looks, decides, sets. Gives what there is to tell, and when to look again.
    fn look(&mut self, wish: &Wish) -> (Status, Option<Duration>) {
        let mut status = Status { demand: wish.demand, pressure: self.host.pressure(), ..Status::default() };
        let elapsed = self.looked.elapsed();
        self.looked = Instant::now();
        let next = match self.act(wish, elapsed, &mut status) {
            Ok(next) => next,
            Err(error) => {
                match error {
                    KsmError::Merged => tracing::info!("KSM: {error}"),
                    _ => tracing::warn!("KSM: {error}"),
                }
                status.problem = error.to_string();
                self.state = State::default();
                self.set = None;
                Some(AGAIN)
            }
        };
        status.phase = self.state.phase;
        status.share = self.state.share;
        status.found = self.custody.as_ref().and_then(Custody::found);
        status.settings = self.sysfs.settings().ok();
        (status, next)
    }

    fn act(&mut self, wish: &Wish, elapsed: Duration, status: &mut Status) -> Result<Option<Duration>, KsmError> {
        let wanted = wish.demand.mode != Mode::Off && wish.demand.vms > 0;
        if !wanted && self.custody.is_none() && !Custody::is_owed(&self.config.state_dir) {
            status.reason = if wish.demand.mode == Mode::Off { "not asked for" } else { "no VM to merge" }.to_owned();
            return Ok(None);
        }
        if self.left_at.is_some_and(|left| left == (wish.ended, wish.demand)) {
            status.reason = "another program looks after KSM".to_owned();
            return Ok(Some(AGAIN));
        }
        self.left_at = None;
        let now = self.sysfs.settings()?;
        let counters = self.sysfs.counters()?;
        status.counters = counters;
        let cpu = self.host.ksmd_cpu();
        let found = match self.custody(wanted.then_some(now)) {
            // What is to be put back is that one's duty.
            Err(error @ KsmError::Held(_)) if !wanted => {
                status.reason = error.to_string();
                return Ok(None);
            }
            found => found?,
        };
        let found = found.unwrap_or(now);
        self.foreign(&now, wish)?;

        let before = std::mem::replace(&mut self.cpu, cpu);
        self.cpu_from = self.cpu_from.or(cpu);
        status.ksmd_cpu = cpu;
        status.ksmd_since = cpu.zip(self.cpu_from).map(|(now, from)| now.saturating_sub(from));
        status.ksmd_percent = cpu
            .zip(before)
            .map(|(now, before)| now.saturating_sub(before).as_secs_f64() / elapsed.as_secs_f64().max(0.01) * 100.0);
        let input = Input {
            elapsed,
            mode: wish.demand.mode,
            vms: wish.demand.vms,
            wave: wish.wave(),
            pressure: status.pressure,
            counters,
            ksmd_cpu: cpu,
            found,
            now,
        };
        let decision = decide(&self.state, &input);
        status.reason.clone_from(&decision.reason);
        if decision.state.phase != self.state.phase {
            tracing::info!(phase = decision.state.phase.as_str(), reason = decision.reason, "KSM");
        }
        self.state = decision.state;
        if self.state.phase == Phase::Off {
            self.set = None;
            self.cpu_from = None;
            if let Some(mut custody) = self.custody.take() {
                custody.put_back(&self.sysfs)?;
            }
            return Ok(decision.next);
        }
        self.sysfs.set(&decision.settings)?;
        self.set = Some(decision.settings);
        Ok(decision.next)
    }

    /// Takes custody if nobody here has it yet; with `now`, that is what will be put back unless an earlier keeper
    /// knows better. Gives what will be put back.
    fn custody(&mut self, now: Option<Settings>) -> Result<Option<Settings>, KsmError> {
        let custody = match &mut self.custody {
            Some(custody) => custody,
            None => {
                let boot_id = self.config.proc.join("sys/kernel/random/boot_id");
                let boot_id = std::fs::read_to_string(&boot_id).map_err(KsmError::read(&boot_id))?;
                let custody = Custody::take(&self.config.state_dir, boot_id.trim())?;
                self.custody.insert(custody)
            }
        };
        if let (None, Some(now)) = (custody.found(), now) {
            custody.keep(now)?;
        }
        Ok(custody.found())
    }

    /// Another program has set something since: it is left to it, and what it set is not put back over its head.
    fn foreign(&mut self, now: &Settings, wish: &Wish) -> Result<(), KsmError> {
        let Some(ours) = self.set else { return Ok(()) };
        let differences = ours.differences(now);
        let Some((name, found, ours)) = differences.first().copied() else { return Ok(()) };
        self.left_at = Some((wish.ended, wish.demand));
        if let Some(mut custody) = self.custody.take()
            && let Some(mut found) = custody.found()
        {
            found.take_over(now, &differences);
            custody.keep(found)?;
            custody.put_back(&self.sysfs)?;
        }
        Err(KsmError::Foreign { name, found, ours })
    }
}
