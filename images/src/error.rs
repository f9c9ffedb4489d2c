//! What can go wrong with images. Each message says what, where and what to do.

use std::{
    io,
    path::{Path, PathBuf},
};

use thiserror::Error;

/// An error of the store or of a build. Nothing half-made stays behind when one is given.
#[derive(Debug, Error)]
pub enum ImageError {
    /// No image of that name or id.
    #[error("image '{name}' is not in the store{}: build it with `fleet image build {name}`", did_you_mean(.near))]
    UnknownImage {
        /// What was asked for.
        name: String,
        /// Names in the store that are spelled nearly so.
        near: Vec<String>,
    },
    /// A prefix that fits several ids.
    #[error("image id '{prefix}' fits several images ({}): give more of it", .ids.join(", "))]
    AmbiguousId {
        /// What was asked for.
        prefix: String,
        /// Short forms of the ids that fit.
        ids: Vec<String>,
    },
    /// A name that cannot be an image's.
    #[error("'{0}' cannot be the name of an image: use 1 to 64 of a-z, 0-9, '-', '_' and '.', starting with a letter")]
    BadName(String),
    /// A file of the store is missing or is not what its name says.
    #[error(
        "image store: {path} {problem}: remove the image and build it again (`fleet image rm`, `fleet image build`)"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// "is missing", "has other content than its name says", …
        problem: String,
    },
    /// The disk is too small for an image that is sent.
    #[error("{path} has {} MiB free, and the image needs {} MiB for a moment; free some space there", .free >> 20, .needed >> 20)]
    NoRoomFor {
        /// The store.
        path: PathBuf,
        /// Bytes.
        needed: u64,
        /// Bytes.
        free: u64,
    },
    /// No such recipe.
    #[error("no recipe '{name}': the built-in ones are {}; a file's path works as well", .builtin.join(", "))]
    UnknownRecipe {
        /// What was asked for.
        name: String,
        /// The recipes that are part of the program.
        builtin: Vec<String>,
    },
    /// A recipe that cannot be read or that contradicts itself.
    #[error("recipe {recipe}: {problem}")]
    Recipe {
        /// Its file or name.
        recipe: String,
        /// What is wrong and where.
        problem: String,
    },
    /// A program that builds need.
    #[error("the program '{program}' is missing: install it with `apt-get install {package}`")]
    MissingProgram {
        /// Its name.
        program: &'static str,
        /// Debian's package that holds it.
        package: &'static str,
    },
    /// Programs or headers that building a kernel needs.
    #[error("to build this, {} must be installed: run `apt-get install {}`", .missing.join(", "), .packages.join(" "))]
    MissingTools {
        /// What is not there.
        missing: Vec<String>,
        /// Debian's packages that hold it.
        packages: Vec<String>,
    },
    /// No such tiny kernel.
    #[error("no kernel '{name}': the tiny kernels are {}", .known.join(", "))]
    UnknownKernel {
        /// What was asked for.
        name: String,
        /// Those that are part of the program.
        known: Vec<String>,
    },
    /// Options that the kernel's sources do not know, or whose needs are not met.
    #[error(
        "kernel {kernel}: its sources do not take {}: look for spelling, and for options that these depend on",
        .options.join(", ")
    )]
    KernelOptions {
        /// Its name.
        kernel: String,
        /// As they were asked for.
        options: Vec<String>,
    },
    /// A step of building a kernel failed.
    #[error("kernel {kernel}: {step} failed; the end of {log}:\n{tail}", log = .log.display())]
    KernelBuild {
        /// Its name.
        kernel: String,
        /// "compiling", …
        step: &'static str,
        /// All that was said.
        log: PathBuf,
        /// Its last lines.
        tail: String,
    },
    /// Too little disk to build a kernel.
    #[error(
        "kernel {kernel}: building it takes {needed_mib} MiB in {path} for a while, and {free_mib} MiB are free there: \
         free some, or set XDG_CACHE_HOME to a folder on another disk"
    )]
    NoRoom {
        /// Its name.
        kernel: String,
        /// Where the build would be.
        path: PathBuf,
        /// MiB needed.
        needed_mib: u64,
        /// MiB free.
        free_mib: u64,
    },
    /// apt does not know a package.
    #[error("package '{package}' is not known to apt ({detail}): run `apt-get update`, or mend its name in the recipe")]
    UnknownPackage {
        /// The package.
        package: String,
        /// apt's own words.
        detail: String,
    },
    /// A metapackage without the dependency that the recipe names.
    #[error("package '{package}' depends on nothing that matches '{pattern}': mend 'dependency' in the recipe")]
    NoSuchDependency {
        /// The metapackage.
        package: String,
        /// The recipe's pattern.
        pattern: String,
    },
    /// A download that failed or came out wrong.
    #[error("package '{package}' cannot be downloaded ({detail}): check the network and apt's sources, then try again")]
    Download {
        /// The package.
        package: String,
        /// apt's own words, or what differs.
        detail: String,
    },
    /// A package file that cannot be unpacked.
    #[error("package {path} cannot be unpacked ({detail}): remove that file and build again")]
    Unpack {
        /// The package's file in the cache.
        path: PathBuf,
        /// dpkg-deb's own words.
        detail: String,
    },
    /// A file that the recipe takes from a package is not there.
    #[error("package '{package}' holds no file '{file}': mend the recipe (`dpkg-deb -c` lists what it holds)")]
    PackageLacksFile {
        /// The package, with version.
        package: String,
        /// The path or pattern.
        file: String,
    },
    /// A library that a program or library of a package is linked to.
    #[error(
        "library '{library}', which {needed_by} needs, is in no package that '{package}' depends on: take it into the recipe \
         as a file of its own"
    )]
    NoSuchLibrary {
        /// Its name.
        library: String,
        /// The package of what needs it.
        package: String,
        /// The file that needs it.
        needed_by: String,
    },
    /// A module that the kernel's package lacks.
    #[error("kernel module '{module}' is not in package '{package}' (needed by {needed_by})")]
    NoSuchModule {
        /// Its name.
        module: String,
        /// The kernel's package.
        package: String,
        /// The recipe, or the module that depends on it.
        needed_by: String,
    },
    /// A kernel or module in a form that is not understood.
    #[error("{path}: {problem}")]
    Kernel {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The guests' init cannot be used.
    #[error("the guests' init {path} {problem}: `make build` makes it")]
    Init {
        /// The file.
        path: PathBuf,
        /// "is missing", "is not static", …
        problem: String,
    },
    /// The disk or tmpfs is full.
    #[error("no space left at {path} ({action}): free some space there, or put the image store elsewhere")]
    Full {
        /// What was being done.
        action: &'static str,
        /// Where.
        path: PathBuf,
    },
    /// Any other failure of the file system or of starting a program.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl ImageError {
    /// An input/output error with its place; a full disk gets its own kind.
    pub(crate) fn io(action: &'static str, path: impl AsRef<Path>, source: io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { action, path },
            _ => Self::Io { action, path, source },
        }
    }
}

fn did_you_mean(near: &[String]) -> String {
    if near.is_empty() { String::new() } else { format!(" (there is {})", near.join(", ")) }
}
