//! What the host may lack: each error names the thing and the mend, and the next run goes on from there.

#![allow(clippy::unwrap_used)]

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, thread};

use crate::common::{Lab, lan};
use fleet_net::{NetError, NetReport, NetworkSpec};
use nix::{
    mount::{MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};

#[test]
fn without_root_the_error_says_so_and_nothing_is_left() {
    let lab = Lab::new();
    // Everything that files ask for is allowed, so that only the missing capabilities stand in the way.
    let dir = lab.config().netns_dir;
    fs::create_dir_all(&dir).unwrap();
    for folder in [dir.as_path(), dir.parent().unwrap()] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let error = on_thread(|| {
        let nobody: libc::uid_t = 65534;
        // SAFETY: the raw call changes the credentials of this thread alone (libc's function would change all
        // threads'); threads that it starts inherit them, and it ends with the test.
        let result = unsafe { libc::syscall(libc::SYS_setresuid, nobody, nobody, nobody) };
        assert_eq!(result, 0);
        reconcile(&lab, &lan("rootless", 1)).unwrap_err()
    });
    assert_eq!(error.errno(), Some(libc::EPERM));
    assert!(error.to_string().contains("run as root"), "{error}");
    assert_eq!((lab.mounts(), lab.files()), (0, Vec::new()));
}

#[test]
fn a_missing_tun_driver_is_named_with_its_mend_and_the_next_run_goes_on() {
    let lab = Lab::new();
    let spec = lan("no-tun", 2);
    on_thread(|| {
        // A view of the file system of this thread's own, in which /dev/net is empty.
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some("none"), "/dev/net", Some("tmpfs"), MsFlags::empty(), none).unwrap();
        let error = reconcile(&lab, &spec).unwrap_err();
        for part in ["port pc1[0]/eth0", "no-tun", "modprobe tun"] {
            assert!(error.to_string().contains(part), "{error}");
        }
        umount2("/dev/net", nix::mount::MntFlags::empty()).unwrap();
        let report = reconcile(&lab, &spec).unwrap();
        assert_eq!(report.made.len() + report.changed.len() + report.unchanged, 3);
        assert!(reconcile(&lab, &spec).unwrap().is_empty());
    });
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let lab = Lab::new();
    fs::write(lab.config().netns_dir, "a file").unwrap();
    let error = on_thread(|| reconcile(&lab, &lan("no-folder", 1)).unwrap_err());
    let path: PathBuf = lab.config().netns_dir;
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    fs::remove_file(path).unwrap();
}

/// Runs `test` on a thread that may change its credentials and namespaces.
fn on_thread<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(test).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Reconciles from this thread, whose credentials and namespaces the network's own thread inherits.
fn reconcile(lab: &Lab, spec: &NetworkSpec) -> Result<NetReport, NetError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(lab.network(&spec.experiment).reconcile(spec, |_| ()))
}
