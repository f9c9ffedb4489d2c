//! The builder: recipe in, image out.
//!
//! A build is named by its inputs: the recipe's text as it was understood, the packages' hashes, the init's, the files
//! of the host. When the store still has what these inputs gave, nothing is done, not even a download.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use crate::{
    FileSource, Image, ImageError, ImageStore, KernelOrigin, KernelRecipe, KernelSource, KernelTarget, Recipe,
    RootForm,
    cpio::Tree,
    elf, erofs,
    fetch::{Deb, Packages, Unpacked},
    initrd, kernel,
    libraries::Libraries,
    modules,
    store::{Kernel, Manifest, SCHEMAS, StoreLock, hash_of},
    tiny::{self, Order, TinyKernel},
};

/// Grows when equal inputs give another image than before.
const BUILDER_VERSION: u32 = 4;

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
    /// Another build of a kernel is under way; this one comes after it.
    WaitingForBuild {
        /// The kernel.
        kernel: String,
    },
    /// A kernel's sources are unpacked.
    UnpackingSources {
        /// The kernel.
        kernel: String,
    },
    /// A kernel's options are set.
    Configuring {
        /// The kernel.
        kernel: String,
    },
    /// A kernel is compiled; told again and again.
    Compiling {
        /// The kernel.
        kernel: String,
        /// Files compiled.
        objects: u32,
        /// About how many there are.
        of_about: u32,
        /// Since it began.
        seconds: u64,
    },
    /// Kernel and root file system for one hypervisor are put together.
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
            Self::WaitingForBuild { kernel } => write!(f, "kernel {kernel}: waiting for another build to end"),
            Self::UnpackingSources { kernel } => write!(f, "kernel {kernel}: unpacking the sources"),
            Self::Configuring { kernel } => write!(f, "kernel {kernel}: setting its options"),
            Self::Compiling { kernel, objects, of_about, seconds } => {
                write!(f, "kernel {kernel}: compiling, {objects} of about {of_about} files, {seconds} s")
            }
            Self::Assembling { target } => write!(f, "putting kernel and root file system for {target} together"),
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
        if recipe.kernels().any(|kernel| kernel.root == RootForm::Erofs) {
            tiny::check_tools(&[erofs::tool()])?;
        }
        progress(Progress::Locating);
        let packages = Packages::open(self.cache.clone())?;
        let debs = packages.locate(recipe.package_files())?;
        let uml = order(&packages, recipe.uml.as_ref())?;
        let x86 = order(&packages, recipe.x86.as_ref())?;
        let libraries = Libraries::locate(&packages, recipe, &debs)?;
        let key = inputs_key(recipe, debs.iter().map(|(_, deb)| deb).chain(libraries.debs()), [&uml, &x86], &init)?;
        if let Some(id) = self.store.built(&key) {
            progress(Progress::UpToDate);
            let lock = self.store.lock()?;
            self.store.name(&lock, &recipe.name, &id)?;
            return self.store.image(&id, &recipe.name);
        }
        // Before anything is locked: it takes minutes.
        let mut built =
            |order: Option<Order>| order.map(|order| tiny::build(&self.cache, &packages, &order, progress)).transpose();
        let (uml, x86) = (built(uml)?, built(x86)?);
        let unpacked = packages.unpack(debs, progress)?;
        let linked = libraries.collect(recipe, &unpacked, progress)?;
        let lock = self.store.lock()?;
        let base = initrd::base_tree(recipe, &unpacked, linked, &init)?;
        let parts = Parts { lock: &lock, packages: &unpacked, base };
        let built = self.assemble(&parts, recipe, [uml, x86], progress).and_then(|manifest| {
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
        parts: &Parts<'_>,
        recipe: &Recipe,
        [uml, x86]: [Option<PathBuf>; 2],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Manifest, ImageError> {
        let mut kernel = |target: KernelTarget, recipe: Option<&KernelRecipe>, tiny: Option<PathBuf>| {
            let Some(recipe) = recipe else { return Ok(None) };
            progress(Progress::Assembling { target: target.as_str() });
            self.kernel(parts, target, recipe, tiny.as_deref()).map(Some)
        };
        let uml = kernel(KernelTarget::Uml, recipe.uml.as_ref(), uml)?;
        let x86 = kernel(KernelTarget::X86, recipe.x86.as_ref(), x86)?;
        Ok(Manifest::new(recipe.description.clone(), uml, x86))
    }

    /// One hypervisor's part of the image. `tiny` is the kernel where it was built here.
    fn kernel(
        &self,
        parts: &Parts<'_>,
        target: KernelTarget,
        recipe: &KernelRecipe,
        tiny: Option<&Path>,
    ) -> Result<Kernel, ImageError> {
        let mut tree = parts.base.clone();
        let (path, name) = match (&recipe.kernel, tiny) {
            (KernelSource::Package(file), _) => {
                let (folder, deb) = parts.packages.folder(file)?;
                initrd::add_modules(&mut tree, modules::collect(folder, &deb.package, &recipe.modules)?);
                (parts.packages.file(file)?, format!("{} {}", deb.package, deb.version()))
            }
            (KernelSource::Tiny { name, .. }, Some(path)) => (path.to_path_buf(), name.clone()),
            (KernelSource::Tiny { name, .. }, None) => {
                let problem = "it was ordered and not built".to_owned();
                return Err(ImageError::Recipe { recipe: format!("kernel {name}"), problem });
            }
        };
        let file = fs::read(&path).map_err(|error| ImageError::io("reading", &path, error))?;
        let kernel = match target {
            KernelTarget::Uml => kernel::uml_program(file, &path)?,
            KernelTarget::X86 => kernel::vmlinux(&file, &path)?,
        };
        let root = match recipe.root {
            RootForm::Initrd => initrd::pack(&tree)?,
            RootForm::Erofs => erofs::pack(&tree, parts.packages.temp_folder()?.path())?,
        };
        let version = kernel::version(&kernel).unwrap_or_default();
        Ok(Kernel {
            origin: KernelOrigin { name, tiny: tiny.is_some(), version },
            kernel: self.store.put(parts.lock, &kernel, target == KernelTarget::Uml)?,
            root_form: recipe.root,
            root: self.store.put(parts.lock, &root, false)?,
            cmdline: recipe.cmdline.clone(),
            acpi: recipe.acpi,
            usb: recipe.usb,
            default_mem_mib: recipe.memory.default_mib,
            min_mem_mib: recipe.memory.minimum_mib,
            max_cpus: match (recipe.max_cpus, tiny) {
                (None, Some(path)) => Some(tiny::processors(path)?),
                (said, _) => said,
            },
        })
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

/// The folder for downloads and intermediate results of this user, which every program that builds images shares:
/// `$XDG_CACHE_HOME/fleet` or `~/.cache/fleet`.
pub fn user_cache() -> PathBuf {
    dirs::cache_dir().unwrap_or_else(|| PathBuf::from("/var/cache")).join("fleet")
}

/// What the parts of an image are put together from.
struct Parts<'a> {
    lock: &'a StoreLock,
    packages: &'a Unpacked,
    base: Tree,
}

/// What is to be built for a kernel of this recipe, if anything.
fn order(packages: &Packages, recipe: Option<&KernelRecipe>) -> Result<Option<Order>, ImageError> {
    let Some(KernelRecipe { kernel: KernelSource::Tiny { name, fragments }, .. }) = recipe else {
        return Ok(None);
    };
    let kernel = TinyKernel::find(name)?;
    let source = kernel.source_file();
    let lacks = || ImageError::PackageLacksFile { package: source.package.clone(), file: source.file.clone() };
    let (_, deb) = packages.locate(std::iter::once(&source))?.pop().ok_or_else(lacks)?;
    kernel.order(fragments.clone(), deb).map(Some)
}

/// SHA-256 over all that the image depends on.
fn inputs_key<'a>(
    recipe: &Recipe,
    debs: impl Iterator<Item = &'a Deb>,
    orders: [&Option<Order>; 2],
    init: &[u8],
) -> Result<String, ImageError> {
    let mut inputs = format!("{BUILDER_VERSION}\n{}\n{recipe:?}\n{}\n", SCHEMAS.end(), hash_of(init));
    for deb in debs {
        inputs += &format!("{} {}\n", deb.file_name, deb.sha256);
    }
    for order in orders.into_iter().flatten() {
        inputs += &format!("{} {}\n", order.kernel.name, order.key);
    }
    for file in &recipe.files {
        if let FileSource::Host(path) = &file.source {
            let bytes = fs::read(path).map_err(|error| ImageError::io("reading", path, error))?;
            inputs += &format!("{} {}\n", path.display(), hash_of(&bytes));
        }
    }
    Ok(hash_of(inputs.as_bytes()))
}
