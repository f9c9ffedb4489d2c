//! A root file system that many guests share is read-only. Over it each guest lays a tmpfs of its own, so that everything
//! can be written; what is not changed stays in the shared file.
//!
//! ```text
//! /run (tmpfs)   upper/  what was changed      work/  overlayfs's own      root/  both, seen as one: becomes /
//! ```

use std::fs;

use nix::{
    mount::{MsFlags, mount},
    sys::statvfs::{FsFlags, statvfs},
    unistd::{chdir, chroot},
};

/// A folder of the image on which the tmpfs lies. The new root has a /run of its own.
const BELOW: &str = "/run";
/// Renaming a folder of the image leaves a pointer to its old place, as it would on a disk leave nothing to copy.
const LAYERS: &str = "lowerdir=/,upperdir=/run/upper,workdir=/run/work,redirect_dir=on";

/// Lays a tmpfs over a read-only root and moves there. A root that is writable is left alone.
///
/// # Errors
/// What failed; the root then stays as it was.
pub fn make_writable() -> Result<(), String> {
    let failed = |what: &str, error: std::io::Error| format!("the root stays read-only: {what}: {error}");
    let flags = statvfs("/").map_err(|errno| failed("statvfs", errno.into()))?.flags();
    if !flags.contains(FsFlags::ST_RDONLY) {
        return Ok(());
    }
    let none = MsFlags::empty();
    mount(Some("tmpfs"), BELOW, Some("tmpfs"), none, Some("mode=0755"))
        .map_err(|errno| failed("mounting a tmpfs", errno.into()))?;
    for folder in ["/run/upper", "/run/work", "/run/root"] {
        fs::create_dir(folder).map_err(|error| failed(folder, error))?;
    }
    mount(Some("overlay"), "/run/root", Some("overlay"), none, Some(LAYERS))
        .map_err(|errno| failed("mounting the overlay", errno.into()))?;
    // As switch_root does: the new root is moved over the old one, which nothing can name any more.
    chdir("/run/root").map_err(|errno| failed("entering the overlay", errno.into()))?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .map_err(|errno| failed("moving the overlay", errno.into()))?;
    chroot(".").and_then(|()| chdir("/")).map_err(|errno| failed("entering the new root", errno.into()))
}
