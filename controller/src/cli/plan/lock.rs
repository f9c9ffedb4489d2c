//! What `fleet up` would change in `fleet.lock`, and `fleet plan --prune`.

use netlang::{LockDifference, LockEntry};

use crate::cli::{Failure, output, source};

/// Lines of a kind that are shown without `--all`.
const SHOWN: usize = 5;

fn lines(entry: &LockEntry) -> String {
    format!("{} {} {}", entry.kind, entry.path, entry.blocks.join(" and "))
}

fn show(what: &str, lines: &[String], all: bool) {
    if lines.is_empty() {
        return;
    }
    output::say!("  {what}: {}", output::plural(lines.len() as u64, "declaration"));
    let shown = if all || lines.len() <= SHOWN + 1 { lines.len() } else { SHOWN };
    for line in &lines[..shown] {
        output::say!("    {line}");
    }
    if shown < lines.len() {
        output::say!("    and {} more (--all)", lines.len() - shown);
    }
}

/// Prints the difference; nothing when there is none.
pub fn print(difference: &LockDifference, file: &str, all: bool) {
    if difference.is_empty() {
        return;
    }
    output::say!("\nfleet.lock");
    let texts = |entries: &[LockEntry]| entries.iter().map(lines).collect::<Vec<_>>();
    let changes = |changes: &[netlang::LockChange]| {
        let text = |c: &netlang::LockChange| format!("{} (was {})", lines(&c.after), c.before.blocks.join(" and "));
        changes.iter().map(text).collect::<Vec<_>>()
    };
    show("new", &texts(&difference.new), all);
    show("get more room", &changes(&difference.grown), all);
    show("MOVE to other addresses", &changes(&difference.moved), all);
    show("gone from the file, still kept", &texts(&difference.gone), all);
    if !difference.gone.is_empty() {
        output::say!("    `fleet plan --prune {file}` frees them");
    }
}

/// Frees what is gone from the file, and says what that was.
///
/// # Errors
/// When the lock cannot be written.
pub fn prune(loaded: &source::Loaded, difference: &LockDifference, json: bool) -> Result<(), Failure> {
    if !difference.gone.is_empty() {
        loaded.replace_lock(&loaded.lock_before.pruned(loaded.plan.experiment(), &difference.gone))?;
    }
    if json {
        return Ok(());
    }
    if difference.gone.is_empty() {
        output::say!("fleet.lock: nothing to free");
    }
    for entry in &difference.gone {
        output::say!("freed: {}", lines(entry));
    }
    Ok(())
}
