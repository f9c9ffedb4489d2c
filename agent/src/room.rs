//! What this host has left for VMs: memory, tasks, and files of the agent.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::admit::{Demand, Limit, Room};
use crate::agent::Agent;
use crate::slot::Slot;

/// What is left on this host, counting what the VMs give back that stop or restart.
pub fn room(agent: &Agent, going: &[Arc<Slot>]) -> Room {
    let info = agent.info();
    let going: HashSet<*const Slot> = going.iter().map(Arc::as_ptr).collect();
    let (mut promised, mut given_back) = (0u64, 0u64);
    for experiment in agent.experiments() {
        for slot in experiment.slots().iter() {
            let Some(machine) = slot.machine() else { continue };
            let used = machine.usage().map_or(0, |usage| usage.memory_bytes);
            if going.contains(&Arc::as_ptr(slot)) {
                given_back = given_back.saturating_add(used);
            } else {
                let demand = Demand::new(machine.spec(), slot.wanted().vm.vm.class.overcommit);
                promised = promised.saturating_add(demand.bytes().saturating_sub(used));
            }
        }
    }
    Room {
        available: info.memory_available_bytes.saturating_add(given_back),
        ram_files: free_bytes(&agent.config.ram_dir).saturating_add(given_back),
        promised,
        tasks: tasks(),
        files: files(),
    }
}

/// Free bytes of the file system of a folder.
fn free_bytes(dir: &Path) -> u64 {
    nix::sys::statvfs::statvfs(dir).map_or(u64::MAX, |stat| stat.blocks_available() * stat.fragment_size())
}

fn number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Limits of tasks. What cannot be read limits nothing.
fn tasks() -> Vec<Limit> {
    // "0.20 0.18 0.12 1/80 11206": the fourth word ends in how many tasks there are (proc(5)).
    let loadavg = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let used = loadavg.split_ascii_whitespace().nth(3).and_then(|word| word.rsplit_once('/')?.1.parse().ok());
    let of_kernel =
        [("kernel.pid_max", "/proc/sys/kernel/pid_max"), ("kernel.threads-max", "/proc/sys/kernel/threads-max")];
    let of_kernel = of_kernel.into_iter().filter_map(|(name, path)| {
        let mend = format!("`sysctl -w {name}=N` raises it");
        Some(Limit { name: name.into(), limit: number(Path::new(path))?, used: used?, mend })
    });
    let of_groups = groups().into_iter().filter_map(|dir| {
        // The file says "max" where there is no limit, and is missing where tasks are not counted.
        let path = dir.join("pids.max");
        let (limit, used) = (number(&path)?, number(&dir.join("pids.current"))?);
        Some(Limit { name: path.display().to_string(), limit, used, mend: "write a higher number into it".into() })
    });
    of_kernel.chain(of_groups).collect()
}

/// Control groups whose limits may hold for VMs: the root of the unified hierarchy, as this process sees it, and under
/// cgroup v1 the agent's own group and those above.
fn groups() -> Vec<PathBuf> {
    const V1: &str = "/sys/fs/cgroup/pids";
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.split_once(":pids:").map(|(_, path)| path.trim_start_matches('/')));
    let mut groups = vec![PathBuf::from("/sys/fs/cgroup"), PathBuf::from("/sys/fs/cgroup/unified")];
    if let Some(own) = own {
        let own = Path::new(V1).join(own);
        groups.extend(own.ancestors().take_while(|dir| dir.starts_with(V1)).map(Path::to_owned));
    }
    groups
}

/// How many files this process may open, and how many it has open.
fn files() -> Option<(u64, u64)> {
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    let open = std::fs::read_dir("/proc/self/fd").ok()?.count();
    Some((limit, open as u64))
}

/// Lets this process open as many files as it may: several a VM.
pub fn raise_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(soft, hard)| if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) });
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn this_host_tells_its_limits() {
        raise_files();
        let (limit, open) = files().unwrap();
        assert!(open > 0 && limit >= open);
        let tasks = tasks();
        assert!(tasks.iter().any(|limit| limit.name == "kernel.pid_max" && limit.used > 0 && limit.limit > 0));
    }
}
