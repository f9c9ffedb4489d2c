//! `cpu` and `memory` of a node as `cpu` and `mem` of a VM.

use super::read::Word;
use crate::note::{NoteKind, Notes};

/// Most processors that a VM can have.
const MOST_CPUS: f64 = 256.0;
/// Least memory of a VM, in MiB.
const LEAST_MEMORY: u64 = 8;
/// Most memory that is taken over, in MiB: 4 TiB.
const MOST_MEMORY: u64 = 4 << 20;

/// Whole processors: containers can have parts of one, VMs cannot.
pub(super) fn cpus(word: &Word, name: &str, notes: &mut Notes) -> Option<u32> {
    let Some(value) = word.text.trim().parse::<f64>().ok().filter(|value| *value > 0.0 && *value <= MOST_CPUS) else {
        let why = format!("`{}` is no number of processors up to {MOST_CPUS}", short(&word.text));
        notes.fold(word.line, NoteKind::LeftOut, "`cpu`", name, &why);
        return None;
    };
    if value.fract() > 0.0 {
        notes.fold(word.line, NoteKind::Changed, "`cpu`", name, "rounded up: a VM has whole processors");
    }
    Some(value.ceil() as u32)
}

/// Memory in MiB. `1Gb`, `1G` and `1GiB` are all taken for 1 GiB.
pub(super) fn memory(word: &Word, name: &str, notes: &mut Notes) -> Option<u64> {
    let Some(mib) = parse(&word.text).filter(|mib| *mib <= MOST_MEMORY) else {
        let why = format!("`{}` is no size up to 4 TiB", short(&word.text));
        notes.fold(word.line, NoteKind::LeftOut, "`memory`", name, &why);
        return None;
    };
    if mib < LEAST_MEMORY {
        notes.fold(word.line, NoteKind::Changed, "`memory`", name, "raised to 8MiB, the least that a kernel starts in");
    }
    Some(mib.max(LEAST_MEMORY))
}

fn parse(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let unit = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit);
    let number: f64 = number.parse().ok()?;
    let mib = match unit.trim() {
        "" | "b" => number / f64::from(1 << 20),
        "k" | "kb" | "kib" => number / 1024.0,
        "m" | "mb" | "mib" => number,
        "g" | "gb" | "gib" => number * 1024.0,
        "t" | "tb" | "tib" => number * f64::from(1 << 20),
        _ => return None,
    };
    // Beyond that no number is wanted, and all below are exact.
    (mib > 0.0 && mib < 1e12).then(|| mib.ceil() as u64)
}

/// The beginning of a text, for a message.
fn short(text: &str) -> String {
    text.chars().take(20).filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn sizes_are_binary_whatever_their_unit() {
        for (text, mib) in
            [("1Gb", 1024), ("1.5 GiB", 1536), ("512m", 512), ("1048577", 2), ("64KB", 1), ("2T", 2 << 20)]
        {
            assert_eq!(parse(text), Some(mib), "{text}");
        }
        for text in ["", "many", "1x", "-1Gb", "1.2.3m", "0", "9e99g"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
