//! The first moments: mounts, kernel modules, loopback. What fails is told on the console and left out: a guest
//! without, say, devpts still answers its agent, which then says what is wrong.

use std::{
    fs::{self, File},
    path::Path,
};

use nix::{
    errno::Errno,
    kmod::{ModuleInitFlags, finit_module},
    mount::{MsFlags, mount},
};

use crate::{net, root};

/// The image's list of modules, one path a line, in the order of loading.
const MODULE_LIST: &str = "/etc/fleet/modules";

/// Type, target, data.
const MOUNTS: &[(&str, &str, &str)] = &[
    ("devtmpfs", "/dev", "mode=0755"),
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devpts", "/dev/pts", "mode=0620,gid=5,ptmxmode=0666"),
    ("tmpfs", "/tmp", "mode=1777"),
    ("tmpfs", "/run", "mode=0755"),
];

/// Does it all; gives a line for each thing that failed.
pub fn prepare() -> Vec<String> {
    let mut problems = Vec::new();
    if let Err(problem) = root::make_writable() {
        problems.push(problem);
    }
    for (kind, target, data) in MOUNTS {
        if let Err(error) = fs::create_dir_all(target) {
            problems.push(format!("{target}: {error}"));
        }
        match mount(Some(*kind), *target, Some(*kind), MsFlags::MS_NOSUID, Some(*data)) {
            Ok(()) | Err(Errno::EBUSY) => {} // EBUSY: the kernel has mounted devtmpfs itself
            Err(errno) => problems.push(format!("mounting {kind} on {target}: {errno}")),
        }
    }
    load_modules(&mut problems);
    // Router solicitations of thousands of guests would flood the host.
    for scope in ["all", "default"] {
        let path = format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6");
        if Path::new(&path).exists()
            && let Err(error) = fs::write(&path, "1")
        {
            problems.push(format!("{path}: {error}"));
        }
    }
    if let Err(error) = net::loopback_up() {
        problems.push(error);
    }
    problems
}

/// Loads the listed modules and removes their files: the root file system is the guest's memory.
fn load_modules(problems: &mut Vec<String>) {
    let Ok(list) = fs::read_to_string(MODULE_LIST) else {
        return; // this image has no modules
    };
    for path in list.lines().filter(|line| !line.is_empty()) {
        let loaded = File::open(path).map_err(|error| error.to_string()).and_then(|file| {
            match finit_module(&file, c"", ModuleInitFlags::empty()) {
                Ok(()) | Err(Errno::EEXIST) => Ok(()),
                Err(errno) => Err(errno.to_string()),
            }
        });
        match loaded {
            Ok(()) => {
                let _read_only = fs::remove_file(path); // then it stays, and costs memory only
            }
            Err(error) => problems.push(format!("module {path}: {error}")),
        }
    }
}
