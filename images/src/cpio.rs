//! A deterministic cpio archive in the "newc" form, which the kernel unpacks as initial RAM disk
//! (Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! Equal trees give equal bytes: folders come first (the kernel makes no missing ones, and a hard link may lie anywhere),
//! then the rest, each sorted; every time is 0, every owner root. Files that are linked hard share one inode number;
//! the first carries the content.

use std::collections::BTreeMap;

/// What a path of the tree is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    /// A folder, with its permission bits.
    Directory(u32),
    /// A file: permission bits, content, and further absolute paths that are hard links to it.
    File { mode: u32, content: Vec<u8>, links: Vec<String> },
    /// A symbolic link.
    Symlink(String),
    /// A character device: permission bits, major, minor.
    Device { mode: u32, major: u32, minor: u32 },
}

/// A tree of files by absolute path.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree(BTreeMap<String, Node>);

/// An entry's header without the lengths.
#[derive(Clone, Copy, Default)]
struct Header {
    inode: u32,
    mode: u32,
    links: u32,
    device: (u32, u32),
}

const TRAILER: &str = "TRAILER!!!";

impl Tree {
    /// Adds a node, and the folders above it and its links. A path that is there already is replaced.
    pub(crate) fn insert(&mut self, path: &str, node: Node) {
        self.add_parents(path);
        if let Node::File { links, .. } = &node {
            links.iter().for_each(|link| self.add_parents(link));
        }
        self.0.insert(path.to_owned(), node);
    }

    fn add_parents(&mut self, path: &str) {
        for (at, _) in path.match_indices('/').filter(|(at, _)| *at > 0) {
            self.0.entry(path[..at].to_owned()).or_insert(Node::Directory(0o755));
        }
    }

    /// All nodes by path, sorted.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.0.iter().map(|(path, node)| (path.as_str(), node))
    }

    /// The archive.
    pub(crate) fn archive(&self) -> Vec<u8> {
        let mut archive = Vec::new();
        let (folders, others): (Vec<_>, Vec<_>) =
            self.0.iter().partition(|(_, node)| matches!(node, Node::Directory(_)));
        for ((path, node), inode) in folders.into_iter().chain(others).zip(1..) {
            let header = |mode: u32, links: u32| Header { inode, mode, links, device: (0, 0) };
            match node {
                Node::Directory(mode) => entry(&mut archive, path, header(0o040_000 | mode, 2), &[]),
                Node::Symlink(target) => entry(&mut archive, path, header(0o120_777, 1), target.as_bytes()),
                Node::Device { mode, major, minor } => {
                    let header = Header { device: (*major, *minor), ..header(0o020_000 | mode, 1) };
                    entry(&mut archive, path, header, &[]);
                }
                Node::File { mode, content, links } => {
                    let count = u32::try_from(links.len()).unwrap_or(u32::MAX).saturating_add(1);
                    entry(&mut archive, path, header(0o100_000 | mode, count), content);
                    for link in links {
                        entry(&mut archive, link, header(0o100_000 | mode, count), &[]);
                    }
                }
            }
        }
        entry(&mut archive, TRAILER, Header { links: 1, ..Header::default() }, &[]);
        archive
    }
}

fn entry(archive: &mut Vec<u8>, path: &str, header: Header, content: &[u8]) {
    let name = path.trim_start_matches('/');
    let length = |length: usize| u32::try_from(length).unwrap_or(u32::MAX); // longer ones are refused by `initrd`
    let Header { inode, mode, links, device: (major, minor) } = header;
    // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    let fields = [inode, mode, 0, 0, links, 0, length(content.len()), 0, 0, major, minor, length(name.len() + 1), 0];
    archive.extend_from_slice(b"070701");
    for field in fields {
        archive.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    pad(archive);
    archive.extend_from_slice(content);
    pad(archive);
}

fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{
        fs,
        io::Write,
        os::unix::fs::MetadataExt,
        process::{Command, Stdio},
    };

    use proptest::prelude::*;

    use super::*;

    fn file(content: &[u8], links: &[&str]) -> Node {
        Node::File {
            mode: 0o755,
            content: content.to_vec(),
            links: links.iter().map(|link| (*link).to_owned()).collect(),
        }
    }

    #[test]
    fn another_cpio_unpacks_the_archive() {
        let mut tree = Tree::default();
        tree.insert("/usr/bin/busybox", file(b"abcde", &["/usr/bin/cat"]));
        tree.insert("/etc/link", Node::Symlink("target".to_owned()));
        tree.insert("/dev/console", Node::Device { mode: 0o600, major: 5, minor: 1 });
        // busybox's cpio is not ours: it must find in the archive what was put there
        let folder = tempfile::tempdir().unwrap();
        let mut busybox = Command::new("busybox")
            .args(["cpio", "-i"])
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        busybox.stdin.take().unwrap().write_all(&tree.archive()).unwrap();
        assert!(busybox.wait().unwrap().success());
        let inside = |path: &str| folder.path().join(path);
        assert_eq!(fs::read(inside("usr/bin/cat")).unwrap(), b"abcde");
        let metadata = |path: &str| fs::symlink_metadata(inside(path)).unwrap();
        assert_eq!(metadata("usr/bin/cat").ino(), metadata("usr/bin/busybox").ino());
        assert_eq!(metadata("usr/bin/busybox").mode(), 0o100_755);
        assert_eq!(fs::read_link(inside("etc/link")).unwrap().to_str(), Some("target"));
        assert_eq!((metadata("dev/console").mode(), metadata("dev/console").rdev()), (0o020_600, 0x501));
    }

    #[test]
    fn every_folder_comes_before_what_is_in_it() {
        let mut tree = Tree::default();
        tree.insert("/bin/busybox", file(b"x", &["/bin/cat", "/usr/bin/sha256sum", "/a/b/c"]));
        let archive = tree.archive();
        let names = String::from_utf8_lossy(&archive).into_owned();
        let place = |name: &str| names.find(&format!("{name}\0")).unwrap();
        for (folder, inside) in [("usr/bin", "usr/bin/sha256sum"), ("a/b", "a/b/c"), ("bin", "bin/busybox")] {
            assert!(place(folder) < place(inside), "{inside}");
        }
        assert!(place("bin/busybox") < place("bin/cat"));
    }

    proptest! {
        #[test]
        fn equal_trees_give_equal_bytes_in_any_order_of_making(
            mut files in proptest::collection::vec(("(/[a-z]{1,3}){1,4}/f", any::<Vec<u8>>()), 0..12), seed: u64
        ) {
            files.sort();
            files.dedup_by(|a, b| a.0 == b.0);
            let mut one = Tree::default();
            for (path, content) in &files { one.insert(path, file(content, &[])); }
            let turn = if files.is_empty() { 0 } else { usize::try_from(seed).unwrap() % files.len() };
            files.rotate_left(turn);
            let mut other = Tree::default();
            for (path, content) in &files { other.insert(path, file(content, &[])); }
            prop_assert_eq!(one.archive(), other.archive());
        }
    }
}
