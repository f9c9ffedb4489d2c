//! Recipes: what goes into an image, as a TOML file (docs/images.md explains each key).

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    ImageError,
    tiny::{Fragment, TinyKernel},
};

/// Recipes that are part of the program: name and text.
const BUILTIN: &[(&str, &str)] = &[("tiny", include_str!("../recipes/tiny.toml"))];

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

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawRecipe {
    name: String,
    #[serde(default)]
    description: String,
    uml: Option<RawKernel>,
    x86: Option<RawKernel>,
    #[serde(default, rename = "file")]
    files: Vec<RawFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawKernel {
    kernel: RawSource,
    #[serde(default)]
    modules: Vec<String>,
    cmdline: Option<String>,
    memory: Option<Memory>,
    root: Option<RootForm>,
    acpi: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawSource {
    package: Option<String>,
    dependency: Option<String>,
    file: Option<String>,
    tiny: Option<String>,
    #[serde(default)]
    fragments: Vec<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawFile {
    path: String,
    mode: Option<String>,
    from: Option<PackageFile>,
    #[serde(default)]
    applets: bool,
    text: Option<String>,
    host: Option<PathBuf>,
    link: Option<String>,
    #[serde(default)]
    directory: bool,
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

/// What is wrong with a kernel's table: words for people, or an error that says its place itself.
enum Problem {
    Text(String),
    Error(ImageError),
}

impl RawKernel {
    fn into_recipe(self, target: KernelTarget, folder: &Path) -> Result<KernelRecipe, Problem> {
        let text = |problem: &str| Problem::Text(problem.to_owned());
        let RawSource { package, dependency, file, tiny, fragments } = self.kernel;
        let mut recipe = match (package, file, tiny) {
            (Some(package), Some(file), None) if fragments.is_empty() => {
                let file = PackageFile { package, dependency, file };
                file.check().map_err(Problem::Text)?;
                let memory = self.memory.ok_or_else(|| text("'memory' is missing"))?;
                let kernel = KernelSource::Package(file);
                let (root, cmdline) = (RootForm::Initrd, String::new());
                KernelRecipe { kernel, modules: self.modules, cmdline, memory, root, acpi: with_acpi() }
            }
            (None, None, Some(name)) if dependency.is_none() => {
                let kernel = TinyKernel::find(&name).map_err(Problem::Error)?;
                if kernel.target != target {
                    return Err(Problem::Text(format!("'{name}' is a kernel for another hypervisor")));
                }
                if !self.modules.is_empty() {
                    return Err(text("a tiny kernel loads no modules: add options with 'fragments'"));
                }
                let fragments: Result<_, _> = fragments.iter().map(|path| Fragment::load(&folder.join(path))).collect();
                KernelRecipe::of(kernel, fragments.map_err(Problem::Error)?)
            }
            _ => return Err(text("kernel: give 'package' and 'file', or 'tiny' and perhaps 'fragments'")),
        };
        recipe.cmdline = self.cmdline.unwrap_or(recipe.cmdline);
        recipe.memory = self.memory.unwrap_or(recipe.memory);
        recipe.root = self.root.unwrap_or(recipe.root);
        recipe.acpi = self.acpi.unwrap_or(recipe.acpi);
        if target == KernelTarget::X86 && recipe.root == RootForm::Erofs {
            return Err(text("root: QEMU's guests have no disk: only \"initrd\" is possible"));
        }
        recipe.check().map_err(Problem::Text)?;
        Ok(recipe)
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

impl RawFile {
    fn into_recipe(self, folder: &Path) -> Result<FileRecipe, String> {
        let Some(relative) = self.path.strip_prefix('/') else {
            return Err("the path must start with '/'".to_owned());
        };
        if relative.split('/').any(|part| part.is_empty() || part == "." || part == "..") || relative.contains('\0') {
            return Err("the path must be plain: no empty part, no '.', no '..'".to_owned());
        }
        let mut sources = Vec::new();
        if let Some(from) = self.from {
            from.check()?;
            sources.push((FileSource::Package { from, applets: self.applets }, 0o755));
        } else if self.applets {
            return Err("'applets' needs 'from'".to_owned());
        }
        sources.extend(self.text.map(|text| (FileSource::Text(text), 0o644)));
        sources.extend(self.host.map(|path| (FileSource::Host(folder.join(path)), 0o644)));
        sources.extend(self.link.map(|target| (FileSource::Link(target), 0o777)));
        sources.extend(self.directory.then_some((FileSource::Directory, 0o755)));
        let count = sources.len();
        let (Some((source, usual_mode)), 1) = (sources.pop(), count) else {
            return Err("give exactly one of 'from', 'text', 'host', 'link' and 'directory'".to_owned());
        };
        let mode = match self.mode {
            None => usual_mode,
            Some(text) => match u32::from_str_radix(&text, 8) {
                Ok(mode) if mode <= 0o7777 => mode,
                _ => return Err(format!("mode \"{text}\" is not an octal number up to 7777")),
            },
        };
        Ok(FileRecipe { path: self.path, mode, source })
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
mod tests {
    use super::*;

    const KERNEL: &str =
        "kernel = { package = \"k1\", file = \"boot/vmlinuz-*\" }\nmemory = { default-mib = 48, minimum-mib = 40 }\n";

    fn problem(text: &str) -> String {
        Recipe::parse(text, "test.toml", Path::new("/r")).unwrap_err().to_string()
    }

    #[test]
    fn every_builtin_recipe_is_right() {
        for name in Recipe::builtin() {
            assert_eq!(Recipe::load(name).unwrap().name, name);
        }
    }

    #[test]
    fn an_unknown_recipe_names_the_builtin_ones() {
        let error = Recipe::load("nosuch").unwrap_err().to_string();
        assert!(error.contains("'nosuch'") && error.contains("tiny"), "{error}");
    }

    #[test]
    fn a_wrong_recipe_says_where_and_what() {
        for (text, words) in [
            ("name = \"t\"\n", "[uml] or [x86]"),
            ("name = \"T x\"\n", "cannot be the name of an image"),
            ("name = \"t\"\ncolour = 1\n", "colour"),
            (
                &format!("name=\"t\"\n[uml]\n{}", KERNEL.replace("minimum-mib = 40", "minimum-mib = 99")),
                "[uml]: memory",
            ),
            (&format!("name=\"t\"\n[uml]\nmodules=[\"a/b.ko\"]\n{KERNEL}"), "'a/b.ko'"),
            (&format!("name=\"t\"\n[uml]\n{}", KERNEL.replace("boot/", "../")), "'../vmlinuz-*'"),
            (&format!("name=\"t\"\n[uml]\n{KERNEL}[[file]]\npath=\"a\"\ntext=\"\"\n"), "must start with '/'"),
            (&format!("name=\"t\"\n[uml]\n{KERNEL}[[file]]\npath=\"/a/../b\"\ntext=\"\"\n"), "must be plain"),
            (&format!("name=\"t\"\n[uml]\n{KERNEL}[[file]]\npath=\"/a\"\n"), "exactly one of"),
            (&format!("name=\"t\"\n[uml]\n{KERNEL}[[file]]\npath=\"/a\"\ntext=\"\"\nlink=\"b\"\n"), "exactly one of"),
            (&format!("name=\"t\"\n[uml]\n{KERNEL}[[file]]\npath=\"/a\"\ntext=\"\"\nmode=\"9\"\n"), "octal"),
            (
                &format!(
                    "name=\"t\"\n[uml]\n{KERNEL}[[file]]\npath=\"/a\"\ntext=\"\"\n[[file]]\npath=\"/a\"\ntext=\"\"\n"
                ),
                "twice",
            ),
        ] {
            let problem = problem(text);
            assert!(problem.contains(words), "{text}\n{problem}");
        }
    }

    #[test]
    fn a_host_path_is_relative_to_the_recipe() {
        let text = format!("name=\"t\"\n[uml]\n{KERNEL}[[file]]\npath=\"/a\"\nhost=\"b/c\"\nmode=\"755\"\n");
        let recipe = Recipe::parse(&text, "test.toml", Path::new("/r")).unwrap();
        assert!(matches!(&recipe.files[0].source, FileSource::Host(path) if path == Path::new("/r/b/c")));
        assert_eq!(recipe.files[0].mode, 0o755);
    }

    #[test]
    fn a_star_stands_for_anything() {
        assert!(matches("linux-image-*-cloud-amd64", "linux-image-6.1.0-56-cloud-amd64"));
        assert!(!matches("linux-image-*-cloud-amd64", "linux-image-cloud-amd64"));
        assert!(matches("a", "a") && !matches("a", "ab") && !matches("ab*ba", "aba"));
    }
}
