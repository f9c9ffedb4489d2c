//! The steps of a run: first all experiments up with hosts dying under it, then faults and users in turn, then rest.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, Weak};

use fleet_core::Input;
use fleet_proto::v1::Spec;
use fleet_tree::memory::Net;
use tokio::time::{Duration, sleep};

use crate::check;
use crate::controller::{Controller, Look};
use crate::fleet::{Fleet, KEEPALIVE, VM_MEMORY, name};
use crate::network::{Fatal, ROOT, Rules};
use crate::params::Params;
use crate::report::Report;
use crate::rng::Rng;

/// How long all may take once faults have stopped.
const REST: Duration = Duration::from_secs(2 * 3600);
/// Between two looks at whether it has come to rest.
const GLANCE: Duration = Duration::from_millis(500);

struct Play {
    fleet: Arc<Fleet>,
    controller: Controller,
    fatal: Fatal,
    rng: Rng,
    seed: u64,
    epoch: u64,
    operations: u64,
    controller_kills: u64,
    steps: u32,
    share: f64,
}

/// Plays a run.
///
/// # Errors
/// What does not hold, and when.
pub async fn play(params: &Params) -> Result<Report, String> {
    let hosts = params.hosts as usize;
    let fatal = Fatal::default();
    let back: Arc<Mutex<Weak<Fleet>>> = Arc::default();
    let rules = Rules { latency: params.latency, fatal: fatal.clone(), fleet: Arc::clone(&back) };
    // A third more than all need, and room for the rounding of small fleets.
    let a_host = u64::from(params.vms).div_ceil(u64::from(params.hosts)) * 4 / 3 + 4;
    let fleet = Fleet::new(Net::new(rules, KEEPALIVE), hosts, a_host * VM_MEMORY);
    if let Ok(mut back) = back.lock() {
        *back = Arc::downgrade(&fleet);
    }
    let controller = Controller::start(&fleet, 1, params.seed)?;
    let mut play = Play {
        fleet,
        controller,
        fatal,
        rng: Rng::new(params.seed),
        seed: params.seed,
        epoch: 1,
        operations: 0,
        controller_kills: 0,
        steps: params.steps,
        share: params.fail,
    };
    (0..hosts).for_each(|host| play.fleet.start(host));
    sleep(Duration::from_secs(1)).await;
    let first_up_ms = play.first_up(params).await?;
    for step in 0..play.steps {
        play.step(step).await.map_err(|what| format!("step {step}: {what}"))?;
    }
    let faults_end = play.fleet.now();
    play.rest().await?;
    let total = play.fleet.net.total();
    let own = play.fleet.net.counts(ROOT);
    let vms = check::running(&play.fleet);
    let now = play.fleet.now();
    let state = play.fleet.state();
    Ok(Report {
        hosts: params.hosts,
        vms,
        seed: params.seed,
        hash: format!("{:016x}", state.log.hash()),
        events: state.log.events(),
        kills: state.kills,
        silences: state.silences,
        controller_kills: play.controller_kills,
        waves: state.waves,
        operations: play.operations,
        messages: total.messages,
        bytes: total.bytes,
        controller_messages: own.messages,
        controller_bytes: own.bytes,
        first_up_ms,
        convergence_ms: now.saturating_sub(faults_end),
        virtual_ms: now,
        wall_ms: 0,
    })
}

impl Play {
    /// Brings everything up while a share of the hosts dies of some message; gives the time to the first answer.
    async fn first_up(&mut self, params: &Params) -> Result<u64, String> {
        let hosts = params.hosts as usize;
        let dying = self.rng.some(hosts, self.share).len() as u64;
        // A wave down and up is about four messages a host.
        let sent = self.fleet.net.total().messages;
        let span = hosts as u64 * 4;
        let numbers: Vec<u64> = (0..dying).map(|_| sent + self.rng.below(span)).collect();
        self.fatal.add(numbers);
        let (small, begun) = (params.vms / 10, self.fleet.now());
        let first = self.up("main", params.vms - 2 * small.max(1)).await;
        self.up("left", small.max(1)).await;
        self.up("right", small.max(1)).await;
        for _ in 0..7200 {
            if self.fleet.state().operations.get(&first).copied().unwrap_or(true) {
                break;
            }
            sleep(GLANCE).await;
        }
        let took = self.fleet.now() - begun;
        self.fatal.clear();
        self.look().await?;
        Ok(took)
    }

    /// One fault, or one wish of a user, and a while.
    async fn step(&mut self, step: u32) -> Result<(), String> {
        let hosts = self.fleet.state().hosts.len();
        let share = self.share / f64::from(self.steps.max(1)) * 4.0;
        match self.rng.below(12) {
            0 | 1 => self.each(hosts, share, |fleet, host| fleet.kill(host)),
            2 | 3 => self.each(hosts, share, |fleet, host| fleet.silence(host)),
            4 => self.each(hosts, 0.5, |fleet, host| fleet.heal(host)),
            5 => {
                let host = self.rng.host(hosts);
                self.fleet.kill(host);
                self.fleet.start(host);
            }
            6 => self.kill_controller().await?,
            7 => {
                self.controller.fuse.store(true, Ordering::Relaxed);
                self.resize(step).await;
            }
            8 | 9 => self.resize(step).await,
            10 => {
                let op_id = self.operation();
                self.leave(1, false, op_id).await;
            }
            _ => {
                let op_id = self.operation();
                self.leave(1, true, op_id).await;
            }
        }
        sleep(Duration::from_millis(self.rng.below(20_000))).await;
        if self.controller.is_dead() {
            self.start_controller().await?;
        }
        self.look().await.map(drop)
    }

    fn each(&mut self, hosts: usize, share: f64, act: impl Fn(&Fleet, usize)) {
        let mut chosen = self.rng.some(hosts, share);
        if chosen.is_empty() {
            chosen.push(self.rng.host(hosts));
        }
        chosen.into_iter().for_each(|host| act(&self.fleet, host));
    }

    /// One of the small experiments grows, shrinks, goes or comes.
    async fn resize(&mut self, step: u32) {
        let experiment = if step.is_multiple_of(2) { "left" } else { "right" };
        let now = self.fleet.state().wishes.get(experiment).and_then(|wish| wish.vms);
        match (now, self.rng.below(4)) {
            (Some(_), 0) => self.down(experiment).await,
            (Some(vms), 1) => drop(self.up(experiment, (vms / 2).max(1)).await),
            (Some(vms), _) => drop(self.up(experiment, vms + vms / 16 + 1).await),
            (None, _) => drop(self.up(experiment, 5).await),
        }
    }

    /// Users drain or remove hosts.
    async fn leave(&mut self, count: usize, remove: bool, op_id: String) {
        let chosen: Vec<usize> = {
            let mut state = self.fleet.state();
            let hosts = state.hosts.len();
            // Small fleets have no host to spare.
            if state.hosts.iter().filter(|host| !host.left).count() * 10 < hosts * 9 || hosts < 8 {
                state.operations.remove(&op_id);
                return;
            }
            let mut chosen = Vec::new();
            for _ in 0..count {
                let host = self.rng.host(hosts);
                if let Some(it) = state.hosts.get_mut(host).filter(|it| !it.left) {
                    (it.left, it.removed) = (true, remove);
                    chosen.push(host);
                }
            }
            chosen
        };
        self.fleet.note(("leave", remove, &chosen));
        let hosts = chosen.into_iter().map(name).collect();
        self.give(if remove { Input::Remove { op_id, hosts } } else { Input::Drain { op_id, hosts } }).await;
    }

    async fn up(&mut self, experiment: &str, vms: u32) -> String {
        let op_id = self.operation();
        {
            let mut state = self.fleet.state();
            let wish = state.wishes.entry(experiment.to_owned()).or_insert(crate::fleet::Wish { vms: None, fewest: vms });
            wish.vms = Some(vms);
            wish.fewest = wish.fewest.min(vms);
        }
        self.fleet.note(("up", experiment, vms));
        let mib = VM_MEMORY >> 20;
        let spec = Spec {
            experiment: experiment.to_owned(),
            source_name: format!("{experiment}.fleet"),
            source: format!("lan net = 10.0.0.0/8\nvm web[0..{vms}] {{ on net; mem {mib}MiB }}\n"),
            ..Spec::default()
        };
        self.give(Input::Up { op_id: op_id.clone(), spec: Box::new(spec) }).await;
        op_id
    }

    async fn down(&mut self, experiment: &str) {
        let op_id = self.operation();
        if let Some(wish) = self.fleet.state().wishes.get_mut(experiment) {
            (wish.vms, wish.fewest) = (None, 0);
        }
        self.fleet.note(("down", experiment));
        self.give(Input::Down { op_id, experiment: experiment.to_owned() }).await;
    }

    fn operation(&mut self) -> String {
        self.operations += 1;
        let op_id = format!("op{}", self.operations);
        self.fleet.state().operations.insert(op_id.clone(), false);
        op_id
    }

    /// A user asks the controller, and asks again when it has died meanwhile.
    async fn give(&mut self, input: Input) {
        if self.controller.is_dead() && self.start_controller().await.is_err() {
            return;
        }
        let inbox = self.fleet.state().inbox.clone();
        if let Some(inbox) = inbox {
            drop(inbox.send(input).await);
        }
    }

    async fn kill_controller(&mut self) -> Result<(), String> {
        self.controller.kill(&self.fleet).await;
        self.start_controller().await
    }

    /// Starts a controller, some time after the last one died; all agents that live call it, the others are missed.
    async fn start_controller(&mut self) -> Result<(), String> {
        sleep(Duration::from_millis(self.rng.below(3_000))).await;
        self.epoch += 1;
        self.controller_kills += 1;
        self.controller = Controller::start(&self.fleet, self.epoch, self.seed)?;
        let hosts = self.fleet.state().hosts.len();
        for host in 0..hosts {
            self.fleet.says_hello(host);
            self.fleet.is_missed(host);
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
        self.controller.fuse.store(false, Ordering::Relaxed);
        if self.controller.is_dead() {
            self.start_controller().await?;
        }
        let hosts = self.fleet.state().hosts.len();
        (0..hosts).for_each(|host| self.fleet.heal(host));
        let begun = self.fleet.now();
        sleep(KEEPALIVE * 2).await;
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
}
