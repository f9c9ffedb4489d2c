//! The initial RAM disk: the whole root file system of a guest.

use std::{
    fs,
    io::{self, Write},
    path::Path,
    process::{Command, Stdio},
};

use flate2::{Compression, GzBuilder};

use crate::{
    FileRecipe, FileSource, ImageError, Recipe,
    cpio::{Node, Tree},
    fetch::Unpacked,
    libraries::Library,
    modules::Module,
};

/// Where the init finds the list of modules to load, one path a line.
const MODULE_LIST: &str = "/etc/fleet/modules";
/// Folders that the init mounts things on, in which it writes names (`/etc`), or that programs expect.
const FOLDERS: &[(&str, u32)] =
    &[("/dev", 0o755), ("/etc", 0o755), ("/proc", 0o555), ("/sys", 0o555), ("/run", 0o755), ("/tmp", 0o1777)];
/// A larger file cannot be told to cpio (32 bit), and no guest has memory for it.
const MAX_FILE: usize = 1 << 30;

/// Files of the recipe and the init: what all hypervisors share.
pub(crate) fn base_tree(
    recipe: &Recipe,
    packages: &Unpacked,
    libraries: Vec<Library>,
    init: &[u8],
) -> Result<Tree, ImageError> {
    let mut tree = Tree::default();
    for (path, mode) in FOLDERS {
        tree.insert(path, Node::Directory(*mode));
    }
    // The kernel opens it for the init before anything is mounted.
    tree.insert("/dev/console", Node::Device { mode: 0o600, major: 5, minor: 1 });
    for Library { path, bytes } in libraries {
        tree.insert(&path, Node::File { mode: 0o755, content: bytes, links: Vec::new() });
    }
    for file in &recipe.files {
        tree.insert(&file.path, node(file, packages)?);
    }
    tree.insert("/init", Node::File { mode: 0o755, content: init.to_vec(), links: Vec::new() });
    Ok(tree)
}

/// Adds modules and the list by which the init loads them.
pub(crate) fn add_modules(tree: &mut Tree, modules: Vec<Module>) {
    let mut list = String::new();
    for Module { name, bytes } in modules {
        let path = format!("/lib/modules/{name}.ko");
        list += &format!("{path}\n");
        tree.insert(&path, Node::File { mode: 0o644, content: bytes, links: Vec::new() });
    }
    if !list.is_empty() {
        tree.insert(MODULE_LIST, Node::File { mode: 0o644, content: list.into_bytes(), links: Vec::new() });
    }
}

/// The archive as it is stored: gzip, with no name and no time in it (measurements: docs/images.md).
pub(crate) fn pack(tree: &Tree) -> Result<Vec<u8>, ImageError> {
    let packed = || -> io::Result<Vec<u8>> {
        let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
        gzip.write_all(&tree.archive())?;
        gzip.finish()
    };
    packed().map_err(|error| ImageError::io("packing", "the initial RAM disk", error))
}

fn node(file: &FileRecipe, packages: &Unpacked) -> Result<Node, ImageError> {
    let (content, links) = match &file.source {
        FileSource::Directory => return Ok(Node::Directory(file.mode)),
        FileSource::Link(target) => return Ok(Node::Symlink(target.clone())),
        FileSource::Text(text) => (text.clone().into_bytes(), Vec::new()),
        FileSource::Host(path) => (read(path)?, Vec::new()),
        FileSource::Package { from, applets, .. } => {
            let path = packages.file(from)?;
            let links = if *applets { applet_paths(&path, &file.path)? } else { Vec::new() };
            (read(&path)?, links)
        }
    };
    Ok(Node::File { mode: file.mode, content, links })
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, ImageError> {
    let bytes = fs::read(path).map_err(|error| ImageError::io("reading", path, error))?;
    if bytes.len() > MAX_FILE {
        let source = io::Error::other(format!("is larger than {} MiB", MAX_FILE >> 20));
        return Err(ImageError::io("reading", path, source));
    }
    Ok(bytes)
}

/// Asks a busybox which applets it has. They become hard links: a symbolic link costs a page of guest memory each in
/// the ramfs of the root, 1 MiB for all of them.
fn applet_paths(busybox: &Path, own_path: &str) -> Result<Vec<String>, ImageError> {
    let output = Command::new(busybox).arg("--list-full").stdin(Stdio::null()).output();
    let output = output.map_err(|error| ImageError::io("running", busybox, error))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut paths: Vec<String> = text.lines().map(|line| format!("/{}", line.trim_start_matches('/'))).collect();
    paths.retain(|path| path != own_path && !path.ends_with("/init") && !path.contains(".."));
    paths.sort();
    paths.dedup();
    if output.status.success() && !paths.is_empty() {
        return Ok(paths);
    }
    let source = io::Error::other("it lists no applets (`--list-full`): is it a busybox?");
    Err(ImageError::io("running", busybox, source))
}
