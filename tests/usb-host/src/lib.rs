//! A guest that plays a host with cameras on its USB ports: real device files, a real kernel's `usbfs`, no hardware.
//!
//! QEMU runs it under TCG and gives it two players of media (`usb-mtp`, PTP to us), `a` and `b`, each with one picture, and a
//! disk. Its root are the files of this machine, read-only with changes in memory, at the same paths: so a test runs programs
//! that were just built, and the machine's own QEMU for virtual machines within. `/run` and `/tmp` are empty.
//!
//! It is EHCI and not xHCI because QEMU's xHCI gives the data of a transfer that was cancelled to another one (7.2: the
//! kernel says "Transfer event TRB DMA ptr not part of current TD").
//!
//! What runs in it has one way to the test: lines on its standard output. [`Host::serve`] obeys those that begin with [`ASK`]:
//! `outside: unplug b`, `outside: plug b`.
#![allow(clippy::unwrap_used, reason = "a library for tests: what fails, fails the test")]

mod qmp;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use fleet_images::{Builder, Image, ImageStore, Recipe};
use tempfile::TempDir;

use qmp::Qmp;

/// How long the guest may say nothing: QEMU within QEMU is slow.
const SILENCE: Duration = Duration::from_secs(600);
/// The beginning of a line by which what runs inside asks for something.
pub const ASK: &str = "outside: ";
/// The players' ids.
pub const PLAYERS: [&str; 2] = ["a", "b"];

/// The bytes of the picture in each player, `DSC_0001.JPG`.
pub fn picture() -> Vec<u8> {
    (0..1_000_000u32).map(|at| (at / 7) as u8).collect()
}

/// The guest; killed when it is dropped.
#[derive(Debug)]
pub struct Host {
    qemu: Child,
    lines: mpsc::Receiver<String>,
    qmp: Qmp,
    folder: TempDir,
}

impl Host {
    /// Boots it; `script` is what its shell runs, as root, before it ends.
    ///
    /// `init` is fleet's init as `make build` makes it; the builder of images wants one.
    pub fn boot(init: &Path, script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for player in PLAYERS {
            fs::create_dir(folder.path().join(player)).unwrap();
            fs::write(folder.path().join(player).join("DSC_0001.JPG"), picture()).unwrap();
        }
        fs::File::create(folder.path().join("disk")).and_then(|file| file.set_len(4 << 20)).unwrap();
        fs::write(folder.path().join("script"), script).unwrap();
        let image = image(init);
        let mut qemu = command(&image, folder.path()).spawn().expect("qemu-system-x86_64, as make setup installs it");
        let lines = read_lines(qemu.stdout.take().unwrap());
        let qmp = Qmp::connect(&folder.path().join("qmp"));
        Self { qemu, lines, qmp, folder }
    }

    /// The next line on its console.
    pub fn line(&mut self) -> String {
        self.lines.recv_timeout(SILENCE).expect("the guest says something")
    }

    /// Pulls a player out.
    pub fn unplug(&mut self, player: &str) {
        self.qmp.execute("device_del", &format!(r#"{{"id":"{player}"}}"#));
    }

    /// Plugs a player in.
    pub fn plug(&mut self, player: &str) {
        let root = self.folder.path().join(player);
        let root = root.display();
        self.qmp.execute(
            "device_add",
            &format!(r#"{{"driver":"usb-mtp","id":"{player}","bus":"usb.0","rootdir":"{root}"}}"#),
        );
    }

    /// Shows its lines and obeys them until its script ends; that it ended well, is asserted.
    pub fn serve(mut self) {
        loop {
            let line = self.line();
            println!("{line}");
            if let Some(code) = line.strip_prefix("usb-host: ended ") {
                assert_eq!(code, "0", "what ran in the guest failed; its words are above");
                return;
            }
            match line.strip_prefix(ASK).map(|asked| asked.split_once(' ').unwrap_or((asked, ""))) {
                None => {}
                Some(("unplug", player)) => self.unplug(player),
                Some(("plug", player)) => self.plug(player),
                Some(other) => panic!("the guest asks for {other:?}"),
            }
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// Its kernel and initial RAM disk, in a store that all tests of a target folder share.
pub fn image(init: &Path) -> Image {
    let program = std::env::current_exe().unwrap();
    let store: PathBuf = program.parent().and_then(Path::parent).unwrap().join("usb-host-images");
    let store = ImageStore::open(store).unwrap();
    let recipe = Recipe::parse(include_str!("recipe.toml"), "usb-host", Path::new("/")).unwrap();
    let builder = Builder::new(&store, fleet_images::user_cache(), init);
    builder.build(&recipe, &mut |step| eprintln!("{step}")).unwrap()
}

fn command(image: &Image, folder: &Path) -> Command {
    let x86 = image.x86.as_ref().unwrap();
    let at = |name: &str| folder.join(name).display().to_string();
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-machine", "q35,accel=tcg", "-cpu", "max", "-smp", "2", "-no-reboot"])
        .args(["-m", &x86.default_mem_mib.to_string()])
        .args(["-display", "none", "-nodefaults", "-no-user-config", "-chardev", "stdio,id=console"])
        .args(["-serial", "chardev:console", "-qmp", &format!("unix:{},server=on,wait=off", at("qmp"))])
        .arg("-kernel")
        .arg(&x86.vmlinux)
        .arg("-initrd")
        .arg(&x86.initrd)
        .args(["-append", &format!("{} usb-host.script={}", x86.cmdline, at("script"))])
        .args(["-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap"])
        .args(["-device", "virtio-9p-pci,fsdev=root,mount_tag=root", "-device", "usb-ehci,id=usb"])
        .args(["-drive", &format!("if=none,id=disk,format=raw,file={}", at("disk"))])
        .args(["-device", "usb-storage,bus=usb.0,drive=disk"]);
    for player in PLAYERS {
        command.args(["-device", &format!("usb-mtp,bus=usb.0,id={player},rootdir={}", at(player))]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

fn read_lines(stdout: ChildStdout) -> mpsc::Receiver<String> {
    // Ends with the guest, or with whoever reads; the console is text and short.
    let (send, lines) = mpsc::sync_channel(4096);
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if send.send(line.trim_end().to_owned()).is_err() {
                return;
            }
        }
    });
    lines
}
