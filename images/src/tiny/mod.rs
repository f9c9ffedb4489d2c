//! Tiny kernels: built from Debian's package of the kernel's sources, with options of our own (folder `kernels/`).
//!
//! A distribution's kernel is made for every machine there is; a guest has one network card and one serial line. What is
//! not there takes no memory, no time to boot and no time when idle.
//!
//! A kernel is named by its content: the hash of the sources' package, of the options, and of what compiles it. The
//! cache keeps it beside the packages (see [`cache`]); [`build`] makes it when it is not there.

mod build;
mod cache;
mod make;
mod options;

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::{ImageError, KernelTarget, Memory, PackageFile, RootForm, fetch::Deb, store::hash_of};

pub(crate) use build::build;
pub(crate) use cache::processors;
pub(crate) use make::{Tool, check_tools};
pub use options::Fragment;

/// Tiny kernels that are part of the program: name, description, options.
const BUILTIN: &[(&str, &str, &str)] = &[
    ("tiny-uml", include_str!("../../kernels/tiny-uml.toml"), include_str!("../../kernels/tiny-uml.config")),
    ("tiny-x86", include_str!("../../kernels/tiny-x86.toml"), include_str!("../../kernels/tiny-x86.config")),
];

/// Grows when equal inputs give another kernel than before.
const VERSION: u32 = 1;

/// How a tiny kernel is made, and what an image with it looks like.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct TinyKernel {
    /// What it is called.
    #[serde(skip)]
    pub name: String,
    /// Its own options.
    #[serde(skip)]
    pub options: &'static str,
    /// What runs it.
    pub target: KernelTarget,
    pub source: Source,
    pub make: Make,
    pub image: ImageDefaults,
    #[serde(rename = "tool")]
    pub tools: Vec<Tool>,
}

/// The sources.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Source {
    /// Debian's package.
    pub package: String,
    /// The archive in it.
    pub file: String,
    /// Patterns of what is not unpacked.
    pub leave_out: Vec<String>,
    /// Room for sources and build, in MiB.
    pub disk_mib: u64,
}

/// What is said to the kernel's own makefile.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Make {
    /// `ARCH=`.
    pub arch: String,
    /// Makes the configuration, to which our options are added.
    pub base: String,
    /// Makes the kernel.
    pub goal: String,
    /// The kernel's file in the build's folder.
    pub product: String,
    /// About how many files are compiled; to tell how far a build is.
    pub objects: u32,
}

/// What an image with this kernel gets where its recipe does not say otherwise.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ImageDefaults {
    pub root: RootForm,
    #[serde(default = "crate::recipe::with_acpi")]
    pub acpi: bool,
    pub cmdline: String,
    pub memory: Memory,
}

/// A kernel to be built: the definition, the options that a recipe adds, the sources' package.
pub(crate) struct Order {
    pub kernel: TinyKernel,
    pub fragments: Vec<Fragment>,
    pub deb: Deb,
    /// SHA-256 over all that the kernel depends on.
    pub key: String,
}

impl TinyKernel {
    /// Names of the kernels that are part of the program.
    pub(crate) fn names() -> impl Iterator<Item = &'static str> {
        BUILTIN.iter().map(|(name, ..)| *name)
    }

    /// The kernel of that name.
    pub(crate) fn find(name: &str) -> Result<Self, ImageError> {
        let unknown =
            || ImageError::UnknownKernel { name: name.to_owned(), known: Self::names().map(str::to_owned).collect() };
        let (name, text, options) = BUILTIN.iter().find(|(known, ..)| *known == name).ok_or_else(unknown)?;
        let kernel: Self = toml::from_str(text)
            .map_err(|error| ImageError::Recipe { recipe: format!("kernel {name}"), problem: error.to_string() })?;
        Ok(Self { name: (*name).to_owned(), options, ..kernel })
    }

    /// The sources' archive.
    pub(crate) fn source_file(&self) -> PackageFile {
        PackageFile { package: self.source.package.clone(), dependency: None, file: self.source.file.clone() }
    }

    /// With the package that was found, what there is to build.
    pub(crate) fn order(self, fragments: Vec<Fragment>, deb: Deb) -> Result<Order, ImageError> {
        check_tools(&self.tools)?;
        let Make { arch, base, goal, product, objects: _ } = &self.make;
        let mut inputs = format!(
            "{VERSION}\n{arch} {base} {goal} {product}\n{}\n{}\n{}\n",
            deb.sha256,
            make::compiler()?,
            self.options
        );
        for fragment in &fragments {
            inputs += &fragment.text;
            inputs.push('\n');
        }
        Ok(Order { kernel: self, fragments, deb, key: hash_of(inputs.as_bytes()) })
    }
}

/// The folder of kernels in the cache.
fn folder(cache: &Path) -> PathBuf {
    cache.join("kernels")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
