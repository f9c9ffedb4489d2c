//! The root file system as one read-only file (EROFS), made by `mkfs.erofs` of Debian's erofs-utils.
//!
//! All guests of an image share the file, and with it the host's page cache: a guest reads only what it uses, and unpacks
//! nothing. Equal trees give equal bytes: every time is 0, every owner root, the file system's UUID fixed.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    ImageError,
    cpio::{Node, Tree},
    tiny::Tool,
};

/// The same for all images: nothing looks for it.
const UUID: &str = "f1ee7000-0000-4000-8000-000000000000";

/// What makes it.
pub(crate) fn tool() -> Tool {
    Tool::program("mkfs.erofs", "erofs-utils")
}

/// Makes the file system of a tree. `temp` is an empty folder for the work.
///
/// # Errors
/// When the tree cannot be written there, or `mkfs.erofs` fails.
pub(crate) fn pack(tree: &Tree, temp: &Path) -> Result<Vec<u8>, ImageError> {
    let root = temp.join("root");
    fs::create_dir(&root).map_err(|error| ImageError::io("creating", &root, error))?;
    lay_out(tree, &root)?;
    let file = temp.join("root.erofs");
    let mut command = Command::new("mkfs.erofs");
    // No extended attributes, no compression: a page of the guest is a page of the file.
    command.args(["-x-1", "-T0", "--all-root", "--quiet", "-U", UUID]).arg(&file).arg(&root);
    let output = command.env("LC_ALL", "C").stdin(Stdio::null()).output();
    let output = output.map_err(|error| ImageError::io("running", "mkfs.erofs", error))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(ImageError::io("making", &file, std::io::Error::other(said)));
    }
    fs::read(&file).map_err(|error| ImageError::io("reading", &file, error))
}

/// Writes a tree into a folder. Devices are left out: the guest's /dev is a devtmpfs, and the kernel gives the init its
/// console without it.
fn lay_out(tree: &Tree, root: &Path) -> Result<(), ImageError> {
    let place = |path: &str| root.join(path.trim_start_matches('/'));
    let write = |path: &Path, error| ImageError::io("writing", path, error);
    let set_mode = |path: &Path, mode: u32| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(|error| write(path, error))
    };
    let mut folders: Vec<(PathBuf, u32)> = Vec::new();
    // A folder comes before what is in it: its path is the beginning of theirs.
    for (path, node) in tree.nodes() {
        if let Node::Directory(mode) = node {
            let path = place(path);
            fs::create_dir_all(&path).map_err(|error| write(&path, error))?;
            folders.push((path, *mode));
        }
    }
    for (path, node) in tree.nodes() {
        let path = place(path);
        match node {
            Node::Directory(_) | Node::Device { .. } => {}
            Node::Symlink(target) => symlink(target, &path).map_err(|error| write(&path, error))?,
            Node::File { mode, content, links } => {
                fs::write(&path, content).map_err(|error| write(&path, error))?;
                set_mode(&path, *mode)?;
                for link in links.iter().map(|link| place(link)) {
                    fs::hard_link(&path, &link).map_err(|error| write(&link, error))?;
                }
            }
        }
    }
    // Last, so that a folder which nobody may write can be filled.
    folders.into_iter().rev().try_for_each(|(path, mode)| set_mode(&path, mode))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn equal_trees_are_equal_bytes_and_another_tree_is_not() {
        let file = |text: &str| Node::File {
            mode: 0o755,
            content: text.repeat(3000).into_bytes(),
            links: vec!["/bin/cat".to_owned(), "/sbin/ls".to_owned()],
        };
        let make = |text: &str| {
            let mut tree = Tree::default();
            tree.insert("/bin/busybox", file(text));
            tree.insert("/etc/link", Node::Symlink("target".to_owned()));
            tree.insert("/locked", Node::Directory(0o500));
            tree.insert("/locked/file", Node::File { mode: 0o600, content: b"x".to_vec(), links: Vec::new() });
            let temp = tempfile::tempdir().unwrap();
            pack(&tree, temp.path()).unwrap()
        };
        let one = make("one");
        assert_eq!(one[1024..1028], 0xe0f5_e1e2_u32.to_le_bytes(), "the superblock's magic");
        assert!(one == make("one") && one != make("two"));
    }
}
