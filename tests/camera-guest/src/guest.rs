//! QEMU's microvm with an xHCI controller, as fleet starts it, and nothing else of fleet around it.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use fleet_images::Image;
use fleet_softcam::Address;
use nix::errno::Errno;
use serde_json::{Value, json};

use crate::qmp::Qmp;
use crate::session::{Outcome, Session};

/// A guest that runs; it ends with its value.
pub struct Guest {
    child: Child,
    folder: tempfile::TempDir,
    session: Session,
    qmp: Qmp,
}

impl Guest {
    /// Boots the image and waits until its init answers.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn boot(image: &Image) -> Self {
        Self::with_memory(image, image.x86.as_ref().unwrap().default_mem_mib)
    }

    /// The same with so much memory.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn with_memory(image: &Image, memory_mib: u32) -> Self {
        let files = image.x86.as_ref().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let bind = |name: &str| UnixListener::bind(folder.path().join(name)).unwrap();
        let (control, monitor) = (bind("control"), bind("monitor"));
        let console = File::create(folder.path().join("console")).unwrap();
        let mut command = Command::new("qemu-system-x86_64");
        command.args([
            "-M",
            "microvm,acpi=on,pcie=on,rtc=on,pit=on,pic=on",
            "-accel",
            "tcg,tb-size=64",
            "-cpu",
            "qemu64,+arat",
        ]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        command.arg("-m").arg(memory_mib.to_string());
        command.arg("-kernel").arg(&files.vmlinux).arg("-initrd").arg(&files.initrd);
        command.arg("-append").arg(format!("{} console=ttyS0 tsc_early_khz={}", files.cmdline, host_khz()));
        command.args(["-serial", "stdio", "-global", "virtio-mmio.force-legacy=false", "-device", "qemu-xhci,id=xhci"]);
        command.args(["-device", "virtio-serial-device,max_ports=2"]);
        command.args(["-device", "virtserialport,chardev=control,name=org.fleet.control"]);
        command.arg("-chardev").arg(format!("socket,id=control,fd={},server=on,wait=off", control.as_raw_fd()));
        command.arg("-chardev").arg(format!("socket,id=monitor,fd={},server=on,wait=off", monitor.as_raw_fd()));
        command.args(["-mon", "chardev=monitor,mode=control"]);
        command.stdin(Stdio::null()).stdout(console.try_clone().unwrap()).stderr(console);
        let fds = [control.as_raw_fd(), monitor.as_raw_fd()];
        // SAFETY: between fork and exec only system calls are made.
        unsafe {
            command.pre_exec(move || {
                // Ends with the thread that started it, also when that is killed.
                Errno::result(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
                for fd in fds {
                    Errno::result(libc::fcntl(fd, libc::F_SETFD, 0))?;
                }
                Ok(())
            });
        }
        let child = command.spawn().unwrap_or_else(|error| panic!("qemu-system-x86_64: {error}"));
        // From here on a failure ends QEMU.
        let mut started = Started(Some((child, folder)));
        let path = |name: &str| started.folder().join(name);
        let session = Session::attach(UnixStream::connect(path("control")).unwrap());
        let qmp = Qmp::connect(&path("monitor"));
        let (child, folder) = started.0.take().unwrap();
        Self { child, folder, session, qmp }
    }

    /// Runs a line of shell in the guest.
    ///
    /// # Panics
    /// When the guest says nothing.
    pub fn shell(&mut self, line: &str) -> Outcome {
        self.session.shell(line)
    }

    /// The same, which must go well; gives its output.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn ok(&mut self, line: &str) -> String {
        let outcome = self.shell(line);
        assert_eq!(outcome.code, 0, "`{line}`: {} {}", outcome.stdout, outcome.stderr);
        outcome.stdout
    }

    /// Connects to a usbredir server, and plugs what is behind it into the guest; a connection that breaks is made again.
    ///
    /// # Panics
    /// When QEMU refuses.
    pub fn plug(&mut self, id: &str, server: &Address, filter: &str) {
        let address = match server {
            Address::Unix(path) => json!({ "type": "unix", "data": { "path": path } }),
            Address::Tcp(text) => {
                let (host, port) = text.rsplit_once(':').unwrap();
                json!({ "type": "inet", "data": { "host": host, "port": port } })
            }
        };
        let socket = json!({ "addr": address, "server": false, "reconnect": 1 });
        let chardev = json!({ "id": format!("{id}-redir"), "backend": { "type": "socket", "data": socket } });
        self.qmp.run("chardev-add", chardev).unwrap();
        let device = json!({ "driver": "usb-redir", "id": id, "bus": "xhci.0", "chardev": format!("{id}-redir"), "filter": filter });
        self.qmp.run("device_add", device).unwrap();
    }

    /// Whether QEMU has a device attached under this name.
    ///
    /// # Panics
    /// When there is no such name.
    pub fn attached(&mut self, id: &str) -> bool {
        let of = json!({ "path": format!("/machine/peripheral/{id}"), "property": "attached" });
        self.qmp.run("qom-get", of).unwrap() == Value::Bool(true)
    }

    /// Takes the device out of QEMU, with its connection.
    ///
    /// # Panics
    /// When it was not there.
    pub fn unplug(&mut self, id: &str) {
        self.qmp.run("device_del", json!({ "id": id })).unwrap();
        self.qmp.deleted(id);
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the guest has written on its console.
    pub fn console(&self) -> String {
        console(self.folder.path())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        end(&mut self.child, self.folder.path());
    }
}

/// A QEMU whose guest has not answered yet.
struct Started(Option<(Child, tempfile::TempDir)>);

impl Started {
    fn folder(&self) -> &std::path::Path {
        self.0.as_ref().unwrap().1.path()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some((child, folder)) = &mut self.0 {
            end(child, folder.path());
        }
    }
}

fn end(child: &mut Child, folder: &std::path::Path) {
    drop(child.kill());
    drop(child.wait());
    if std::thread::panicking() {
        eprintln!("console of the guest:\n{}", console(folder));
    }
}

fn console(folder: &std::path::Path) -> String {
    String::from_utf8_lossy(&std::fs::read(folder.join("console")).unwrap_or_default()).into_owned()
}

/// Frequency of the host's processor, by which an emulated guest knows its clock.
fn host_khz() -> u64 {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let mhz = text.lines().find_map(|line| line.strip_prefix("cpu MHz")?.split_once(": ")?.1.parse::<f64>().ok());
    (mhz.unwrap() * 1000.0) as u64
}
