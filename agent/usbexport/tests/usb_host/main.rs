//! The path of a camera on a real USB port, with no USB here: a guest under TCG plays the host. QEMU gives it an EHCI controller,
//! two players of media (`usb-mtp`, PTP to us) and a disk; the machine's own files are its root, read-only, so that this
//! same program runs in it, and the machine's QEMU.
//!
//! It is EHCI and not xHCI because QEMU's xHCI gives the data of a transfer that was cancelled to another one (7.2: the
//! kernel says "Transfer event TRB DMA ptr not part of current TD").
//!
//! `make test-usb-host` runs it. It takes half a minute or more, for a QEMU runs within a QEMU.

#[path = "../common/mod.rs"]
mod common;
mod inside;
mod qmp;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use fleet_images::{Builder, ImageStore, Recipe};
use qmp::Qmp;

/// How long nothing may be said by the guest.
const SILENCE: Duration = Duration::from_secs(300);
/// What the program inside asks the one outside for, at the beginning of a line.
pub const ASK: &str = "outside: ";

/// The guest: Debian's full kernel, and a script that makes the machine's files its root.
const RECIPE: &str = r##"
name = "usb-host-test"
[x86]
kernel = { package = "linux-image-amd64", dependency = "linux-image-*-amd64", file = "boot/vmlinuz-*" }
modules = ["virtio_pci", "9pnet_virtio", "9p", "ehci_pci", "usb_storage", "sd_mod"]
cmdline = "console=ttyS0 rdinit=/outer quiet panic=-1 tsc=nowatchdog"
memory = { default-mib = 1024, minimum-mib = 512 }
[[file]]
path = "/bin/busybox"
from = { package = "busybox-static", file = "bin/busybox" }
applets = true
[[file]]
path = "/host"
directory = true
[[file]]
path = "/outer"
mode = "0755"
text = '''#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read module; do insmod $module || echo "outer: $module"; done < /etc/fleet/modules
mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288,ro,cache=loose root /host || echo "outer: no root"
for folder in proc sys dev; do mount --bind /$folder /host/$folder; done
mount -t tmpfs run /host/run
test=$(sed 's/.*fleet.test=\([^ ]*\).*/\1/' /proc/cmdline)
chroot /host /usr/bin/env TMPDIR=/run PATH=/usr/sbin:/usr/bin:/sbin:/bin RUST_BACKTRACE=1 \
    $test --ignored --exact --nocapture inside::what_the_guest_runs
echo "outer: ended $?"
poweroff -f
'''
"##;

/// The guest that plays the host, killed at its end.
struct Outer(Child);

impl Drop for Outer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "boots a host: make test-usb-host"]
fn a_camera_on_a_port_is_found_exported_and_given_to_qemu_by_descriptor() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["a", "b"] {
        std::fs::create_dir(folder.path().join(name)).expect("a folder");
        std::fs::write(folder.path().join(name).join("DSC_0001.JPG"), common::picture().bytes).expect("a picture");
    }
    let disk = folder.path().join("disk");
    std::fs::File::create(&disk).and_then(|file| file.set_len(4 << 20)).expect("a disk");
    let monitor = folder.path().join("qmp");
    let mut outer = start(folder.path(), &disk, &monitor);
    let lines = read_lines(outer.0.stdout.take().expect("its console"));
    let mut qmp = Qmp::connect(&monitor);
    loop {
        let line = lines.recv_timeout(SILENCE).expect("the guest says something");
        println!("{line}");
        if let Some(code) = line.strip_prefix("outer: ended ") {
            assert_eq!(code, "0", "what ran in the guest failed; its words are above");
            return;
        }
        match line.strip_prefix(ASK).map(|asked| asked.split_once(' ').unwrap_or((asked, ""))) {
            None => {}
            Some(("unplug", id)) => _ = qmp.execute("device_del", &format!(r#"{{"id":"{id}"}}"#)),
            Some(("plug", id)) => {
                let root = folder.path().join(id);
                _ = qmp.execute(
                    "device_add",
                    &format!(r#"{{"driver":"usb-mtp","id":"{id}","bus":"usb.0","rootdir":"{}"}}"#, root.display()),
                );
            }
            Some(other) => panic!("the guest asks for {other:?}"),
        }
    }
}

fn start(folder: &Path, disk: &Path, monitor: &Path) -> Outer {
    let store = ImageStore::open(Path::new(env!("CARGO_TARGET_TMPDIR")).join("images")).expect("a store");
    let recipe = Recipe::parse(RECIPE, "usb-host-test", folder).expect("a recipe");
    let init: PathBuf = std::env::var_os("FLEET_INIT").expect("FLEET_INIT, as make test-usb-host sets it").into();
    let image = Builder::new(&store, fleet_images::user_cache(), init)
        .build(&recipe, &mut |step| eprintln!("{step}"))
        .expect("an image");
    let x86 = image.x86.expect("a kernel");
    let program = std::env::current_exe().expect("this program");
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-machine", "q35,accel=tcg", "-cpu", "max", "-smp", "2", "-m", "1024", "-no-reboot"])
        .args(["-display", "none", "-nodefaults", "-no-user-config", "-chardev", "stdio,id=console"])
        .args(["-serial", "chardev:console", "-qmp", &format!("unix:{},server=on,wait=off", monitor.display())])
        .arg("-kernel")
        .arg(&x86.vmlinux)
        .arg("-initrd")
        .arg(&x86.initrd)
        .args(["-append", &format!("{} fleet.test={}", x86.cmdline, program.display())])
        .args(["-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap"])
        .args(["-device", "virtio-9p-pci,fsdev=root,mount_tag=root", "-device", "usb-ehci,id=usb"])
        .args(["-drive", &format!("if=none,id=disk,format=raw,file={}", disk.display())])
        .args(["-device", "usb-storage,bus=usb.0,drive=disk"]);
    for name in ["a", "b"] {
        command.args(["-device", &format!("usb-mtp,bus=usb.0,id={name},rootdir={}", folder.join(name).display())]);
    }
    Outer(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("qemu"))
}

fn read_lines(stdout: ChildStdout) -> mpsc::Receiver<String> {
    let (send, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if send.send(line.trim_end().to_owned()).is_err() {
                return;
            }
        }
    });
    lines
}
