//! A controller that lives, dies, and starts again on its records: the core, the root of the tree, and what joins them.
//! It stores before it acts; it may be made to die between the two.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use fleet_core::{Action, Answer, Core, Input, Output, Settings, Wave, WaveTask, host_ends};
use fleet_proto::v1::{ApplyTask, Options, Task, task};
use fleet_tree::{Call, Members, Root, hash_of, recommended_k};
use netlang::VmShape;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use crate::fleet::{Fleet, VM_MEMORY};
use crate::log::Fnv;
use crate::network::ROOT;
use crate::work;

/// Inputs that wait; whoever has one waits with it.
const INBOX: usize = 1024;

/// Members of a small wave.
const SMALL: usize = 1_000;
/// Bytes of a spec that is sent as it is.
const LONG: usize = 64 * 1024;

/// A controller that runs.
pub struct Controller {
    task: tokio::task::JoinHandle<()>,
    stop: CancellationToken,
    /// Makes it die after it has stored something, before it acts.
    pub fuse: Arc<AtomicBool>,
    /// Gives a look at its core.
    look: mpsc::Sender<tokio::sync::oneshot::Sender<Look>>,
}

/// What can be seen of a core.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// Nothing is under way, and nothing is planned.
    pub idle: bool,
    /// Problems of the core's own sums.
    pub problems: Vec<String>,
    /// For each experiment: its spec, and whether all hosts have it.
    pub experiments: Vec<(String, fleet_proto::v1::Spec, fleet_core::Phase)>,
}

struct Driver {
    fleet: Arc<Fleet>,
    core: Core,
    root: Root,
    waves: JoinSet<Option<Input>>,
    abandoned: std::collections::BTreeMap<String, CancellationToken>,
    fuse: Arc<AtomicBool>,
}

/// Branches of a host. Small fleets would be one level deep; so their waves have few, and some hosts stand between.
fn branches(op_id: &str, members: usize) -> u32 {
    let mut hasher = Fnv::default();
    op_id.hash(&mut hasher);
    match hasher.finish() % 3 {
        0 if members <= SMALL => 2,
        1 if members <= SMALL => 3,
        _ => recommended_k(members),
    }
}

/// Bytes of a simulated VM.
fn sizes(_: &Options, vm: &VmShape<'_>) -> u64 {
    vm.committed(vm.memory.unwrap_or(VM_MEMORY))
}

impl Controller {
    /// Starts one on what the one before stored.
    ///
    /// # Errors
    /// When the records make no core: that is a violation.
    pub fn start(fleet: &Arc<Fleet>, epoch: u64, seed: u64) -> Result<Controller, String> {
        let settings = Settings { seed, ..Settings::default() };
        let records = fleet.state().store.clone();
        let (core, output) =
            Core::restore(settings, Box::new(sizes), epoch, fleet.now(), records).map_err(|error| error.to_string())?;
        let (sender, inbox) = mpsc::channel(INBOX);
        let (look, looks) = mpsc::channel(1);
        fleet.state().inbox = Some(sender);
        let (stop, fuse) = (CancellationToken::new(), Arc::new(AtomicBool::new(false)));
        fleet.state().controller = stop.clone();
        let root = Root::new(fleet.net.link(ROOT), fleet.config.clone(), Arc::clone(&fleet.clock));
        let driver = Driver {
            fleet: Arc::clone(fleet),
            core,
            root: root.clone(),
            waves: JoinSet::new(),
            abandoned: std::collections::BTreeMap::new(),
            fuse: Arc::clone(&fuse),
        };
        let (stopped, net, ending) = (stop.clone(), fleet.net.clone(), Arc::clone(fleet));
        let task = tokio::spawn(async move {
            tokio::select! {
                biased;
                () = stopped.cancelled() => {}
                () = driver.drive(output, inbox, looks) => {}
            }
            ending.state().inbox = None;
            net.kill(ROOT);
            root.stop().await;
            ending.note("controller dead");
        });
        fleet.note(("controller", epoch));
        Ok(Controller { task, stop, fuse, look })
    }

    /// Kills it: all that it was doing is broken off.
    pub async fn kill(&mut self) {
        self.stop.cancel();
        // It ends at its next await; one that is dead already has been waited for.
        if !self.task.is_finished() {
            drop((&mut self.task).await);
        }
    }

    /// Whether it died by itself.
    pub fn is_dead(&self) -> bool {
        self.task.is_finished()
    }

    /// Looks at its core, between two inputs; none when it is dead.
    pub async fn look(&self) -> Option<Look> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.look.send(sender).await.ok()?;
        receiver.await.ok()
    }
}

impl Driver {
    async fn drive(
        mut self,
        first: Output,
        mut inbox: mpsc::Receiver<Input>,
        mut looks: mpsc::Receiver<tokio::sync::oneshot::Sender<Look>>,
    ) {
        if self.act(first).is_err() {
            return;
        }
        loop {
            let wake = self.core.wake_at().map(|at| self.fleet.began + Duration::from_millis(at));
            let far = Instant::now() + Duration::from_secs(86_400);
            let input = tokio::select! {
                biased;
                Some(looker) = looks.recv() => {
                    drop(looker.send(self.seen(inbox.is_empty())));
                    continue;
                }
                input = inbox.recv() => match input {
                    Some(input) => input,
                    None => return,
                },
                Some(ended) = self.waves.join_next() => match ended {
                    Ok(Some(input)) => input,
                    _ => continue,
                },
                () = tokio::time::sleep_until(wake.unwrap_or(far)) => Input::Tick,
            };
            if self.is_stranger(&input) {
                continue;
            }
            let output = self.core.handle(self.fleet.now(), input);
            if self.act(output).is_err() {
                return;
            }
        }
    }

    /// A host that was removed, and that the core has forgotten: its certificate is not taken any more.
    fn is_stranger(&self, input: &Input) -> bool {
        let Input::Seen { facts, .. } = input else { return false };
        let number = crate::fleet::number(&facts.name);
        let removed = number.and_then(|host| self.fleet.state().hosts.get(host).map(|host| host.removed));
        removed == Some(true) && self.core.host(&facts.name).is_none()
    }

    /// Stores, then acts; an error is its death between the two.
    fn act(&mut self, output: Output) -> Result<(), ()> {
        {
            let mut state = self.fleet.state();
            for record in output.records {
                match record.value {
                    Some(value) => drop(state.store.insert(record.key, value)),
                    None => drop(state.store.remove(&record.key)),
                }
            }
        }
        if !output.actions.is_empty() && self.fuse.load(Ordering::Relaxed) {
            return Err(());
        }
        for action in output.actions {
            match action {
                Action::Wave(wave) => self.send(wave),
                Action::Abandon { op_id } => {
                    if let Some(token) = self.abandoned.remove(&op_id) {
                        token.cancel();
                    }
                }
                Action::Answer { op_id, answer } => self.answered(&op_id, &answer),
                Action::Note { about, text } => self.fleet.note(("note", about, text)),
            }
        }
        Ok(())
    }

    fn send(&mut self, wave: Wave) {
        self.fleet.state().waves += 1;
        self.fleet.note(("wave", &wave.op_id, wave.members.len()));
        let (task, content) = self.errand(&wave);
        let members = Members::new(wave.members.clone());
        let call = members.map_err(|error| error.to_string()).and_then(|members| {
            let call = Call {
                op: wave.header(),
                k: branches(&wave.op_id, members.len()),
                members,
                dead: Vec::new(),
                task,
                content,
                deadline: Duration::from_millis(wave.within_ms),
                again: wave.again,
            };
            self.root.wave(call).map_err(|error| error.to_string())
        });
        let follow = match call {
            Ok(follow) => follow,
            Err(error) => return self.fleet.violated(format!("the wave {} was not sent: {error}", wave.op_id)),
        };
        let token = CancellationToken::new();
        self.abandoned.insert(wave.op_id.clone(), token.clone());
        let fleet = Arc::clone(&self.fleet);
        self.waves.spawn(async move {
            let end = tokio::select! {
                biased;
                () = token.cancelled() => return None,
                end = follow.end() => end?,
            };
            let counted: u64 = end.hosts.iter().map(|fold| u64::from(fold.count)).sum();
            if counted != wave.members.len() as u64 {
                fleet.violated(format!("{} has {} members and counts {counted}", wave.op_id, wave.members.len()));
            }
            fleet.note(("ended", &wave.op_id));
            Some(Input::WaveEnded { op_id: wave.op_id.clone(), ends: host_ends(&wave, &end), targets: end.targets })
        });
    }

    /// The task of a wave and its content. A long spec is put down where all hosts find it, and its hash goes in its
    /// place: ten thousand hosts that unpack a megabyte each would tell nothing more.
    fn errand(&self, wave: &Wave) -> (Task, Vec<Bytes>) {
        match &wave.task {
            WaveTask::Remove => (wave.task(), Vec::new()),
            WaveTask::Apply { spec, .. } if spec.len() <= LONG => (wave.task(), vec![spec.to_vec().into()]),
            WaveTask::Apply { hash, spec } => {
                // What the core encoded decodes; if it ever did not, hosts would say so.
                drop(work::read(&mut self.fleet.state(), *hash, spec));
                let content = Bytes::copy_from_slice(hash);
                let apply = ApplyTask { spec: hash_of(&content).to_vec(), dry_run: false };
                (Task { task: Some(task::Task::Apply(apply)) }, vec![content])
            }
        }
    }

    fn answered(&self, op_id: &str, answer: &Answer) {
        if let Answer::Summary(summary) = answer {
            let sum: u64 = summary.folds.iter().map(|fold| u64::from(fold.count)).sum();
            if sum != u64::from(summary.targets) {
                self.fleet.violated(format!("{op_id} has {} targets and counts {sum}", summary.targets));
            }
        }
        self.fleet.note(("answer", op_id, format!("{answer:?}")));
        self.fleet.state().users.answered(op_id, answer);
    }

    fn seen(&self, nothing_waits: bool) -> Look {
        let mut problems = Vec::new();
        for host in self.core.hosts() {
            if host.committed > host.record.memory_bytes {
                problems.push(format!("{} has more VMs than memory", host.record.name));
            }
        }
        let experiments = self.core.experiments().map(|e| (e.name.to_owned(), e.spec.clone(), e.phase));
        Look {
            idle: nothing_waits && self.waves.is_empty() && self.core.wake_at().is_none(),
            problems,
            experiments: experiments.collect(),
        }
    }
}
