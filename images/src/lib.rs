//! Guest images: recipes, the builder and the content-addressed store.
//!
//! A [`Recipe`] names kernels, modules, files and packages. The [`Builder`] fetches Debian's packages, unpacks them
//! (nothing is installed on the host), adds the guests' init and writes the result into an [`ImageStore`], where it is
//! named by its content. What makes one guest different from another is not in the image: the init gets it over the
//! control channel when the guest runs (crate `fleet-wire`).
//!
//! Everything here is synchronous; an async caller uses a blocking task.

mod builder;
mod cpio;
mod elf;
mod erofs;
mod error;
mod fetch;
mod initrd;
mod kernel;
mod libraries;
mod modules;
mod recipe;
mod store;
mod tiny;

pub use builder::{Builder, Progress, user_cache};
pub use error::ImageError;
pub use recipe::{
    FileRecipe, FileSource, KernelRecipe, KernelSource, KernelTarget, Memory, PackageFile, Recipe, RootForm,
};
pub use store::{
    Image, ImageEntry, ImageId, ImageStore, KernelOrigin, PIECE, Parcel, ParcelFile, Removed, RootFs, UmlFiles,
    X86Files,
};
pub use tiny::Fragment;
