//! The whole way of a build, with a package of sources that is built in a moment.

use std::{
    fs,
    process::{Command, Stdio},
};

use super::*;
use crate::{Progress, fetch::Packages};

/// Takes the options but those it does not know, says what it compiles, and counts how often it was asked.
const MAKEFILE: &str = "
allnoconfig:
\tgrep ^CONFIG_ $(KCONFIG_ALLCONFIG) | grep -v UNKNOWN > $(O)/.config
linux:
\t@echo '  CC      one.o'
\t@echo '  CC      two.o'
\techo $(ARCH) $(MAKEFLAGS) >> $(O)/../../count
\t! grep CONFIG_BROKEN $(O)/.config
\tcp /bin/true $(O)/linux
";

struct Place {
    cache: tempfile::TempDir,
    packages: Packages,
    deb: Deb,
}

impl Place {
    fn new() -> Self {
        let cache = tempfile::tempdir().unwrap();
        let packages = Packages::open(cache.path().to_path_buf()).unwrap();
        let root = cache.path().join("fake");
        let run = |program: &str, args: &[&str]| {
            let status = Command::new(program).args(args).current_dir(&root).stdout(Stdio::null()).status();
            assert!(status.unwrap().success(), "{program} {args:?}");
        };
        for folder in ["linux-source-6.1", "deb/DEBIAN", "deb/usr/src"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::write(root.join("linux-source-6.1/Makefile"), MAKEFILE).unwrap();
        fs::write(root.join("linux-source-6.1/big.c"), "left out").unwrap();
        run("tar", &["-cJf", "deb/usr/src/linux-source-6.1.tar.xz", "linux-source-6.1"]);
        let control = "Package: linux-source-6.1\nVersion: 1\nArchitecture: all\nMaintainer: x\nDescription: x\n";
        fs::write(root.join("deb/DEBIAN/control"), control).unwrap();
        let file_name = "linux-source-6.1_1_all.deb".to_owned();
        run("dpkg-deb", &["--build", "deb", &format!("../debs/{file_name}")]);
        let bytes = fs::read(cache.path().join("debs").join(&file_name)).unwrap();
        let sha256 = hash_of(&bytes);
        fs::remove_dir_all(&root).unwrap();
        let deb = Deb { package: "linux-source-6.1".to_owned(), file_name, bytes: bytes.len() as u64, sha256 };
        Self { cache, packages, deb }
    }

    fn order(&self, fragment: &str) -> Order {
        let fragment = Fragment { origin: "my.config".to_owned(), text: fragment.to_owned() };
        let mut order = TinyKernel::find("tiny-uml").unwrap().order(vec![fragment], self.deb.clone()).unwrap();
        order.kernel.source.disk_mib = 1;
        order
    }

    fn build(&self, order: &Order) -> (Result<PathBuf, ImageError>, Vec<Progress>) {
        let mut steps = Vec::new();
        let result = build(self.cache.path(), &self.packages, order, &mut |step| steps.push(step));
        (result, steps)
    }

    fn builds(&self) -> usize {
        fs::read_to_string(self.cache.path().join("kernels/count")).unwrap_or_default().lines().count()
    }

    fn leftover(&self) -> bool {
        self.cache.path().join("kernels/build").exists()
    }
}

#[test]
fn a_kernel_is_built_once_and_its_sources_go() {
    let place = Place::new();
    let order = place.order("CONFIG_IPV6=y");
    let (kernel, steps) = place.build(&order);
    let kernel = kernel.unwrap();
    assert!(fs::read(&kernel).unwrap().starts_with(b"\x7fELF"));
    assert!(steps.contains(&Progress::UnpackingSources { kernel: "tiny-uml".to_owned() }), "{steps:?}");
    assert!(steps.iter().any(|step| matches!(step, Progress::Compiling { .. })), "{steps:?}");
    assert!(!place.leftover());
    let config = fs::read_to_string(kernel.with_file_name("config")).unwrap();
    assert!(config.contains("CONFIG_IPV6=y\n") && config.contains("CONFIG_INET=y\n"), "{config}");
    let (again, steps) = place.build(&order);
    assert_eq!((again.unwrap(), steps, place.builds()), (kernel, vec![], 1));
    assert_ne!(place.build(&place.order("CONFIG_TUN=y")).0.unwrap(), place.build(&order).0.unwrap());
}

#[test]
fn damage_in_the_cache_is_noticed_and_built_again() {
    let place = Place::new();
    let order = place.order("");
    let kernel = place.build(&order).0.unwrap();
    let whole = fs::read(&kernel).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for damaged in [&flipped[..], &whole[..100], b""] {
        fs::write(&kernel, damaged).unwrap();
        assert_eq!(place.build(&order).0.unwrap(), kernel);
        assert!(fs::read(&kernel).unwrap() == whole);
    }
    assert_eq!(place.builds(), 4);
}

#[test]
fn what_a_killed_build_left_does_no_harm() {
    let place = Place::new();
    let build = place.cache.path().join("kernels/build");
    fs::create_dir_all(build.join("source/half")).unwrap();
    fs::create_dir_all(build.join("entry")).unwrap();
    fs::write(build.join("objects"), "not even a folder").unwrap();
    fs::create_dir_all(place.cache.path().join("tmp-killed")).unwrap();
    place.build(&place.order("")).0.unwrap();
    assert!(!place.leftover() && !place.cache.path().join("tmp-killed").exists());
}

#[test]
fn builds_at_once_build_once() {
    let place = Place::new();
    let order = place.order("");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| place.build(&order).0.unwrap());
        }
    });
    assert_eq!(place.builds(), 1);
}

#[test]
fn an_option_that_is_not_taken_is_named() {
    let place = Place::new();
    let error = place.build(&place.order("CONFIG_UNKNOWN=y")).0.unwrap_err().to_string();
    assert!(error.contains("CONFIG_UNKNOWN=y") && error.contains("depend on"), "{error}");
    assert!(!place.leftover() && place.builds() == 0);
}

#[test]
fn a_compiler_that_fails_shows_the_end_of_its_log() {
    let place = Place::new();
    let error = place.build(&place.order("CONFIG_BROKEN=y")).0.unwrap_err().to_string();
    assert!(error.contains("compiling failed") && error.contains("tiny-uml.log"), "{error}");
    assert!(error.contains("CC      two.o") && error.contains("Error 1"), "{error}");
    assert!(!place.leftover());
    place.build(&place.order("")).0.unwrap();
}

#[test]
fn a_build_without_room_is_refused_with_the_sums() {
    let place = Place::new();
    let mut order = place.order("");
    order.kernel.source.disk_mib = 1 << 40;
    let error = place.build(&order).0.unwrap_err();
    assert!(matches!(error, ImageError::NoRoom { needed_mib, .. } if needed_mib == 1 << 40), "{error}");
    assert!(error.to_string().contains("1099511627776 MiB"), "{error}");
}

#[test]
fn missing_tools_are_named_with_their_packages() {
    let tools = [Tool::program("no-such-flex", "flex"), Tool::program("no-such-bison", "bison")];
    let error = check_tools(&tools).unwrap_err().to_string();
    assert!(
        error.contains("no-such-flex, no-such-bison") && error.ends_with("`apt-get install flex bison`"),
        "{error}"
    );
}

#[test]
fn every_kernel_is_described_and_its_options_are_understood() {
    for name in TinyKernel::names() {
        let kernel = TinyKernel::find(name).unwrap();
        assert_eq!(kernel.name, name);
        options::merge(&[&Fragment { origin: name.to_owned(), text: kernel.options.to_owned() }]).unwrap();
        assert!(kernel.image.memory.default_mib >= kernel.image.memory.minimum_mib);
    }
}

#[test]
fn an_unknown_kernel_is_answered_with_those_that_are_known() {
    let error = TinyKernel::find("tiny-arm").unwrap_err().to_string();
    assert!(error.contains("'tiny-arm'") && error.contains("tiny-uml, tiny-x86"), "{error}");
}

#[test]
fn another_option_is_another_kernel() {
    let deb = Deb { package: "p".into(), file_name: "p_1_all.deb".into(), bytes: 1, sha256: "00".into() };
    let key = |text: &str| {
        let fragment = Fragment { origin: "f".to_owned(), text: text.to_owned() };
        TinyKernel::find("tiny-uml").unwrap().order(vec![fragment], deb.clone()).unwrap().key
    };
    assert_eq!(key("CONFIG_IPV6=y"), key("CONFIG_IPV6=y"));
    assert_ne!(key("CONFIG_IPV6=y"), key("CONFIG_TUN=y"));
}
