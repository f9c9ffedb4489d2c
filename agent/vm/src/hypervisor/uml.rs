//! User-mode Linux: a Linux kernel that is an ordinary process. The default where the processor's virtualisation does
//! not work: a small guest costs a tenth of what QEMU costs.
//!
//! - The kernel of the image is the program that is run; nothing of UML is needed on the host.
//! - RAM is a deleted file in `$TMPDIR`, which must be a tmpfs.
//! - It must run without address space randomisation: with it some guests with little memory die at start.
//! - The control channel is `ttyS0` (`ssl0`) on a socket pair of which the process holds both ends. The agent fetches a
//!   copy of its end with `pidfd_getfd(2)`, so the channel outlives the agent and takes none of the host's few ptys.
//! - The console reads from a socket pair in the same way and appends its output to the log.
//! - The root file system is an initial RAM disk, or a file that all guests share: then nothing is unpacked, and the host
//!   caches it once.
//! - A tap is handed in as a descriptor (`transport=fd`); `vec=0` because a tap is no socket and `recvmmsg` fails on it.
//!   The tap must be without `IFF_VNET_HDR`.
//! - Pause and resume go through mconsole: `SIGSTOP` would leave the process's helpers running.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;

use super::{
    Capabilities, CommandLine, Endpoint, FdRole, HostFacts, Hypervisor, Program, Start, check, fd_number, mconsole,
};
use crate::error::VmError;
use crate::paths::VmPaths;
use crate::spec::{RootFs, VmSpec};

/// The `umid=` of every VM: the directory under the VM's own in which UML puts its monitor's socket.
const UMID: &str = "m";

/// User-mode Linux.
pub(super) struct Uml;

#[async_trait]
impl Hypervisor for Uml {
    fn name(&self) -> &'static str {
        "uml"
    }

    fn program(&self, _spec: &VmSpec) -> Option<Program> {
        None // the kernel is a program
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { max_cpus: 1, max_nics: 16, ram_in_file: true, clones: false, snapshots: false }
    }

    fn command(
        &self,
        spec: &VmSpec,
        paths: &VmPaths,
        program: &Path,
        _host: &HostFacts,
        start: Start<'_>,
    ) -> Result<CommandLine, VmError> {
        check(spec, self, start)?;
        monitor(paths)?; // refuses a directory in which UML could not make its socket
        let mut fds = vec![
            FdRole::HeldControl,
            FdRole::GuestControl,
            FdRole::HeldConsole,
            FdRole::GuestConsole,
            FdRole::ConsoleLog,
        ];
        fds.extend((0..spec.nics.len()).map(FdRole::Tap));
        let fd = |role| fd_number(&fds, role).unwrap_or(-1); // every role asked for below is in the list above

        let mut args: Vec<OsString> = spec.cmdline.split_ascii_whitespace().map(OsString::from).collect();
        let mut arg = |text: String| args.push(text.into());
        arg(format!("mem={}M", spec.memory_mib()));
        arg("con=null".to_owned());
        arg(format!("con0=fd:{},fd:{}", fd(FdRole::GuestConsole), fd(FdRole::ConsoleLog)));
        arg("ssl=null".to_owned());
        arg(format!("ssl0=fd:{}", fd(FdRole::GuestControl)));
        for (index, nic) in spec.nics.iter().enumerate() {
            arg(format!(
                "vec{index}:transport=fd,fd={},vec=0,mac={},mtu={}",
                fd(FdRole::Tap(index)),
                nic.mac_text(),
                nic.mtu
            ));
        }
        arg(format!("umid={UMID}"));
        if let Some(lpj) = spec.lpj {
            arg(format!("lpj={lpj}"));
        }
        match &spec.root {
            RootFs::Initrd(file) => args.push(joined("initrd=", file)),
            RootFs::Erofs(file) => {
                args.push(joined("ubd0r=", file));
                args.extend(["root=/dev/ubda", "rootfstype=erofs", "ro", "init=/init"].map(OsString::from));
            }
        }
        args.push(joined("uml_dir=", &paths.dir));

        let env = vec![
            ("TMPDIR".to_owned(), paths.ram_dir.clone().into_os_string()),
            ("HOME".to_owned(), paths.dir.clone().into_os_string()),
            ("PATH".to_owned(), OsString::from("/usr/bin:/bin")),
        ];
        Ok(CommandLine { program: program.to_owned(), args, env, fds, fixed_addresses: true, mergeable: false })
    }

    fn control(&self) -> Endpoint {
        Endpoint::Held(FdRole::HeldControl)
    }

    fn console(&self) -> Endpoint {
        Endpoint::Held(FdRole::HeldConsole)
    }

    async fn pause(&self, paths: &VmPaths, deadline: Duration) -> Result<(), VmError> {
        mconsole::request(&monitor(paths)?, "stop", deadline).await.map(|_| ())
    }

    async fn resume(&self, paths: &VmPaths, deadline: Duration) -> Result<(), VmError> {
        mconsole::request(&monitor(paths)?, "go", deadline).await.map(|_| ())
    }
}

/// The monitor's socket.
fn monitor(paths: &VmPaths) -> Result<PathBuf, VmError> {
    paths.socket(&format!("{UMID}/mconsole"))
}

fn joined(key: &str, path: &Path) -> OsString {
    let mut text = OsString::from(key);
    text.push(path);
    text
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::{paths, spec, text};
    use super::*;

    #[test]
    #[allow(clippy::unwrap_used)]
    fn the_command_line_names_every_descriptor_that_is_passed() {
        let command = Uml
            .command(
                &spec("uml", 2),
                &paths(),
                Path::new("/i/linux"),
                &HostFacts { tsc_khz: 1, user: None },
                Start::Boot,
            )
            .unwrap();
        assert_eq!(
            text(&command),
            "/i/linux rdinit=/init quiet mem=48M con=null con0=fd:6,fd:7 ssl=null ssl0=fd:4 \
             vec0:transport=fd,fd=8,vec=0,mac=02:00:00:00:00:00,mtu=1500 \
             vec1:transport=fd,fd=9,vec=0,mac=02:00:00:00:00:01,mtu=1500 \
             umid=m lpj=42 initrd=/i/initrd uml_dir=/run/fleet/exp/vms/web-1"
        );
        assert!(command.fixed_addresses);
        assert!(command.env.contains(&("TMPDIR".to_owned(), "/dev/shm".into())));
    }

    #[test]
    #[allow(clippy::unwrap_used)]
    fn a_shared_root_is_a_read_only_disk() {
        let shared = VmSpec { root: RootFs::Erofs("/i/root".into()), ..spec("uml", 0) };
        let command = Uml
            .command(&shared, &paths(), Path::new("/i/linux"), &HostFacts { tsc_khz: 1, user: None }, Start::Boot)
            .unwrap();
        let text = text(&command);
        assert!(text.contains(" ubd0r=/i/root root=/dev/ubda rootfstype=erofs ro init=/init "), "{text}");
        assert!(!text.contains("initrd="), "{text}");
    }

    #[test]
    fn two_processors_are_refused() {
        let two = VmSpec { cpus: 2, ..spec("uml", 0) };
        let error = Uml
            .command(&two, &paths(), Path::new("/i/linux"), &HostFacts { tsc_khz: 1, user: None }, Start::Boot)
            .err();
        assert!(error.is_some_and(|error| error.to_string().contains("2 cpus: uml takes 1 to 1")));
    }
}
