//! From a specification to a running process. Blocks, so it runs on a thread for blocking work.
//!
//! Order: everything that can be refused is refused before anything is made; then directory, log, sockets, control
//! group, intent, process, record, go. What fails on the way undoes the rest.

use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::sys::statvfs::statvfs;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use crate::cgroup::Cgroup;
use crate::console::last_lines;
use crate::error::VmError;
use crate::host::{HostInner, remove_files};
use crate::hypervisor::{
    self, CONSOLE_SOCKET, CONTROL_SOCKET, CommandLine, FdRole, HostFacts, Hypervisor, MONITOR_SOCKET, Start, held_fd,
};
use crate::machine::{Machine, Parts};
use crate::paths::VmPaths;
use crate::procs::Stat;
use crate::record::{ProcessId, Record};
use crate::spawn;
use crate::spec::VmSpec;
use crate::template::{Origin, Store, Template};

/// For a clone to go on from its template's state, which it reads from memory. A host may be busy with many.
const THAW_DEADLINE: Duration = Duration::from_secs(60);

/// What a process begins with.
pub(crate) enum Begin {
    /// Kernel and initial RAM disk.
    Boot,
    /// The same, to become a template with its RAM in this file.
    Template { ram: PathBuf },
    /// This template.
    Clone(Arc<Template>),
    /// A snapshot of a guest of this boot id, on top of the template that is there.
    Snapshot { template: Option<Arc<Template>>, boot_id: u64 },
}

impl Begin {
    fn start(&self) -> Start<'_> {
        match self {
            Begin::Boot => Start::Boot,
            Begin::Template { ram } => Start::Template { ram },
            Begin::Clone(template) => Start::Clone { ram: template.ram() },
            Begin::Snapshot { template, .. } => {
                Start::Snapshot { ram: template.as_ref().map(|template| template.ram()) }
            }
        }
    }
}

/// A process that runs, and is ended and removed again unless it becomes a [`Machine`].
pub(crate) struct Launched {
    parts: Option<Parts>,
}

impl Launched {
    /// Hands the process over. Must run within a runtime.
    pub(crate) fn into_machine(mut self, warning: Option<String>) -> Result<Machine, VmError> {
        let machine = Machine::new(self.parts().clone(), warning)?;
        self.parts = None;
        Ok(machine)
    }

    /// What it is made of.
    pub(crate) fn parts(&self) -> &Parts {
        self.parts
            .as_ref()
            .unwrap_or_else(|| unreachable!("only `into_machine` and `drop` take it, and they take self"))
    }

    /// Notes that the guest runs which was filled from a snapshot.
    pub(crate) fn restored(&mut self) -> Result<(), VmError> {
        let Some(parts) = &mut self.parts else { return Ok(()) };
        parts.record.filling = false;
        parts.record.write(&parts.paths.record())
    }

    /// Lets the guest of a clone go on.
    pub(crate) async fn thaw(&self) -> Result<(), VmError> {
        let Parts { record, hypervisor, paths, .. } = self.parts();
        let state = held_fd(&record.fds, FdRole::DeviceState, &record.spec.label())?;
        let thawed = hypervisor.thaw(paths, state, THAW_DEADLINE).await;
        // QEMU says in its log what it does not like.
        let said = || last_lines(&paths.console_log(), 1).unwrap_or_default().join("");
        thawed.map_err(|error| match error {
            VmError::Monitor { vm, command, problem } => {
                VmError::Monitor { vm, command, problem: format!("{problem}; {}", said()) }
            }
            error => error,
        })
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        if let Some(parts) = self.parts.take() {
            let _ = parts.kill();
            // Without a control group: UML's helpers. The number is still this child's, which nobody has reaped.
            let _ = killpg(Pid::from_raw(parts.process.pid), Signal::SIGKILL);
            let _ = waitid(Id::PIDFd(parts.pidfd.as_fd()), WaitPidFlag::WEXITED);
            let _ = parts.remove_files();
        }
    }
}

/// What has been made so far; removed when dropped.
struct Undo {
    paths: VmPaths,
    cgroup: Option<Cgroup>,
    templates: Arc<Store>,
    armed: bool,
}

impl Drop for Undo {
    fn drop(&mut self) {
        if self.armed {
            let _ = remove_files(&self.paths, self.cgroup.as_ref());
            self.templates.released(&self.paths.dir);
        }
    }
}

/// Starts a VM.
pub(crate) fn launch(
    host: &HostInner,
    facts: &HostFacts,
    spec: VmSpec,
    paths: VmPaths,
    taps: &[OwnedFd],
    begin: &Begin,
) -> Result<Launched, VmError> {
    let hypervisor = hypervisor::find(&spec.hypervisor)?;
    let program = hypervisor::program_of(hypervisor, &spec)?;
    let command = hypervisor.command(&spec, &paths, &program, facts, begin.start())?;
    check(&spec, hypervisor, &paths.ram_dir, &command, taps)?;
    make_directory(&spec, &paths)?;

    let templates = Arc::clone(&host.templates);
    let mut undo = Undo { paths: paths.clone(), cgroup: None, templates: Arc::clone(&templates), armed: true };
    let log = open_log(&paths)?;
    let fds = Descriptors::make(&command, &paths, taps, &log, begin)?;
    let cgroup = host.cgroups.as_ref().map(|cgroups| cgroups.group(&spec.experiment, &spec.name));
    let cgroup_path = cgroup.as_ref().map(|cgroup| cgroup.dir().to_owned());
    let mut record = Record::new(spec, host.boot_id.clone(), command.fds.clone(), cgroup_path);
    match begin {
        Begin::Boot | Begin::Template { .. } => {}
        Begin::Clone(template) => {
            record.origin = Some(template.origin().clone());
            templates.used(template, &paths.dir);
        }
        Begin::Snapshot { template, boot_id } => {
            let key = template.as_ref().map(|template| template.origin().key.clone()).unwrap_or_default();
            record.origin = Some(Origin { key, boot_id: *boot_id, macs: Vec::new() });
            record.filling = true;
            if let Some(template) = template {
                templates.used(template, &paths.dir);
            }
        }
    }
    record.write(&paths.record())?; // before the group is made, so that the group cannot be lost
    undo.cgroup = cgroup.clone();
    let cgroup_dir = cgroup.as_ref().map(Cgroup::create).transpose()?;
    let start = || VmError::io("cannot start", &command.program);
    let child = spawn::prepare(&spawn::Program {
        program: &command.program,
        args: &command.args,
        env: &command.env,
        fds: &fds.borrow(&command, taps),
        output: log.as_fd(),
        cgroup: cgroup_dir.as_ref().map(AsFd::as_fd),
        fixed_addresses: command.fixed_addresses,
        mergeable: command.mergeable,
    })
    .map_err(start())?;
    let stat = Stat::read(child.pid()).map_err(start())?;
    let process = ProcessId { pid: child.pid(), start: stat.start };
    record.process = Some(process);
    record.write(&paths.record())?;
    let pidfd = Arc::new(child.go().map_err(start())?);
    undo.armed = false;
    Ok(Launched { parts: Some(Parts { paths, hypervisor, cgroup, process, pidfd, record, templates, adopted: false }) })
}

/// What can be refused before anything is made.
fn check(
    spec: &VmSpec,
    hypervisor: &dyn Hypervisor,
    ram_dir: &Path,
    command: &CommandLine,
    taps: &[OwnedFd],
) -> Result<(), VmError> {
    let wanted = command.fds.iter().filter(|role| matches!(role, FdRole::Tap(_))).count();
    if taps.len() != wanted {
        let problem = format!("{} taps for {wanted} interfaces", taps.len());
        return Err(VmError::BadSpec { vm: spec.label(), problem });
    }
    for file in [spec.kernel.as_path(), spec.root.path()] {
        File::open(file).map_err(VmError::io("cannot open", file))?;
    }
    if hypervisor.capabilities().ram_in_file {
        let stat = statvfs(ram_dir).map_err(|errno| VmError::io("cannot examine", ram_dir)(errno.into()))?;
        let free = stat.blocks_available().saturating_mul(stat.fragment_size());
        // A guest that touches a page for which there is no room dies without a word (SIGBUS).
        if free < spec.memory_bytes {
            let (vm, path, needed) = (spec.label(), ram_dir.to_owned(), spec.memory_bytes);
            return Err(VmError::NoSpace { vm, path, needed, free });
        }
    }
    Ok(())
}

/// Makes the VM's directory, which must not be there yet: making it is what keeps two launches of one name apart.
fn make_directory(spec: &VmSpec, paths: &VmPaths) -> Result<(), VmError> {
    // Another VM's removal may take the experiment's directory away between the two calls: once more, then.
    let mut builder = fs::DirBuilder::new();
    for _ in 0..16 {
        if let Some(vms) = paths.dir.parent() {
            fs::create_dir_all(vms).map_err(VmError::io("cannot make", vms))?;
        }
        match builder.mode(0o700).create(&paths.dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(VmError::AlreadyExists { vm: spec.label(), dir: paths.dir.clone() });
            }
            other => return other.map_err(VmError::io("cannot make", &paths.dir)),
        }
    }
    Err(VmError::NotFound { vm: spec.label(), dir: paths.dir.clone() })
}

fn open_log(paths: &VmPaths) -> Result<File, VmError> {
    let log = paths.console_log();
    OpenOptions::new().create(true).append(true).mode(0o600).open(&log).map_err(VmError::io("cannot make", &log))
}

/// The descriptors that a command line asks for, apart from the taps.
struct Descriptors {
    made: Vec<(FdRole, OwnedFd)>,
}

impl Descriptors {
    fn make(
        command: &CommandLine,
        paths: &VmPaths,
        taps: &[OwnedFd],
        log: &File,
        begin: &Begin,
    ) -> Result<Descriptors, VmError> {
        let mut fds = Descriptors { made: Vec::new() };
        for role in &command.fds {
            match role {
                FdRole::HeldControl => fds.pair(FdRole::HeldControl, FdRole::GuestControl)?,
                FdRole::HeldConsole => fds.pair(FdRole::HeldConsole, FdRole::GuestConsole)?,
                FdRole::GuestControl | FdRole::GuestConsole => {} // made with the other end
                FdRole::ConsoleLog => {
                    let log = log.try_clone().map_err(VmError::io("cannot duplicate", paths.console_log()))?;
                    fds.made.push((*role, log.into()));
                }
                FdRole::ControlListener => fds.listen(*role, &paths.socket(CONTROL_SOCKET)?)?,
                FdRole::ConsoleListener => fds.listen(*role, &paths.socket(CONSOLE_SOCKET)?)?,
                FdRole::MonitorListener => fds.listen(*role, &paths.socket(MONITOR_SOCKET)?)?,
                FdRole::Tap(index) => debug_assert!(*index < taps.len()),
                FdRole::DeviceState => {
                    if let Begin::Clone(template) = begin {
                        fds.made.push((*role, template.state()?.into()));
                    }
                }
            }
        }
        Ok(fds)
    }

    fn pair(&mut self, held: FdRole, guest: FdRole) -> Result<(), VmError> {
        let (ours, theirs) = UnixStream::pair().map_err(VmError::io("cannot make", "a socket pair"))?;
        self.made.extend([(held, ours.into()), (guest, theirs.into())]);
        Ok(())
    }

    fn listen(&mut self, role: FdRole, path: &Path) -> Result<(), VmError> {
        let listener = UnixListener::bind(path).map_err(VmError::io("cannot listen at", path))?;
        self.made.push((role, listener.into()));
        Ok(())
    }

    /// In the order of the command line.
    fn borrow<'a>(&'a self, command: &CommandLine, taps: &'a [OwnedFd]) -> Vec<BorrowedFd<'a>> {
        let find = |role: &FdRole| match role {
            FdRole::Tap(index) => taps.get(*index).map(AsFd::as_fd),
            role => self.made.iter().find(|(each, _)| each == role).map(|(_, fd)| fd.as_fd()),
        };
        // `make` has made one for each role, and `check` has counted the taps.
        command.fds.iter().filter_map(find).collect()
    }
}
