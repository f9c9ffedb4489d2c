//! Who holds a device: processes that have one of its nodes open, and file systems that are mounted from it.
//!
//! A second opener of a USB node does not fail: both 'succeed' and break each other. So the nodes are compared with the
//! descriptors of all processes before a camera is lent. Nothing tells of an opened node, so this is the truth of the
//! moment it was asked for. It walks all of `/proc`, and is worth that only when there is a camera.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use nix::fcntl::AtFlags;
use nix::unistd::AccessFlags;

use crate::device::{Device, VidPid};
use crate::error::UsbError;

/// Processes of the desktop that mount every camera, and the command that makes them let go.
const GVFS: &str = "gvfs";

/// Who holds a device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// A process has a node open.
    Process {
        /// Its id.
        pid: u32,
        /// Its name as the kernel keeps it, 15 characters at most.
        command: String,
        /// Which node.
        node: PathBuf,
    },
    /// A file system is mounted from one of its nodes.
    Mount {
        /// The node.
        node: PathBuf,
        /// Where.
        at: String,
    },
}

impl Holder {
    /// The command that makes it let go.
    pub fn frees(&self) -> String {
        match self {
            Self::Process { command, .. } if command.starts_with(GVFS) => {
                "gio mount --unmount-scheme gphoto2".to_owned()
            }
            Self::Process { pid, .. } => format!("kill {pid}"),
            Self::Mount { at, .. } => format!("umount '{}'", at.replace('\'', r"'\''")),
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { pid, command, node } => write!(f, "{command} (pid {pid}) has {} open", node.display()),
            Self::Mount { node, at } => write!(f, "{} is mounted at {at}", node.display()),
        }
    }
}

/// Whether this process may open a device's node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// It may.
    Granted,
    /// It may not.
    Denied {
        /// The node.
        path: PathBuf,
        /// A line for a file in `/etc/udev/rules.d/`.
        rule: String,
    },
    /// There is no node: no devtmpfs here, or udev has not made it yet.
    NoNode {
        /// Where it should be.
        path: PathBuf,
    },
}

impl Access {
    /// Asks the kernel about the node of a device, with the effective ids of the caller.
    pub fn of(device: &Device) -> Self {
        let path = device.node.clone();
        match nix::unistd::faccessat(
            nix::fcntl::AT_FDCWD,
            &path,
            AccessFlags::R_OK | AccessFlags::W_OK,
            AtFlags::AT_EACCESS,
        ) {
            Ok(()) => Self::Granted,
            Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR) => Self::NoNode { path },
            Err(_) => Self::Denied { path, rule: udev_rule(device.id) },
        }
    }
}

/// The rule that gives a kind of device to the group `fleet`.
pub fn udev_rule(id: VidPid) -> String {
    format!(
        r#"SUBSYSTEM=="usb", ATTR{{idVendor}}=="{:04x}", ATTR{{idProduct}}=="{:04x}", MODE="0660", GROUP="fleet""#,
        id.vendor, id.product
    )
}

/// Where the processes are.
#[derive(Debug, Clone)]
pub struct Procfs {
    root: PathBuf,
}

impl Default for Procfs {
    fn default() -> Self {
        Self { root: "/proc".into() }
    }
}

impl Procfs {
    /// With another root than `/proc`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Everybody who holds one of these nodes. One walk for all of them; processes that end meanwhile, or that the
    /// caller may not look into, are left out.
    ///
    /// # Errors
    /// When the list of processes cannot be read.
    pub fn holders(&self, nodes: &BTreeSet<PathBuf>) -> Result<Vec<Holder>, UsbError> {
        if nodes.is_empty() {
            return Ok(Vec::new());
        }
        let unreadable = |source| UsbError::Read { path: self.root.clone(), source };
        let mut holders = BTreeSet::new();
        for entry in fs::read_dir(&self.root).map_err(unreadable)? {
            let name = entry.map_err(unreadable)?.file_name();
            if let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) {
                self.open_nodes(pid, nodes, &mut holders);
            }
        }
        // No mounts is no error: a fixture, or a /proc that hides them.
        let mounts = fs::read_to_string(self.root.join("self/mounts")).unwrap_or_default();
        for line in mounts.lines() {
            let mut words = line.split(' ');
            let (Some(source), Some(at)) = (words.next(), words.next()) else { continue };
            if let Some(node) = nodes.get(Path::new(source)) {
                holders.insert(Holder::Mount { node: node.clone(), at: unescape(at) });
            }
        }
        Ok(holders.into_iter().collect())
    }

    fn open_nodes(&self, pid: u32, nodes: &BTreeSet<PathBuf>, holders: &mut BTreeSet<Holder>) {
        let folder = self.root.join(pid.to_string());
        let open = fs::read_dir(folder.join("fd")).into_iter().flatten().flatten();
        for node in open.filter_map(|fd| fs::read_link(fd.path()).ok()).filter(|target| nodes.contains(target)) {
            let command = fs::read_to_string(folder.join("comm")).unwrap_or_default();
            holders.insert(Holder::Process { pid, command: command.trim_end().to_owned(), node });
        }
    }
}

/// Blanks, tabs, line ends and backslashes are written in octal in a table of mounts (proc_mounts(5)).
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (octal, plain)| text.replace(octal, plain))
}
