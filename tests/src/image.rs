//! Guest images made for a test: one whose guests cannot come up.

use crate::Fleet;

/// Exit code of the broken init: the kernel names it in its panic.
pub const BROKEN_INIT_CODE: u8 = 42;

/// A recipe like that of `tiny`, for UML only, without a busybox.
const RECIPE: &str = r#"
name = "broken"
description = "an init that ends at once"

[uml]
kernel = { package = "user-mode-linux", file = "usr/bin/linux.uml" }
cmdline = "root=/dev/ram0 rdinit=/init quiet"
memory = { default-mib = 48, minimum-mib = 40 }

[[file]]
path = "/etc"
directory = true
"#;

/// Lines for the configuration of a fleet that gets images of its own.
pub fn own_store(folder: &std::path::Path) -> String {
    format!("image_store = {folder:?}")
}

/// Builds the image `broken`: its init calls exit(42), and the end of process 1 is a kernel panic.
///
/// # Panics
/// When it cannot be built.
pub fn build_broken(fleet: &Fleet) {
    let init = fleet.root().join("init");
    std::fs::write(&init, exiting_program(BROKEN_INIT_CODE)).unwrap();
    let recipe = fleet.write("broken.toml", RECIPE);
    drop(fleet.ok(&["image", "build", &recipe, "--init", init.to_str().unwrap()]));
}

/// The smallest static program that ends with a code: an ELF header, one loadable segment (elf(5)), and
/// `mov edi, CODE; mov eax, 60; syscall`, which is exit(2) on x86-64.
fn exiting_program(code: u8) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let text = [0xbf, code, 0, 0, 0, 0xb8, 60, 0, 0, 0, 0x0f, 0x05];
    let size = HEADERS + text.len() as u64;
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let half = |elf: &mut Vec<u8>, value: u16| elf.extend(value.to_le_bytes());
    let word = |elf: &mut Vec<u8>, value: u32| elf.extend(value.to_le_bytes());
    let long = |elf: &mut Vec<u8>, value: u64| elf.extend(value.to_le_bytes());
    half(&mut elf, 2); // ET_EXEC
    half(&mut elf, 62); // EM_X86_64
    word(&mut elf, 1); // EV_CURRENT
    long(&mut elf, BASE + HEADERS); // entry
    long(&mut elf, 64); // program headers
    long(&mut elf, 0); // no section headers
    word(&mut elf, 0); // flags
    for value in [64, 56, 1, 0, 0, 0] {
        half(&mut elf, value); // sizes and counts
    }
    word(&mut elf, 1); // PT_LOAD
    word(&mut elf, 5); // readable and executable
    for value in [0, BASE, BASE, size, size, 0x1000] {
        long(&mut elf, value); // offset, addresses, sizes, alignment
    }
    elf.extend(text);
    elf
}
