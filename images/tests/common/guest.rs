//! Guests of the image under UML and under QEMU (microvm, TCG), started as an agent does it. A guest ends when its
//! value is dropped, with all helper processes.

use std::{
    fs::{self, File},
    io::Write,
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::{
            net::{UnixDatagram, UnixListener, UnixStream},
            process::CommandExt,
        },
    },
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use fleet_images::{Image, RootFs};
use nix::{
    errno::Errno,
    sys::{
        personality,
        signal::{Signal, killpg},
    },
    unistd::{Pid, setsid},
};

use super::{tiny, tiny_kernels};

/// Each hypervisor with Debian's kernel and with the tiny one, for tests that hold for all.
pub fn kinds() -> [&'static str; 4] {
    ["uml", "qemu", "tiny-uml", "tiny-x86"]
}

/// One end of an Ethernet cable, and the MAC of the interface that is plugged into it.
pub struct Wire {
    pub end: UnixDatagram,
    pub mac: &'static str,
}

/// A running guest.
pub struct Guest {
    child: Child,
    folder: tempfile::TempDir,
    keyboard: UnixStream,
    control: Option<UnixStream>,
    /// Where a new agent connects (QEMU); with UML the one stream serves all.
    listener: Option<PathBuf>,
}

/// Boots an image.
pub fn boot(kind: &str, wire: Option<Wire>) -> Guest {
    match kind {
        "uml" => boot_uml(tiny(), wire),
        "qemu" => boot_qemu(tiny(), wire),
        "tiny-uml" => boot_uml(tiny_kernels(), wire),
        _ => boot_qemu(tiny_kernels(), wire),
    }
}

impl Guest {
    /// The agent's end of the control channel; under QEMU a new connection each time.
    pub fn control(&mut self) -> UnixStream {
        match &self.listener {
            Some(path) => UnixStream::connect(path).unwrap(),
            None => self.control.as_ref().unwrap().try_clone().unwrap(),
        }
    }

    /// Types on the console.
    pub fn type_on_console(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).unwrap();
    }

    /// What the guest has written on its console.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.path().join("console")).unwrap_or_default()).into_owned()
    }

    /// Waits for the hypervisor to end by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + Duration::from_secs(120);
        let pidfd = pidfd_open(self.child.id());
        let mut fds = [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&pidfd), nix::poll::PollFlags::POLLIN)];
        let left = end.saturating_duration_since(Instant::now());
        let ready = nix::poll::poll(&mut fds, nix::poll::PollTimeout::try_from(left).unwrap()).unwrap();
        assert!(ready > 0, "the guest does not end; its console:\n{}", self.console());
        self.child.wait().unwrap()
    }

    /// The main process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let group = Pid::from_raw(self.child.id().cast_signed());
        // The main process may be gone while helpers of its group live: kill first, then reap.
        let _gone = killpg(group, Signal::SIGKILL);
        let _reaped = self.child.wait();
        let _gone = killpg(group, Signal::SIGKILL);
        if std::thread::panicking() {
            eprintln!("console of the guest:\n{}", self.console());
        }
    }
}

fn pidfd_open(pid: u32) -> OwnedFd {
    // SAFETY: pidfd_open takes two numbers and gives a new file descriptor, which nobody else owns.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        assert!(fd >= 0, "pidfd_open");
        std::os::fd::FromRawFd::from_raw_fd(RawFd::try_from(fd).unwrap())
    }
}

fn boot_uml(image: &Image, wire: Option<Wire>) -> Guest {
    let files = image.uml.as_ref().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let console = File::create(folder.path().join("console")).unwrap();
    let mut command = Command::new(&files.kernel);
    command.args(files.cmdline.split_whitespace());
    command.arg(format!("mem={}M", files.default_mem_mib));
    match &files.root {
        RootFs::Initrd(file) => command.arg(format!("initrd={}", file.display())),
        RootFs::Erofs(file) => {
            command.arg(format!("ubd0r={}", file.display()));
            command.args(["root=/dev/ubda", "rootfstype=erofs", "ro", "init=/init"])
        }
    };
    command.args(["con=null", "con0=fd:0,fd:1", "ssl=null"]).arg(format!("ssl0=fd:{}", theirs.as_raw_fd()));
    command.arg(format!("uml_dir={}", folder.path().display())).arg("umid=guest");
    let mut fds = vec![ours.as_raw_fd(), theirs.as_raw_fd()];
    if let Some(Wire { end, mac }) = &wire {
        command.arg(format!("vec0:transport=fd,fd={},vec=0,mac={mac}", end.as_raw_fd()));
        fds.push(end.as_raw_fd());
    }
    command.env("TMPDIR", "/dev/shm");
    let (child, keyboard) = spawn(command, console, fds);
    Guest { child, folder, keyboard, control: Some(ours), listener: None }
}

fn boot_qemu(image: &Image, wire: Option<Wire>) -> Guest {
    let files = image.x86.as_ref().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control");
    let listener = UnixListener::bind(&path).unwrap();
    let console = File::create(folder.path().join("console")).unwrap();
    let mut command = Command::new("qemu-system-x86_64");
    let machine = match files.acpi {
        true => "microvm,acpi=on,pit=off,pic=off,rtc=off",
        false => "microvm,acpi=off,pit=on,pic=on,rtc=on",
    };
    command.args(["-M", machine, "-accel", "tcg,tb-size=16", "-cpu", "qemu64,+arat"]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    command.arg("-m").arg(files.default_mem_mib.to_string());
    command.arg("-kernel").arg(&files.vmlinux).arg("-initrd").arg(&files.initrd);
    command.arg("-append").arg(format!("{} console=ttyS0 tsc_early_khz={}", files.cmdline, host_khz()));
    command.args(["-serial", "stdio", "-global", "virtio-mmio.force-legacy=false"]);
    command.arg("-chardev").arg(format!("socket,id=control,fd={},server=on,wait=off", listener.as_raw_fd()));
    command.args(["-device", "virtio-serial-device,max_ports=2"]);
    command.args(["-device", "virtserialport,chardev=control,name=org.fleet.control"]);
    let mut fds = vec![listener.as_raw_fd()];
    if let Some(Wire { end, mac }) = &wire {
        command.arg("-netdev").arg(format!("dgram,id=n0,local.type=fd,local.str={}", end.as_raw_fd()));
        command.arg("-device").arg(format!("virtio-net-device,netdev=n0,mac={mac}"));
        fds.push(end.as_raw_fd());
    }
    let (child, keyboard) = spawn(command, console, fds);
    Guest { child, folder, keyboard, control: None, listener: Some(path) }
}

/// Starts a hypervisor in its own session without address randomisation, with these files left open; gives what types
/// on its console.
fn spawn(mut command: Command, console: File, fds: Vec<RawFd>) -> (Child, UnixStream) {
    let (keyboard, stdin) = UnixStream::pair().unwrap();
    command.stdin(Stdio::from(std::os::fd::OwnedFd::from(stdin))).stdout(console.try_clone().unwrap()).stderr(console);
    // SAFETY: between fork and exec only system calls are made.
    unsafe {
        command.pre_exec(move || {
            setsid()?;
            personality::set(personality::Persona::ADDR_NO_RANDOMIZE)?;
            for fd in &fds {
                Errno::result(libc::fcntl(*fd, libc::F_SETFD, 0))?;
            }
            Ok(())
        });
    }
    (command.spawn().unwrap(), keyboard)
}

/// Frequency of the host's processor: without the ACPI timer the guest cannot measure it under TCG.
fn host_khz() -> u64 {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap();
    let line = text.lines().find(|line| line.starts_with("cpu MHz")).unwrap();
    let mhz: f64 = line.rsplit(':').next().unwrap().trim().parse().unwrap();
    (mhz * 1000.0) as u64
}
