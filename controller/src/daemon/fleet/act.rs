//! Acts on VMs: stop, start, reboot, pause, resume, snapshot, restore. Nothing is remembered of them: who is not there
//! is not told later.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fleet_core::{Tally, host_ends_of};
use fleet_proto::v1::up_event::Event;
use fleet_proto::v1::{ActRequest, Action, OperationSummary, Outcome, Range, Task, task};
use tonic::Status;

use super::waves::{Order, Word};
use super::{Fleet, locked};
use crate::daemon::operation::{self, Teller};
use crate::daemon::targets::Target;

/// How long an act may take: a snapshot of many large guests is the longest.
const WITHIN: Duration = Duration::from_secs(600);
/// Of VMs whose host is not in contact.
const SILENT: &str = "its host does not answer";

/// What is to be done to VMs.
pub struct Act {
    /// What.
    pub action: Action,
    /// Stop without asking the guest.
    pub force: bool,
    /// Name of the snapshot.
    pub name: String,
}

impl Fleet {
    /// Acts on VMs, wherever they are.
    ///
    /// # Errors
    /// When none of them has a host.
    pub async fn act(
        self: &Arc<Self>,
        op_id: &str,
        target: &Target,
        act: Act,
        teller: &Teller,
    ) -> Result<OperationSummary, Status> {
        let since = Instant::now();
        let ranges = target.wire_ranges();
        let (places, reachable) = {
            let core = locked(&self.core);
            let places: Vec<(String, Vec<Range>)> = core
                .hosts_of(&target.experiment, &ranges)
                .into_iter()
                .map(|(host, ranges)| (host.name.clone(), ranges))
                .collect();
            (places, core.reachable())
        };
        let mut tally = Tally::default();
        ranges.iter().for_each(|range| tally.add(range, Outcome::NotReached, "it has no host"));
        let say = |tally: &mut Tally, host: &str, outcome: Outcome, reason: &str| {
            for range in places.iter().filter(|(name, _)| name == host).flat_map(|(_, ranges)| ranges) {
                tally.say(&range.group, range.first, range.count, outcome, reason);
            }
        };
        places.iter().for_each(|(host, _)| say(&mut tally, host, Outcome::NotReached, SILENT));
        let members: Vec<_> =
            reachable.into_iter().filter(|member| places.iter().any(|(name, _)| *name == member.name)).collect();
        let op = self.header(op_id);
        let Act { action, force, name } = act;
        let request = ActRequest {
            op: Some(op.clone()),
            experiment: target.experiment.clone(),
            ranges: ranges.clone(),
            action: action.into(),
            force,
            name,
        };
        let order = Order {
            op,
            members: members.clone(),
            task: Task { task: Some(task::Task::Act(request)) },
            content: Vec::new(),
            within: WITHIN,
            again: false,
        };
        let mut sent = self.waves.send(order);
        while let Some(word) = sent.next().await {
            if let Word::Progress(_, progress) = word
                && let Some(targets) = progress.targets
            {
                drop(teller.try_send(operation::event(Event::Progress(targets))));
            }
        }
        let end = sent.end();
        for host in host_ends_of(members.iter().map(|member| member.name.as_str()), &end) {
            let (outcome, reason) = host.of_unnamed(&end.targets);
            host.hosts.iter().for_each(|name| say(&mut tally, name, outcome, reason));
        }
        end.targets.iter().for_each(|fold| tally.say_fold(fold));
        let plan = &target.plan;
        let is_array =
            |group: &str| plan.find_group(group).and_then(|group| plan.group(group)).is_none_or(|group| group.is_array);
        Ok(OperationSummary {
            targets: u32::try_from(tally.targets()).unwrap_or(u32::MAX),
            folds: tally.folds(&is_array, &|_| String::new()),
            elapsed_ms: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
        })
    }
}
