//! What the tests with real VMs share: an image, a place on the host that is cleaned up, and a program that runs a
//! part of a test in a process of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

pub mod camera;
pub mod daemon;
pub mod taps;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use fleet_images::{Builder, Image, ImageStore, Recipe};
use fleet_vm::{Accelerator, HostConfig, Machine, RootFs, VmHost, VmSpec};

/// Long enough for a guest on a busy host; nothing waits so long when all is well.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Where one test has its VMs. Dropped, it kills and removes all that is left.
pub struct Place {
    dir: tempfile::TempDir,
    cgroup: String,
}

impl Place {
    pub fn new() -> Place {
        let dir = tempfile::Builder::new().prefix("fleet-vm-").tempdir_in("/dev/shm").unwrap();
        let cgroup = dir.path().file_name().unwrap().to_string_lossy().into_owned();
        Place { dir, cgroup }
    }

    /// A place on a host that has no control groups to offer.
    pub fn without_cgroups() -> Place {
        let mut place = Place::new();
        // The kernel refuses a line break in the name of a control group (cgroup_mkdir); a name that is merely long
        // it takes, and two tests would share it.
        place.cgroup.push('\n');
        place
    }

    pub fn config(&self) -> HostConfig {
        let dir = self.dir.path();
        HostConfig { run_dir: dir.join("run"), ram_dir: dir.join("ram"), cgroup: self.cgroup.clone(), clones: true }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn host(&self) -> VmHost {
        VmHost::new(self.config()).unwrap()
    }

    /// Processes that have this place in their arguments or environment.
    pub fn processes(&self) -> Vec<i32> {
        let needle = self.dir.path().to_string_lossy().into_owned().into_bytes();
        let has = |pid: i32, file: &str| {
            let text = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            text.windows(needle.len()).any(|window| window == needle)
        };
        let own = i32::try_from(std::process::id()).unwrap();
        let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
        pids.filter(|pid| *pid != own && (has(*pid, "cmdline") || has(*pid, "environ"))).collect()
    }

    /// Directories of control groups below this place's.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let parent = cgroup_mount().map(|mount| mount.join(&self.cgroup));
        let below = |dir: &PathBuf| {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect::<Vec<_>>()
        };
        parent.as_ref().map(below).unwrap_or_default()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for pid in self.processes() {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
        if let Some(parent) = cgroup_mount().map(|mount| mount.join(&self.cgroup)) {
            let _ = fs::write(parent.join("cgroup.kill"), "1");
            for experiment in self.cgroups() {
                for vm in fs::read_dir(&experiment).into_iter().flatten().flatten() {
                    remove_cgroup(&vm.path());
                }
                remove_cgroup(&experiment);
            }
            let _ = fs::remove_dir(parent);
        }
    }
}

/// Removes a group whose processes were killed a moment ago.
fn remove_cgroup(dir: &Path) {
    for _ in 0..200 {
        match fs::remove_dir(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                std::thread::sleep(Duration::from_millis(10));
            }
            _ => return,
        }
    }
}

fn cgroup_mount() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
    line.split(' ').nth(4).map(PathBuf::from)
}

/// The image of all tests; built once for a target directory.
pub fn image() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| {
        // target/<profile>/deps/<test>
        let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned();
        let init = std::env::var_os("FLEET_INIT")
            .map_or_else(|| target.join("x86_64-unknown-linux-gnu/guest/fleet-init"), PathBuf::from);
        assert!(init.exists(), "no guest init at {}: run `make build`, or set FLEET_INIT", init.display());
        let lock = File::create(target.join("fleet-test-image.lock")).unwrap();
        lock.lock().unwrap(); // test programs run side by side
        let store = ImageStore::open(target.join("fleet-test-images")).unwrap();
        let cache = target.join("fleet-test-cache");
        Builder::new(&store, cache, init).build(&Recipe::load("tiny").unwrap(), &mut |_| {}).unwrap()
    })
}

/// A small UML guest.
pub fn uml(name: &str) -> VmSpec {
    let files = image().uml.as_ref().unwrap();
    VmSpec {
        experiment: "exp".to_owned(),
        name: name.to_owned(),
        hypervisor: "uml".to_owned(),
        accelerator: None,
        memory_bytes: u64::from(files.default_mem_mib) << 20,
        cpus: 1,
        kernel: files.kernel.clone(),
        root: match &files.root {
            fleet_images::RootFs::Initrd(path) => RootFs::Initrd(path.clone()),
            fleet_images::RootFs::Erofs(path) => RootFs::Erofs(path.clone()),
        },
        cmdline: files.cmdline.clone(),
        acpi: true,
        usb: false,
        lpj: None,
        merge: fleet_vm::Merge::Off,
        nics: Vec::new(),
    }
}

/// A small emulated guest.
pub fn qemu(name: &str) -> VmSpec {
    let files = image().x86.as_ref().unwrap();
    VmSpec {
        hypervisor: "qemu".to_owned(),
        accelerator: Some(Accelerator::Tcg),
        memory_bytes: u64::from(files.default_mem_mib) << 20,
        kernel: files.vmlinux.clone(),
        root: RootFs::Initrd(files.initrd.clone()),
        cmdline: files.cmdline.clone(),
        acpi: files.acpi,
        ..uml(name)
    }
}

/// The same with a USB controller.
pub fn with_usb(name: &str) -> VmSpec {
    VmSpec { usb: true, ..qemu(name) }
}

/// Runs a command in a guest and gives code and output.
pub async fn run(machine: &Machine, argv: &[&str]) -> (i32, String) {
    let spec = fleet_vm::ExecSpec { argv: argv.iter().map(ToString::to_string).collect(), ..Default::default() };
    let mut session = machine.control().exec(spec, PATIENCE).await.unwrap();
    let mut output = Vec::new();
    loop {
        match tokio::time::timeout(PATIENCE, session.next()).await.expect("the command goes on").unwrap() {
            fleet_vm::ExecEvent::Stdout(data) | fleet_vm::ExecEvent::Stderr(data) => output.extend(data),
            fleet_vm::ExecEvent::Exited(code) => return (code, String::from_utf8_lossy(&output).into_owned()),
        }
    }
}
