//! A command in many guests, or on hosts: one wave, whose equal answers are folded on the way.

use std::collections::HashSet;
use std::time::Duration;

use fleet_proto::v1::{ExecOpen, ExecTask, Member, Task, task};
use fleet_tree::{NameSet, Style};
use tonic::Status;

use super::waves::{Order, Sent};
use super::{Fleet, locked, refused};
use crate::daemon::targets::Target;

/// How long a command may take that has no time of its own.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// What a wave takes beside its command.
const SLACK: Duration = Duration::from_secs(30);
/// Stands for all hosts.
const ALL: &str = "*";

/// Where a command runs.
pub enum On {
    /// In guests.
    Guests(Target),
    /// On these hosts.
    Hosts(Vec<Member>),
}

impl Fleet {
    /// The hosts that a user named, folded; all that can be reached for `*` or nothing.
    ///
    /// # Errors
    /// When one is not there, or cannot be reached.
    pub fn named_hosts(&self, names: &str) -> Result<Vec<Member>, Status> {
        let reachable = locked(&self.core).reachable();
        if names.is_empty() || names == ALL {
            return Ok(reachable);
        }
        let wanted: HashSet<String> = NameSet::parse(Style::Hosts, &names.replace(',', " ")).iter().collect();
        let known: HashSet<String> = self.hosts.list().into_iter().map(|host| host.name).collect();
        let mut missing: Vec<&String> = wanted.iter().filter(|name| !known.contains(*name)).collect();
        missing.sort();
        if let Some(name) = missing.first() {
            return Err(Status::not_found(format!("no host `{name}`\nhelp: `fleet host ls` lists them")));
        }
        let members: Vec<Member> = reachable.into_iter().filter(|member| wanted.contains(&member.name)).collect();
        if members.is_empty() {
            return Err(refused("none of these hosts answers\nhelp: `fleet host ls` shows since when"));
        }
        Ok(members)
    }

    /// Runs a command in many places. Dropped, it ends there.
    pub fn command(&self, on: &On, open: ExecOpen, stdin: Vec<u8>) -> Sent {
        let ExecOpen { argv, env, timeout_ms, .. } = open;
        let (experiment, ranges, members) = match on {
            On::Hosts(members) => (String::new(), Vec::new(), members.clone()),
            On::Guests(target) => {
                let ranges = target.wire_ranges();
                let core = locked(&self.core);
                let on: HashSet<String> =
                    core.hosts_of(&target.experiment, &ranges).iter().map(|(host, _)| host.name.clone()).collect();
                let members = core.reachable().into_iter().filter(|member| on.contains(&member.name)).collect();
                (target.experiment.clone(), ranges, members)
            }
        };
        let within = match timeout_ms {
            0 => LONGEST,
            ms => Duration::from_millis(ms.into()) + SLACK,
        };
        let exec = ExecTask { argv, env, stdin, timeout_ms, experiment, ranges };
        self.waves.send(Order {
            op: self.reading(),
            members,
            task: Task { task: Some(task::Task::Exec(exec)) },
            content: Vec::new(),
            within,
            again: false,
        })
    }
}
