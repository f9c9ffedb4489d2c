//! Network namespaces kept by a file: made, entered, recognised and removed without any helper program.
//!
//! A namespace lives as long as something refers to it. As `ip netns` does, its `/proc/…/ns/net` is bind-mounted on a
//! file, so that it has a name, needs no process, and `ip netns exec NAME` works. Making one takes two steps (the
//! file, the mount); a crash between them leaves an empty file, which [`is_live`] tells from a namespace, and [`make`]
//! mounts on.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::fd::AsFd,
    path::Path,
    thread,
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::statfs::{NSFS_MAGIC, statfs},
};

use crate::error::NetError;

/// The calling thread's own network namespace; `/proc/self` would be the main thread's.
const OWN_NAMESPACE: &str = "/proc/thread-self/ns/net";

/// Whether a namespace is mounted on `path`.
pub(crate) fn is_live(path: &Path) -> Result<bool, NetError> {
    match statfs(path) {
        Ok(stat) => Ok(stat.filesystem_type() == NSFS_MAGIC),
        Err(Errno::ENOENT) => Ok(false),
        Err(errno) => Err(NetError::path("look at namespace", path)(errno.into())),
    }
}

/// Makes a namespace with the name `path`; the calling thread is in it afterwards.
pub(crate) fn make(path: &Path) -> Result<(), NetError> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(NetError::path("make the folder of namespaces", dir))?;
    }
    // The file may be there from a run that ended between the two steps.
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map_err(NetError::path("make the file of namespace", path))?;
    let mounted = unshare(CloneFlags::CLONE_NEWNET)
        .map_err(|e| NetError::path("make namespace", path)(e.into()))
        .and_then(|()| {
            let no_data: Option<&str> = None;
            mount(Some(OWN_NAMESPACE), path, no_data, MsFlags::MS_BIND, no_data)
                .map_err(|e| NetError::path("mount namespace", path)(e.into()))
        });
    if mounted.is_err() {
        // Nothing can be told of a failure to tidy up after a failure, and the file would do no harm.
        let _ = fs::remove_file(path);
    }
    mounted
}

/// Moves the calling thread, which must be one of the crate's own, into the namespace.
pub(crate) fn enter(path: &Path) -> Result<(), NetError> {
    let namespace = File::open(path).map_err(NetError::path("open namespace", path))?;
    setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).map_err(|e| NetError::path("enter namespace", path)(e.into()))
}

/// The calling thread's own namespace, to come back to.
pub(crate) fn own() -> Result<File, NetError> {
    File::open(OWN_NAMESPACE).map_err(NetError::path("open namespace", OWN_NAMESPACE))
}

/// Moves the calling thread, which must be one of the crate's own, into a namespace that is open.
pub(crate) fn enter_file(namespace: &File) -> Result<(), NetError> {
    setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)
        .map_err(|e| NetError::path("enter namespace", OWN_NAMESPACE)(e.into()))
}

/// Moves the calling thread, which must be one of the crate's own, into a new namespace that ends with its last user.
pub(crate) fn make_nameless() -> Result<(), NetError> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|e| NetError::path("make namespace", OWN_NAMESPACE)(e.into()))
}

/// Takes the name away. The kernel frees the namespace with its devices as soon as nobody else refers to it.
pub(crate) fn remove(path: &Path) -> Result<(), NetError> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH) {
            // Two makers at once can mount twice on one file.
            Ok(()) => {}
            // EINVAL: nothing is mounted (any more).
            Err(Errno::EINVAL | Errno::ENOENT) => break,
            Err(errno) => return Err(NetError::path("unmount namespace", path)(errno.into())),
        }
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(NetError::path("remove the file of namespace", path)(error))
        }
        _ => Ok(()),
    }
}

/// Runs `f` in the namespace whose file is `namespace`, on a thread of its own, and waits for it. The caller's own
/// namespace is never changed.
///
/// # Errors
/// When the namespace cannot be opened or entered, or the thread cannot be started or panics.
pub fn run_in<T: Send>(namespace: &Path, f: impl FnOnce() -> T + Send) -> Result<T, NetError> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("net-run-in".into());
        let running = thread.spawn_scoped(scope, || enter(namespace).map(|()| f())).map_err(NetError::thread)?;
        running.join().unwrap_or_else(|_| Err(NetError::thread(io::Error::other("it panicked"))))
    })
}
