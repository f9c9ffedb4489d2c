//! The store and the builder: by content, whole or not at all, with errors that say what to do.

#![allow(clippy::unwrap_used)]

mod common;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use common::{init_path, package_cache};
use fleet_images::{Builder, Image, ImageError, ImageStore, Progress, Recipe, RootFs};

/// A recipe that is built in a moment: no kernel of 50 MB, but a small static program in its place.
fn small(name: &str, text: &str) -> Recipe {
    let recipe = format!(
        "name = \"{name}\"\n[uml]\nkernel = {{ package = \"busybox-static\", file = \"bin/busybox\" }}\n\
         memory = {{ default-mib = 48, minimum-mib = 40 }}\n[[file]]\npath = \"/etc/motd\"\ntext = \"{text}\"\n"
    );
    Recipe::parse(&recipe, "test.toml", Path::new("/")).unwrap()
}

fn build(store: &ImageStore, recipe: &Recipe) -> Result<Image, ImageError> {
    Builder::new(store, package_cache(), init_path()).build(recipe, &mut |_| {})
}

fn steps(store: &ImageStore, recipe: &Recipe) -> (Image, Vec<Progress>) {
    let mut steps = Vec::new();
    let builder = Builder::new(store, package_cache(), init_path());
    let image = builder.build(recipe, &mut |step| steps.push(step)).unwrap();
    (image, steps)
}

/// Every file of the store, sorted.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

#[test]
fn equal_inputs_give_the_same_image_and_no_work() {
    let folder = tempfile::tempdir().unwrap();
    let store = ImageStore::open(folder.path().join("one")).unwrap();
    let (first, _) = steps(&store, &small("small", "hello"));
    let (second, work) = steps(&store, &small("small", "hello"));
    assert_eq!(first.id, second.id);
    assert_eq!(work, [Progress::Locating, Progress::UpToDate]);
    // Nor does the id depend on the store, the time, or the image's name.
    let other = ImageStore::open(folder.path().join("other")).unwrap();
    assert_eq!(build(&other, &small("another-name", "hello")).unwrap().id, first.id);
    assert_ne!(build(&store, &small("small", "goodbye")).unwrap().id, first.id);
}

#[test]
fn an_image_is_found_by_name_id_and_prefix() {
    let folder = tempfile::tempdir().unwrap();
    let store = ImageStore::open(folder.path()).unwrap();
    let image = build(&store, &small("small", "x")).unwrap();
    for word in ["small", image.id.as_str(), &image.id.as_str()[..4], image.id.short()] {
        assert_eq!(store.resolve(word).unwrap().id, image.id, "{word}");
    }
    let files = store.resolve("small").unwrap().uml.unwrap();
    assert_eq!(fs::metadata(&files.kernel).unwrap().permissions().mode() & 0o777, 0o755);
    assert_eq!((files.default_mem_mib, files.min_mem_mib), (48, 40));

    let error = store.resolve("smal").unwrap_err().to_string();
    assert!(error.contains("there is small") && error.contains("fleet image build smal"), "{error}");
    for word in ["", "..", "../images/small", "a/b", "0000", "SMALL", &"a".repeat(5000)] {
        assert!(matches!(store.resolve(word), Err(ImageError::UnknownImage { .. })), "{word}");
    }
}

#[test]
fn a_damaged_file_is_found_out_and_named_and_built_again() {
    let folder = tempfile::tempdir().unwrap();
    let image = build(&ImageStore::open(folder.path()).unwrap(), &small("small", "x")).unwrap();
    let RootFs::Initrd(initrd) = &image.uml.unwrap().root else { panic!() };
    let whole = fs::read(initrd).unwrap();
    let mut flipped = whole.clone();
    flipped[100] ^= 1;
    for damaged in [&flipped[..], &whole[..whole.len() - 1], &[]] {
        fs::write(initrd, damaged).unwrap();
        let store = ImageStore::open(folder.path()).unwrap();
        let error = store.resolve("small").unwrap_err();
        assert!(matches!(&error, ImageError::Damaged { path, .. } if path == initrd), "{error}");
        assert!(store.list().unwrap()[0].image.is_err(), "a damaged image is listed with its problem");
    }
    fs::remove_file(initrd).unwrap();
    let store = ImageStore::open(folder.path()).unwrap();
    assert!(store.resolve("small").unwrap_err().to_string().contains("is missing"));
    build(&store, &small("small", "x")).unwrap();
    assert_eq!(fs::read(initrd).unwrap(), whole);
}

#[test]
fn what_a_killed_builder_left_does_no_harm_and_goes() {
    let folder = tempfile::tempdir().unwrap();
    let store = ImageStore::open(folder.path()).unwrap();
    let image = build(&store, &small("small", "x")).unwrap();
    let whole = files(folder.path());
    // Killed while it wrote a file; after some files, before the manifest; after the manifest, before the name.
    fs::write(folder.path().join("tmp/.tmpAbCdEf"), "half").unwrap();
    fs::write(folder.path().join("blobs/sha256").join("ab".repeat(32)), "nobody's").unwrap();
    fs::write(folder.path().join("builds").join("cd".repeat(32)), "ef".repeat(32)).unwrap();
    assert_eq!(store.list().unwrap().len(), 1);
    assert_eq!(store.gc().unwrap(), "nobody's".len() as u64);
    assert_eq!(files(folder.path()), whole);
    assert_eq!(store.resolve("small").unwrap().id, image.id);
}

#[test]
fn removal_keeps_what_others_use() {
    let folder = tempfile::tempdir().unwrap();
    let store = ImageStore::open(folder.path()).unwrap();
    build(&store, &small("one", "x")).unwrap();
    let two = build(&store, &small("two", "y")).unwrap();
    let removed = store.remove("one").unwrap();
    assert!(removed.names == ["one"] && removed.freed_bytes > 0);
    assert_eq!(store.resolve("two").unwrap().id, two.id);
    assert!(matches!(store.remove("one"), Err(ImageError::UnknownImage { .. })));
    store.remove(two.id.short()).unwrap();
    let left: Vec<PathBuf> = files(folder.path());
    assert_eq!(left, [folder.path().join("lock")]);
}

#[test]
fn builders_at_once_do_not_disturb_one_another() {
    let folder = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for n in 0..4 {
            let path = folder.path();
            scope.spawn(move || {
                let store = ImageStore::open(path).unwrap();
                build(&store, &small(&format!("image-{}", n % 2), "x")).unwrap();
                store.gc().unwrap();
            });
        }
    });
    let store = ImageStore::open(folder.path()).unwrap();
    let entries = store.list().unwrap();
    assert_eq!(entries.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), ["image-0", "image-1"]);
    assert!(entries.iter().all(|entry| entry.image.is_ok()));
}

#[test]
fn a_full_disk_is_named_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let _mount = Tmpfs::mount(folder.path(), "1500k");
    let store = ImageStore::open(folder.path()).unwrap();
    let error = build(&store, &small("small", "x")).unwrap_err();
    assert!(matches!(error, ImageError::Full { .. }), "{error}");
    assert!(error.to_string().contains("free some space"), "{error}");
    assert_eq!(files(folder.path()), [folder.path().join("lock")]);
}

#[test]
fn an_init_that_needs_a_dynamic_linker_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = ImageStore::open(folder.path()).unwrap();
    let dynamic = std::env::current_exe().unwrap(); // this test itself
    for (path, words) in [
        (dynamic.as_path(), "linked dynamically"),
        (Path::new("/no/such/init"), "cannot be read"),
        (Path::new("/etc/passwd"), "not a program"),
    ] {
        let error = Builder::new(&store, package_cache(), path).build(&small("s", "x"), &mut |_| {}).unwrap_err();
        assert!(matches!(error, ImageError::Init { .. }), "{error}");
        assert!(error.to_string().contains(words) && error.to_string().contains("make build"), "{error}");
    }
}

#[test]
fn what_a_package_lacks_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let store = ImageStore::open(folder.path()).unwrap();
    let build_text = |kernel: &str, more: &str| {
        let text = format!(
            "name = \"t\"\n[uml]\nkernel = {kernel}\n{more}\nmemory = {{ default-mib = 48, minimum-mib = 40 }}\n"
        );
        build(&store, &Recipe::parse(&text, "t.toml", Path::new("/")).unwrap()).unwrap_err()
    };
    let error = build_text("{ package = \"busybox-static\", file = \"bin/no-such-*\" }", "");
    assert!(matches!(&error, ImageError::PackageLacksFile { file, .. } if file == "bin/no-such-*"), "{error}");
    let error = build_text("{ package = \"busybox-static\", file = \"bin/busybox\" }", "modules = [\"virtio-net\"]");
    assert!(matches!(&error, ImageError::NoSuchModule { module, .. } if module == "virtio_net"), "{error}");
    let error = build_text("{ package = \"no-such-package\", file = \"bin/x\" }", "");
    assert!(matches!(error, ImageError::UnknownPackage { .. }), "{error}");
    let error = build_text("{ package = \"busybox-static\", dependency = \"libc*\", file = \"bin/x\" }", "");
    assert!(matches!(error, ImageError::NoSuchDependency { .. }), "{error}");
    assert_eq!(files(folder.path()), Vec::<PathBuf>::from([folder.path().join("lock")]));
}

/// A small tmpfs for the time of a test.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: &Path, size: &str) -> Self {
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(at).status();
        assert!(status.unwrap().success());
        Self(at.to_path_buf())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _unmounted = Command::new("umount").arg(&self.0).status();
    }
}
