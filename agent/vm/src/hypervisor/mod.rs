//! What runs a VM, behind one trait. A hypervisor is one file here and one line in [`HYPERVISORS`].
//!
//! [`Hypervisor::command`] is pure: from a specification it makes the text of a command line and the list of file
//! descriptors that the process gets. The launcher makes the descriptors and starts the process without knowing what
//! they mean. File descriptor `3 + i` of the process is `CommandLine::fds[i]`; the record keeps the list, so that a
//! later agent finds a descriptor that the process holds for it ([`Endpoint::Held`]).

mod mconsole;
mod migrate;
mod program;
mod qemu;
mod qmp;
mod uml;
mod usb;

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::VmError;
use crate::paths::VmPaths;
use crate::spec::VmSpec;

pub use program::Program;
pub(crate) use qemu::accelerator_args as qemu_accelerator_args;
pub use qemu::{SMALL_PROGRAM, translations_mib};
pub use usb::UsbBus;

/// Every hypervisor.
static HYPERVISORS: &[&dyn Hypervisor] = &[&uml::Uml, &qemu::Qemu];

/// Number of the first descriptor of [`CommandLine::fds`] in the process.
pub const FIRST_FD: i32 = 3;

/// What a descriptor of the VM's process is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FdRole {
    /// The agent's end of the control channel, kept open by the VM so that the channel outlives the agent.
    HeldControl,
    /// The guest's end of the control channel.
    GuestControl,
    /// The agent's end of the console's input, kept open by the VM.
    HeldConsole,
    /// The guest's end of the console's input.
    GuestConsole,
    /// The console's log, opened for appending.
    ConsoleLog,
    /// A listening socket at [`VmPaths::socket`] of [`CONTROL_SOCKET`].
    ControlListener,
    /// A listening socket at [`VmPaths::socket`] of [`CONSOLE_SOCKET`].
    ConsoleListener,
    /// A listening socket at [`VmPaths::socket`] of [`MONITOR_SOCKET`].
    MonitorListener,
    /// The tap of the VM's interface with this index.
    Tap(usize),
    /// A clone's: the file with the state of the template's devices, opened for reading.
    DeviceState,
}

/// What a VM's process begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start<'a> {
    /// Kernel and initial RAM disk.
    Boot,
    /// The same; it is to become a template: its RAM is this file, which is made, and its interfaces have no other end.
    Template {
        /// The file.
        ram: &'a Path,
    },
    /// A template: its RAM is a private copy of this file, made page by page as the guest writes; its devices wait
    /// for [`FdRole::DeviceState`].
    Clone {
        /// The template's file.
        ram: &'a Path,
    },
    /// A snapshot: memory and devices are filled in before the guest runs. Its RAM begins as a private copy of a
    /// template's, or empty.
    Snapshot {
        /// The template's file.
        ram: Option<&'a Path>,
    },
}

/// File name of the control channel's socket.
pub const CONTROL_SOCKET: &str = "control.sock";
/// File name of the console's socket.
pub const CONSOLE_SOCKET: &str = "console.sock";
/// File name of the monitor's socket.
pub const MONITOR_SOCKET: &str = "monitor.sock";

/// How to reach a stream of a running VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// The process holds our end: fetch a copy of its descriptor with `pidfd_getfd(2)`.
    Held(FdRole),
    /// Connect to this socket in the VM's directory.
    Socket(String),
}

/// How to start a VM's process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// Absolute path of the program.
    pub program: PathBuf,
    /// Arguments without the program's own name.
    pub args: Vec<OsString>,
    /// The whole environment.
    pub env: Vec<(String, OsString)>,
    /// Descriptors from [`FIRST_FD`] on.
    pub fds: Vec<FdRole>,
    /// Start without address space randomisation.
    pub fixed_addresses: bool,
    /// Start as a process whose memory may be merged (`PR_SET_MEMORY_MERGE`).
    pub mergeable: bool,
}

/// What a hypervisor can do beyond running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// Most virtual processors of a VM.
    pub max_cpus: u32,
    /// Most interfaces of a VM.
    pub max_nics: usize,
    /// The guest's RAM is a file in [`VmPaths::ram_dir`].
    pub ram_in_file: bool,
    /// VMs can be cloned from a booted template.
    pub clones: bool,
    /// VMs can be saved and restored.
    pub snapshots: bool,
}

/// What `command` needs to know of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// Frequency of the time stamp counter in kHz.
    pub tsc_khz: u64,
    /// Whom a process becomes that can give up the rights of root; `None`: it keeps what it has.
    #[serde(default)]
    pub user: Option<User>,
}

/// Whom a process becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User.
    pub uid: u32,
    /// Its only group.
    pub gid: u32,
    /// How QEMU is told: by `-run-with` (9.1 and later), else by `-runas`.
    pub run_with: bool,
}

/// What runs a VM.
#[async_trait]
pub trait Hypervisor: Send + Sync {
    /// Its name in network files: "uml".
    fn name(&self) -> &'static str;

    /// The program of the host that runs this VM; `None`: its kernel is one itself.
    fn program(&self, spec: &VmSpec) -> Option<Program>;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// The command line of a VM. Pure but for finding the program.
    ///
    /// # Errors
    /// When the specification cannot be run or a path is too long.
    fn command(
        &self,
        spec: &VmSpec,
        paths: &VmPaths,
        program: &Path,
        host: &HostFacts,
        start: Start<'_>,
    ) -> Result<CommandLine, VmError>;

    /// Where the control channel of a VM is found.
    fn control(&self) -> Endpoint;

    /// Where the console's input is taken.
    fn console(&self) -> Endpoint;

    /// Stops the guest's processors.
    ///
    /// # Errors
    /// When the monitor does not answer within the deadline, or refuses.
    async fn pause(&self, paths: &VmPaths, deadline: Duration) -> Result<(), VmError>;

    /// Lets the guest's processors go on.
    ///
    /// # Errors
    /// When the monitor does not answer within the deadline, or refuses.
    async fn resume(&self, paths: &VmPaths, deadline: Duration) -> Result<(), VmError>;

    /// Stops a guest for good and writes the state of its devices to this file, without its RAM. Only for those that
    /// can make clones.
    ///
    /// # Errors
    /// When the monitor does not answer within the deadline, or refuses.
    async fn freeze(&self, paths: &VmPaths, _state: &File, _deadline: Duration) -> Result<(), VmError> {
        Err(no_clones(self.name(), paths))
    }

    /// Lets a clone go on where its template was frozen; `state` is the number of [`FdRole::DeviceState`] in the process.
    ///
    /// # Errors
    /// When the monitor does not answer within the deadline, or the state does not fit the machine.
    async fn thaw(&self, paths: &VmPaths, _state: i32, _deadline: Duration) -> Result<(), VmError> {
        Err(no_clones(self.name(), paths))
    }

    /// Writes the state of a paused VM's devices to an empty file, open for writing only, without its RAM. Only for those that have snapshots.
    ///
    /// # Errors
    /// When the monitor does not answer within the deadline, or refuses.
    async fn save(&self, paths: &VmPaths, _file: &File, _deadline: Duration) -> Result<(), VmError> {
        Err(no_clones(self.name(), paths))
    }

    /// Gives the devices of a VM that has not run yet the state in this file, and lets its guest go on.
    ///
    /// # Errors
    /// When the monitor does not answer within the deadline, or the state does not fit the machine.
    async fn load(&self, paths: &VmPaths, _file: &File, _deadline: Duration) -> Result<(), VmError> {
        Err(no_clones(self.name(), paths))
    }

    /// Its USB devices, where it has USB.
    fn usb(&self) -> Option<&dyn UsbBus> {
        None
    }

    /// Machine and processor of a VM in words: what the state of its devices depends on beside the specification.
    fn machine(&self, _spec: &VmSpec) -> String {
        String::new()
    }

    /// Version of the program that runs a VM: "7.2.22".
    ///
    /// # Errors
    /// When the monitor does not answer within the deadline, or does not say.
    async fn version(&self, paths: &VmPaths, _deadline: Duration) -> Result<String, VmError> {
        Err(no_clones(self.name(), paths))
    }

    /// Where in its process a VM's RAM begins.
    ///
    /// # Errors
    /// When the monitor does not answer within the deadline, or does not say.
    async fn ram_address(&self, paths: &VmPaths, _deadline: Duration) -> Result<u64, VmError> {
        Err(no_clones(self.name(), paths))
    }
}

fn no_clones(hypervisor: &str, paths: &VmPaths) -> VmError {
    VmError::BadSpec {
        vm: paths.dir.display().to_string(),
        problem: format!("{hypervisor} makes no clones or snapshots"),
    }
}

/// All registered hypervisors.
pub fn hypervisors() -> &'static [&'static dyn Hypervisor] {
    HYPERVISORS
}

/// The hypervisor of that name.
///
/// # Errors
/// When none is registered under it; the message lists those that are.
pub fn find(name: &str) -> Result<&'static dyn Hypervisor, VmError> {
    HYPERVISORS.iter().copied().find(|hypervisor| hypervisor.name() == name).ok_or_else(|| {
        let known = HYPERVISORS.iter().map(|hypervisor| hypervisor.name()).collect::<Vec<_>>().join(", ");
        VmError::UnknownHypervisor { name: name.to_owned(), known }
    })
}

/// The program that runs this VM: its hypervisor's, or its kernel itself.
///
/// # Errors
/// When it is not installed.
pub(crate) fn program_of(hypervisor: &dyn Hypervisor, spec: &VmSpec) -> Result<PathBuf, VmError> {
    hypervisor.program(spec).map_or_else(|| Ok(spec.kernel.clone()), |program| program.find())
}

/// Refuses what no hypervisor with these capabilities can run.
fn check(spec: &VmSpec, hypervisor: &dyn Hypervisor, start: Start<'_>) -> Result<(), VmError> {
    let can = hypervisor.capabilities();
    let bad = |problem: String| Err(VmError::BadSpec { vm: spec.label(), problem });
    let name = hypervisor.name();
    if spec.cpus == 0 || spec.cpus > can.max_cpus {
        return bad(format!("{} cpus: {name} takes 1 to {}", spec.cpus, can.max_cpus));
    }
    if spec.nics.len() > can.max_nics {
        return bad(format!("{} interfaces: {name} takes at most {}", spec.nics.len(), can.max_nics));
    }
    if start != Start::Boot && !can.clones {
        return bad(format!("{name} makes no clones"));
    }
    if spec.usb && hypervisor.usb().is_none() {
        return bad(format!("{name} has no USB: give it `hypervisor qemu`"));
    }
    if spec.memory_bytes == 0 {
        return bad("memory of 0 bytes: give it some, like 64M".to_owned());
    }
    Ok(())
}

/// The number of a descriptor in the process.
fn fd_number(fds: &[FdRole], role: FdRole) -> Option<i32> {
    let index = fds.iter().position(|each| *each == role)?;
    Some(FIRST_FD + i32::try_from(index).ok()?)
}

/// The number of a descriptor of a process that was started with this list.
///
/// # Errors
/// When the list does not have it.
pub(crate) fn held_fd(fds: &[FdRole], role: FdRole, vm: &str) -> Result<i32, VmError> {
    fd_number(fds, role).ok_or_else(|| VmError::BadSpec {
        vm: vm.to_owned(),
        problem: format!("its process holds no {role:?}: it was started by another version; restart the VM"),
    })
}

#[cfg(test)]
mod tests_support {
    //! One specification for the tests of all command lines.

    use std::path::Path;

    use super::CommandLine;
    use crate::paths::VmPaths;
    use crate::spec::{NicSpec, RootFs, VmSpec};

    pub(super) fn spec(hypervisor: &str, nics: u8) -> VmSpec {
        VmSpec {
            experiment: "exp".to_owned(),
            name: "web-1".to_owned(),
            hypervisor: hypervisor.to_owned(),
            accelerator: None,
            memory_bytes: 48 << 20,
            cpus: 1,
            kernel: "/i/linux".into(),
            root: RootFs::Initrd("/i/initrd".into()),
            cmdline: "rdinit=/init quiet".to_owned(),
            acpi: true,
            usb: false,
            lpj: Some(42),
            merge: crate::spec::Merge::Off,
            nics: (0..nics)
                .map(|index| NicSpec { name: format!("eth{index}"), mac: [2, 0, 0, 0, 0, index], mtu: 1500 })
                .collect(),
        }
    }

    pub(super) fn paths() -> VmPaths {
        VmPaths::new(Path::new("/run/fleet"), Path::new("/dev/shm"), "exp", "web-1")
    }

    pub(super) fn text(command: &CommandLine) -> String {
        let args = command.args.iter().map(|arg| arg.to_string_lossy().into_owned());
        std::iter::once(command.program.display().to_string()).chain(args).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_hypervisor_is_answered_with_those_that_are_known() {
        let error = find("xen").err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("\"xen\"") && error.contains("uml, qemu"), "{error}");
    }
}
