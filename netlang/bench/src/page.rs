//! `docs/benchmarks.md`: a page whose sections are written by different programs, none of which touches the others'.

use std::path::Path;

use anyhow::{Context, Result};

const HEAD: &str =
    "# Benchmarks\n\nWritten by `make bench`; figures of one machine at one time, with the floor beside them.\n";

/// Puts a section (from its `## ` line on) into the page, in the place of the one with the same title's first words,
/// or at the end. `title` is what the section's line starts with.
pub fn replace_section(page: &str, title: &str, section: &str) -> String {
    let start = |page: &str| page.find(&format!("\n## {title}")).map(|at| at + 1);
    let (before, after) = match start(page) {
        Some(at) => {
            let rest = &page[at..];
            let end = rest.find("\n## ").map_or(rest.len(), |n| n + 1);
            (&page[..at], &rest[end..])
        }
        None if page.trim().is_empty() => (HEAD, ""),
        None => (page, ""),
    };
    let mut out = format!("{}\n\n{}\n", before.trim_end(), section.trim_end());
    if !after.is_empty() {
        out.push('\n');
        out.push_str(after);
    }
    out
}

/// Writes a section into a file, which is made if it is not there.
pub fn write_section(path: &Path, title: &str, section: &str) -> Result<()> {
    let page = std::fs::read_to_string(path).unwrap_or_default();
    let page = replace_section(&page, title, section);
    std::fs::write(path, page).with_context(|| format!("cannot write {}", path.display()))
}

/// Cores, processor, memory and kernel, and the date: what a section says about where its figures come from.
pub fn machine() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value =
        |key: &str| cpuinfo.lines().find_map(|line| line.strip_prefix(key)?.split_once(": ").map(|(_, value)| value));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let kernel = nix::sys::utsname::uname()
        .map_or_else(|_| String::new(), |uname| uname.release().to_string_lossy().into_owned());
    format!(
        "Machine: {cores} cores ({}), {} GiB, Linux {kernel}, no hardware virtualisation in use. Date: {}.",
        value("model name").unwrap_or("unknown processor"),
        kib.unwrap_or(0) >> 20,
        jiff::Zoned::now().strftime("%Y-%m-%d")
    )
}

#[cfg(test)]
mod tests {
    use super::replace_section;

    #[test]
    fn a_section_replaces_its_own_kind_and_leaves_the_others() {
        let page = replace_section("", "One", "## One of 3\n\nold\n");
        let page = replace_section(&page, "Two", "## Two\n\nb\n");
        let page = replace_section(&page, "One", "## One of 5\n\nnew\n");
        assert!(page.starts_with("# Benchmarks\n"));
        assert!(page.ends_with("## One of 5\n\nnew\n\n## Two\n\nb\n"), "{page}");
        assert_eq!(replace_section(&page, "Two", "## Two\n\nb\n"), page);
    }
}
