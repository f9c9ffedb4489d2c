//! The builder: recipe in, image out.
//!
//! A build is named by its inputs: the recipe's text as it was understood, the packages' hashes, the init's, the files
//! of the host. When the store still has what these inputs gave, nothing is done, not even a download.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use crate::{
    FileSource, Image, ImageError, ImageStore, KernelRecipe, Recipe,
    cpio::Tree,
    elf,
    fetch::{Deb, Packages, Unpacked},
    initrd, kernel, modules,
    store::{Kernel, Manifest, SCHEMA, StoreLock, hash_of},
};

/// Grows when equal inputs give another image than before.
const BUILDER_VERSION: u32 = 2;

/// What a build is doing; `Display` is a line for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// apt is asked for versions.
    Locating,
    /// A package is downloaded.
    Downloading {
        /// Its name.
        package: String,
        /// Its size.
        bytes: u64,
    },
    /// A package is unpacked into the cache.
    Unpacking {
        /// Its name.
        package: String,
    },
    /// Kernel, modules and initial RAM disk for one hypervisor are put together.
    Assembling {
        /// "uml" or "x86".
        target: &'static str,
    },
    /// The same inputs were built before: nothing is left to do.
    UpToDate,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locating => write!(f, "asking apt for the packages' versions"),
            Self::Downloading { package, bytes } => {
                write!(f, "downloading {package} ({:.1} MB)", *bytes as f64 / 1e6)
            }
            Self::Unpacking { package } => write!(f, "unpacking {package}"),
            Self::Assembling { target } => write!(f, "putting kernel and initrd for {target} together"),
            Self::UpToDate => write!(f, "up to date"),
        }
    }
}

/// Builds images into a store.
pub struct Builder<'a> {
    store: &'a ImageStore,
    cache: PathBuf,
    init: PathBuf,
}

impl<'a> Builder<'a> {
    /// `cache` is the folder for downloaded and unpacked packages, shared by all builds of a user; `init` the static
    /// program that `make build` makes of fleet-init.
    pub fn new(store: &'a ImageStore, cache: impl Into<PathBuf>, init: impl Into<PathBuf>) -> Self {
        Self { store, cache: cache.into(), init: init.into() }
    }

    /// Builds the recipe's image and gives it the recipe's name. Equal inputs give the same id, quickly.
    ///
    /// # Errors
    /// When the init is not usable, a package or a file in it is missing, the network or the disk fails. The store
    /// then is as it was before.
    pub fn build(&self, recipe: &Recipe, progress: &mut dyn FnMut(Progress)) -> Result<Image, ImageError> {
        let init = self.read_init()?;
        progress(Progress::Locating);
        let packages = Packages::open(self.cache.clone())?;
        let debs = packages.locate(recipe.package_files())?;
        let key = inputs_key(recipe, &debs, &init)?;
        if let Some(id) = self.store.built(&key) {
            progress(Progress::UpToDate);
            let lock = self.store.lock()?;
            self.store.name(&lock, &recipe.name, &id)?;
            return self.store.image(&id, &recipe.name);
        }
        let packages = packages.unpack(debs, progress)?;
        let lock = self.store.lock()?;
        let built = self.assemble(&lock, recipe, &packages, &init, progress).and_then(|manifest| {
            let id = self.store.publish(&lock, &recipe.name, &manifest)?;
            self.store.note_built(&lock, &key, &id)?;
            self.store.image(&id, &recipe.name)
        });
        if built.is_err() {
            // The first error is the one to tell; what cannot be removed now, the next gc removes.
            let _swept = self.store.sweep(&lock);
        }
        built
    }

    fn assemble(
        &self,
        lock: &StoreLock,
        recipe: &Recipe,
        packages: &Unpacked,
        init: &[u8],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Manifest, ImageError> {
        let base = initrd::base_tree(recipe, packages, init)?;
        let uml = self.kernel(lock, "uml", recipe.uml.as_ref(), packages, &base, progress)?;
        let x86 = self.kernel(lock, "x86", recipe.x86.as_ref(), packages, &base, progress)?;
        Ok(Manifest { schema: SCHEMA, description: recipe.description.clone(), uml, x86 })
    }

    fn kernel(
        &self,
        lock: &StoreLock,
        target: &'static str,
        recipe: Option<&KernelRecipe>,
        packages: &Unpacked,
        base: &Tree,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Option<Kernel>, ImageError> {
        let Some(recipe) = recipe else {
            return Ok(None);
        };
        progress(Progress::Assembling { target });
        let path = packages.file(&recipe.kernel)?;
        let file = fs::read(&path).map_err(|error| ImageError::io("reading", &path, error))?;
        let is_program = target == "uml";
        let kernel = if is_program { uml_program(file, &path)? } else { kernel::vmlinux(&file, &path)? };
        let (folder, package) = packages.folder(&recipe.kernel)?;
        let mut tree = base.clone();
        initrd::add_modules(&mut tree, modules::collect(folder, package, &recipe.modules)?);
        Ok(Some(Kernel {
            kernel: self.store.put(lock, &kernel, is_program)?,
            initrd: self.store.put(lock, &initrd::pack(&tree)?, false)?,
            cmdline: recipe.cmdline.clone(),
            default_mem_mib: recipe.memory.default_mib,
            min_mem_mib: recipe.memory.minimum_mib,
        }))
    }

    fn read_init(&self) -> Result<Vec<u8>, ImageError> {
        let wrong = |problem: String| ImageError::Init { path: self.init.clone(), problem };
        let bytes = fs::read(&self.init).map_err(|error| wrong(format!("cannot be read ({error})")))?;
        match elf::is_static(&bytes) {
            Ok(true) => Ok(bytes),
            Ok(false) => Err(wrong("is linked dynamically, and the guest has no dynamic linker".to_owned())),
            Err(error) => Err(wrong(format!("is not a program for x86-64 ({error})"))),
        }
    }
}

fn uml_program(file: Vec<u8>, path: &Path) -> Result<Vec<u8>, ImageError> {
    if file.starts_with(elf::MAGIC) {
        return Ok(file);
    }
    Err(ImageError::Kernel { path: path.to_path_buf(), problem: "it is not a program (ELF)".to_owned() })
}

/// SHA-256 over all that the image depends on.
fn inputs_key(recipe: &Recipe, debs: &[(String, Deb)], init: &[u8]) -> Result<String, ImageError> {
    let mut inputs = format!("{BUILDER_VERSION}\n{SCHEMA}\n{recipe:?}\n{}\n", hash_of(init));
    for (_, deb) in debs {
        inputs += &format!("{} {}\n", deb.file_name, deb.sha256);
    }
    for file in &recipe.files {
        if let FileSource::Host(path) = &file.source {
            let bytes = fs::read(path).map_err(|error| ImageError::io("reading", path, error))?;
            inputs += &format!("{} {}\n", path.display(), hash_of(&bytes));
        }
    }
    Ok(hash_of(inputs.as_bytes()))
}
