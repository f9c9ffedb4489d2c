//! The manifest: what an image consists of, by hash. Its own hash is the image's id.

use std::{fmt, ops::RangeInclusive, path::PathBuf, time::SystemTime};

use serde::{Deserialize, Serialize};

use super::blobs::Hash;
use crate::RootForm;

/// Forms of the manifest that are read; another number is an image of another version of fleet. 3 has `max_cpus`, 4 `usb`.
pub(crate) const SCHEMAS: RangeInclusive<u32> = 2..=4;

/// What an image is called for good: the SHA-256 of its manifest, 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageId(Hash);

impl ImageId {
    /// Takes 64 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let is_hash = text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        is_hash.then(|| Self(text.to_owned()))
    }

    /// The 64 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 12 digits, for people.
    pub fn short(&self) -> &str {
        self.0.get(..12).unwrap_or(&self.0)
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An image of the store; every file of it was checked when it was resolved.
#[derive(Clone, Debug)]
pub struct Image {
    /// By content.
    pub id: ImageId,
    /// The name it was resolved by, or any of its names, or its short id when it has none.
    pub name: String,
    /// Files for `uml`, when the image has them.
    pub uml: Option<UmlFiles>,
    /// Files for `qemu`, when the image has them.
    pub x86: Option<X86Files>,
    /// When the name was last given to this content; not part of the id.
    pub built_at: Option<SystemTime>,
    /// Sum of the files' sizes.
    pub size_bytes: u64,
}

/// The root file system of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootFs {
    /// An initial RAM disk.
    Initrd(PathBuf),
    /// A read-only file that all guests share.
    Erofs(PathBuf),
}

/// What starts a guest under UML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UmlFiles {
    /// The kernel, a program.
    pub kernel: PathBuf,
    /// Which kernel it is.
    pub origin: KernelOrigin,
    /// The root file system.
    pub root: RootFs,
    /// Goes first on the kernel's command line.
    pub cmdline: String,
    /// Memory when nothing else is asked for, in MiB.
    pub default_mem_mib: u32,
    /// Least memory that boots, in MiB.
    pub min_mem_mib: u32,
    /// Most processors that the kernel uses; `None`: the image does not say, as of old.
    pub max_cpus: Option<u32>,
}

/// What starts a guest under QEMU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct X86Files {
    /// The kernel: an uncompressed ELF with a PVH entry, which QEMU maps instead of copying.
    pub vmlinux: PathBuf,
    /// Which kernel it is.
    pub origin: KernelOrigin,
    /// The initial RAM disk.
    pub initrd: PathBuf,
    /// The kernel finds its devices by ACPI; else on its command line.
    pub acpi: bool,
    /// Its guests have a USB controller.
    pub usb: bool,
    /// Goes first on the kernel's command line.
    pub cmdline: String,
    /// Memory when nothing else is asked for, in MiB.
    pub default_mem_mib: u32,
    /// Least memory that boots, in MiB.
    pub min_mem_mib: u32,
    /// Most processors that the kernel uses; `None`: the image does not say, as of old.
    pub max_cpus: Option<u32>,
}

/// Which kernel an image has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelOrigin {
    /// The tiny kernel's name ("tiny-uml"), or Debian's package.
    pub name: String,
    /// It was built from sources with fleet's options.
    pub tiny: bool,
    /// What the kernel says it is: "6.1.192-tiny".
    pub version: String,
}

/// What every form of the manifest has.
#[derive(Deserialize)]
pub(crate) struct Form {
    pub schema: u32,
}

/// The stored form. Serialised as JSON with the fields in this order, so that equal images are equal bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    pub schema: u32,
    pub description: String,
    pub uml: Option<Kernel>,
    pub x86: Option<Kernel>,
}

/// One hypervisor's part of the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kernel {
    pub origin: KernelOrigin,
    pub kernel: Blob,
    pub root_form: RootForm,
    pub root: Blob,
    pub cmdline: String,
    pub acpi: bool,
    #[serde(default, skip_serializing_if = "is_not")]
    pub usb: bool,
    pub default_mem_mib: u32,
    pub min_mem_mib: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_cpus: Option<u32>,
}

fn is_not(flag: &bool) -> bool {
    !flag
}

/// A file by content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Blob {
    pub sha256: Hash,
    pub bytes: u64,
}

impl Manifest {
    /// The manifest of these parts. Its form is the oldest that holds them, so that an image that says nothing new has
    /// the bytes, and so the id, that it always had.
    pub(crate) fn new(description: String, uml: Option<Kernel>, x86: Option<Kernel>) -> Self {
        let has = |what: fn(&Kernel) -> bool| [&uml, &x86].into_iter().flatten().any(what);
        let schema = match (has(|kernel| kernel.usb), has(|kernel| kernel.max_cpus.is_some())) {
            (true, _) => 4,
            (false, true) => 3,
            (false, false) => 2,
        };
        Self { schema, description, uml, x86 }
    }

    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Blob> {
        [&self.uml, &self.x86].into_iter().flatten().flat_map(|kernel| [&kernel.kernel, &kernel.root])
    }
}
