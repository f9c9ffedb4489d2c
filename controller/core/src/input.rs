//! What a core is told.

use std::collections::{BTreeMap, BTreeSet};

use fleet_proto::v1::{HeldExperiment, Outcome, OutcomeFold, Spec, WaveEnd};

use crate::names;
use crate::output::Wave;

/// What a host says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Its name; no two hosts of a fleet have the same.
    pub name: String,
    /// Where parents in the tree reach it: `10.1.2.3:7118`, or `unix:PATH`.
    pub address: String,
    /// Where the tunnels that join segments end on it; empty: it has none.
    pub underlay: String,
    /// Its rack; empty: none.
    pub rack: String,
    /// Bytes that it has for VMs, without what it needs itself.
    pub memory: u64,
    /// Processor cores.
    pub cores: u32,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// A host is in contact: it joined, came back, or its agent was restarted.
    Seen {
        /// What it says of itself.
        facts: HostFacts,
        /// Which life of its agent this is; another number after each restart.
        incarnation: u64,
        /// The experiments that it has anything of.
        holds: Vec<HeldExperiment>,
        /// It was admitted to the fleet just now: one that was removed is a host again.
        joined: bool,
    },
    /// A host is not in contact any more. It keeps its VMs and its placement.
    Lost {
        /// Its name.
        host: String,
    },
    /// A user sets the tags of a host. They count from the next placement on.
    Tags {
        /// The operation, for its answer.
        op_id: String,
        /// Which host.
        host: String,
        /// All its tags.
        tags: Vec<String>,
    },
    /// A user wants VMs of hosts moved to others, and no new ones there.
    Drain {
        /// The operation, for its answer.
        op_id: String,
        /// Their names.
        hosts: Vec<String>,
    },
    /// A user wants hosts used again.
    Undrain {
        /// The operation, for its answer.
        op_id: String,
        /// Their names.
        hosts: Vec<String>,
    },
    /// A user says that hosts are no part of the fleet any more.
    Remove {
        /// The operation, for its answer.
        op_id: String,
        /// Their names.
        hosts: Vec<String>,
    },
    /// A user wants an experiment as a spec says. Its placement is the core's to fill in.
    Up {
        /// The operation, for its answer.
        op_id: String,
        /// Source, lock and options.
        spec: Box<Spec>,
    },
    /// A user wants nothing left of an experiment.
    Down {
        /// The operation, for its answer.
        op_id: String,
        /// Its name.
        experiment: String,
    },
    /// A wave ended. Members that are not mentioned are unknown.
    WaveEnded {
        /// The wave.
        op_id: String,
        /// How hosts ended.
        ends: Vec<HostEnd>,
        /// How VMs ended, as far as they are named.
        targets: Vec<OutcomeFold>,
    },
    /// Time has passed.
    Tick,
}

/// Hosts of a wave that ended alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostEnd {
    /// Their names.
    pub hosts: Vec<String>,
    /// How.
    pub outcome: Outcome,
    /// Why.
    pub reason: String,
    /// Whether trying a failed one again can help.
    pub retryable: bool,
}

/// What is said of VMs that may be among those whose names were cut off a fold.
const NOT_NAMED: &str = "more VMs did not end well than a fold can name; see `fleet ps --failed`";

impl HostEnd {
    /// What is to be said of VMs of these hosts that none of the wave's folds names: as their host ended. But that it ended
    /// well proves nothing when a fold of those that did not has lost names.
    pub fn of_unnamed(&self, folds: &[OutcomeFold]) -> (Outcome, &str) {
        let well = |outcome| matches!(outcome, Outcome::Ok | Outcome::AlreadySo);
        let lost = |fold: &OutcomeFold| !well(fold.outcome()) && names::is_cut(&fold.targets);
        if well(self.outcome) && folds.iter().any(lost) {
            return (Outcome::Unknown, NOT_NAMED);
        }
        (self.outcome, &self.reason)
    }
}

/// The ends of hosts in the folds of a wave. A fold does not say that a failure is worth another try, so none is; names
/// that were cut off the text are missing, and so are unknown.
pub fn host_ends(wave: &Wave, end: &WaveEnd) -> Vec<HostEnd> {
    host_ends_of(wave.members.iter().map(|member| member.name.as_str()), end)
}

/// The same for a wave to members of these names.
pub fn host_ends_of<'a>(members: impl IntoIterator<Item = &'a str>, end: &WaveEnd) -> Vec<HostEnd> {
    let known: BTreeSet<&str> = members.into_iter().collect();
    let mut ends: BTreeMap<(i32, &str), Vec<String>> = BTreeMap::new();
    for fold in &end.hosts {
        ends.entry((fold.outcome, &fold.reason)).or_default().extend(names::hosts_in(&fold.targets, &known));
    }
    let ends = ends.into_iter().map(|((outcome, reason), hosts)| HostEnd {
        hosts,
        outcome: Outcome::try_from(outcome).unwrap_or(Outcome::Unknown),
        reason: reason.to_owned(),
        retryable: false,
    });
    ends.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_ended_well_proves_nothing_for_vms_that_may_have_been_cut_off() {
        let end = HostEnd { hosts: vec!["h1".into()], outcome: Outcome::Ok, reason: String::new(), retryable: false };
        let fold = |outcome: Outcome, targets: &str| OutcomeFold {
            outcome: outcome.into(),
            reason: "panic".into(),
            count: 9,
            targets: targets.into(),
        };
        let whole = [fold(Outcome::Ok, "web[0] …"), fold(Outcome::Failed, "web[1]")];
        assert_eq!(end.of_unnamed(&whole), (Outcome::Ok, ""));
        let cut = [fold(Outcome::Failed, "web[1] …")];
        assert_eq!(end.of_unnamed(&cut), (Outcome::Unknown, NOT_NAMED));
        let failed = HostEnd { outcome: Outcome::Failed, reason: "disk full".into(), ..end };
        assert_eq!(failed.of_unnamed(&cut), (Outcome::Failed, "disk full"));
    }
}
