//! Shared libraries: finds those that a program of a package is linked to, and those that these are linked to.
//!
//! A Debian package depends on the packages that hold the libraries of its files. So each library is looked for in the
//! package of the file that needs it and in those that this one depends on, the likely one by its name first, and only
//! packages that are looked into are downloaded. A library lies in the guest where it lies in its package: those are the
//! folders where Debian's dynamic linker looks by itself. What a program opens when it runs (plug-ins) is in no list, and the
//! recipe names it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Component, Path, PathBuf},
};

use crate::{
    FileSource, ImageError, Progress, Recipe, elf,
    fetch::{Deb, Packages, Unpacked},
    initrd,
};

/// Where libraries are, in packages and for the dynamic linker.
const FOLDERS: &[&str] = &["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib64", "lib", "usr/lib"];
/// Longest chain of symbolic links: more is a loop.
const MAX_LINKS: usize = 16;

/// A library as it is in the guest.
pub(crate) struct Library {
    /// Absolute path.
    pub path: String,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// The packages that may hold libraries of a recipe's programs.
pub(crate) struct Libraries {
    debs: BTreeMap<String, Deb>,
    depends: BTreeMap<String, Vec<String>>,
}

/// Something that is linked: where from, for messages and for looking on.
struct Linked {
    name: String,
    package: String,
    bytes: Vec<u8>,
}

impl Libraries {
    /// Asks apt for the packages that those of the recipe's programs depend on; none when it wants no libraries. `debs` are
    /// the recipe's own packages.
    pub(crate) fn locate(packages: &Packages, recipe: &Recipe, debs: &[(String, Deb)]) -> Result<Self, ImageError> {
        let wanted = programs(recipe).filter_map(|file| Packages::find(debs, file));
        let names: Vec<&str> = wanted.map(|deb| deb.package.as_str()).collect();
        if names.is_empty() {
            return Ok(Self { debs: BTreeMap::new(), depends: BTreeMap::new() });
        }
        let depends = packages.dependencies(&names)?;
        let all: Vec<&str> = depends.keys().map(String::as_str).collect();
        let debs = packages.versions(&all)?.into_iter().map(|deb| (deb.package.clone(), deb)).collect();
        Ok(Self { debs, depends })
    }

    /// The packages: an image may depend on each of them.
    pub(crate) fn debs(&self) -> impl Iterator<Item = &Deb> {
        self.debs.values()
    }

    /// All libraries of the recipe's programs.
    pub(crate) fn collect(
        &self,
        recipe: &Recipe,
        unpacked: &Unpacked,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Library>, ImageError> {
        let mut todo = Vec::new();
        for file in programs(recipe) {
            let (path, package) = (unpacked.file(file)?, unpacked.folder(file)?.1.package.clone());
            todo.push(Linked { name: file.file.clone(), package, bytes: initrd::read(&path)? });
        }
        // By name: a second one of a name is the same to the dynamic linker.
        let mut found: BTreeMap<String, Library> = BTreeMap::new();
        while let Some(Linked { name: needed_by, package, bytes }) = todo.pop() {
            let linked = elf::linked(&bytes).map_err(|error| ImageError::Kernel {
                path: PathBuf::from(&needed_by),
                problem: format!("it is no program or library for x86-64 ({error})"),
            })?;
            let loader = linked.interpreter.as_deref().and_then(|path| Some((path.rsplit_once('/')?.1, path)));
            let needed = linked.needed.iter().map(|name| (name.as_str(), None));
            for (library, place) in loader.map(|(name, path)| (name, Some(path))).into_iter().chain(needed) {
                if found.contains_key(library) {
                    continue;
                }
                let missing = || ImageError::NoSuchLibrary {
                    library: library.to_owned(),
                    package: package.clone(),
                    needed_by: needed_by.clone(),
                };
                let (holder, path, file) = self.find(library, &package, unpacked, progress)?.ok_or_else(missing)?;
                let bytes = initrd::read(&file)?;
                todo.push(Linked { name: library.to_owned(), package: holder, bytes: bytes.clone() });
                let path = place.map_or(path, str::to_owned);
                found.insert(library.to_owned(), Library { path, bytes });
            }
        }
        Ok(found.into_values().collect())
    }

    /// The package that holds a library, its path in the guest, and its file in the cache.
    fn find(
        &self,
        library: &str,
        package: &str,
        unpacked: &Unpacked,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Option<(String, String, PathBuf)>, ImageError> {
        let mut holders: Vec<&String> = self.depends.get(package).into_iter().flatten().collect();
        let likely = package_name(library);
        holders.sort_by_key(|name| (**name != likely, !name.starts_with(&likely), !name.starts_with("lib")));
        for name in std::iter::once(package).chain(holders.into_iter().map(String::as_str)) {
            let Some(deb) = self.debs.get(name) else { continue };
            let root = unpacked.add(deb, progress)?;
            for folder in FOLDERS {
                let path = Path::new(folder).join(library);
                if let Some(file) = real(&root, &path) {
                    return Ok(Some((name.to_owned(), format!("/{}", path.display()), file)));
                }
            }
        }
        Ok(None)
    }
}

/// The files of packages whose libraries are wanted.
fn programs(recipe: &Recipe) -> impl Iterator<Item = &crate::PackageFile> {
    recipe.files.iter().filter_map(|file| match &file.source {
        FileSource::Package { from, libraries: true, .. } => Some(from),
        _ => None,
    })
}

/// What Debian's packages with one library are called: `libusb-1.0.so.0` is in `libusb-1.0-0`, `libc.so.6` in `libc6`.
fn package_name(library: &str) -> String {
    let (stem, version) = library.split_once(".so.").unwrap_or((library.trim_end_matches(".so"), ""));
    let dash = if !version.is_empty() && stem.ends_with(|c: char| c.is_ascii_digit()) { "-" } else { "" };
    format!("{stem}{dash}{version}").replace('_', "-").to_lowercase()
}

/// The file that a path of a package leads to, as in a system where `root` is `/`; symbolic links never lead out of the package.
fn real(root: &Path, path: &Path) -> Option<PathBuf> {
    let mut path = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        let full = root.join(&path);
        let kind = fs::symlink_metadata(&full).ok()?.file_type();
        if kind.is_file() {
            return Some(full);
        }
        if !kind.is_symlink() {
            return None;
        }
        path = inside(&path.parent()?.join(fs::read_link(&full).ok()?))?;
    }
    None
}

/// A path without `..`, relative to the root; none when it leads above that.
fn inside(path: &Path) -> Option<PathBuf> {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => plain.push(part),
            Component::ParentDir if !plain.pop() => return None,
            _ => {}
        }
    }
    Some(plain)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_package_of_a_library_is_guessed_from_its_name() {
        for (library, package) in [
            ("libc.so.6", "libc6"),
            ("libusb-1.0.so.0", "libusb-1.0-0"),
            ("libgphoto2_port.so.12", "libgphoto2-port12"),
            ("libgphoto2.so.6", "libgphoto2-6"),
            ("libX11.so.6", "libx11-6"),
            ("libplain.so", "libplain"),
        ] {
            assert_eq!(package_name(library), package);
        }
    }

    #[test]
    fn links_stay_in_the_package() {
        let folder = tempfile::tempdir().unwrap();
        let (root, outside) = (folder.path().join("root"), folder.path().join("secret"));
        fs::create_dir_all(root.join("lib/x")).unwrap();
        fs::write(root.join("lib/x/real.so.1.2"), "it").unwrap();
        fs::write(&outside, "not this").unwrap();
        for (name, target) in [
            ("absolute", "/lib/x/real.so.1.2"),
            ("relative", "x/real.so.1.2"),
            ("chain", "absolute"),
            ("out", "../../secret"),
            ("loop", "loop"),
            ("dangling", "nothing"),
        ] {
            symlink(target, root.join("lib").join(name)).unwrap();
        }
        symlink(&outside, root.join("lib/host")).unwrap();
        for name in ["absolute", "relative", "chain"] {
            assert_eq!(real(&root, &Path::new("lib").join(name)), Some(root.join("lib/x/real.so.1.2")), "{name}");
        }
        for name in ["out", "loop", "dangling", "host", "x"] {
            assert_eq!(real(&root, &Path::new("lib").join(name)), None, "{name}");
        }
    }
}
