//! The image `camera` in a store of the tests' own.

use std::path::{Path, PathBuf};

use fleet_images::{Builder, Image, ImageStore, Recipe, user_cache};

/// The guests' init: `FLEET_INIT`, else where `make init` puts it.
///
/// # Panics
/// When it is not there.
pub fn init() -> PathBuf {
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/x86_64-unknown-linux-gnu/guest/fleet-init");
    let path = std::env::var_os("FLEET_INIT").map_or(made, PathBuf::from);
    assert!(path.is_file(), "{} is not there: `make init` builds it, or set FLEET_INIT", path.display());
    path
}

/// The image in this store, built if it is not there; packages come from the user's cache, or by apt (some 90 MB, once).
///
/// # Panics
/// When it cannot be built.
pub fn image(store: &Path) -> Image {
    let store = ImageStore::open(store).unwrap();
    let recipe = Recipe::load("camera").unwrap();
    let builder = Builder::new(&store, user_cache(), init());
    builder.build(&recipe, &mut |step| eprintln!("image camera: {step}")).unwrap_or_else(|error| panic!("{error}"))
}
