//! What the tests with real guests share: the init, the image, guests under both hypervisors, and the agent's end of
//! the control channel.

#![allow(clippy::unwrap_used, dead_code, unused_imports)] // every test file uses another part

mod guest;
mod session;

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use fleet_images::{Builder, Image, ImageStore, Progress, Recipe};

pub use guest::{Guest, Wire, boot, kinds};
pub use session::Session;

/// The static init: `FLEET_INIT`, or made once into a target folder of its own.
pub fn init_path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        if let Some(path) = std::env::var_os("FLEET_INIT") {
            return path.into();
        }
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("init");
        let status = Command::new(env!("CARGO"))
            .args(["rustc", "--quiet", "--profile", "guest", "-p", "fleet-init", "--target-dir"])
            .arg(&target)
            .args(["--", "-C", "target-feature=+crt-static", "-C", "relocation-model=static"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .unwrap();
        assert!(status.success(), "fleet-init cannot be built");
        target.join("guest/fleet-init")
    })
}

/// The cache of packages and kernels that fleet itself uses, so that tests neither download nor compile again.
pub fn package_cache() -> PathBuf {
    fleet_images::user_cache()
}

/// The image `tiny` as its recipe says, with Debian's kernels, in a store that all tests of a target folder share.
pub fn tiny() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| build("tiny", &[]))
}

/// The same with both tiny kernels. They are compiled when the cache lacks them, which takes minutes (`make kernels`).
pub fn tiny_kernels() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| build("tiny-kernels", &["tiny-uml", "tiny-x86"]))
}

fn build(name: &str, kernels: &[&str]) -> Image {
    let store = ImageStore::open(Path::new(env!("CARGO_TARGET_TMPDIR")).join("images")).unwrap();
    let mut recipe = Recipe::load("tiny").unwrap();
    recipe.name = name.to_owned();
    kernels.iter().for_each(|kernel| recipe.set_kernel(kernel).unwrap());
    let progress = &mut |step: Progress| match step {
        Progress::Compiling { .. } => {}
        step => eprintln!("{step}"),
    };
    Builder::new(&store, package_cache(), init_path()).build(&recipe, progress).unwrap()
}
