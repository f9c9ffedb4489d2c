//! Debian packages: apt says which version and hash, they are downloaded into a cache and unpacked there. Nothing is
//! installed on the host.
//!
//! ```text
//! CACHE/debs/NAME.deb      downloaded, its hash checked
//! CACHE/unpacked/NAME/     the same, unpacked (appears whole, by rename)
//! CACHE/lock               held (flock) while the cache is changed
//! ```

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use nix::fcntl::Flock;

use crate::{
    ImageError, PackageFile, Progress,
    recipe::matches,
    store::{hash_of_reader, lock_file},
};

/// Beginning of the names of folders that are under way.
const TEMP_PREFIX: &str = "tmp-";

/// The version of a package that apt would take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Deb {
    pub package: String,
    /// As apt names it: "busybox-static_1%3a1.35.0-4_amd64.deb".
    pub file_name: String,
    pub bytes: u64,
    pub sha256: String,
}

/// The cache of packages.
#[derive(Clone)]
pub(crate) struct Packages {
    folder: PathBuf,
}

/// The packages that one build uses, unpacked; the cache stays locked meanwhile.
pub(crate) struct Unpacked {
    folders: Vec<(String, Deb, PathBuf)>,
    cache: Packages,
    _lock: Flock<File>,
}

impl Packages {
    pub(crate) fn open(folder: PathBuf) -> Result<Self, ImageError> {
        for part in ["debs", "unpacked"] {
            let part = folder.join(part);
            fs::create_dir_all(&part).map_err(|error| ImageError::io("creating", part, error))?;
        }
        Ok(Self { folder })
    }

    /// Asks apt which package holds each of these files, and in which version. Reads apt's lists; no network.
    pub(crate) fn locate<'a>(
        &self,
        files: impl Iterator<Item = &'a PackageFile>,
    ) -> Result<Vec<(String, Deb)>, ImageError> {
        let mut located: Vec<(String, String)> = Vec::new();
        for file in files {
            let package = match &file.dependency {
                Some(pattern) => dependency(&file.package, pattern)?,
                None => file.package.clone(),
            };
            if !located.iter().any(|(key, _)| *key == key_of(file)) {
                located.push((key_of(file), package));
            }
        }
        if located.is_empty() {
            return Ok(Vec::new());
        }
        let names: Vec<&str> = located.iter().map(|(_, package)| package.as_str()).collect();
        let debs = self.versions(&names)?;
        located
            .into_iter()
            .map(|(key, package)| match debs.iter().find(|deb| deb.package == package) {
                Some(deb) => Ok((key, deb.clone())),
                None => Err(ImageError::UnknownPackage { package, detail: "apt names no file for it".to_owned() }),
            })
            .collect()
    }

    /// Asks apt for the versions of packages that it would take. Reads apt's lists; no network.
    pub(crate) fn versions(&self, names: &[&str]) -> Result<Vec<Deb>, ImageError> {
        let output = run("apt-get", "apt", Command::new("apt-get").args(["download", "--print-uris"]).args(names))?;
        if !output.status.success() {
            let detail = last_words(&output);
            let package = names.iter().find(|name| detail.contains(**name)).or(names.first()).unwrap_or(&"");
            return Err(ImageError::UnknownPackage { package: (*package).to_owned(), detail });
        }
        Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(parse_uri_line).collect())
    }

    /// Asks apt which packages these ones depend on, and those, and so on. Reads apt's lists; no network.
    pub(crate) fn dependencies(&self, names: &[&str]) -> Result<BTreeMap<String, Vec<String>>, ImageError> {
        let no = ["recommends", "suggests", "conflicts", "breaks", "replaces", "enhances"]
            .map(|kind| format!("--no-{kind}"));
        let mut command = Command::new("apt-cache");
        command.args(["depends", "--recurse"]).args(no).args(names);
        let output = run("apt-cache", "apt", &mut command)?;
        if !output.status.success() {
            return Err(ImageError::UnknownPackage { package: names.join(", "), detail: last_words(&output) });
        }
        Ok(parse_dependencies(&String::from_utf8_lossy(&output.stdout)))
    }

    /// Downloads and unpacks what is not in the cache yet.
    pub(crate) fn unpack(
        &self,
        debs: Vec<(String, Deb)>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Unpacked, ImageError> {
        let lock = self.lock()?;
        let mut folders = Vec::new();
        for (key, deb) in debs {
            let folder = self.ready(&deb, progress)?;
            folders.push((key, deb, folder));
        }
        Ok(Unpacked { folders, cache: self.clone(), _lock: lock })
    }

    /// The folder of a package, downloaded and unpacked now if it is not there yet. The caller holds the lock.
    fn ready(&self, deb: &Deb, progress: &mut dyn FnMut(Progress)) -> Result<PathBuf, ImageError> {
        let folder = self.folder.join("unpacked").join(deb.file_name.trim_end_matches(".deb"));
        if !folder.is_dir() {
            let file = self.download(deb, progress)?;
            progress(Progress::Unpacking { package: deb.package.clone() });
            self.unpack_one(&file, &folder)?;
        }
        Ok(folder)
    }

    /// The package of those that were located that holds this file.
    pub(crate) fn find<'a>(located: &'a [(String, Deb)], file: &PackageFile) -> Option<&'a Deb> {
        let key = key_of(file);
        located.iter().find(|(other, _)| *other == key).map(|(_, deb)| deb)
    }

    /// Downloads a package that is not in the cache yet; gives its file.
    pub(crate) fn fetch(&self, deb: &Deb, progress: &mut dyn FnMut(Progress)) -> Result<PathBuf, ImageError> {
        let _lock = self.lock()?;
        self.download(deb, progress)
    }

    /// Takes the cache's lock, and removes what a killed build left under way.
    fn lock(&self) -> Result<Flock<File>, ImageError> {
        let lock = lock_file(&self.folder.join("lock"))?;
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(TEMP_PREFIX) {
                let _next_build_tries_again = fs::remove_dir_all(entry.path());
            }
        }
        Ok(lock)
    }

    fn download(&self, deb: &Deb, progress: &mut dyn FnMut(Progress)) -> Result<PathBuf, ImageError> {
        let path = self.folder.join("debs").join(&deb.file_name);
        if is_the_deb(&path, deb).unwrap_or(false) {
            return Ok(path);
        }
        progress(Progress::Downloading { package: deb.package.clone(), bytes: deb.bytes });
        let temp = temp_folder(&self.folder)?;
        let mut command = Command::new("apt-get");
        command.args(["download", "-o", "Acquire::Retries=2", "-o", "Acquire::http::Timeout=30"]);
        command.arg(format!("{}={}", deb.package, deb.version())).current_dir(temp.path());
        let output = run("apt-get", "apt", &mut command)?;
        let failed = |detail: String| ImageError::Download { package: deb.package.clone(), detail };
        if !output.status.success() {
            let detail = last_words(&output);
            if detail.contains("No space left") {
                return Err(ImageError::Full { action: "downloading a package", path: self.folder.clone() });
            }
            return Err(failed(detail));
        }
        let got = temp.path().join(&deb.file_name);
        if !is_the_deb(&got, deb).map_err(|error| failed(format!("{}: {error}", deb.file_name)))? {
            return Err(failed(format!("{} is not the file that apt's lists promise", deb.file_name)));
        }
        fs::rename(&got, &path).map_err(|error| ImageError::io("keeping", &path, error))?;
        Ok(path)
    }

    fn unpack_one(&self, file: &Path, folder: &Path) -> Result<(), ImageError> {
        let temp = temp_folder(&self.folder)?;
        let inside = temp.path().join("root");
        let output = run("dpkg-deb", "dpkg", Command::new("dpkg-deb").arg("-x").arg(file).arg(&inside))?;
        if !output.status.success() {
            let detail = last_words(&output);
            if detail.contains("No space left") {
                return Err(ImageError::Full { action: "unpacking a package", path: folder.to_path_buf() });
            }
            return Err(ImageError::Unpack { path: file.to_path_buf(), detail });
        }
        fs::rename(&inside, folder).map_err(|error| ImageError::io("keeping", folder, error))
    }
}

impl Unpacked {
    /// A folder for things under way; the next build removes what this one leaves when it is killed.
    pub(crate) fn temp_folder(&self) -> Result<tempfile::TempDir, ImageError> {
        temp_folder(&self.cache.folder)
    }

    /// The folder of one more package.
    pub(crate) fn add(&self, deb: &Deb, progress: &mut dyn FnMut(Progress)) -> Result<PathBuf, ImageError> {
        self.cache.ready(deb, progress)
    }

    /// The package's folder and the package.
    pub(crate) fn folder(&self, file: &PackageFile) -> Result<(&Path, &Deb), ImageError> {
        let key = key_of(file);
        match self.folders.iter().find(|(other, ..)| *other == key) {
            Some((_, deb, folder)) => Ok((folder, deb)),
            None => Err(ImageError::PackageLacksFile { package: file.package.clone(), file: file.file.clone() }),
        }
    }

    /// The path of a file in the cache; with several that fit the pattern, the last by name.
    pub(crate) fn file(&self, file: &PackageFile) -> Result<PathBuf, ImageError> {
        let (folder, deb) = self.folder(file)?;
        let (parent, pattern) = file.file.rsplit_once('/').unwrap_or(("", &file.file));
        let parent = folder.join(parent);
        let names =
            fs::read_dir(&parent).into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let last = names.filter(|name| matches(pattern, name)).max();
        last.map(|name| parent.join(name))
            .filter(|path| path.is_file())
            .ok_or_else(|| ImageError::PackageLacksFile { package: deb.package.clone(), file: file.file.clone() })
    }
}

/// A folder in the cache's own file system that goes when it is dropped.
fn temp_folder(cache: &Path) -> Result<tempfile::TempDir, ImageError> {
    tempfile::TempDir::with_prefix_in(TEMP_PREFIX, cache)
        .map_err(|error| ImageError::io("creating a folder in", cache, error))
}

impl Deb {
    pub(crate) fn version(&self) -> String {
        self.file_name.split('_').nth(1).unwrap_or_default().replace("%3a", ":")
    }
}

fn key_of(file: &PackageFile) -> String {
    format!("{} {}", file.package, file.dependency.as_deref().unwrap_or_default())
}

/// The dependency of a metapackage that fits a pattern.
fn dependency(package: &str, pattern: &str) -> Result<String, ImageError> {
    let output = run("apt-cache", "apt", Command::new("apt-cache").args(["show", "--no-all-versions", package]))?;
    if !output.status.success() {
        return Err(ImageError::UnknownPackage { package: package.to_owned(), detail: last_words(&output) });
    }
    let text = String::from_utf8_lossy(&output.stdout);
    find_dependency(&text, pattern)
        .ok_or_else(|| ImageError::NoSuchDependency { package: package.to_owned(), pattern: pattern.to_owned() })
}

/// Looks through the `Depends:` field of apt's description of a package.
fn find_dependency(description: &str, pattern: &str) -> Option<String> {
    let field = description.lines().find_map(|line| line.strip_prefix("Depends:"))?;
    let names = field.split([',', '|']).filter_map(|one| one.split_whitespace().next());
    names.map(|name| name.split(':').next().unwrap_or(name)).find(|name| matches(pattern, name)).map(str::to_owned)
}

/// The output of `apt-cache depends --recurse`: a package, then a line for each that it depends on; names in angle brackets are
/// those of no package of their own.
fn parse_dependencies(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut package: Option<String> = None;
    for line in text.lines() {
        let plain =
            |name: &str| Some(name.split(':').next().unwrap_or(name).to_owned()).filter(|name| !name.starts_with('<'));
        if !line.starts_with([' ', '|']) {
            package = plain(line.trim());
            found.extend(package.iter().map(|name| (name.clone(), Vec::new())));
        } else if let (Some(package), Some((_, name))) = (&package, line.split_once("epends: "))
            && let Some(name) = plain(name.trim())
        {
            found.entry(package.clone()).or_default().push(name);
        }
    }
    found
}

/// A line of `apt-get download --print-uris`: `'URI' FILE BYTES SHA256:HASH`.
fn parse_uri_line(line: &str) -> Option<Deb> {
    let mut words = line.strip_prefix('\'')?.split_whitespace().skip(1);
    let (file_name, bytes, hash) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
    let package = file_name.split('_').next()?.to_owned();
    let sha256 = hash.strip_prefix("SHA256:")?.to_owned();
    (!file_name.contains('/')).then(|| Deb { package, file_name: file_name.to_owned(), bytes, sha256 })
}

/// Whether a package is in the cache already, by its size.
pub(crate) fn has_deb(cache: &Path, deb: &Deb) -> bool {
    fs::metadata(cache.join("debs").join(&deb.file_name)).is_ok_and(|metadata| metadata.len() == deb.bytes)
}

fn is_the_deb(path: &Path, deb: &Deb) -> io::Result<bool> {
    let mut file = File::open(path)?;
    Ok(file.metadata()?.len() == deb.bytes && hash_of_reader(&mut file)? == deb.sha256)
}

/// Runs a program to its end. apt's downloads have time limits of their own.
fn run(program: &'static str, package: &'static str, command: &mut Command) -> Result<Output, ImageError> {
    match command.env("LC_ALL", "C").stdin(Stdio::null()).output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(ImageError::MissingProgram { program, package }),
        output => output.map_err(|error| ImageError::io("running", program, error)),
    }
}

/// The last line of a failed program's error output.
fn last_words(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().map(str::trim).rfind(|line| !line.is_empty());
    last.map_or_else(|| output.status.to_string(), |line| line.trim_start_matches("E: ").to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_apt_gives_file_size_and_hash() {
        let line = "'http://d/b_1%2bb.deb' busybox-static_1%3a1.35.0-4+b1_amd64.deb 928188 SHA256:3d3f";
        let deb = parse_uri_line(line).unwrap();
        assert_eq!((deb.package.as_str(), deb.bytes, deb.sha256.as_str()), ("busybox-static", 928_188, "3d3f"));
        assert_eq!(deb.version(), "1:1.35.0-4+b1");
        for wrong in ["", "'x'", "W: warning", "'u' ../../a_1_b.deb 5 SHA256:00", "'u' a_1_b.deb 5 MD5Sum:00"] {
            assert_eq!(parse_uri_line(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_metapackage_leads_to_its_dependency() {
        let text = "Package: linux-image-cloud-amd64\nDepends: foo (>= 1) | bar, linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)\n";
        let found = find_dependency(text, "linux-image-*-cloud-amd64");
        assert_eq!(found.as_deref(), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(find_dependency(text, "linux-headers-*"), None);
    }

    #[test]
    fn the_packages_that_a_package_depends_on_are_read() {
        let text = "a\n  Depends: b\n |Depends: c:any\n  PreDepends: d\n  Depends: <virtual>\n    b\nb\n<virtual>\n  Depends: e\n";
        let found = parse_dependencies(text);
        assert_eq!(found["a"], ["b", "c", "d"]);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn a_package_that_apt_does_not_know_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let packages = Packages::open(folder.path().to_path_buf()).unwrap();
        let file = PackageFile {
            package: "no-such-package-at-all".to_owned(),
            dependency: None,
            file: "usr/bin/x".to_owned(),
        };
        let error = packages.locate([&file].into_iter()).unwrap_err();
        assert!(matches!(&error, ImageError::UnknownPackage { package, .. } if package == "no-such-package-at-all"));
        assert!(error.to_string().contains("apt-get update"), "{error}");
    }
}
