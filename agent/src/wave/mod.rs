//! What this host does for waves: the tree's [`Local`] over the rest of the agent, and the nodes that serve it.
//!
//! | task | what |
//! |---|---|
//! | apply, remove, act | followed by their [`Report`]: its steps are progress, its folds the outcomes of the VMs |
//! | info, list, prove, ksm, snapshots, a dry run | data, as replies |
//! | cameras, attaching and detaching one | a reply; an outcome of the host ([`cameras`]) |
//! | exec | on the host or in guests ([`exec`]) |

mod cameras;
mod exec;
mod images;
mod link;
mod reads;

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use fleet_proto::v1::{ActRequest, ApplyTask, Outcome, OutcomeFold, Progress, RemoveRequest, Spec, reply, task};
use fleet_tree::{Config, Job, Link, Local, LocalEnd, Node, Parts, RedbLog, Sink};
use prost::Message;
use tokio_util::sync::CancellationToken;

use crate::agent::Agent;
use crate::apply::Why;
use crate::progress::{Report, Steps};
use crate::{act, apply, teardown};
pub use exec::end_left;
pub use link::{Alone, ToMembers};

/// File name of the log of operations in the folder of state.
pub const LOG_FILE: &str = "operations.redb";

/// The nodes of this host: one for each way to it.
pub struct Nodes {
    log: Arc<RedbLog>,
    clock: Arc<fleet_tree::ClockWatch>,
    all: Mutex<Vec<Node>>,
}

impl Nodes {
    /// With the log of operations in this folder.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(state_dir: &std::path::Path) -> Result<Self, fleet_tree::LogError> {
        let log = Arc::new(RedbLog::open(&state_dir.join(LOG_FILE))?);
        Ok(Self { log, clock: fleet_tree::ClockWatch::start(), all: Mutex::default() })
    }

    /// A node that reaches others by a link. It ends with the agent.
    pub fn add(&self, agent: &Arc<Agent>, link: Arc<dyn Link>) -> Node {
        let node = Node::new(Parts {
            name: agent.config.host.clone(),
            link,
            local: Arc::new(Work { agent: Arc::clone(agent) }),
            log: Arc::clone(&self.log) as Arc<dyn fleet_tree::OpLog>,
            config: Config::default(),
            clock: Arc::clone(&self.clock),
        });
        self.all.lock().unwrap_or_else(PoisonError::into_inner).push(node.clone());
        node
    }

    /// Stops them all, as the end of the process would.
    pub async fn stop(&self) {
        let nodes = std::mem::take(&mut *self.all.lock().unwrap_or_else(PoisonError::into_inner));
        for node in nodes {
            node.stop().await;
        }
    }
}

/// The host's own part of waves.
struct Work {
    agent: Arc<Agent>,
}

#[async_trait]
impl Local for Work {
    fn admit_epoch(&self, epoch: u64) -> Result<(), String> {
        self.agent.admit_epoch(epoch)
    }

    async fn run(&self, job: Job, sink: Sink) -> LocalEnd {
        let agent = &self.agent;
        match job.task.task.clone() {
            Some(task::Task::Apply(apply)) => self.apply(&apply, &job, &sink).await,
            Some(task::Task::Remove(request)) => self.remove(request, &job, &sink).await,
            Some(task::Task::Act(request)) => self.act(request, &job, &sink).await,
            Some(task::Task::Info(_)) => {
                sink.reply(reply::Reply::Info(agent.info())).await;
                LocalEnd::ok(Vec::new())
            }
            Some(task::Task::List(request)) => reads::list(agent, &request, &sink).await,
            Some(task::Task::Prove(request)) => reads::prove(agent, request, &sink).await,
            Some(task::Task::Ksm(request)) => reads::ksm(agent, request, &sink).await,
            Some(task::Task::Snapshots(request)) => reads::snapshots(agent, request, &sink).await,
            Some(task::Task::Piece(piece)) => images::keep(agent, &piece, &job).await,
            Some(task::Task::Image(image)) => images::image(agent, image, &sink).await,
            Some(task::Task::Exec(task)) => exec::run(agent, task, &job, &sink).await,
            Some(task::Task::Cameras(_)) => cameras::list(agent, &sink).await,
            Some(task::Task::AttachCamera(order)) => cameras::attach(agent, &order).await,
            Some(task::Task::DetachCamera(order)) => cameras::detach(agent, &order).await,
            None => LocalEnd::failed("the wave has no task that this agent knows; update it", Vec::new()),
        }
    }
}

impl Work {
    async fn apply(&self, apply: &ApplyTask, job: &Job, sink: &Sink) -> LocalEnd {
        let content = apply.spec.as_slice().try_into().ok().and_then(|hash: fleet_tree::Hash| job.content.get(&hash));
        let Some(spec) = content.and_then(|bytes| Spec::decode(bytes.clone()).ok()) else {
            return LocalEnd::failed(
                "the wave's spec is damaged; run the same version of fleet on all hosts",
                Vec::new(),
            );
        };
        let why = if apply.dry_run { Why::DryRun } else { Why::Wanted(job.op.generation) };
        let (report, steps) = Report::new();
        let applying = async {
            let last = apply::apply(&self.agent, &spec, why, &report).await;
            // The reader ends with it.
            drop(report);
            last
        };
        let (last, refused) = tokio::join!(applying, follow(steps, sink, &job.cancelled, apply.dry_run));
        let end = match (last, refused) {
            (Some(last), _) => end_of(last),
            (None, refused) => LocalEnd::failed(refused.unwrap_or_default(), Vec::new()),
        };
        self.agent.tell_held();
        end
    }

    async fn remove(&self, request: RemoveRequest, job: &Job, sink: &Sink) -> LocalEnd {
        let RemoveRequest { experiment, .. } = request;
        let (report, steps) = Report::new();
        let removing = async {
            let last = teardown::remove(&self.agent, &experiment, job.op.generation, &report).await;
            drop(report);
            last
        };
        let (last, refused) = tokio::join!(removing, follow(steps, sink, &job.cancelled, false));
        let Some(last) = last else { return LocalEnd::failed(refused.unwrap_or_default(), Vec::new()) };
        let well = |fold: &&OutcomeFold| matches!(fold.outcome(), Outcome::Ok | Outcome::AlreadySo);
        let problem = last.folds.iter().find(|fold| !well(fold)).map(|fold| fold.reason.clone());
        self.agent.tell_held();
        match problem {
            Some(problem) => LocalEnd::failed(problem, last.folds),
            None => LocalEnd::ok(last.folds),
        }
    }

    async fn act(&self, request: ActRequest, job: &Job, sink: &Sink) -> LocalEnd {
        let action = request.action();
        let ActRequest { experiment, ranges, force, name, .. } = request;
        if let Err(error) = self.agent.generations().check(&experiment, job.op.generation) {
            return LocalEnd::failed(error.to_string(), Vec::new());
        }
        let Some(experiment) = self.agent.experiment(&experiment) else {
            return LocalEnd::failed("nothing of the experiment is here", Vec::new());
        };
        let Some(slice) = experiment.slice() else {
            return LocalEnd::failed("the experiment is still being set up; try again", Vec::new());
        };
        let names = match slice.names(&ranges) {
            Ok(names) => names,
            Err(error) => return LocalEnd::failed(error, Vec::new()),
        };
        let (report, steps) = Report::new();
        let what = act::Act { action, force, name };
        let acting = async {
            let last = act::act(&self.agent, &experiment, names, &what, &report).await;
            drop(report);
            last
        };
        let (last, _) = tokio::join!(acting, follow(steps, sink, &job.cancelled, false));
        LocalEnd::ok(last.folds)
    }
}

/// Hands the steps of a report on until it ends, or until nobody waits for it any more: then it is dropped, and who works
/// begins nothing new. Gives the reason when all was refused.
async fn follow(mut steps: Steps, sink: &Sink, cancelled: &CancellationToken, dry_run: bool) -> Option<String> {
    loop {
        let step = tokio::select! {
            biased;
            step = steps.recv() => step?,
            () = cancelled.cancelled() => return None,
        };
        match step {
            Ok(mut step) => {
                if let Some(difference) = step.difference.take()
                    && dry_run
                {
                    sink.reply(reply::Reply::Difference(difference)).await;
                }
                sink.progress(step);
            }
            Err(status) => return Some(status.message().to_owned()),
        }
    }
}

/// The end of work that was carried out: what was broken off is to be told again.
fn end_of(last: Progress) -> LocalEnd {
    let missed = last.folds.iter().find(|fold| fold.outcome() == Outcome::NotReached);
    match missed {
        Some(fold) => {
            let reason = fold.reason.clone();
            LocalEnd { outcome: Outcome::NotReached, reason, targets: last.folds }
        }
        None => LocalEnd::ok(last.folds),
    }
}
