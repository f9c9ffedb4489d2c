//! Control groups of the unified hierarchy, as far as a bench needs them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The root of the unified hierarchy.
///
/// # Errors
/// When there is none: CPU time could not be told apart.
pub fn root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 "));
    let path = line.and_then(|line| line.split(' ').nth(4));
    path.map(PathBuf::from)
        .context("the bench needs cgroup v2 to tell CPU times apart: mount -t cgroup2 none /sys/fs/cgroup")
}

/// CPU seconds used so far by the processes of a group and of all below it, also by those that have ended.
///
/// # Errors
/// When the group is gone.
pub fn cpu_seconds(group: &Path) -> Result<f64> {
    let stat = fs::read_to_string(group.join("cpu.stat"))?;
    let line = stat.lines().find_map(|line| line.strip_prefix("usage_usec "));
    let Some(usec) = line.and_then(|usec| usec.parse::<f64>().ok()) else {
        bail!("{} has no usage_usec", group.join("cpu.stat").display());
    };
    Ok(usec / 1e6)
}

/// A group of the bench's own; what is in it is killed and it is removed when dropped.
pub struct Group {
    path: PathBuf,
}

impl Group {
    /// Makes a group.
    ///
    /// # Errors
    /// When the hierarchy cannot be written.
    pub fn new(name: &str) -> Result<Self> {
        let path = root()?.join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path })
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        drop(fs::write(self.path.join("cgroup.kill"), "1"));
        // The kernel says that it is empty with an event; a bench may look a few times.
        for _ in 0..200 {
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        eprintln!("bench: {} could not be removed", self.path.display());
    }
}
