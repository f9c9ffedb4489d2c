//! How far a drain is: what hosts still have.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use fleet_proto::v1::{DrainProgress, DrainingHost};
use futures::Stream;
use tonic::Status;

use super::{Fleet, locked};

/// Time between two messages at least: a wave over many hosts changes much at once.
const PACE: Duration = Duration::from_millis(200);

impl Fleet {
    /// What these hosts still have: at once, and after each change, until they have nothing.
    pub fn watch_drain(
        self: &Arc<Self>,
        names: Vec<String>,
    ) -> impl Stream<Item = Result<DrainProgress, Status>> + Send + use<> {
        let fleet = Arc::clone(self);
        let changes = self.changes();
        futures::stream::unfold(Some((fleet, changes, names, None)), |state| async {
            let (fleet, mut changes, names, mut told) = state?;
            loop {
                changes.mark_unchanged();
                let now = fleet.drained(&names);
                if told.as_ref() != Some(&now) {
                    let next = (!now.hosts.is_empty()).then(|| (Arc::clone(&fleet), changes, names, Some(now.clone())));
                    return Some((Ok(now), next));
                }
                told = Some(now);
                tokio::select! {
                    () = fleet.stop.cancelled() => {
                        return Some((Err(Status::unavailable("the controller ends; the next one goes on with it")), None));
                    }
                    changed = changes.changed() => changed.ok()?,
                }
                tokio::time::sleep(PACE).await;
            }
        })
    }

    /// Waits for hosts that have nothing to have said so, for two beats at most: what they said last may be older.
    pub async fn hear_of_empty(&self, names: &[String]) {
        let mut changes = self.hosts.changes();
        let stale =
            || names.iter().any(|name| self.hosts.vms(name) > 0 && locked(&self.core).held_by(name).next().is_none());
        let said = async { while stale() && changes.changed().await.is_ok() {} };
        drop(tokio::time::timeout(2 * self.hosts.beat_interval(), said).await);
    }

    fn drained(&self, names: &[String]) -> DrainProgress {
        let core = locked(&self.core);
        let reachable: BTreeSet<String> = core.reachable().into_iter().map(|member| member.name).collect();
        let mut progress = DrainProgress::default();
        let mut experiments = BTreeSet::new();
        for name in names {
            let held: Vec<_> = core.held_by(name).collect();
            if held.is_empty() {
                continue;
            }
            if !reachable.contains(name) {
                progress.problems.push(format!("{name} does not answer; what it has is removed when it is back"));
            }
            experiments.extend(held.iter().map(|held| held.experiment));
            progress.hosts.push(DrainingHost {
                name: name.clone(),
                vms: held.iter().map(|held| held.vms).sum(),
                experiments: held.iter().map(|held| held.experiment.to_owned()).collect(),
            });
        }
        for wanted in experiments.into_iter().filter_map(|name| core.experiment(name)) {
            if !wanted.homeless.is_empty() {
                progress.problems.push(format!("VMs of {} find no host: {}", wanted.name, wanted.homeless));
            }
            for (host, why) in wanted.failed {
                let why = why.lines().next().unwrap_or_default();
                progress.problems.push(format!("{} does not come up on {host}: {why}", wanted.name));
            }
        }
        progress
    }
}
