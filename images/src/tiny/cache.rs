//! Kernels that were built, by what they were built of.
//!
//! ```text
//! CACHE/kernels/NAME-KEY/kernel   the kernel
//! CACHE/kernels/NAME-KEY/config   the configuration that it was built with
//! CACHE/kernels/NAME-KEY/sha256   of the kernel
//! CACHE/kernels/NAME.log          what the last build of it said
//! CACHE/kernels/build/            sources and objects of a build; gone after it
//! CACHE/kernels/lock              held (flock) by the one who builds, and by every process that he has started
//! ```
//! A folder appears whole, by rename. A build that is killed leaves `build/`; the next one waits until its last compiler
//! has ended, which the lock tells, and removes it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    ImageError,
    store::{hash_of, hash_of_reader},
};

use super::{Order, options};

/// Where an order's kernel is kept.
pub(super) fn entry(folder: &Path, order: &Order) -> PathBuf {
    folder.join(format!("{}-{}", order.kernel.name, order.key.get(..32).unwrap_or(&order.key)))
}

/// The kernel, when it is there and whole.
pub(super) fn lookup(entry: &Path) -> Option<PathBuf> {
    let kernel = entry.join("kernel");
    let wanted = fs::read_to_string(entry.join("sha256")).ok()?;
    let hash = hash_of_reader(&mut fs::File::open(&kernel).ok()?).ok()?;
    (hash == wanted.trim_end()).then_some(kernel)
}

/// Most processors that a kept kernel uses, by the configuration beside it.
///
/// # Errors
/// When that cannot be read.
pub(crate) fn processors(kernel: &Path) -> Result<u32, ImageError> {
    let path = kernel.with_file_name("config");
    let config = fs::read_to_string(&path).map_err(|error| ImageError::io("reading", path, error))?;
    Ok(options::processors(&config))
}

/// Keeps a kernel; `folder` is in the same file system, and may be left over when this fails.
pub(super) fn keep(staging: &Path, entry: &Path, kernel: &[u8], config: &str) -> Result<PathBuf, ImageError> {
    let write = |name: &str, content: &[u8]| {
        let path = staging.join(name);
        fs::write(&path, content)
            .and_then(|()| fs::File::open(&path)?.sync_all())
            .map_err(|error| ImageError::io("writing", path, error))
    };
    fs::create_dir_all(staging).map_err(|error| ImageError::io("creating", staging, error))?;
    write("kernel", kernel)?;
    write("config", config.as_bytes())?;
    write("sha256", format!("{}\n", hash_of(kernel)).as_bytes())?;
    if entry.exists() {
        // It was there and damaged, or it would not have been built.
        fs::remove_dir_all(entry).map_err(|error| ImageError::io("removing", entry, error))?;
    }
    fs::rename(staging, entry).map_err(|error| ImageError::io("keeping", entry, error))?;
    Ok(entry.join("kernel"))
}
