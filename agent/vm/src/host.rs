//! The VMs of one host: launching, finding again, removing.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tracing::warn;

use crate::cgroup::{Cgroup, CgroupTree};
use crate::error::{RemoveError, VmError};
use crate::exit::VmExit;
use crate::hypervisor::{self, FdRole, HostFacts, held_fd};
use crate::launch::{self, Begin, Launched};
use crate::machine::{MONITOR_DEADLINE, Machine, Parts, end_group};
use crate::paths::VmPaths;
use crate::procs::{self, Stat};
use crate::record::Record;
use crate::spec::VmSpec;
use crate::template::{Expected, RUN_NAME, Store, Template};
use crate::unprivileged::Account;
use crate::versions::Versions;

/// Where the VMs of a host have their things.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostConfig {
    /// Records, logs and sockets: `RUN_DIR/<experiment>/vms/<name>`; best on a tmpfs ("/run/fleet").
    pub run_dir: PathBuf,
    /// A directory on a tmpfs for guests' RAM ("/dev/shm").
    pub ram_dir: PathBuf,
    /// Name of the control group of all VMs, below the root of the unified hierarchy ("fleet").
    pub cgroup: String,
    /// Several VMs of one image and shape start as clones of a template, where the hypervisor can do that.
    pub clones: bool,
}

/// What became of a VM that an earlier agent had started.
#[derive(Debug)]
pub enum Adopted {
    /// It runs.
    Running(Machine),
    /// It has ended; its directory is still there.
    Ended {
        /// What it was to be.
        spec: Box<VmSpec>,
        /// How it ended.
        exit: VmExit,
    },
    /// It was about to be started, and never was; its directory is still there.
    NeverStarted {
        /// What it was to be.
        spec: Box<VmSpec>,
    },
}

/// The VMs of one host.
#[derive(Clone, Debug)]
pub struct VmHost {
    inner: Arc<HostInner>,
}

#[derive(Debug)]
pub(crate) struct HostInner {
    pub(crate) config: HostConfig,
    pub(crate) facts: HostFacts,
    pub(crate) boot_id: String,
    pub(crate) cgroups: Option<CgroupTree>,
    pub(crate) account: Option<Account>,
    pub(crate) versions: Versions,
    pub(crate) templates: Arc<Store>,
}

impl VmHost {
    /// Makes the run directory and finds out what the host offers. Without a writable unified cgroup hierarchy the VMs
    /// run without groups; a warning says why.
    ///
    /// # Errors
    /// When a directory cannot be made.
    pub fn new(config: HostConfig) -> Result<VmHost, VmError> {
        no_huge_pages();
        for dir in [&config.run_dir, &config.ram_dir] {
            fs::create_dir_all(dir).map_err(VmError::io("cannot make", dir))?;
        }
        crate::probe::sweep(&config.ram_dir);
        let cgroups = CgroupTree::open(&config.cgroup)
            .inspect_err(|reason| warn!("VMs run without control groups: {reason}"))
            .ok();
        let boot_id = procs::boot_id().map_err(VmError::io("cannot read", "/proc/sys/kernel/random/boot_id"))?;
        let templates = Arc::new(Store::open(&config, &boot_id)?);
        let account =
            Account::find().inspect_err(|reason| warn!("QEMU keeps the rights of this process: {reason}")).ok();
        let facts = HostFacts { tsc_khz: tsc_khz(), user: None };
        let inner = HostInner { config, facts, boot_id, cgroups, account, versions: Versions::default(), templates };
        Ok(VmHost { inner: Arc::new(inner) })
    }

    /// What was found out about the host.
    pub fn facts(&self) -> HostFacts {
        self.inner.facts
    }

    /// The paths of a VM.
    pub fn paths(&self, experiment: &str, name: &str) -> VmPaths {
        VmPaths::new(&self.inner.config.run_dir, &self.inner.config.ram_dir, experiment, name)
    }

    /// Starts a VM. `taps` are the other ends of its interfaces, in order; they are closed here once it has them.
    /// Dropping the future undoes everything, and so does every error: what was there before is as it was.
    ///
    /// # Errors
    /// A specification that cannot run, a missing program or file, short resources, a VM of that name.
    pub async fn launch(&self, spec: VmSpec, taps: Vec<OwnedFd>) -> Result<Machine, VmError> {
        let host = &self.inner;
        let _hold = host.templates.expect([]);
        let taps = Arc::new(taps);
        let (template, mut warning) = match host.templates.template(host, &spec).await {
            Ok(template) => (template, None),
            Err(error) => (None, Some(format!("it boots in full, as there is no template to start from: {error}"))),
        };
        if let Some(template) = template {
            match self.start(spec.clone(), Arc::clone(&taps), Begin::Clone(Arc::clone(&template))).await {
                Ok(machine) => return machine.into_machine(None),
                // What is wrong with the template is not wrong with the VM.
                Err(error) if template.check().is_err() || error.is_of_a_clone() => {
                    host.templates.give_up(&template);
                    warning = Some(format!("it boots in full, as it could not start from its template: {error}"));
                }
                Err(error) => return Err(error),
            }
        }
        if let Some(warning) = &warning {
            warn!(vm = spec.label(), "{warning}");
        }
        self.start(spec, taps, Begin::Boot).await?.into_machine(warning)
    }

    /// Starts a VM's process; a clone's guest runs when this is done.
    pub(crate) async fn start(&self, spec: VmSpec, taps: Arc<Vec<OwnedFd>>, begin: Begin) -> Result<Launched, VmError> {
        let (host, label) = (Arc::clone(&self.inner), spec.label());
        let is_clone = matches!(begin, Begin::Clone(_));
        let facts = host.facts_for(&spec).await?;
        let launching = move || {
            let paths = VmPaths::of(&host.config.run_dir, &host.config.ram_dir, &spec);
            launch::launch(&host, &facts, spec, paths, &taps, &begin)
        };
        let launched = tokio::task::spawn_blocking(launching)
            .await
            .map_err(|error| VmError::BadSpec { vm: label, problem: format!("its start was broken off: {error}") })??;
        if is_clone {
            launched.thaw().await?;
        }
        Ok(launched)
    }

    /// The template of a VM, if it is there.
    pub(crate) async fn template_of(&self, spec: &VmSpec) -> Option<Arc<Template>> {
        self.inner.templates.template(&self.inner, spec).await.ok().flatten()
    }

    /// Says that these VMs are about to be launched, so that those of one shape are made from a template: it is made by
    /// the first launch, and kept at least until what this gives is dropped. Without this a VM starts from the template
    /// of its shape if there is one, and else boots in full.
    pub fn expect<'a>(&self, specs: impl IntoIterator<Item = &'a VmSpec>) -> Expected {
        self.inner.templates.expect(specs)
    }

    /// Finds a VM again.
    ///
    /// # Errors
    /// When there is none of that name, or its record cannot be read.
    pub async fn adopt(&self, experiment: &str, name: &str) -> Result<Adopted, VmError> {
        let paths = self.paths(experiment, name);
        if !paths.dir.exists() {
            return Err(VmError::NotFound { vm: format!("{experiment}.{name}"), dir: paths.dir });
        }
        self.inner.adopt(paths).await
    }

    /// Finds every VM of the run directory again, each with its directory.
    ///
    /// # Errors
    /// When the run directory cannot be read. What is wrong with one VM is its own result.
    pub async fn adopt_all(&self) -> Result<Vec<(PathBuf, Result<Adopted, VmError>)>, VmError> {
        let mut adopting = JoinSet::new();
        for experiment in subdirectories(&self.inner.config.run_dir)? {
            let vms = experiment.join("vms");
            if vms.is_dir() && !experiment.ends_with(RUN_NAME) {
                for dir in subdirectories(&vms)? {
                    let paths = VmPaths { dir: dir.clone(), ram_dir: self.inner.config.ram_dir.clone() };
                    let host = Arc::clone(&self.inner);
                    adopting.spawn(async move { (dir, host.adopt(paths).await) });
                }
            }
        }
        let mut found = Vec::with_capacity(adopting.len());
        while let Some(adopted) = adopting.join_next().await {
            match adopted {
                Ok(adopted) => found.push(adopted),
                // Nobody ends these tasks: one that did not end well panicked, and its VM is looked at the next time.
                Err(error) => warn!("a VM could not be looked at: {error}"),
            }
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(found)
    }

    /// Ends a VM and removes all that is left of it, also when its record is damaged. For a VM of which a [`Machine`]
    /// is at hand, use [`Machine::remove`].
    ///
    /// # Errors
    /// Everything that failed; the other steps were done. It is no error when there is no such VM.
    pub async fn remove(&self, experiment: &str, name: &str) -> Result<(), RemoveError> {
        let paths = self.paths(experiment, name);
        self.remove_dir(&paths.dir).await
    }

    /// Like [`VmHost::remove`], by a directory that [`VmHost::adopt_all`] gave.
    ///
    /// # Errors
    /// As [`VmHost::remove`].
    pub async fn remove_dir(&self, dir: &Path) -> Result<(), RemoveError> {
        if !dir.exists() {
            return Ok(());
        }
        let paths = VmPaths { dir: dir.to_owned(), ram_dir: self.inner.config.ram_dir.clone() };
        let record = Record::read(&paths.record());
        let cgroup = record.as_ref().ok().and_then(|record| record.cgroup.as_deref()).map(Cgroup::at);
        let mut errors = Vec::new();
        match self.inner.adopt(paths.clone()).await {
            Ok(Adopted::Running(machine)) => return machine.remove().await,
            Ok(_) | Err(VmError::BadRecord { .. }) => {}
            // No record was written yet: nothing was started.
            Err(VmError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => errors.push(error),
        }
        errors.extend(remove_files(&paths, cgroup.as_ref()));
        self.inner.templates.released(&paths.dir);
        if errors.is_empty() { Ok(()) } else { Err(RemoveError { errors }) }
    }
}

impl HostInner {
    /// What a VM's command line needs to know of the host.
    pub(crate) async fn facts_for(&self, spec: &VmSpec) -> Result<HostFacts, VmError> {
        let (Some(account), Some(program)) = (self.account, hypervisor::find(&spec.hypervisor)?.program(spec)) else {
            return Ok(self.facts);
        };
        let version = self.versions.of(&program.find()?).await?;
        Ok(HostFacts { user: Some(account.told(&version)), ..self.facts })
    }

    async fn adopt(&self, paths: VmPaths) -> Result<Adopted, VmError> {
        let mut record = Record::read(&paths.record())?;
        if let Some(exit) = record.exit {
            return Ok(Adopted::Ended { spec: Box::new(record.spec), exit });
        }
        let Some(process) = record.process else {
            return Ok(Adopted::NeverStarted { spec: Box::new(record.spec) });
        };
        let cgroup = record.cgroup.as_deref().map(Cgroup::at);
        if record.boot_id == self.boot_id {
            let alive = procs::pidfd_open(process.pid).ok();
            // Only now, with the pidfd at hand, does the start time prove that it is the same process.
            let same = Stat::read(process.pid).ok().filter(|stat| stat.start == process.start && stat.state != 'Z');
            if let (Some(pidfd), Some(_)) = (alive, same) {
                if procs::waits_to_be_let_go(process.pid) {
                    // The agent that made it has died, which it is just about to learn.
                    end_group(cgroup.as_ref(), process).await?;
                    return Ok(Adopted::NeverStarted { spec: Box::new(record.spec) });
                }
                if record.filling || record.origin.is_some() && waits_for_state(&record, process.pid) {
                    end_group(cgroup.as_ref(), process).await?;
                    return Ok(Adopted::NeverStarted { spec: Box::new(record.spec) });
                }
                let hypervisor = hypervisor::find(&record.spec.hypervisor)?;
                let mut warning = None;
                if record.snapshotting {
                    // Nobody takes that snapshot any more.
                    record.snapshotting = false;
                    match hypervisor.resume(&paths, MONITOR_DEADLINE).await {
                        Ok(()) => record.write(&paths.record())?,
                        // The record still says so, for the next agent.
                        Err(error) => {
                            let vm = record.spec.label();
                            let stands =
                                format!("it stands still, as it could not be let go on after a snapshot: {error}");
                            warn!(vm, "{stands}");
                            warning = Some(stands);
                        }
                    }
                }
                let templates = Arc::clone(&self.templates);
                let pidfd = Arc::new(pidfd);
                let parts = Parts { paths, hypervisor, cgroup, process, pidfd, record, templates, adopted: true };
                return Ok(Adopted::Running(Machine::new(parts, warning)?));
            }
            end_group(cgroup.as_ref(), process).await?; // its helpers may have outlived it
        }
        let exit = VmExit::default().with_console(&paths.console_log());
        Ok(Adopted::Ended { spec: Box::new(record.spec), exit })
    }
}

/// Whether a clone has not begun to read the state of its devices: the agent that started it died before it said so.
fn waits_for_state(record: &Record, pid: i32) -> bool {
    let Ok(fd) = held_fd(&record.fds, FdRole::DeviceState, "") else { return false };
    // It closes the file when it has read it, and another descriptor may get the number.
    let is_state =
        fs::read_link(format!("/proc/{pid}/fd/{fd}")).is_ok_and(|to| to.to_string_lossy().contains("/template-"));
    let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).unwrap_or_default();
    is_state && info.lines().any(|line| line.split_ascii_whitespace().eq(["pos:", "0"]))
}

/// Removes what a VM without processes has left; gives everything that failed.
pub(crate) fn remove_files(paths: &VmPaths, cgroup: Option<&Cgroup>) -> Vec<VmError> {
    let mut errors: Vec<VmError> = cgroup.and_then(|cgroup| cgroup.remove().err()).into_iter().collect();
    match fs::remove_dir_all(&paths.dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            errors.push(VmError::io("cannot remove", &paths.dir)(error));
        }
        _ => {}
    }
    // The experiment's own directories go with the last VM; while others are there, this fails and is meant to.
    let _ = paths.dir.ancestors().skip(1).take(2).try_for_each(fs::remove_dir);
    errors
}

pub(crate) fn subdirectories(dir: &Path) -> Result<Vec<PathBuf>, VmError> {
    let entries = fs::read_dir(dir).map_err(VmError::io("cannot list", dir))?;
    let mut paths: Vec<PathBuf> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()).collect();
    paths.sort();
    Ok(paths)
}

/// Takes transparent huge pages from this process and, inherited, from the VMs that it starts: a huge page is handed out
/// whole where a small guest touches a part of it, which costs some 7 MB a VM.
fn no_huge_pages() {
    // SAFETY: a plain system call on this process's own memory. Where it fails the VMs are larger, nothing else.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
}

/// Frequency of the time stamp counter in kHz, measured against the kernel's clock. An emulated guest has no other clock
/// to measure it with.
pub fn tsc_khz() -> u64 {
    // SAFETY: every x86-64 processor has the instruction.
    let ticks = || unsafe { std::arch::x86_64::_rdtsc() };
    let (start, first) = (Instant::now(), ticks());
    std::thread::sleep(Duration::from_millis(20));
    let (elapsed, last) = (start.elapsed(), ticks());
    let ns = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX).max(1);
    last.saturating_sub(first).saturating_mul(1_000_000) / ns
}
