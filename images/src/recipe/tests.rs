//! Recipes are read whole or refused with place and cause.

use super::*;

const KERNEL: &str =
    "kernel = { package = \"k1\", file = \"boot/vmlinuz-*\" }\nmemory = { default-mib = 48, minimum-mib = 40 }\n";

fn problem(text: &str) -> String {
    Recipe::parse(text, "test.toml", Path::new("/r")).unwrap_err().to_string()
}

#[test]
fn every_builtin_recipe_is_right() {
    for name in Recipe::builtin() {
        assert_eq!(Recipe::load(name).unwrap().name, name);
    }
}

#[test]
fn an_unknown_recipe_names_the_builtin_ones() {
    let error = Recipe::load("nosuch").unwrap_err().to_string();
    assert!(error.contains("'nosuch'") && error.contains("tiny"), "{error}");
}

#[test]
fn a_wrong_recipe_says_where_and_what() {
    for (text, words) in [
        ("name = \"t\"\n", "[uml] or [x86]"),
        ("name = \"T x\"\n", "cannot be the name of an image"),
        ("name = \"t\"\ncolour = 1\n", "colour"),
        (&format!("name=\"t\"\n[uml]\n{}", KERNEL.replace("minimum-mib = 40", "minimum-mib = 99")), "[uml]: memory"),
        (&format!("name=\"t\"\n[uml]\nmax-cpus = 0\n{KERNEL}"), "max-cpus must be"),
        (&format!("name=\"t\"\n[uml]\nusb = true\n{KERNEL}"), "user-mode Linux has none"),
        (&format!("name=\"t\"\n[x86]\nusb = true\nacpi = false\n{KERNEL}"), "found by ACPI"),
        (&format!("name=\"t\"\n[uml]\nmodules=[\"a/b.ko\"]\n{KERNEL}"), "'a/b.ko'"),
        (&format!("name=\"t\"\n[uml]\n{KERNEL}[[file]]\npath=\"/a\"\ntext=\"\"\nlibraries=true\n"), "need 'from'"),
        (&format!("name=\"t\"\n[uml]\n{}", KERNEL.replace("boot/", "../")), "'../vmlinuz-*'"),
        (&format!("name=\"t\"\n[uml]\n{KERNEL}[[file]]\npath=\"a\"\ntext=\"\"\n"), "must start with '/'"),
        (&format!("name=\"t\"\n[uml]\n{KERNEL}[[file]]\npath=\"/a/../b\"\ntext=\"\"\n"), "must be plain"),
        (&format!("name=\"t\"\n[uml]\n{KERNEL}[[file]]\npath=\"/a\"\n"), "exactly one of"),
        (&format!("name=\"t\"\n[uml]\n{KERNEL}[[file]]\npath=\"/a\"\ntext=\"\"\nlink=\"b\"\n"), "exactly one of"),
        (&format!("name=\"t\"\n[uml]\n{KERNEL}[[file]]\npath=\"/a\"\ntext=\"\"\nmode=\"9\"\n"), "octal"),
        (
            &format!("name=\"t\"\n[uml]\n{KERNEL}[[file]]\npath=\"/a\"\ntext=\"\"\n[[file]]\npath=\"/a\"\ntext=\"\"\n"),
            "twice",
        ),
    ] {
        let problem = problem(text);
        assert!(problem.contains(words), "{text}\n{problem}");
    }
}

#[test]
fn a_host_path_is_relative_to_the_recipe() {
    let text = format!("name=\"t\"\n[uml]\n{KERNEL}[[file]]\npath=\"/a\"\nhost=\"b/c\"\nmode=\"755\"\n");
    let recipe = Recipe::parse(&text, "test.toml", Path::new("/r")).unwrap();
    assert!(matches!(&recipe.files[0].source, FileSource::Host(path) if path == Path::new("/r/b/c")));
    assert_eq!(recipe.files[0].mode, 0o755);
}

#[test]
fn a_star_stands_for_anything() {
    assert!(matches("linux-image-*-cloud-amd64", "linux-image-6.1.0-56-cloud-amd64"));
    assert!(!matches("linux-image-*-cloud-amd64", "linux-image-cloud-amd64"));
    assert!(matches("a", "a") && !matches("a", "ab") && !matches("ab*ba", "aba"));
}
