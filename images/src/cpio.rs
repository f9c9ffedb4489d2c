//! A deterministic cpio archive in the "newc" form, which the kernel unpacks as initial RAM disk
//! (Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! Equal trees give equal bytes: entries are sorted, every time is 0, every owner root. Files that are linked hard
//! share one inode number; the first carries the content.

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
    /// Adds a node and the folders above it. A path that is there already is replaced.
    pub(crate) fn insert(&mut self, path: &str, node: Node) {
        for (at, _) in path.match_indices('/').filter(|(at, _)| *at > 0) {
            self.0.entry(path[..at].to_owned()).or_insert(Node::Directory(0o755));
        }
        self.0.insert(path.to_owned(), node);
    }

    /// The archive.
    pub(crate) fn archive(&self) -> Vec<u8> {
        let mut archive = Vec::new();
        for (path, (inode, node)) in self.0.iter().zip(1..).map(|((path, node), inode)| (path, (inode, node))) {
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
        io::Write,
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
    fn another_cpio_lists_the_archive() {
        let mut tree = Tree::default();
        tree.insert("/usr/bin/busybox", file(b"abcde", &["/usr/bin/cat"]));
        tree.insert("/etc/link", Node::Symlink("target".to_owned()));
        tree.insert("/dev/console", Node::Device { mode: 0o600, major: 5, minor: 1 });
        // busybox's cpio is not ours: it must find in the archive what was put there
        let mut busybox =
            Command::new("busybox").args(["cpio", "-tv"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        busybox.stdin.take().unwrap().write_all(&tree.archive()).unwrap();
        let output = busybox.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        for words in ["dev/console", "5,   1", "etc/link -> target", "usr/bin/busybox", "usr/bin/cat", "drwxr-xr-x"] {
            assert!(text.contains(words), "'{words}' is not in\n{text}");
        }
        assert!(output.status.success());
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
