//! A control group for each VM, so that all of its processes are counted and killed together.
//!
//! Only the unified hierarchy (cgroup v2) is used, and no controller is needed: `cgroup.kill`, `cgroup.events` and
//! the CPU time of `cpu.stat` are always there. The tree is `PARENT/<experiment>/<name>`; PARENT is apart from the
//! agent's own group, so a service manager that stops the agent leaves the VMs alone.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::Interest;
use tokio::time::timeout;

use crate::error::VmError;
use crate::paths::safe_name;
use crate::procs::async_fd;

/// The group under which all VMs of an agent have theirs.
#[derive(Clone, Debug)]
pub(crate) struct CgroupTree {
    parent: PathBuf,
}

impl CgroupTree {
    /// Finds the hierarchy in `/proc/self/mountinfo` and makes the parent group.
    ///
    /// # Errors
    /// In words, when the host has no unified hierarchy that this process may write: VMs then run without groups.
    pub(crate) fn open(name: &str) -> Result<CgroupTree, String> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")
            .map_err(|error| format!("cannot read /proc/self/mountinfo: {error}"))?;
        let mount = unified_mount(&mounts).ok_or("no cgroup2 file system is mounted")?;
        let parent = mount.join(name);
        fs::create_dir_all(&parent).map_err(|error| format!("cannot make {}: {error}", parent.display()))?;
        if !parent.join("cgroup.kill").exists() {
            return Err(format!("{} has no cgroup.kill (Linux 5.14 has)", parent.display()));
        }
        // The first VM makes it again; without one, nothing is to be left. Fails, as it should, while VMs are in it.
        let _ = fs::remove_dir(&parent);
        Ok(CgroupTree { parent })
    }

    /// The group of a VM, which need not be there yet.
    pub(crate) fn group(&self, experiment: &str, name: &str) -> Cgroup {
        Cgroup { dir: self.parent.join(safe_name(experiment)).join(safe_name(name)) }
    }
}

/// The group of one VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cgroup {
    dir: PathBuf,
}

impl Cgroup {
    /// A group that was made before.
    pub(crate) fn at(dir: &Path) -> Cgroup {
        Cgroup { dir: dir.to_owned() }
    }

    /// Makes it and opens its directory. It may be there already, empty, from a launch that was broken off.
    pub(crate) fn create(&self) -> Result<fs::File, VmError> {
        // The last VM of an experiment takes the group above with it, maybe between two steps of this: once more, then.
        let make = || fs::create_dir_all(&self.dir).and_then(|()| fs::File::open(&self.dir));
        let vanished = |made: &io::Result<_>| matches!(made, Err(error) if error.kind() == io::ErrorKind::NotFound);
        let mut made = make();
        for _ in 0..16 {
            if !vanished(&made) {
                break;
            }
            made = make();
        }
        made.map_err(VmError::io("cannot make the control group", &self.dir))
    }

    /// Its directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Kills every process in it, also those that are being made meanwhile.
    pub(crate) fn kill(&self) -> Result<(), VmError> {
        let file = self.dir.join("cgroup.kill");
        match fs::write(&file, "1") {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(VmError::io("cannot write", file)(error)),
            _ => Ok(()),
        }
    }

    /// Time that all of its processes, also ended ones, have spent on the processors.
    pub(crate) fn cpu(&self) -> io::Result<Duration> {
        let text = fs::read_to_string(self.dir.join("cpu.stat"))?;
        let usec = text.lines().find_map(|line| line.strip_prefix("usage_usec ")?.trim().parse().ok());
        usec.map(Duration::from_micros).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Waits until no process is left in it.
    pub(crate) async fn wait_empty(&self, deadline: Duration) -> Result<(), VmError> {
        let file = self.dir.join("cgroup.events");
        let waiting = async {
            let events = match fs::File::open(&file) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                other => async_fd(OwnedFd::from(other?), Interest::PRIORITY)?,
            };
            loop {
                // Reading takes the state and arms the next notification (cgroup-v2.rst, "cgroup.events").
                if fs::read_to_string(&file)?.lines().any(|line| line == "populated 0") {
                    return Ok(());
                }
                events.ready(Interest::PRIORITY).await?.clear_ready();
            }
        };
        timeout(deadline, waiting)
            .await
            .map_err(|_| VmError::Deadline {
                doing: format!("ending the processes of {}", self.dir.display()),
                deadline,
            })?
            .map_err(VmError::io("cannot watch", &file))
    }

    /// Removes the group, and those above that it was the last one in.
    pub(crate) fn remove(&self) -> Result<(), VmError> {
        match fs::remove_dir(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(VmError::io("cannot remove the control group", &self.dir)(error));
            }
            _ => {}
        }
        // The experiment's and the agent's; this fails, as it should, while other VMs are in them.
        let _ = self.dir.ancestors().skip(1).take(2).try_for_each(fs::remove_dir);
        Ok(())
    }
}

fn unified_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        (right.split(' ').next()? == "cgroup2").then(|| left.split(' ').nth(4).map(PathBuf::from))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_hierarchy_is_found_beside_the_old_ones() {
        let mounts = "36 31 0:33 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:1 - cgroup2 cgroup2 rw\n";
        assert_eq!(unified_mount(mounts), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(unified_mount("25 24 0:23 / /dev/shm rw - tmpfs tmpfs rw\n"), None);
    }
}
