//! What the core is told without being asked: hosts that come, change and go, and the time.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use fleet_core::{HostFacts, Input};
use fleet_proto::v1::{HeldExperiment, Host, HostIntent, HostState};

use super::{Fleet, locked};
use crate::cli::now_ms;

/// Changes of hosts within this time are looked at together.
const GATHER: Duration = Duration::from_millis(20);
/// The core is asked at least so often.
const IDLE: Duration = Duration::from_secs(3600);

/// What the core was told of a host.
#[derive(Clone, Debug, PartialEq)]
struct Told {
    facts: HostFacts,
    incarnation: u64,
    holds: Vec<HeldExperiment>,
}

impl Fleet {
    /// Tells the core of hosts, until the end.
    pub(super) async fn watch_hosts(self: Arc<Self>) {
        let mut changes = self.hosts.changes();
        let mut told = HashMap::new();
        loop {
            changes.mark_unchanged();
            self.look_at_hosts(&mut told);
            tokio::select! {
                () = self.stop.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
            }
            tokio::time::sleep(GATHER).await;
        }
    }

    /// Compares the registry with what the core was told.
    fn look_at_hosts(self: &Arc<Self>, told: &mut HashMap<String, Told>) {
        let hosts = self.hosts.all();
        told.retain(|name, _| hosts.iter().any(|host| host.name == *name));
        for host in hosts {
            let known = locked(&self.core).host(&host.name).cloned();
            let removed = known.as_ref().is_some_and(|known| known.intent() == HostIntent::Removed);
            match host.state() {
                HostState::Removed => {
                    told.remove(&host.name);
                    if known.is_some() && !removed {
                        self.input(Input::Remove { op_id: String::new(), hosts: vec![host.name] });
                    }
                    continue;
                }
                HostState::Ready | HostState::Draining => {
                    let now = says(&host);
                    if told.get(&host.name) != Some(&now) {
                        let Told { facts, incarnation, holds } = now.clone();
                        self.input(Input::Seen { facts, incarnation, holds, joined: removed });
                        told.insert(host.name.clone(), now);
                    }
                }
                _ => {
                    told.remove(&host.name);
                    if known.as_ref().is_some_and(|known| known.contact) {
                        self.input(Input::Lost { host: host.name.clone() });
                    }
                }
            }
            let tags = tags(&host);
            if locked(&self.core).host(&host.name).is_some_and(|known| known.tags != tags) {
                self.input(Input::Tags { op_id: String::new(), host: host.name, tags });
            }
        }
    }

    /// Tells the core when the time has come that it wants to be woken at.
    pub(super) async fn watch_time(self: Arc<Self>) {
        loop {
            let at = locked(&self.core).wake_at();
            let wait = at.map_or(IDLE, |at| Duration::from_millis(at.saturating_sub(now_ms())).min(IDLE));
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.woken.notified() => {}
                () = tokio::time::sleep(wait) => self.input(Input::Tick),
            }
        }
    }
}

fn says(host: &Host) -> Told {
    let info = host.info.clone().unwrap_or_default();
    let facts = HostFacts {
        name: host.name.clone(),
        address: host.address.clone(),
        underlay: host.underlay.clone(),
        rack: host.rack.clone(),
        memory: info.memory_bytes.saturating_sub(fleet_agent::RESERVE),
        cores: info.cpus,
    };
    // A number for a text that is another one in each life of the agent.
    let mut hasher = DefaultHasher::new();
    info.incarnation.hash(&mut hasher);
    let mut holds = info.experiments;
    holds.sort_by(|a, b| a.experiment.cmp(&b.experiment));
    Told { facts, incarnation: hasher.finish().max(1), holds }
}

/// Tags as rules of a file name them: `ssd`, and `ssd=yes` where there is a value.
fn tags(host: &Host) -> Vec<String> {
    let words = |(key, value): (&String, &String)| {
        let whole = (!value.is_empty()).then(|| format!("{key}={value}"));
        [Some(key.clone()), whole]
    };
    let mut tags: Vec<String> = host.tags.iter().flat_map(words).flatten().collect();
    tags.sort_unstable();
    tags.dedup();
    tags
}
