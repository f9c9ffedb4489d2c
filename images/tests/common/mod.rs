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

use fleet_images::{Builder, Image, ImageStore, Recipe};

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

/// The cache of packages that fleet itself uses, so that tests do not download again.
pub fn package_cache() -> PathBuf {
    let home = || Path::new(&std::env::var_os("HOME").unwrap()).join(".cache");
    std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("fleet/packages")
}

/// The image `tiny`, in a store that all tests of a target folder share.
pub fn tiny() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let store = ImageStore::open(Path::new(env!("CARGO_TARGET_TMPDIR")).join("images")).unwrap();
        let recipe = Recipe::load("tiny").unwrap();
        Builder::new(&store, package_cache(), init_path()).build(&recipe, &mut |step| eprintln!("{step}")).unwrap()
    })
}
