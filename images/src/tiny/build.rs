//! Builds a tiny kernel: sources out of the package, configuration, compilation, and into the cache.

use std::{
    fs::{self, File},
    os::fd::AsFd,
    path::{Path, PathBuf},
    thread,
};

use nix::fcntl::{Flock, FlockArg};

use crate::{
    ImageError, KernelTarget, Progress,
    fetch::{Packages, has_deb},
    kernel,
    store::lock_file,
};

use super::{
    Fragment, Order, cache, folder,
    make::{Counter, Runner},
    options,
};

const MIB: u64 = 1 << 20;

/// Gives the kernel of an order: from the cache, or built now. Only one build runs at a time, with all processors.
///
/// # Errors
/// When there is no room, a download fails, an option is not taken or the compiler gives up; with the end of its log.
pub(crate) fn build(
    cache_folder: &Path,
    packages: &Packages,
    order: &Order,
    progress: &mut dyn FnMut(Progress),
) -> Result<PathBuf, ImageError> {
    let folder = folder(cache_folder);
    fs::create_dir_all(&folder).map_err(|error| ImageError::io("creating", &folder, error))?;
    let entry = cache::entry(&folder, order);
    if let Some(kernel) = cache::lookup(&entry) {
        return Ok(kernel);
    }
    let name = &order.kernel.name;
    let lock = take_lock(&folder.join("lock"), name, progress)?;
    if let Some(kernel) = cache::lookup(&entry) {
        return Ok(kernel); // whoever had the lock has built it
    }
    let scratch = Scratch::new(folder.join("build"))?;
    check_room(cache_folder, &folder, order)?;
    let deb = packages.fetch(&order.deb, progress)?;
    let runner = Runner { kernel: name, log: folder.join(format!("{name}.log")), lock: lock.as_fd() };
    runner.begin()?;
    let build = Build { order, runner, scratch: &scratch.0 };
    progress(Progress::UnpackingSources { kernel: name.clone() });
    build.unpack(&deb)?;
    progress(Progress::Configuring { kernel: name.clone() });
    let config = build.configure()?;
    build.compile(progress)?;
    let kernel = build.product()?;
    let kept = cache::keep(&scratch.0.join("entry"), &entry, &kernel, &config)?;
    scratch.remove()?;
    Ok(kept)
}

struct Build<'a> {
    order: &'a Order,
    runner: Runner<'a>,
    scratch: &'a Path,
}

impl Build<'_> {
    fn unpack(&self, deb: &Path) -> Result<(), ImageError> {
        let source = &self.order.kernel.source;
        let archive = format!("./{}", source.file);
        let mut package = self.runner.command("dpkg-deb", self.scratch)?;
        package.arg("--fsys-tarfile").arg(deb);
        let mut outer = self.runner.command("tar", self.scratch)?;
        outer.args(["-x", "-O", "-f", "-"]).arg(archive);
        let mut inner = self.runner.command("tar", self.scratch)?;
        inner.args(["-x", "-J", "-f", "-", "--strip-components=1", "--no-same-owner", "-C"]).arg(self.source());
        inner.args(source.leave_out.iter().map(|pattern| format!("--exclude={pattern}")));
        self.runner.pipe("unpacking the sources", vec![package, outer, inner])
    }

    /// Makes the configuration; gives it.
    fn configure(&self) -> Result<String, ImageError> {
        let name = &self.order.kernel.name;
        let own = Fragment { origin: name.clone(), text: self.order.kernel.options.to_owned() };
        let options = options::merge(&std::iter::once(&own).chain(&self.order.fragments).collect::<Vec<_>>())?;
        let file = self.scratch.join("options");
        fs::write(&file, options::text(&options)).map_err(|error| ImageError::io("writing", &file, error))?;
        let mut make = self.make(&self.order.kernel.make.base)?;
        make.env("KCONFIG_ALLCONFIG", &file);
        self.runner.run("configuring", make, &mut |_| {})?;
        let path = self.objects().join(".config");
        let config = fs::read_to_string(&path).map_err(|error| ImageError::io("reading", &path, error))?;
        let missing = options::not_taken(&options, &config);
        if missing.is_empty() {
            return Ok(config);
        }
        Err(ImageError::KernelOptions { kernel: name.clone(), options: missing })
    }

    fn compile(&self, progress: &mut dyn FnMut(Progress)) -> Result<(), ImageError> {
        let make = &self.order.kernel.make;
        let mut counter = Counter::new();
        self.runner.run("compiling", self.make(&make.goal)?, &mut |line| {
            if let Some(elapsed) = counter.line(line) {
                progress(Progress::Compiling {
                    kernel: self.order.kernel.name.clone(),
                    objects: counter.objects,
                    of_about: make.objects.max(counter.objects),
                    seconds: elapsed.as_secs(),
                });
            }
        })
    }

    /// The kernel without symbols, checked.
    fn product(&self) -> Result<Vec<u8>, ImageError> {
        let product = self.objects().join(&self.order.kernel.make.product);
        let stripped = self.scratch.join("kernel");
        let mut strip = self.runner.command("strip", self.scratch)?;
        strip.arg("-o").arg(&stripped).arg(&product);
        self.runner.run("stripping", strip, &mut |_| {})?;
        let bytes = fs::read(&stripped).map_err(|error| ImageError::io("reading", &stripped, error))?;
        match self.order.kernel.target {
            KernelTarget::Uml => kernel::uml_program(bytes, &product),
            KernelTarget::X86 => kernel::vmlinux(&bytes, &product),
        }
    }

    fn make(&self, goal: &str) -> Result<std::process::Command, ImageError> {
        let mut make = self.runner.command("make", self.scratch)?;
        make.arg("-C").arg(self.source()).arg(format!("O={}", self.objects().display()));
        make.arg(format!("ARCH={}", self.order.kernel.make.arch));
        make.arg(format!("-j{}", thread::available_parallelism().map_or(1, usize::from))).arg(goal);
        // Equal inputs give equal bytes.
        make.env("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 1970").env("KBUILD_BUILD_VERSION", "1");
        make.env("KBUILD_BUILD_USER", "fleet").env("KBUILD_BUILD_HOST", "fleet");
        Ok(make)
    }

    fn source(&self) -> PathBuf {
        self.scratch.join("source")
    }

    fn objects(&self) -> PathBuf {
        self.scratch.join("objects")
    }
}

/// A build's own folder, removed with all that is in it.
struct Scratch(PathBuf);

impl Scratch {
    /// Makes it anew; the lock proves that nobody uses the one that a killed build has left.
    fn new(path: PathBuf) -> Result<Self, ImageError> {
        remove(&path)?;
        for part in ["source", "objects"] {
            let part = path.join(part);
            fs::create_dir_all(&part).map_err(|error| ImageError::io("creating", part, error))?;
        }
        Ok(Self(path))
    }

    fn remove(self) -> Result<(), ImageError> {
        remove(&self.0)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _next_build_removes_it = remove(&self.0);
    }
}

fn remove(path: &Path) -> Result<(), ImageError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(ImageError::io("removing", path, error)),
        _ => Ok(()),
    }
}

/// Takes the lock of all builds; says so when somebody else has it.
fn take_lock(path: &Path, kernel: &str, progress: &mut dyn FnMut(Progress)) -> Result<Flock<File>, ImageError> {
    let file = File::options().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(|error| ImageError::io("opening", path, error))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err(_) => {
            progress(Progress::WaitingForBuild { kernel: kernel.to_owned() });
            lock_file(path)
        }
    }
}

/// Refuses a build for which there is no room, before anything is downloaded.
fn check_room(cache: &Path, folder: &Path, order: &Order) -> Result<(), ImageError> {
    let stat = nix::sys::statvfs::statvfs(folder)
        .map_err(|errno| ImageError::io("examining the file system of", folder, errno.into()))?;
    let free = stat.blocks_available().saturating_mul(stat.fragment_size());
    let download = if has_deb(cache, &order.deb) { 0 } else { order.deb.bytes };
    let needed = order.kernel.source.disk_mib * MIB + download;
    if free >= needed {
        return Ok(());
    }
    Err(ImageError::NoRoom {
        kernel: order.kernel.name.clone(),
        path: folder.to_path_buf(),
        needed_mib: needed.div_ceil(MIB),
        free_mib: free / MIB,
    })
}
