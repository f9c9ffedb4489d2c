//! One VM that runs, or did: its process, monitor, console and control channel.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, OnceLock, PoisonError, Weak};
use std::time::Duration;

use nix::errno::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::cgroup::Cgroup;
use crate::console::{self, ConsoleInput, ConsoleSession};
use crate::control::ControlClient;
use crate::error::{RemoveError, VmError};
use crate::exit::{self, VmExit};
use crate::host::remove_files;
use crate::hypervisor::{Endpoint, Hypervisor, held_fd};
use crate::paths::VmPaths;
use crate::procs;
use crate::record::{ProcessId, Record};
use crate::session::Session;
use crate::spec::VmSpec;
use crate::template::Store;

/// How long killed processes may take to be gone; a guest's memory has to be given back first.
pub(crate) const KILL_DEADLINE: Duration = Duration::from_secs(30);

/// How long a monitor may take to answer.
pub(crate) const MONITOR_DEADLINE: Duration = Duration::from_secs(10);

/// What a VM's processes use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Time on the host's processors since its start.
    pub cpu: Duration,
    /// Bytes of memory that are present: anonymous pages, and of its RAM file (UML).
    pub memory_bytes: u64,
}

/// What a VM is made of.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) paths: VmPaths,
    pub(crate) hypervisor: &'static dyn Hypervisor,
    pub(crate) cgroup: Option<Cgroup>,
    pub(crate) process: ProcessId,
    pub(crate) pidfd: Arc<OwnedFd>,
    pub(crate) record: Record,
    pub(crate) templates: Arc<Store>,
    /// An earlier agent had it, whose streams were closed when it died.
    pub(crate) adopted: bool,
}

impl Parts {
    /// Waits for the end of the process.
    pub(crate) async fn ended(&self) -> Result<VmExit, VmError> {
        let watch = || VmError::io("cannot watch the process of", &self.paths.dir);
        let pidfd = procs::async_fd(Arc::clone(&self.pidfd), Interest::READABLE).map_err(watch())?;
        pidfd.ready(Interest::READABLE).await.map_err(watch())?.retain_ready();
        Ok(VmExit::default().with_console(&self.paths.console_log()))
    }

    /// Removes what a VM without processes has left; gives everything that failed.
    pub(crate) fn remove_files(&self) -> Vec<VmError> {
        let errors = remove_files(&self.paths, self.cgroup.as_ref());
        self.templates.released(&self.paths.dir);
        errors
    }

    /// Kills the VM's processes; without a control group only the first one, the watcher follows with the others.
    pub(crate) fn kill(&self) -> Result<(), VmError> {
        match &self.cgroup {
            Some(cgroup) => cgroup.kill(),
            None => pidfd_kill(&self.pidfd).map_err(VmError::io("cannot kill", &self.paths.dir)),
        }
    }

    /// Opens a stream of the running VM.
    pub(crate) async fn open(&self, endpoint: &Endpoint) -> Result<UnixStream, VmError> {
        match endpoint {
            Endpoint::Socket(name) => {
                let path = self.paths.socket(name)?;
                UnixStream::connect(&path).await.map_err(VmError::io("cannot connect to", &path))
            }
            Endpoint::Held(role) => {
                let fd = held_fd(&self.record.fds, *role, &self.record.spec.label())?;
                let stream = procs::pidfd_getfd(&self.pidfd, fd).and_then(|fd| {
                    let stream = std::os::unix::net::UnixStream::from(fd);
                    stream.set_nonblocking(true)?;
                    UnixStream::from_std(stream)
                });
                stream.map_err(VmError::io("cannot fetch a stream from the process of", &self.paths.dir))
            }
        }
    }
}

/// One VM. A handle: clones are the same VM. Dropping the last one lets the VM run on.
#[derive(Clone)]
pub struct Machine {
    inner: Arc<Inner>,
}

struct Inner {
    parts: Parts,
    warning: Option<String>,
    exit: watch::Receiver<Option<VmExit>>,
    watcher: JoinHandle<()>,
    paused: std::sync::Mutex<bool>,
    control: OnceLock<ControlClient>,
    input: tokio::sync::Mutex<Weak<ConsoleInput>>,
    usb: Arc<tokio::sync::Mutex<()>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Machine({}, pid {})", self.spec().label(), self.pid())
    }
}

impl Machine {
    /// Watches over a process; `warning` is what was not as it should be when it was launched. Must run within a runtime.
    pub(crate) fn new(parts: Parts, warning: Option<String>) -> Result<Machine, VmError> {
        let pidfd = procs::async_fd(Arc::clone(&parts.pidfd), Interest::READABLE)
            .map_err(VmError::io("cannot watch the process of", &parts.paths.dir))?;
        let (sender, exit) = watch::channel(None);
        let watcher = tokio::spawn(watch_exit(parts.clone(), pidfd, sender));
        let paused = std::sync::Mutex::new(parts.record.paused);
        let inner = Inner {
            parts,
            warning,
            exit,
            watcher,
            paused,
            control: OnceLock::new(),
            input: Default::default(),
            usb: Default::default(),
        };
        Ok(Machine { inner: Arc::new(inner) })
    }

    /// What it was made from.
    pub fn spec(&self) -> &VmSpec {
        &self.inner.parts.record.spec
    }

    /// Its paths.
    pub fn paths(&self) -> &VmPaths {
        &self.inner.parts.paths
    }

    /// Process id of its first process.
    pub fn pid(&self) -> i32 {
        self.inner.parts.process.pid
    }

    /// What was not as it should be when it was launched, though it runs.
    pub fn warning(&self) -> Option<&str> {
        self.inner.warning.as_deref()
    }

    /// Whether it started from a template.
    pub fn is_clone(&self) -> bool {
        self.inner.parts.record.origin.is_some()
    }

    /// When its first process was started, as time since the host's boot: tells two lives of one VM apart.
    pub fn started(&self) -> Duration {
        procs::ticks(self.inner.parts.process.start)
    }

    /// How it ended, once it has.
    pub fn exited(&self) -> Option<VmExit> {
        self.inner.exit.borrow().clone()
    }

    /// Waits for its end. Cancel-safe.
    pub async fn wait(&self) -> VmExit {
        let mut exit = self.inner.exit.clone();
        // The watcher sends before it ends, and lives as long as this handle.
        let exit = exit.wait_for(Option::is_some).await.ok().and_then(|exit| exit.clone());
        exit.unwrap_or_default()
    }

    /// Kills all of its processes and waits until they are gone.
    ///
    /// # Errors
    /// When they cannot be killed, or do not go in time.
    pub async fn kill(&self) -> Result<VmExit, VmError> {
        if let Some(exit) = self.exited() {
            return Ok(exit);
        }
        self.inner.parts.kill()?;
        let doing = || format!("ending {}", self.spec().label());
        timeout(KILL_DEADLINE, self.wait())
            .await
            .map_err(|_| VmError::Deadline { doing: doing(), deadline: KILL_DEADLINE })
    }

    /// Asks the guest to power off, and kills it when it has not within `grace`.
    ///
    /// # Errors
    /// As [`Machine::kill`].
    pub async fn shutdown(&self, grace: Duration) -> Result<VmExit, VmError> {
        if let Some(exit) = self.exited() {
            return Ok(exit);
        }
        let asked = async {
            self.control().shutdown(false, grace).await?;
            Ok::<VmExit, crate::control::ControlError>(self.wait().await)
        };
        match timeout(grace, asked).await {
            Ok(Ok(exit)) => return Ok(exit),
            Ok(Err(error)) => debug!(vm = self.spec().label(), "cannot be asked to power off: {error}"),
            Err(_) => debug!(vm = self.spec().label(), "did not power off within {grace:?}"),
        }
        self.kill().await
    }

    /// Ends it and removes everything that belongs to it.
    ///
    /// # Errors
    /// Everything that failed; the other steps were done.
    pub async fn remove(&self) -> Result<(), RemoveError> {
        let mut errors: Vec<VmError> = self.kill().await.err().into_iter().collect();
        errors.extend(self.inner.parts.remove_files());
        if errors.is_empty() { Ok(()) } else { Err(RemoveError { errors }) }
    }

    /// Stops the guest's time.
    ///
    /// # Errors
    /// When the monitor refuses or does not answer.
    pub async fn pause(&self) -> Result<(), VmError> {
        self.alive()?;
        self.inner.parts.hypervisor.pause(self.paths(), MONITOR_DEADLINE).await?;
        self.note_paused(true)
    }

    /// Lets the guest go on.
    ///
    /// # Errors
    /// When the monitor refuses or does not answer.
    pub async fn resume(&self) -> Result<(), VmError> {
        self.alive()?;
        self.inner.parts.hypervisor.resume(self.paths(), MONITOR_DEADLINE).await?;
        self.note_paused(false)
    }

    /// True after [`Machine::pause`], also when an earlier agent paused it.
    pub fn is_paused(&self) -> bool {
        *self.inner.paused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it is made of.
    pub(crate) fn parts(&self) -> &Parts {
        &self.inner.parts
    }

    /// Stops the guest for a snapshot, or lets it go on after; an agent that finds it stopped so lets it go on.
    pub(crate) async fn stand_still(&self, still: bool) -> Result<(), VmError> {
        self.alive()?;
        let Parts { hypervisor, paths, record, .. } = self.parts();
        let noted = Record { snapshotting: still, paused: false, ..record.clone() };
        if still {
            noted.write(&paths.record())?;
            hypervisor.pause(paths, MONITOR_DEADLINE).await
        } else {
            hypervisor.resume(paths, MONITOR_DEADLINE).await?;
            noted.write(&paths.record())
        }
    }

    fn note_paused(&self, paused: bool) -> Result<(), VmError> {
        let mut note = self.inner.paused.lock().unwrap_or_else(PoisonError::into_inner);
        *note = paused;
        Record { paused, ..self.inner.parts.record.clone() }.write(&self.paths().record())
    }

    /// The turn of whoever changes its USB devices, or needs them unchanged.
    pub(crate) fn usb_turn(&self) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(&self.inner.usb)
    }

    pub(crate) fn alive(&self) -> Result<(), VmError> {
        match self.exited() {
            Some(exit) => Err(VmError::Ended { vm: self.spec().label(), reason: exit.to_string() }),
            None => Ok(()),
        }
    }

    /// What it uses now. For sampling: reads two small files.
    ///
    /// # Errors
    /// When its process is gone.
    pub fn usage(&self) -> Result<Usage, VmError> {
        let gone = || VmError::io("cannot read the use of", &self.paths().dir);
        let cpu = match &self.inner.parts.cgroup {
            Some(cgroup) => cgroup.cpu(),
            None => procs::tree_cpu(self.pid()),
        };
        // UML's helpers share the memory of its first process.
        let memory_bytes = procs::resident_bytes(self.pid()).map_err(gone())?;
        Ok(Usage { cpu: cpu.map_err(gone())?, memory_bytes })
    }

    /// The control channel to the guest's init. The first call opens it; it stays open.
    pub fn control(&self) -> ControlClient {
        let start = || ControlClient::start(self.inner.parts.clone(), self.inner.exit.clone());
        self.inner.control.get_or_init(start).clone()
    }

    /// Goes to the console; `tail`: bytes of recent output to begin with, at most 64 KiB.
    ///
    /// # Errors
    /// When it does not run any more, or its console cannot be opened.
    pub async fn console(&self, tail: u64) -> Result<ConsoleSession, VmError> {
        self.alive()?;
        let mut shared = self.inner.input.lock().await;
        let input = match shared.upgrade() {
            Some(input) => input,
            None => {
                let stream = self.inner.parts.open(&self.inner.parts.hypervisor.console()).await?;
                let input = Arc::new(ConsoleInput::new(stream));
                *shared = Arc::downgrade(&input);
                input
            }
        };
        ConsoleSession::new(&self.paths().console_log(), tail, input, self.inner.exit.clone())
    }

    /// The last lines of its console, oldest first; see [`console::last_lines`].
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn last_lines(&self, count: usize) -> Result<Vec<String>, VmError> {
        let log = self.paths().console_log();
        console::last_lines(&log, count).map_err(VmError::io("cannot read", &log))
    }

    /// Keeps at least the last `keep` bytes of the console's log and frees what is older. For sampling.
    ///
    /// # Errors
    /// As [`console::trim`].
    pub fn trim_console(&self, keep: u64) -> Result<(), VmError> {
        console::trim(&self.paths().console_log(), keep)
    }
}

/// The task of one VM: waits for its end, ends what is left of it, writes down and tells how it ended.
async fn watch_exit(parts: Parts, pidfd: AsyncFd<Arc<OwnedFd>>, sender: watch::Sender<Option<VmExit>>) {
    let status = exit::wait(&pidfd, parts.process.pid).await.unwrap_or_default();
    if let Err(error) = end_group(parts.cgroup.as_ref(), parts.process).await {
        warn!(vm = parts.record.spec.label(), "{error}");
    }
    let exit = status.with_console(&parts.paths.console_log());
    let record = Record { exit: Some(exit.clone()), ..parts.record };
    if parts.paths.dir.exists()
        && let Err(error) = record.write(&parts.paths.record())
    {
        warn!(vm = record.spec.label(), "{error}");
    }
    sender.send_replace(Some(exit));
}

/// Kills what is left of a VM whose first process has ended, and waits until it is gone. UML's helpers do not end with it.
pub(crate) async fn end_group(cgroup: Option<&Cgroup>, leader: ProcessId) -> Result<(), VmError> {
    match cgroup {
        Some(cgroup) => {
            cgroup.kill()?;
            cgroup.wait_empty(KILL_DEADLINE).await
        }
        None => Session::of(leader).end().await,
    }
}

/// Sends SIGKILL to exactly this process; it is no error when it has ended.
pub(crate) fn pidfd_kill(pidfd: &OwnedFd) -> std::io::Result<()> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a plain system call; a null siginfo is allowed.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), libc::SIGKILL, no_info, 0) };
    match Errno::result(result) {
        Ok(_) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
