//! Kernel modules: finds them in an unpacked package, with those they depend on, in the order of loading.
//!
//! A package as it is downloaded has no `modules.dep` (depmod writes that when a kernel is installed), so what a module
//! needs is read from the module itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use crate::{ImageError, elf};

/// A module ready for finit_module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Module {
    /// Its name, with `_` for `-`.
    pub name: String,
    /// The ELF, unpacked.
    pub bytes: Vec<u8>,
}

/// Gives the wanted modules and all they need, each after what it needs. Those built into the kernel are left out.
pub(crate) fn collect(folder: &Path, package: &str, wanted: &[String]) -> Result<Vec<Module>, ImageError> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let mut finder = Finder { package, files: BTreeMap::new(), builtin: BTreeSet::new(), done: Vec::new() };
    for root in ["lib/modules", "usr/lib/modules", "usr/lib/uml/modules"] {
        finder.scan(&folder.join(root), 0)?;
    }
    for name in wanted {
        finder.add(name, "the recipe", 0)?;
    }
    Ok(finder.done)
}

struct Finder<'a> {
    package: &'a str,
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
    done: Vec<Module>,
}

/// Deepest folder below lib/modules, and longest chain of dependencies: more is a loop.
const MAX_DEPTH: usize = 32;

impl Finder<'_> {
    fn scan(&mut self, folder: &Path, depth: usize) -> Result<(), ImageError> {
        let Ok(entries) = fs::read_dir(folder) else {
            return Ok(()); // a package has only one of the roots
        };
        for entry in entries {
            let entry = entry.map_err(|error| ImageError::io("listing", folder, error))?;
            let path = entry.path();
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir()); // links to build trees are not followed
            if is_folder && depth < MAX_DEPTH {
                self.scan(&path, depth + 1)?;
            } else if path.file_name().is_some_and(|name| name == "modules.builtin") {
                let text = fs::read_to_string(&path).map_err(|error| ImageError::io("reading", &path, error))?;
                self.builtin.extend(text.lines().filter_map(|line| module_name(Path::new(line))));
            } else if let Some(name) = module_name(&path) {
                self.files.insert(name, path);
            }
        }
        Ok(())
    }

    fn add(&mut self, name: &str, needed_by: &str, depth: usize) -> Result<(), ImageError> {
        let name = name.replace('-', "_");
        if self.builtin.contains(&name) || self.done.iter().any(|module| module.name == name) {
            return Ok(());
        }
        let Some(path) = self.files.get(&name).cloned().filter(|_| depth < MAX_DEPTH) else {
            return Err(ImageError::NoSuchModule {
                module: name,
                package: self.package.to_owned(),
                needed_by: needed_by.to_owned(),
            });
        };
        let bytes = read_module(&path)?;
        let depends = elf::module_depends(&bytes).map_err(|error| ImageError::Kernel {
            path: path.clone(),
            problem: format!("it is not a kernel module ({error})"),
        })?;
        for needed in depends {
            self.add(&needed, &name, depth + 1)?;
        }
        self.done.push(Module { name, bytes });
        Ok(())
    }
}

/// The name of a module's file, packed or not; `None` for another file.
fn module_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let (stem, ending) = name.split_once(".ko")?;
    matches!(ending, "" | ".xz" | ".gz" | ".zst").then(|| stem.replace('-', "_"))
}

/// Reads a module; unpacks it, so that the guest need not.
fn read_module(path: &Path) -> Result<Vec<u8>, ImageError> {
    let bytes = fs::read(path).map_err(|error| ImageError::io("reading", path, error))?;
    let mut unpacked = Vec::new();
    let done = match path.extension().and_then(|ending| ending.to_str()) {
        Some("xz") => lzma_rust2::XzReader::new(bytes.as_slice(), true).read_to_end(&mut unpacked),
        Some("gz") => flate2::read::GzDecoder::new(bytes.as_slice()).read_to_end(&mut unpacked),
        Some("ko") => return Ok(bytes),
        _ => Err(std::io::Error::other("modules packed with zstd are not supported")),
    };
    match done {
        Ok(_) => Ok(unpacked),
        Err(error) => {
            Err(ImageError::Kernel { path: path.to_path_buf(), problem: format!("cannot unpack it: {error}") })
        }
    }
}
