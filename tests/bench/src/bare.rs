//! The floor: a loop that starts UML processes and waits for the first byte of each guest's init. No fleet in it.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use fleet_images::{RootFs, UmlFiles};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::cgroup::{self, Group};
use crate::{Cost, MEMORY_MIB};

/// A namespace with a bridge and taps, gone when dropped.
struct Net {
    name: String,
}

impl Net {
    /// As a person would make it: one `ip -batch`.
    fn new(taps: u32) -> Result<Self> {
        let net = Self { name: format!("bench-{}", std::process::id()) };
        ip(&["netns", "add", &net.name])?;
        let batch = std::env::temp_dir().join(&net.name);
        let mut lines = String::from("link add br0 type bridge mcast_snooping 0\nlink set br0 up\n");
        for tap in 0..taps {
            lines += &format!("tuntap add t{tap} mode tap\nlink set t{tap} master br0 up\n");
        }
        fs::write(&batch, lines)?;
        let made = ip(&["-n", &net.name, "-batch", &batch.display().to_string()]);
        fs::remove_file(&batch)?;
        made.map(|()| net)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        if let Err(error) = ip(&["netns", "del", &self.name]) {
            eprintln!("bench: {error}");
        }
    }
}

fn ip(args: &[&str]) -> Result<()> {
    let status = Command::new("ip").args(args).status().context("ip is not installed: apt-get install iproute2")?;
    ensure!(status.success(), "ip {} failed", args.join(" "));
    Ok(())
}

/// One guest that boots: its process, and where its init will speak.
struct Guest {
    child: Child,
    control: UnixStream,
}

/// A folder that is removed when dropped.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Starts `count` guests, `concurrency` at a time, and waits until each has spoken.
pub fn run(uml: &UmlFiles, count: u32, concurrency: usize) -> Result<Cost> {
    let folder = Folder(PathBuf::from(format!("/dev/shm/bench-{}", std::process::id())));
    fs::create_dir_all(&folder.0)?;
    let group = Group::new("bench-bare")?;
    let before = own_cpu();
    let begin = Instant::now();
    let net = Net::new(count)?;
    let namespace = File::open(format!("/run/netns/{}", net.name))?;
    let mut waiting: VecDeque<u32> = (0..count).collect();
    let mut booting: Vec<Guest> = Vec::new();
    let mut up: Vec<Guest> = Vec::new();
    while up.len() < count as usize {
        while booting.len() < concurrency
            && let Some(index) = waiting.pop_front()
        {
            booting.push(start(uml, index, &folder.0, &group, &namespace)?);
        }
        let mut watched: Vec<_> = booting
            .iter()
            .map(|guest| PollFd::new(std::os::fd::AsFd::as_fd(&guest.control), PollFlags::POLLIN))
            .collect();
        let ready = poll(&mut watched, PollTimeout::from(60_000_u16))?;
        ensure!(ready > 0, "a guest of the bare loop did not come up within a minute");
        let spoke: Vec<bool> = watched.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        drop(watched);
        for index in (0..booting.len()).rev().filter(|index| spoke[*index]) {
            let mut guest = booting.swap_remove(index);
            ensure!(guest.control.read(&mut [0; 256])? > 0, "a guest of the bare loop ended");
            up.push(guest);
        }
    }
    let wall = begin.elapsed().as_secs_f64();
    let cost = Cost { wall, guests_cpu: cgroup::cpu_seconds(group.path())?, starter_cpu: own_cpu() - before };
    drop(group);
    for mut guest in up {
        guest.child.wait()?;
    }
    Ok(cost)
}

fn start(uml: &UmlFiles, index: u32, folder: &Path, group: &Group, namespace: &File) -> Result<Guest> {
    let (ours, theirs) = UnixStream::pair()?;
    let log = File::options().create(true).append(true).open(folder.join(format!("{index}.log")))?;
    let control = OwnedFd::from(theirs.try_clone()?);
    let mut command = Command::new(&uml.kernel);
    command
        .args(uml.cmdline.split_whitespace())
        .args(["con=null", "con0=null,fd:1", "ssl=null", "ssl0=fd:3"])
        .arg(format!("mem={MEMORY_MIB}M"))
        .args(root_args(&uml.root))
        .arg(format!("uml_dir={}/", folder.display()))
        .arg(format!("umid=u{index}"))
        .arg(format!("vec0:transport=tap,ifname=t{index},mac=02:00:0a:00:{:02x}:{:02x}", index >> 8, index & 255))
        .env("TMPDIR", "/dev/shm")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let procs = File::options().write(true).open(group.path().join("cgroup.procs"))?;
    let (control_fd, procs_fd, namespace_fd) = (control.as_raw_fd(), procs.as_raw_fd(), namespace.as_raw_fd());
    // SAFETY: only system calls between fork and exec, on descriptors that live until `spawn` returns.
    unsafe {
        command.pre_exec(move || {
            use nix::libc;
            libc::setsid();
            libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong);
            libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0);
            libc::write(procs_fd, b"0".as_ptr().cast(), 1);
            libc::setns(namespace_fd, libc::CLONE_NEWNET);
            if libc::dup2(control_fd, 3) < 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let child = command.spawn().with_context(|| format!("cannot start {}", uml.kernel.display()))?;
    Ok(Guest { child, control: ours })
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

/// CPU seconds of this process and of its children that have ended.
fn own_cpu() -> f64 {
    use nix::sys::resource::{UsageWho, getrusage};
    [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN]
        .into_iter()
        .filter_map(|who| getrusage(who).ok())
        .flat_map(|usage| [usage.user_time(), usage.system_time()])
        .map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6)
        .sum()
}
