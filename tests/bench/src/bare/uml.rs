//! User-mode Linux, as fleet starts it: same kernel, root, memory and command line, a tap of its own.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use fleet_images::{RootFs, UmlFiles};

use super::pool::{self, Guest};
use super::{Folder, Net, mac_text};
use crate::cgroup::Group;
use crate::{Load, Run};

/// Starts the guests and measures them.
///
/// # Errors
/// When one of them does not come up.
pub fn run(uml: &UmlFiles, lpj: Option<u64>, load: &Load) -> Result<Run> {
    let folder = Folder::new()?;
    pool::run(load.count, load.concurrency, load.wired, |index, group, net| {
        start(uml, lpj, index, folder.path(), group, net)
    })
}

fn start(
    uml: &UmlFiles,
    lpj: Option<u64>,
    index: u32,
    folder: &Path,
    group: &Group,
    net: Option<&Net>,
) -> Result<Guest> {
    let (ours, theirs) = UnixStream::pair()?;
    let log = File::options().create(true).append(true).open(folder.join(format!("{index}.log")))?;
    let control = OwnedFd::from(theirs);
    let mut command = Command::new(&uml.kernel);
    command
        .args(uml.cmdline.split_whitespace())
        .args(["con=null", "con0=null,fd:1", "ssl=null", "ssl0=fd:3"])
        .args(lpj.map(|lpj| format!("lpj={lpj}")))
        .arg(format!("mem={}M", uml.default_mem_mib))
        .args(root_args(&uml.root))
        .arg(format!("uml_dir={}/", folder.display()))
        .arg(format!("umid=u{index}"))
        .env("TMPDIR", "/dev/shm")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    if net.is_some() {
        command.arg(format!("vec0:transport=tap,ifname=t{index},mac={}", mac_text(index)));
    }
    let namespace = net.map(|net| File::open(net.path())).transpose()?;
    let procs = File::options().write(true).open(group.path().join("cgroup.procs"))?;
    let (control_fd, procs_fd) = (control.as_raw_fd(), procs.as_raw_fd());
    let namespace_fd = namespace.as_ref().map(AsRawFd::as_raw_fd);
    // SAFETY: only system calls between fork and exec, on descriptors that live until `spawn` returns.
    unsafe {
        command.pre_exec(move || {
            use nix::libc;
            libc::setsid();
            libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong);
            libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0);
            libc::write(procs_fd, b"0".as_ptr().cast(), 1);
            if let Some(namespace) = namespace_fd {
                libc::setns(namespace, libc::CLONE_NEWNET);
            }
            if libc::dup2(control_fd, 3) < 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let child = command.spawn().with_context(|| format!("cannot start {}", uml.kernel.display()))?;
    Ok(Guest { child, control: ours, _monitor: None, greeted: false })
}

/// How a guest finds its root file system.
fn root_args(root: &RootFs) -> Vec<String> {
    match root {
        RootFs::Initrd(file) => vec![format!("initrd={}", file.display())],
        RootFs::Erofs(file) => {
            let disk = ["root=/dev/ubda", "rootfstype=erofs", "ro", "init=/init"].map(str::to_owned);
            std::iter::once(format!("ubd0r={}", file.display())).chain(disk).collect()
        }
    }
}
