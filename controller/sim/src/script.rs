//! The steps of a run: first all experiments up with hosts dying under it, then faults and users in turn, then rest.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, Weak};

use fleet_core::Input;
use fleet_tree::memory::Net;
use tokio::time::{Duration, sleep};

use crate::check;
use crate::controller::{Controller, Look};
use crate::fleet::{Fleet, KEEPALIVE, RACK, VM_MEMORY};
use crate::network::{Fatal, ROOT, Rules};
use crate::params::Params;
use crate::report::{Progress, Report};
use crate::rng::Rng;
use crate::users::Ask;

/// How long all may take once faults have stopped.
const REST: Duration = Duration::from_secs(2 * 3600);
/// Between two looks at whether it has come to rest.
const GLANCE: Duration = Duration::from_millis(500);
/// The most that passes after a step, in ms: less than a message takes, in the middle of waves, and until they have ended.
const PAUSES: [u64; 4] = [2, 200, 2_000, 20_000];

/// A run that goes on.
struct Play<'a> {
    params: &'a Params,
    tell: &'a mut dyn FnMut(Progress),
    fleet: Arc<Fleet>,
    controller: Controller,
    fatal: Fatal,
    rng: Rng,
    epoch: u64,
    controller_kills: u64,
}

/// Plays a run.
///
/// # Errors
/// What does not hold, and when.
pub async fn play(params: &Params, tell: &mut dyn FnMut(Progress)) -> Result<Report, String> {
    let hosts = params.hosts as usize;
    let fatal = Fatal::default();
    let back: Arc<Mutex<Weak<Fleet>>> = Arc::default();
    let rules = Rules { latency: params.latency, fatal: fatal.clone(), fleet: Arc::clone(&back) };
    // Half as much again as all need, and room for the rounding of small fleets.
    let a_host = u64::from(params.vms).div_ceil(u64::from(params.hosts)) * 3 / 2 + 4;
    let fleet = Fleet::new(Net::new(rules, KEEPALIVE), hosts, a_host * VM_MEMORY);
    if let Ok(mut back) = back.lock() {
        *back = Arc::downgrade(&fleet);
    }
    let controller = Controller::start(&fleet, 1, params.seed)?;
    let rng = Rng::new(params.seed);
    let mut play = Play { params, tell, fleet, controller, fatal, rng, epoch: 1, controller_kills: 0 };
    play.tell("hosts join", 0);
    (0..hosts).for_each(|host| play.fleet.start(host));
    sleep(Duration::from_secs(2)).await;
    play.tell("first up", 0);
    let first_up_ms = play.first_up().await?;
    for step in 0..params.steps {
        play.tell("faults", step);
        play.step(step).await.map_err(|what| format!("step {step}: {what}"))?;
    }
    play.tell("rest", params.steps);
    let faults_end = play.fleet.now();
    play.rest().await?;
    Ok(play.report(first_up_ms, faults_end))
}

impl Play<'_> {
    fn tell(&mut self, stage: &'static str, step: u32) {
        let progress = Progress { stage, step, steps: self.params.steps, virtual_ms: self.fleet.now() };
        (self.tell)(progress);
    }

    fn hosts(&self) -> usize {
        self.params.hosts as usize
    }

    /// Brings everything up while a share of the hosts dies of some message; gives the time to the first answer.
    async fn first_up(&mut self) -> Result<u64, String> {
        let dying = self.rng.some(self.hosts(), self.params.fail).len();
        // A wave down and up is about four messages a host.
        self.arm(dying, self.hosts() as u64 * 4);
        let (small, begun) = (self.small(), self.fleet.now());
        self.ask(Ask::Up("main".to_owned(), self.params.vms - 2 * small)).await?;
        self.ask(Ask::Up("left".to_owned(), small)).await?;
        self.ask(Ask::Up("right".to_owned(), small)).await?;
        let until = begun + 3_600_000;
        while self.fleet.now() < until && !self.fleet.state().users.is_answered(1) {
            sleep(GLANCE / 10).await;
            self.revive().await?;
        }
        let took = self.fleet.now() - begun;
        self.look().await?;
        Ok(took)
    }

    /// VMs of a small experiment at first.
    fn small(&self) -> u32 {
        (self.params.vms / 10).max(1)
    }

    /// So many die of one of the next messages.
    fn arm(&mut self, dying: usize, among: u64) {
        let sent = self.fleet.net.total().messages;
        let numbers: Vec<u64> = (0..dying).map(|_| sent + self.rng.below(among)).collect();
        self.fatal.add(numbers);
    }

    /// One fault, or one wish of a user, and a while.
    async fn step(&mut self, step: u32) -> Result<(), String> {
        let share = self.params.fail / f64::from(self.params.steps.max(1)) * 4.0;
        match self.rng.below(14) {
            0 => self.each(share, |fleet, host| fleet.kill(host)),
            1 => self.each(share, |fleet, host| fleet.silence(host, false)),
            2 => self.each(share, |fleet, host| fleet.silence(host, true)),
            3 | 4 => self.each(0.5, |fleet, host| fleet.heal(host)),
            5 => {
                let host = self.rng.host(self.hosts());
                self.fleet.kill(host);
                self.fleet.start(host);
            }
            6 => self.controller.kill().await,
            7 => {
                self.controller.fuse.store(true, Ordering::Relaxed);
                self.resize(step).await?;
            }
            8 => self.partition(),
            9 => {
                let dying = self.rng.below(1 + self.hosts() as u64 / 10) as usize + 1;
                self.arm(dying, 4 * self.hosts() as u64);
                self.resize(step).await?;
            }
            10 | 11 => self.resize(step).await?,
            12 => self.leave().await?,
            _ => {
                let host = self.rng.host(self.hosts());
                let left = self.fleet.state().hosts.get(host).is_some_and(|it| it.left_once && !it.removed);
                if left {
                    self.ask(Ask::Undrain(host)).await?;
                }
            }
        }
        let most = self.rng.one(&PAUSES, 0);
        sleep(Duration::from_micros(self.rng.below(most * 1000))).await;
        self.revive().await?;
        self.look().await.map(drop)
    }

    fn each(&mut self, share: f64, act: impl Fn(&Fleet, usize)) {
        let mut chosen = self.rng.some(self.hosts(), share);
        if chosen.is_empty() {
            chosen.push(self.rng.host(self.hosts()));
        }
        chosen.into_iter().for_each(|host| act(&self.fleet, host));
    }

    /// A few hosts and a few others do not reach one another, up to a rack each.
    fn partition(&mut self) {
        let most = (self.hosts() / 2).clamp(1, RACK);
        let (one, other) = (self.rng.host(self.hosts()), self.rng.host(self.hosts()));
        let count = self.rng.host(most) + 1;
        let run = |first: usize| (first..self.hosts().min(first + count)).collect::<Vec<_>>();
        self.fleet.partition(&run(one), &run(other));
    }

    /// One of the small experiments grows, shrinks, goes or comes.
    async fn resize(&mut self, step: u32) -> Result<(), String> {
        let experiment = if step.is_multiple_of(2) { "left" } else { "right" }.to_owned();
        let now = self.fleet.state().users.wanted_of(&experiment);
        let most = self.small() * 3 / 2 + 1;
        let ask = match (now, self.rng.below(4)) {
            (Some(_), 0) => Ask::Down(experiment),
            (Some(vms), 1) => Ask::Up(experiment, (vms / 2).max(1)),
            (Some(vms), _) => Ask::Up(experiment, (vms + vms / 16 + 1).min(most)),
            (None, _) => Ask::Up(experiment, self.small()),
        };
        self.ask(ask).await
    }

    /// A user drains or removes a host; of ten at most one, and in small fleets none.
    async fn leave(&mut self) -> Result<(), String> {
        let (host, remove) = (self.rng.host(self.hosts()), self.rng.below(2) == 0);
        {
            let mut state = self.fleet.state();
            let left = state.hosts.iter().filter(|host| host.left_once).count();
            let Some(it) = state.hosts.get_mut(host) else { return Ok(()) };
            if it.removed || (left + 1) * 10 > self.params.hosts as usize {
                return Ok(());
            }
            (it.left_once, it.removed) = (true, remove);
        }
        self.ask(if remove { Ask::Remove(host) } else { Ask::Drain(host) }).await
    }

    /// A user asks the controller.
    async fn ask(&mut self, ask: Ask) -> Result<(), String> {
        self.revive().await?;
        self.fleet.note(("ask", &ask));
        let input = self.fleet.state().users.ask(ask);
        self.give(input).await;
        Ok(())
    }

    async fn give(&self, input: Input) {
        let inbox = self.fleet.state().inbox.clone();
        if let Some(inbox) = inbox {
            drop(inbox.send(input).await);
        }
    }

    /// Starts a controller some time after the last one died; all agents that live call it, the others are missed, and
    /// users who had no answer ask again.
    async fn revive(&mut self) -> Result<(), String> {
        if !self.controller.is_dead() {
            return Ok(());
        }
        sleep(Duration::from_millis(self.rng.below(3_000))).await;
        self.epoch += 1;
        self.controller_kills += 1;
        self.controller = Controller::start(&self.fleet, self.epoch, self.params.seed)?;
        for host in 0..self.hosts() {
            self.fleet.says_hello(host);
            self.fleet.is_missed(host);
        }
        let asked = self.fleet.state().users.ask_again();
        for input in asked {
            self.give(input).await;
        }
        Ok(())
    }

    async fn look(&mut self) -> Result<Option<Look>, String> {
        let look = self.controller.look().await;
        check::always(&self.fleet, look.as_ref())?;
        Ok(look)
    }

    /// No more faults: all hosts come back, and all must come to be as it is wanted.
    async fn rest(&mut self) -> Result<(), String> {
        self.fatal.clear();
        self.controller.fuse.store(false, Ordering::Relaxed);
        // Whoever dies of the last message dies now.
        sleep(Duration::from_millis(1)).await;
        self.revive().await?;
        (0..self.hosts()).for_each(|host| self.fleet.heal(host));
        let begun = self.fleet.now();
        sleep(KEEPALIVE * 2).await;
        // What was refused for want of hosts finds them now.
        let asked = self.fleet.state().users.ask_once_more();
        for input in asked {
            self.give(input).await;
        }
        loop {
            let look = self.look().await?.ok_or("the controller died by itself")?;
            if look.idle {
                return check::converged(&self.fleet, &look);
            }
            if u128::from(self.fleet.now() - begun) > REST.as_millis() {
                return Err("the fleet does not come to rest".to_owned());
            }
            sleep(GLANCE).await;
        }
    }

    fn report(&self, first_up_ms: u64, faults_end: u64) -> Report {
        let (total, own) = (self.fleet.net.total(), self.fleet.net.counts(ROOT));
        let (vms, now) = (check::running(&self.fleet), self.fleet.now());
        let state = self.fleet.state();
        Report {
            hosts: self.params.hosts,
            vms,
            seed: self.params.seed,
            digest: format!("{:016x}", state.log.digest()),
            events: state.log.events(),
            kills: state.kills,
            silences: state.silences,
            partitions: state.partitions,
            controller_kills: self.controller_kills,
            waves: state.waves,
            operations: state.users.count(),
            messages: total.messages,
            bytes: total.bytes,
            controller_messages: own.messages,
            controller_bytes: own.bytes,
            first_up_ms,
            convergence_ms: now.saturating_sub(faults_end),
            virtual_ms: now,
            wall_ms: 0,
        }
    }
}
