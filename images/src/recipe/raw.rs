//! A recipe as TOML has it, and what is wrong with it.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{
    FileRecipe, FileSource, KernelRecipe, KernelSource, KernelTarget, Memory, PackageFile, RootForm, with_acpi,
};
use crate::{
    ImageError,
    tiny::{Fragment, TinyKernel},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawRecipe {
    pub(super) name: String,
    #[serde(default)]
    pub(super) description: String,
    pub(super) uml: Option<RawKernel>,
    pub(super) x86: Option<RawKernel>,
    #[serde(default, rename = "file")]
    pub(super) files: Vec<RawFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawKernel {
    kernel: RawSource,
    #[serde(default)]
    modules: Vec<String>,
    cmdline: Option<String>,
    memory: Option<Memory>,
    root: Option<RootForm>,
    acpi: Option<bool>,
    #[serde(default)]
    usb: bool,
    max_cpus: Option<u32>,
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
pub(super) struct RawFile {
    pub(super) path: String,
    mode: Option<String>,
    from: Option<PackageFile>,
    #[serde(default)]
    applets: bool,
    #[serde(default)]
    libraries: bool,
    text: Option<String>,
    host: Option<PathBuf>,
    link: Option<String>,
    #[serde(default)]
    directory: bool,
}

/// What is wrong with a kernel's table: words for people, or an error that says its place itself.
pub(super) enum Problem {
    Text(String),
    Error(ImageError),
}

impl RawKernel {
    pub(super) fn into_recipe(self, target: KernelTarget, folder: &Path) -> Result<KernelRecipe, Problem> {
        let text = |problem: &str| Problem::Text(problem.to_owned());
        let RawSource { package, dependency, file, tiny, fragments } = self.kernel;
        let mut recipe = match (package, file, tiny) {
            (Some(package), Some(file), None) if fragments.is_empty() => {
                let file = PackageFile { package, dependency, file };
                file.check().map_err(Problem::Text)?;
                let memory = self.memory.ok_or_else(|| text("'memory' is missing"))?;
                let kernel = KernelSource::Package(file);
                let (root, cmdline) = (RootForm::Initrd, String::new());
                KernelRecipe {
                    kernel,
                    modules: self.modules,
                    cmdline,
                    memory,
                    root,
                    acpi: with_acpi(),
                    usb: false,
                    max_cpus: None,
                }
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
        recipe.usb = self.usb;
        recipe.max_cpus = self.max_cpus;
        if target == KernelTarget::X86 && recipe.root == RootForm::Erofs {
            return Err(text("root: QEMU's guests have no disk: only \"initrd\" is possible"));
        }
        if target == KernelTarget::Uml && recipe.usb {
            return Err(text("usb: user-mode Linux has none: only [x86] can have it"));
        }
        recipe.check().map_err(Problem::Text)?;
        Ok(recipe)
    }
}

impl RawFile {
    pub(super) fn into_recipe(self, folder: &Path) -> Result<FileRecipe, String> {
        let Some(relative) = self.path.strip_prefix('/') else {
            return Err("the path must start with '/'".to_owned());
        };
        if relative.split('/').any(|part| part.is_empty() || part == "." || part == "..") || relative.contains('\0') {
            return Err("the path must be plain: no empty part, no '.', no '..'".to_owned());
        }
        let mut sources = Vec::new();
        if let Some(from) = self.from {
            from.check()?;
            sources.push((FileSource::Package { from, applets: self.applets, libraries: self.libraries }, 0o755));
        } else if self.applets || self.libraries {
            return Err("'applets' and 'libraries' need 'from'".to_owned());
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
