//! A host's part of waves: which VMs run on it after one. Whatever stops a VM is judged here, at once: was that asked
//! for, or has another host taken it over?

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use fleet_proto::v1::{Outcome, OutcomeFold, Range, Spec, task};
use fleet_tree::{Hash, Job, Local, LocalEnd, Sink};
use prost::Message;
use tokio::time::Duration;

use crate::fleet::{Fleet, Held, State, name};
use crate::ranges::{below, vms, without};
use crate::users;

/// How long a host takes to act at all, and for each VM that it starts.
const ACT: Duration = Duration::from_millis(150);
const START: Duration = Duration::from_millis(4);

/// The work of one host, for one life of its agent.
pub struct Work {
    /// Which host.
    pub host: usize,
    /// Which life.
    pub incarnation: u64,
    /// All hosts.
    pub fleet: Weak<Fleet>,
}

/// A spec as hosts read it.
#[derive(Debug, Default)]
pub struct Placed {
    experiment: String,
    /// The question that it answers.
    asked: u64,
    places: HashMap<String, Vec<Range>>,
}

/// What an operation makes of a host.
struct Change {
    experiment: String,
    generation: u64,
    asked: u64,
    after: Vec<Range>,
    removes: bool,
    starts: u32,
}

#[async_trait]
impl Local for Work {
    fn admit_epoch(&self, epoch: u64) -> Result<(), String> {
        let Some(fleet) = self.fleet.upgrade() else { return Ok(()) };
        let mut state = fleet.state();
        let Some(it) = state.hosts.get_mut(self.host) else { return Ok(()) };
        if epoch < it.epoch {
            return Err(format!("epoch {epoch} is over, {} was seen", it.epoch));
        }
        it.epoch = epoch;
        Ok(())
    }

    async fn run(&self, job: Job, _: Sink) -> LocalEnd {
        let Some(fleet) = self.fleet.upgrade() else { return failed("the run is over") };
        let change = match self.begin(&fleet, &job) {
            Ok(change) => change,
            Err(end) => return end,
        };
        tokio::time::sleep(ACT + START * change.starts).await;
        self.finish(&fleet, &job.op.op_id, change)
    }
}

fn failed(reason: &str) -> LocalEnd {
    LocalEnd::failed(reason, Vec::new())
}

impl Work {
    fn begin(&self, fleet: &Fleet, job: &Job) -> Result<Change, LocalEnd> {
        let mut state = fleet.state();
        let generation = job.op.generation;
        let (experiment, asked, after, removes) = match &job.task.task {
            Some(task::Task::Apply(apply)) => {
                let hash = Hash::try_from(apply.spec.as_slice()).map_err(|_| failed("no hash of a spec"))?;
                let bytes = job.content.get(&hash).ok_or_else(|| failed("no spec"))?;
                // A hash in its place is that of a long spec, which has been read already.
                let placed = match Hash::try_from(&bytes[..]) {
                    Ok(long) => read(&mut state, long, &[])?,
                    Err(_) => read(&mut state, hash, bytes)?,
                };
                let after = placed.places.get(&name(self.host)).cloned().unwrap_or_default();
                (placed.experiment.clone(), placed.asked, after, false)
            }
            Some(task::Task::Remove(remove)) => (remove.experiment.clone(), 0, Vec::new(), true),
            _ => return Err(failed("this host cannot do that")),
        };
        let Some(it) = state.hosts.get_mut(self.host) else { return Err(failed("no host")) };
        // An agent that was killed before it could remember the end of an operation does it again: the tree says so.
        if it.finished.get(&job.op.op_id) == Some(&self.incarnation) {
            let what = format!("{} did {} twice", name(self.host), job.op.op_id);
            drop(state);
            fleet.violated(what);
            return Err(failed("twice"));
        }
        let newest = it.seen.entry(experiment.clone()).or_default();
        if generation < *newest {
            return Err(failed("a newer operation was here first"));
        }
        *newest = generation;
        let running = it.holds.get(&experiment).map(|held| held.ranges.as_slice()).unwrap_or_default();
        let starts = vms(&without(&after, running));
        Ok(Change { experiment, generation, asked, after, removes, starts })
    }

    fn finish(&self, fleet: &Fleet, op_id: &str, change: Change) -> LocalEnd {
        let Change { experiment, generation, asked, after, removes, .. } = change;
        let mut state = fleet.state();
        let Some(it) = state.hosts.get_mut(self.host) else { return failed("no host") };
        if it.seen.get(&experiment).is_some_and(|newest| *newest > generation) {
            return failed("a newer operation was here first");
        }
        let before = it.holds.remove(&experiment).unwrap_or_default();
        if !removes {
            it.holds.insert(experiment.clone(), Held { ranges: after.clone(), asked, generation });
        }
        it.finished.insert(op_id.to_owned(), self.incarnation);
        let wrong = self.lost(&state, &experiment, &before, &after);
        drop(state);
        if let Some(wrong) = wrong {
            fleet.violated(format!("{op_id} {wrong}"));
        }
        fleet.note(("done", self.host, op_id));
        let ended = if removes { &before.ranges } else { &after };
        let targets = ended.iter().map(|range| OutcomeFold {
            outcome: Outcome::Ok.into(),
            reason: String::new(),
            count: range.count,
            targets: format!("{}[{}-{}]", range.group, range.first, range.first + range.count - 1),
        });
        LocalEnd::ok(targets.collect())
    }

    /// A VM that stopped here although it is wanted: nobody has asked for that since it was started, and it was not
    /// taken over from a host that a user has left.
    fn lost(&self, state: &State, experiment: &str, before: &Held, after: &[Range]) -> Option<String> {
        let fewest = state.users.fewest_since(experiment, before.asked);
        let mut stopped = below(&without(&before.ranges, after), fewest);
        if stopped.is_empty() {
            return None;
        }
        let left = state.hosts.get(self.host).is_some_and(|it| it.left_once);
        if left {
            for held in state.hosts.iter().filter_map(|other| other.holds.get(experiment)) {
                stopped = without(&stopped, &held.ranges);
            }
        }
        let first = stopped.first()?;
        let why = if left { "no other host has it" } else { "nobody asked for it" };
        Some(format!("stopped {experiment}.{}[{}] on {}, and {why}", first.group, first.first, name(self.host)))
    }
}

/// Reads a spec, once for all hosts.
///
/// # Errors
/// What the host says when it does not decode.
pub fn read(state: &mut State, hash: Hash, bytes: &[u8]) -> Result<Arc<Placed>, LocalEnd> {
    if let Some(placed) = state.specs.get(&hash) {
        return Ok(Arc::clone(placed));
    }
    let spec = Spec::decode(bytes).map_err(|_| failed("the spec does not decode"))?;
    let placed = Arc::new(Placed {
        experiment: spec.experiment,
        asked: users::number(&spec.source_name).unwrap_or(0),
        places: spec.hosts.into_iter().map(|place| (place.host, place.ranges)).collect(),
    });
    state.specs.insert(hash, Arc::clone(&placed));
    Ok(placed)
}
