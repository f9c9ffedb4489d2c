//! What a fleet leaves on its host: counted while it is up, so that the count is known to see something, and after.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::process;

/// Deepest control group that is looked for: controller/slice/VM.
const CGROUP_DEPTH: usize = 4;

/// Everything of one fleet that the kernel shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traces {
    /// Process id and command line, without the program `fleet` that a test is just running.
    pub processes: Vec<(u32, String)>,
    /// Entries of /run/netns.
    pub namespaces: Vec<String>,
    /// Mount points.
    pub mounts: Vec<String>,
    /// Control groups of any hierarchy.
    pub cgroups: Vec<PathBuf>,
    /// Local sockets that are bound.
    pub sockets: Vec<String>,
    /// Files and folders in /dev/shm.
    pub ram_files: Vec<PathBuf>,
    /// Files and folders of the run folder.
    pub run_files: Vec<PathBuf>,
}

impl Traces {
    /// Looks for what belongs to the fleet of a folder. `instance` is what its names on the machine begin with.
    ///
    /// # Panics
    /// When /proc cannot be read.
    pub fn of(root: &Path, instance: &str) -> Self {
        let root_text = root.to_str().unwrap();
        let ours = |text: &str| text.contains(instance) || text.contains(root_text);
        let lines = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let mounts = lines("/proc/self/mountinfo");
        let sockets = lines("/proc/net/unix");
        Self {
            processes: process::all()
                .filter(|(_, command, cgroup)| ours(command) || ours(cgroup))
                .map(|(pid, command, _)| (pid, command))
                .collect(),
            namespaces: names("/run/netns").into_iter().filter(|name| name.starts_with(instance)).collect(),
            mounts: mounts.lines().filter(|line| ours(line)).map(str::to_owned).collect(),
            cgroups: cgroups(Path::new("/sys/fs/cgroup"), instance, CGROUP_DEPTH),
            sockets: sockets.lines().filter(|line| ours(line)).map(str::to_owned).collect(),
            ram_files: tree(&Path::new("/dev/shm").join(instance)),
            run_files: tree(&root.join("run")),
        }
    }

    /// Sessions of VMs: one for each that runs, whoever knows of it.
    pub fn machines(&self) -> usize {
        let leads = |pid: u32| {
            let pid = i32::try_from(pid).ok().map(nix::unistd::Pid::from_raw);
            nix::unistd::getsid(pid).ok() == pid
        };
        self.processes.iter().filter(|(pid, command)| command.contains("rdinit=/init") && leads(*pid)).count()
    }

    /// What is of experiments, beside an agent that runs: its own sockets and files come and go with it.
    #[must_use]
    pub fn of_experiments(self) -> Self {
        let mut run_files = self.run_files;
        run_files.retain(|path| path.extension().is_none_or(|end| end != "sock" && end != "lock"));
        Self { sockets: Vec::new(), run_files, ..self }
    }

    /// Whether there is nothing.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Names of the links of this process's network namespace: nothing that fleet does may change them.
///
/// # Panics
/// When /sys cannot be read.
pub fn links() -> BTreeSet<String> {
    names("/sys/class/net").into_iter().collect()
}

fn names(dir: &str) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// A folder, if it is there, and everything below it.
fn tree(dir: &Path) -> Vec<PathBuf> {
    if !dir.exists() {
        return Vec::new();
    }
    let mut found = vec![dir.to_owned()];
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(tree(&entry.path())),
            _ => found.push(entry.path()),
        }
    }
    found
}

fn cgroups(dir: &Path, instance: &str, depth: usize) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if entry.file_name().to_string_lossy().contains(instance) {
            found.push(entry.path());
        }
        if depth > 1 {
            found.extend(cgroups(&entry.path(), instance, depth - 1));
        }
    }
    found
}
