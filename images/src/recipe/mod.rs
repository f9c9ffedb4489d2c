//! Recipes: what goes into an image, as a TOML file (docs/images.md explains each key; raw.rs reads them).

mod raw;

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    ImageError,
    tiny::{Fragment, TinyKernel},
};
use raw::{Problem, RawKernel, RawRecipe};

/// Recipes that are part of the program: name and text.
const BUILTIN: &[(&str, &str)] =
    &[("tiny", include_str!("../../recipes/tiny.toml")), ("camera", include_str!("../../recipes/camera.toml"))];

/// What goes into an image.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The image's name in the store.
    pub name: String,
    /// One line for people.
    pub description: String,
    /// The kernel for `uml`, when the image has one.
    pub uml: Option<KernelRecipe>,
    /// The kernel for `qemu`, when the image has one.
    pub x86: Option<KernelRecipe>,
    /// The root file system beside init and modules.
    pub files: Vec<FileRecipe>,
}

/// A kernel and what it needs.
#[derive(Clone, Debug)]
pub struct KernelRecipe {
    /// Where the kernel comes from.
    pub kernel: KernelSource,
    /// Modules that the init loads before it opens the control channel; those they depend on come by themselves.
    pub modules: Vec<String>,
    /// Kernel command line that every guest of this image gets.
    pub cmdline: String,
    /// Memory of a guest.
    pub memory: Memory,
    /// How the guest gets its root file system.
    pub root: RootForm,
    /// The kernel finds its devices by ACPI (x86).
    pub acpi: bool,
    /// Its guests have a USB controller (x86).
    pub usb: bool,
    /// Most processors that the kernel uses; `None`: as many as there are, or what a tiny kernel's options say.
    pub max_cpus: Option<u32>,
}

/// Where a kernel comes from.
#[derive(Clone, Debug)]
pub enum KernelSource {
    /// A file of a Debian package.
    Package(PackageFile),
    /// A tiny kernel of fleet's own, built from the kernel's sources.
    Tiny {
        /// Its name.
        name: String,
        /// Options beside its own.
        fragments: Vec<Fragment>,
    },
}

/// What a kernel is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KernelTarget {
    /// User-mode Linux.
    Uml,
    /// QEMU.
    X86,
}

impl KernelTarget {
    /// Its table in recipes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Uml => "uml",
            Self::X86 => "x86",
        }
    }
}

/// How a guest gets its root file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RootForm {
    /// An initial RAM disk, unpacked into each guest's memory.
    Initrd,
    /// A read-only file that all guests share; each has its changes in its own memory (UML).
    Erofs,
}

/// Memory of a guest, in MiB.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Memory {
    /// What a guest gets when nothing else is asked for.
    pub default_mib: u32,
    /// With less it does not boot.
    pub minimum_mib: u32,
}

/// A file of a Debian package.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PackageFile {
    /// The package; with `dependency`, a metapackage.
    pub package: String,
    /// Pattern of the dependency of `package` that holds the file, with at most one `*`.
    pub dependency: Option<String>,
    /// Path in the package without leading slash; at most one `*` in its last part.
    pub file: String,
}

/// One entry of the root file system.
#[derive(Clone, Debug)]
pub struct FileRecipe {
    /// Absolute path in the guest.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// What it is.
    pub source: FileSource,
}

/// Where an entry of the root file system comes from.
#[derive(Clone, Debug)]
pub enum FileSource {
    /// A file of a package.
    Package {
        /// Which.
        from: PackageFile,
        /// It is a busybox: every applet it lists becomes a hard link to it.
        applets: bool,
        /// The libraries that it is linked to come with it, from the packages that its own depends on.
        libraries: bool,
    },
    /// Text in the recipe.
    Text(String),
    /// A file of the host; a relative path is relative to the recipe.
    Host(PathBuf),
    /// A symbolic link to this target.
    Link(String),
    /// An empty directory.
    Directory,
}

impl Recipe {
    /// Names of the built-in recipes.
    pub fn builtin() -> impl Iterator<Item = &'static str> {
        BUILTIN.iter().map(|(name, _)| *name)
    }

    /// Loads a recipe by the name of a built-in one or by the path of a TOML file.
    ///
    /// # Errors
    /// When there is none, or when it cannot be read or contradicts itself; nothing is downloaded yet.
    pub fn load(name_or_path: &str) -> Result<Self, ImageError> {
        if let Some((name, text)) = BUILTIN.iter().find(|(name, _)| *name == name_or_path) {
            return Self::parse(text, name, Path::new("."));
        }
        let path = Path::new(name_or_path);
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, name_or_path, path.parent().unwrap_or(Path::new("."))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(ImageError::UnknownRecipe {
                name: name_or_path.to_owned(),
                builtin: Self::builtin().map(str::to_owned).collect(),
            }),
            Err(error) => Err(ImageError::io("reading recipe", path, error)),
        }
    }

    /// Reads a recipe's text. `origin` is named in errors; `folder` is where relative paths start.
    ///
    /// # Errors
    /// When it is not TOML, has unknown keys or contradicts itself.
    pub fn parse(text: &str, origin: &str, folder: &Path) -> Result<Self, ImageError> {
        let wrong = |problem: String| ImageError::Recipe { recipe: origin.to_owned(), problem };
        let raw: RawRecipe = toml::from_str(text).map_err(|error| wrong(error.to_string().trim_end().to_owned()))?;
        if !is_image_name(&raw.name) {
            return Err(ImageError::BadName(raw.name));
        }
        if raw.uml.is_none() && raw.x86.is_none() {
            return Err(wrong("it has no kernel: add a table [uml] or [x86]".to_owned()));
        }
        let kernel = |table: &str, target: KernelTarget, raw: Option<RawKernel>| match raw {
            Some(raw) => raw.into_recipe(target, folder).map(Some).map_err(|problem| match problem {
                Problem::Text(problem) => wrong(format!("[{table}]: {problem}")),
                Problem::Error(error) => error,
            }),
            None => Ok(None),
        };
        let uml = kernel("uml", KernelTarget::Uml, raw.uml)?;
        let x86 = kernel("x86", KernelTarget::X86, raw.x86)?;
        let mut files: Vec<FileRecipe> = Vec::new();
        for raw in raw.files {
            let path = raw.path.clone();
            let file = raw.into_recipe(folder).map_err(|problem| wrong(format!("file '{path}': {problem}")))?;
            if files.iter().any(|other| other.path == file.path) {
                return Err(wrong(format!("file '{path}': it is there twice")));
            }
            files.push(file);
        }
        Ok(Self { name: raw.name, description: raw.description, uml, x86, files })
    }

    /// Takes a tiny kernel in place of the one that the recipe names for the same hypervisor.
    ///
    /// # Errors
    /// When there is no kernel of that name; the message lists those that there are.
    pub fn set_kernel(&mut self, name: &str) -> Result<(), ImageError> {
        let kernel = TinyKernel::find(name)?;
        let target = kernel.target;
        let recipe = Some(KernelRecipe::of(kernel, Vec::new()));
        match target {
            KernelTarget::Uml => self.uml = recipe,
            KernelTarget::X86 => self.x86 = recipe,
        }
        Ok(())
    }

    /// Every file that is taken from a package as it is; the sources of tiny kernels are not among them.
    pub(crate) fn package_files(&self) -> impl Iterator<Item = &PackageFile> {
        let kernels = self.kernels().filter_map(|kernel| match &kernel.kernel {
            KernelSource::Package(file) => Some(file),
            KernelSource::Tiny { .. } => None,
        });
        kernels.chain(self.files.iter().filter_map(|file| match &file.source {
            FileSource::Package { from, .. } => Some(from),
            _ => None,
        }))
    }

    /// Its kernels.
    pub(crate) fn kernels(&self) -> impl Iterator<Item = &KernelRecipe> {
        [&self.uml, &self.x86].into_iter().flatten()
    }
}

/// Kernels of distributions find their devices by ACPI.
pub(crate) fn with_acpi() -> bool {
    true
}

impl KernelRecipe {
    /// A tiny kernel as it is meant.
    fn of(kernel: TinyKernel, fragments: Vec<Fragment>) -> Self {
        Self {
            modules: Vec::new(),
            cmdline: kernel.image.cmdline,
            memory: kernel.image.memory,
            root: kernel.image.root,
            acpi: kernel.image.acpi,
            usb: false,
            max_cpus: None,
            kernel: KernelSource::Tiny { name: kernel.name, fragments },
        }
    }

    fn check(&self) -> Result<(), String> {
        let Memory { default_mib, minimum_mib } = self.memory;
        if minimum_mib == 0 || default_mib < minimum_mib {
            return Err(format!(
                "memory: default-mib ({default_mib}) must be at least minimum-mib ({minimum_mib}), and that above 0"
            ));
        }
        if self.cmdline.contains(['\n', '\0']) {
            return Err("cmdline must be one line".to_owned());
        }
        if self.max_cpus == Some(0) {
            return Err("max-cpus must be at least 1".to_owned());
        }
        if self.usb && !self.acpi {
            return Err("usb: the controller is found by ACPI, so the kernel must have it".to_owned());
        }
        match self.modules.iter().find(|name| name.is_empty() || name.contains(['/', ' ', '.'])) {
            Some(name) => Err(format!("'{name}' is not the name of a module: write it without folder and ending")),
            None => Ok(()),
        }
    }
}

impl PackageFile {
    fn check(&self) -> Result<(), String> {
        let name_is_right =
            |name: &str| name.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '+' | '-' | '.')) && name.len() > 1;
        if !name_is_right(&self.package) {
            return Err(format!("'{}' is not the name of a Debian package", self.package));
        }
        let parts_are_plain =
            self.file.split('/').all(|part| !part.is_empty() && part != "." && part != ".." && !part.contains('\0'));
        let (folder, last) = self.file.rsplit_once('/').unwrap_or(("", &self.file));
        if !parts_are_plain || folder.contains('*') || last.matches('*').count() > 1 {
            return Err(format!(
                "'{}' is not a path in a package: write it without leading slash, with at most one '*', in the last part",
                self.file
            ));
        }
        Ok(())
    }
}

/// Whether a text can be the name of an image: it is a file name in the store and a word of the language.
pub(crate) fn is_image_name(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '-' | '_' | '.'))
}

/// Whether `text` fits `pattern`, in which one `*` may stand for anything.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, end)) => text.len() >= start.len() + end.len() && text.starts_with(start) && text.ends_with(end),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
