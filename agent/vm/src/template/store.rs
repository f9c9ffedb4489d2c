//! The templates of a host: which there are, who uses them, and when they go.
//!
//! All state is under one short lock. Making is single flight: a lock for each key, held over the whole making, so
//! that a thousand launches that need one template make it once and wait for it.
//!
//! A template is used by the VMs that came from it, as long as their directories are there, and held by whoever
//! launches or has said that he will ([`Expected`]). The last one that lets go removes it.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::{info, warn};

use super::key::{Hashes, key};
use super::{Shape, Template, make};
use crate::cgroup::Cgroup;
use crate::error::VmError;
use crate::host::{HostConfig, HostInner, remove_files, subdirectories};
use crate::hypervisor;
use crate::machine::pidfd_kill;
use crate::paths::VmPaths;
use crate::procs::{self, Stat};
use crate::record::Record;
use crate::spec::VmSpec;

/// The experiment, so to speak, of the processes that become templates. No safe name begins like this.
pub(crate) const RUN_NAME: &str = ".templates";
/// In the RAM directory, before a key: a template that is being made.
pub(super) const MAKING: &str = "making-";
/// In the RAM directory, before a key: a template.
const MADE: &str = "template-";

/// VMs of a shape that must be expected for a template to be made: for one VM, booting it is as good.
const LEAST: usize = 2;
/// After a template could not be made, VMs of its key boot in full for this long.
const RETRY: Duration = Duration::from_secs(60);
/// For a killed process to be gone.
const KILL_DEADLINE: Duration = Duration::from_secs(30);

/// Everything that changes.
#[derive(Debug, Default)]
struct State {
    ready: HashMap<String, Arc<Template>>,
    failed: HashMap<String, Instant>,
    making: HashMap<String, Arc<tokio::sync::Mutex<()>>>,
    /// The key of each VM's template, by the VM's directory.
    users: HashMap<PathBuf, String>,
    /// VMs that are about to be launched.
    expected: HashMap<Shape, usize>,
    holds: usize,
}

/// The templates of a host.
#[derive(Debug)]
pub(crate) struct Store {
    enabled: bool,
    hashes: Hashes,
    state: Mutex<State>,
}

/// Says that VMs are about to be launched: with two of a shape or more a template is made for them, and none is removed
/// meanwhile. Dropped, it lets go.
#[derive(Debug)]
#[must_use = "it holds only until it is dropped"]
pub struct Expected {
    store: Arc<Store>,
    shapes: Vec<Shape>,
}

impl Drop for Expected {
    fn drop(&mut self) {
        let mut state = self.store.state();
        for shape in self.shapes.drain(..) {
            if let Some(count) = state.expected.get_mut(&shape) {
                *count -= 1;
                if *count == 0 {
                    state.expected.remove(&shape);
                }
            }
        }
        state.holds -= 1;
        Store::remove_unused(&mut state);
    }
}

impl Store {
    /// Finds the templates that an earlier agent left: those that VMs came from are kept, the others and what was half
    /// made are removed.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub(crate) fn open(config: &HostConfig, boot_id: &str) -> Result<Store, VmError> {
        let processes = config.run_dir.join(RUN_NAME).join("vms");
        if processes.is_dir() {
            for dir in subdirectories(&processes)? {
                let paths = VmPaths { dir, ram_dir: config.ram_dir.clone() };
                told(end_process(&paths, boot_id));
            }
        }
        let mut state = State::default();
        let dirs = subdirectories(&config.ram_dir)?;
        let named = |prefix| {
            let key = move |dir: &Path| Some(dir.file_name()?.to_str()?.strip_prefix(prefix)?.to_owned());
            dirs.iter().filter_map(move |dir| Some((key(dir)?, dir)))
        };
        for (_, dir) in named(MAKING) {
            told(remove_all(dir));
        }
        if named(MADE).next().is_some() {
            state.users = users(config)?;
        }
        for (key, dir) in named(MADE) {
            match Template::open(dir) {
                Ok(template) => drop(state.ready.insert(key, Arc::new(template))),
                Err(error) => {
                    warn!("a template is removed: {error}");
                    told(remove_all(dir));
                }
            }
        }
        Store::remove_unused(&mut state);
        Ok(Store { enabled: config.clones, hashes: Hashes::default(), state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// See [`Expected`].
    pub(crate) fn expect<'a>(self: &Arc<Self>, specs: impl IntoIterator<Item = &'a VmSpec>) -> Expected {
        let cloneable = |spec: &&VmSpec| self.enabled && can_be_cloned(spec);
        let shapes: Vec<Shape> = specs.into_iter().filter(cloneable).map(Shape::of).collect();
        let mut state = self.state();
        for shape in &shapes {
            *state.expected.entry(shape.clone()).or_default() += 1;
        }
        state.holds += 1;
        Expected { store: Arc::clone(self), shapes }
    }

    /// The template for a VM; `None`: it is to boot in full. The caller must hold ([`Store::expect`]).
    ///
    /// # Errors
    /// Why a template could not be made; told to one of those who wanted it. The VM can still boot in full.
    pub(crate) async fn template(
        self: &Arc<Self>,
        host: &Arc<HostInner>,
        spec: &VmSpec,
    ) -> Result<Option<Arc<Template>>, VmError> {
        if !self.enabled || !can_be_cloned(spec) {
            return Ok(None);
        }
        let (store, wanted) = (Arc::clone(self), spec.clone());
        let found = tokio::task::spawn_blocking(move || {
            let key = key(&wanted, &store.hashes)?;
            Ok::<_, VmError>((store.ready(&key), key))
        });
        let broken = |error: tokio::task::JoinError| VmError::Template {
            dir: host.config.ram_dir.clone(),
            problem: format!("looking for it was broken off: {error}"),
        };
        let (ready, key) = found.await.map_err(broken)??;
        if ready.is_some() || self.state().expected.get(&Shape::of(spec)).is_none_or(|count| *count < LEAST) {
            return Ok(ready);
        }
        let flight = Arc::clone(self.state().making.entry(key.clone()).or_default());
        let _flight = flight.lock().await;
        if let Some(ready) = self.ready(&key) {
            return Ok(Some(ready));
        }
        if self.state().failed.get(&key).is_some_and(|since| since.elapsed() < RETRY) {
            return Ok(None);
        }
        let made = make::make(host, &key, spec).await;
        let mut state = self.state();
        state.making.remove(&key);
        match made {
            Ok(template) => {
                info!("made the template {key} for VMs like {}", spec.label());
                let template = Arc::new(template);
                state.failed.remove(&key);
                state.ready.insert(key, Arc::clone(&template));
                Ok(Some(template))
            }
            Err(error) => {
                state.failed.insert(key, Instant::now());
                Err(error)
            }
        }
    }

    /// A template that is there and whole. One that is not is removed.
    fn ready(&self, key: &str) -> Option<Arc<Template>> {
        let template = self.state().ready.get(key).cloned()?;
        match template.check() {
            Ok(()) => Some(template),
            Err(error) => {
                warn!("a template is removed, to be made again: {error}");
                self.discard(&template);
                None
            }
        }
    }

    fn discard(&self, template: &Template) {
        let mut state = self.state();
        if state.ready.get(&template.origin().key).is_some_and(|ready| std::ptr::eq(&**ready, template)) {
            state.ready.remove(&template.origin().key);
            removed(template);
        }
    }

    /// Gives up a template whose clone did not come up; VMs boot in full for a while.
    pub(crate) fn give_up(&self, template: &Template) {
        self.discard(template);
        self.state().failed.insert(template.origin().key.clone(), Instant::now());
    }

    /// A VM comes from this template, from now until its directory is removed.
    pub(crate) fn used(&self, template: &Template, dir: &Path) {
        self.state().users.insert(dir.to_owned(), template.origin().key.clone());
    }

    /// A VM's directory was removed.
    pub(crate) fn released(&self, dir: &Path) {
        let mut state = self.state();
        if state.users.remove(dir).is_some() {
            Store::remove_unused(&mut state);
        }
    }

    fn remove_unused(state: &mut State) {
        if state.holds > 0 {
            return;
        }
        let State { ready, users, .. } = state;
        ready.retain(|key, template| {
            let used = users.values().any(|used| used == key);
            if !used {
                removed(template);
            }
            used
        });
    }
}

/// Removes the files of a template; its clones go on.
fn removed(template: &Template) {
    told(remove_all(&template.dir));
}

/// Something of a template that nobody needs could not be removed: no reason to stop.
fn told(removed: Result<(), VmError>) {
    if let Err(error) = removed {
        warn!("what is left of a template stays: {error}");
    }
}

fn can_be_cloned(spec: &VmSpec) -> bool {
    hypervisor::find(&spec.hypervisor).is_ok_and(|hypervisor| hypervisor.capabilities().clones)
}

/// Where a template has its files.
pub(super) fn template_dir(config: &HostConfig, key: &str) -> PathBuf {
    config.ram_dir.join(format!("{MADE}{key}"))
}

/// The paths of the process that becomes a template.
pub(super) fn process_paths(config: &HostConfig, key: &str) -> VmPaths {
    VmPaths { dir: config.run_dir.join(RUN_NAME).join("vms").join(key), ram_dir: config.ram_dir.clone() }
}

/// Removes a directory; it is no error when it is not there.
pub(crate) fn remove_all(dir: &Path) -> Result<(), VmError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(VmError::io("cannot remove", dir)(error)),
        _ => Ok(()),
    }
}

/// The keys of the templates that the VMs of a host came from, by the VMs' directories.
fn users(config: &HostConfig) -> Result<HashMap<PathBuf, String>, VmError> {
    let mut users = HashMap::new();
    for experiment in subdirectories(&config.run_dir)? {
        let vms = experiment.join("vms");
        for dir in if vms.is_dir() { subdirectories(&vms)? } else { Vec::new() } {
            // A damaged record is told by whoever adopts the VM.
            let record = Record::read(&dir.join("vm.json")).ok();
            if let Some(origin) = record.and_then(|record| record.origin) {
                users.insert(dir, origin.key);
            }
        }
    }
    Ok(users)
}

/// Ends what was to become a template and removes what is its.
pub(super) fn end_process(paths: &VmPaths, boot_id: &str) -> Result<(), VmError> {
    let record = Record::read(&paths.record()).ok();
    let cgroup = record.as_ref().and_then(|record| record.cgroup.as_deref()).map(Cgroup::at);
    let process = record.filter(|record| record.boot_id == boot_id).and_then(|record| record.process);
    if let Some(process) = process
        && let Ok(pidfd) = procs::pidfd_open(process.pid)
        && Stat::read(process.pid).is_ok_and(|stat| stat.start == process.start)
    {
        pidfd_kill(&pidfd).map_err(VmError::io("cannot kill", &paths.dir))?;
        let timeout = PollTimeout::try_from(KILL_DEADLINE).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => {
                let doing = format!("ending the process of {}", paths.dir.display());
                return Err(VmError::Deadline { doing, deadline: KILL_DEADLINE });
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(VmError::io("cannot watch the process of", &paths.dir)(errno.into())),
        }
    }
    remove_files(paths, cgroup.as_ref()).into_iter().next().map_or(Ok(()), Err)
}
