//! Bad input: each gets a message with its place and its mend and exit code 2, and nothing that runs is harmed.
#![allow(clippy::unwrap_used, missing_docs)]

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use fleet_tests::{Fleet, Options, run};
use nix::mount::{MntFlags, MsFlags};

/// A tmpfs of a test's own, until dropped.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: PathBuf, mib: u32) -> Self {
        std::fs::create_dir_all(&at).unwrap();
        let size = format!("size={mib}m");
        nix::mount::mount(Some("fleet-test"), &at, Some("tmpfs"), MsFlags::empty(), Some(size.as_str())).unwrap();
        Self(at)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, MntFlags::MNT_DETACH);
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn a_wrong_file_is_refused_with_every_error_and_its_place() {
    let fleet = Fleet::new();
    let refused = |text: &str, parts: &[&str]| {
        let file = fleet.write("wrong.fleet", text);
        for command in ["check", "up", "plan"] {
            let _ = fleet.run(&[command, &file]).code(2).says(parts);
        }
    };
    refused(
        "lan office\nvm alice { on offce }\nvm bob { on office; colour 3 }\nvm carol { on office",
        &[
            "wrong.fleet:2:",
            "did you mean `office`",
            "wrong.fleet:3:",
            "`colour`",
            "wrong.fleet:4:",
            "never closed",
            "3 errors",
        ],
    );
    refused(
        "lan a\nvm x { on a at 5 }\nvm y { on a at 5 }\n",
        &["E0302", "`x` and `y` have the same address", "wrong.fleet:3:", "help:"],
    );
    refused("lan a = 10.0.0.0/28\nvm x[0..30] { on a }\n", &["E0304", "wrong.fleet:2:", "10.0.0.0/28"]);
    refused("lan a\nlan b\nvm x { on a }\nvm y { on b }\ncheck x reaches y\n", &["E0801", "wrong.fleet:5:"]);
    let _ = fleet.run(&["up", "nowhere.fleet"]).code(2).says(&["nowhere.fleet", "help:"]);
    std::fs::write(fleet.root().join("binary.fleet"), [0xff, 0xfe, 0]).unwrap();
    let _ = fleet.run(&["up", "binary.fleet"]).code(2).says(&["UTF-8"]);
    let _ = fleet.run(&["explain", "E9999"]).code(2).says(&["E9999", "help:"]);
    let _ = fleet.ok(&["explain", "e0302"]).says(&["E0302"]);
    let document = fleet.run(&["--json", "check", "wrong.fleet"]).code(2).json();
    let diagnostic = &document["files"][0]["diagnostics"][0];
    assert_eq!((diagnostic["code"].as_str(), diagnostic["line"].as_u64()), (Some("E0801"), Some(5)), "{document:#}");
    // Nobody was asked: no controller was started for any of it.
    assert!(fleet.traces().is_none(), "{:#?}", fleet.traces());
}

#[test]
fn a_damaged_lock_file_is_refused_with_its_line() {
    let fleet = Fleet::new();
    let file = fleet.example("hello.fleet");
    let _ = fleet.write("fleet.lock", "version 1\n\n[hello]\nhost office/alice many\n");
    for command in ["up", "check", "plan"] {
        let _ = fleet.run(&[command, &file]).code(2).says(&["fleet.lock", "4", "version control"]);
    }
    assert!(fleet.traces().is_none(), "{:#?}", fleet.traces());
}

#[test]
fn what_cannot_be_had_is_refused_and_what_runs_goes_on() {
    let fleet = Fleet::new();
    let _ = fleet.ok(&["up", &fleet.example("hello.fleet")]);
    let before: Vec<_> = fleet.vms().iter().map(|vm| vm.pid).collect();

    let image = fleet.write("strange.fleet", "lan a\nvm x { on a; image nothere }\n");
    let _ = fleet.run(&["up", &image]).code(2).says(&["nothere", "image"]);
    // More than any host has, refused with the sum before one of them starts.
    let huge = fleet.write("huge.fleet", "lan a\nvm x[0..100] { on a; mem 100GiB }\n");
    let _ = fleet.run(&["up", &huge]).code(2).says(&["x[0] needs 101 GiB", "no host has more", "less `mem`"]);
    let small = fleet.write("small.fleet", "lan a\nvm x { on a; mem 8MiB }\n");
    let _ = fleet.run(&["up", &small]).code(2).says(&["small.x", "8 MiB", "too little"]);
    let hypervisor = fleet.run(&["up", "--hypervisor", "vmware", &small]).code(2);
    let _ = hypervisor.says(&["vmware", "uml and qemu"]);

    let _ = fleet.run(&["ps", "nobody"]).code(2).says(&["no experiment `nobody`", "hello"]);
    let _ = fleet.run(&["down", "nobody"]).code(2).says(&["no experiment `nobody`", "hello"]);
    for args in
        [&["exec", "carol", "--", "true"][..], &["vm", "stop", "carol"], &["console", "carol"], &["logs", "carol"]]
    {
        let _ = fleet.run(args).code(2).says(&["carol", "fleet ps"]);
    }
    let _ = fleet.run(&["logs", "hello"]).code(2).says(&["more than one VM", "hello.alice"]);
    let _ = fleet.run(&["exec", "hello.alice[3]", "--", "true"]).code(2);
    let _ = fleet.run(&["telemetry", "query", "--since", "5"]).code(2).says(&["10m"]);

    let experiments = fleet.json(&["ps"])["experiments"].clone();
    assert_eq!(experiments.as_array().unwrap().len(), 1, "{experiments:#}");
    assert_eq!(fleet.vms().iter().map(|vm| vm.pid).collect::<Vec<_>>(), before);
    assert!(fleet.vms().iter().all(|vm| vm.state == "running"));
    fleet.down();
}

#[test]
fn a_missing_program_is_named_with_its_package() {
    // Neither on PATH nor in the user's cache of tools.
    let env = ["PATH", "XDG_CACHE_HOME"].map(|name| (name.to_owned(), "/nowhere".to_owned())).into();
    let fleet = Fleet::with(Options { env, ..Options::default() });
    let file = fleet.write("emulated.fleet", "lan a\nvm x { on a; hypervisor qemu }\n");
    let _ = fleet.run(&["up", &file]).code(2).says(&["emulated.x", "qemu-system-x86", "install"]);
    fleet.nothing_is_left("after a refused up");
}

#[test]
fn without_root_it_is_said_at_once() {
    let fleet = Fleet::new();
    let file = fleet.example("hello.fleet");
    // A folder of theirs, with a program that anybody can run.
    std::fs::set_permissions(fleet.root(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::chown(fleet.root(), Some(65534), None).unwrap();
    let program = fleet.root().join("fleet");
    std::fs::copy(fleet.command(&[]).get_program(), &program).unwrap();
    let as_nobody = |args: &[&str]| {
        let mut command = std::process::Command::new(&program);
        command.args(args).env("FLEET_ROOT", fleet.root()).env("FLEET_CONFIG", fleet.root().join("config.toml"));
        command.uid(65534).gid(65534).current_dir("/");
        run(command, b"")
    };
    let _ = as_nobody(&["check", &file]).code(0);
    let _ = as_nobody(&["ps"]).code(0).says(&["nothing is up"]);
    let _ = as_nobody(&["up", &file]).code(2).says(&["root"]);
    let _ = as_nobody(&["controller"]).code(2).says(&["root", "sudo"]);
    let _ = as_nobody(&["agent"]).code(2).says(&["root", "sudo"]);
    assert!(fleet.traces().is_none(), "{:#?}", fleet.traces());
}

#[test]
fn a_small_tmpfs_is_refused_before_any_vm_starts() {
    let fleet = Fleet::new();
    let tmpfs = Tmpfs::mount(Path::new("/dev/shm").join(fleet.instance()), 110);
    let one = fleet.write("one.fleet", "lan a\nvm x { on a; mem 48MiB }\n");
    let _ = fleet.ok(&["up", &one]);
    let pid = fleet.vm("x").pid;
    let two = fleet.write("two.fleet", "lan b\nvm y[0..2] { on b; mem 48MiB }\n");
    let _ = fleet.run(&["up", &two]).code(2).says(&["2 VMs", "tmpfs", "remount"]);
    let vms = fleet.vms();
    assert_eq!((vms.len(), vms[0].pid, vms[0].state.as_str()), (1, pid, "running"), "{vms:?}");
    let _ = fleet.ok(&["down"]);
    drop(tmpfs);
    fleet.nothing_is_left("after a refused up");
}

#[test]
fn a_full_run_folder_is_said_and_what_runs_goes_on() {
    let fleet = Fleet::new();
    let tmpfs = Tmpfs::mount(fleet.root().join("run"), 4);
    let _ = fleet.ok(&["up", &fleet.example("hello.fleet")]);
    let before: Vec<_> = fleet.vms().iter().map(|vm| vm.pid).collect();
    // The last free byte goes.
    let filler = fleet.root().join("run/filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    let full = std::io::copy(&mut std::io::repeat(0), &mut file);
    assert_eq!(full.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    let second = fleet.write("second.fleet", "lan b\nvm y { on b }\n");
    let refused = fleet.run(&["up", &second]);
    assert!([2, 3].contains(&refused.code), "{refused:?}");
    let _ = refused.says(&["space"]);
    assert_eq!(fleet.exec("alice", "hostname"), "alice");
    assert_eq!(fleet.vms().iter().filter(|vm| before.contains(&vm.pid) && vm.state == "running").count(), 2);
    drop(file);
    std::fs::remove_file(&filler).unwrap();
    // With space again, the same command does it.
    let _ = fleet.ok(&["up", &second]);
    assert_eq!(fleet.vm("y").state, "running");
    let _ = fleet.ok(&["down"]);
    fleet_tests::until("the controller's end", || fleet.traces().processes.is_empty());
    drop(tmpfs);
    fleet.nothing_is_left("after a full folder");
}
