//! From a specification to a running process. Blocks, so it runs on a thread for blocking work.
//!
//! Order: everything that can be refused is refused before anything is made; then directory, log, sockets, control
//! group, intent, process, record, go. What fails on the way undoes the rest.

use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;

use nix::sys::signal::{Signal, killpg};
use nix::sys::statvfs::statvfs;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use crate::cgroup::Cgroup;
use crate::error::VmError;
use crate::host::{HostInner, remove_files};
use crate::hypervisor::{self, CONSOLE_SOCKET, CONTROL_SOCKET, CommandLine, FdRole, Hypervisor, MONITOR_SOCKET};
use crate::machine::{Machine, Parts};
use crate::paths::VmPaths;
use crate::procs::Stat;
use crate::record::{ProcessId, Record};
use crate::spawn;
use crate::spec::VmSpec;

/// A process that runs, and is ended and removed again unless it becomes a [`Machine`].
pub(crate) struct Launched {
    parts: Option<Parts>,
}

impl Launched {
    /// Hands the process over. Must run within a runtime.
    pub(crate) fn into_machine(mut self) -> Result<Machine, VmError> {
        let Some(parts) = self.parts.clone() else { unreachable!("only this function takes it, and it takes self") };
        let machine = Machine::new(parts)?;
        self.parts = None;
        Ok(machine)
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        if let Some(parts) = self.parts.take() {
            let _ = parts.kill();
            // Without a control group: UML's helpers. The number is still this child's, which nobody has reaped.
            let _ = killpg(Pid::from_raw(parts.process.pid), Signal::SIGKILL);
            let _ = waitid(Id::PIDFd(parts.pidfd.as_fd()), WaitPidFlag::WEXITED);
            let _ = remove_files(&parts.paths, parts.cgroup.as_ref());
        }
    }
}

/// What has been made so far; removed when dropped.
struct Undo {
    paths: VmPaths,
    cgroup: Option<Cgroup>,
    armed: bool,
}

impl Drop for Undo {
    fn drop(&mut self) {
        if self.armed {
            let _ = remove_files(&self.paths, self.cgroup.as_ref());
        }
    }
}

/// Starts a VM.
pub(crate) fn launch(host: &HostInner, spec: VmSpec, taps: &[OwnedFd]) -> Result<Launched, VmError> {
    let hypervisor = hypervisor::find(&spec.hypervisor)?;
    let paths = VmPaths::of(&host.config.run_dir, &host.config.ram_dir, &spec);
    let program = match hypervisor.programs().first() {
        Some(program) => hypervisor::find_program(program)?,
        None => spec.kernel.clone(),
    };
    let command = hypervisor.command(&spec, &paths, &program, &host.facts)?;
    check(&spec, hypervisor, &paths.ram_dir, taps)?;
    make_directory(&spec, &paths)?;

    let mut undo = Undo { paths: paths.clone(), cgroup: None, armed: true };
    let log = open_log(&paths)?;
    let fds = Descriptors::make(&command, &paths, taps, &log)?;
    let cgroup = host.cgroups.as_ref().map(|cgroups| cgroups.group(&spec.experiment, &spec.name));
    let cgroup_path = cgroup.as_ref().map(|cgroup| cgroup.dir().to_owned());
    let mut record = Record::new(spec, host.boot_id.clone(), command.fds.clone(), cgroup_path);
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
    Ok(Launched { parts: Some(Parts { paths, hypervisor, cgroup, process, pidfd, record }) })
}

/// What can be refused before anything is made.
fn check(spec: &VmSpec, hypervisor: &dyn Hypervisor, ram_dir: &Path, taps: &[OwnedFd]) -> Result<(), VmError> {
    if taps.len() != spec.nics.len() {
        let problem = format!("{} taps for {} interfaces", taps.len(), spec.nics.len());
        return Err(VmError::BadSpec { vm: spec.label(), problem });
    }
    for file in [&spec.kernel, &spec.initrd] {
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
    fn make(command: &CommandLine, paths: &VmPaths, taps: &[OwnedFd], log: &File) -> Result<Descriptors, VmError> {
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
