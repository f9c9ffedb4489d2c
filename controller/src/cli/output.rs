//! How answers look: tables, sizes, times, states, JSON.

use std::io::{IsTerminal, Write};

use comfy_table::{ContentArrangement, presets::NOTHING};
use fleet_proto::v1::{Outcome, OutcomeFold, StateCount, VmState};

/// A table without lines, as `kubectl` and `docker` print them.
pub struct Table {
    table: comfy_table::Table,
}

impl Table {
    /// A table with these headings.
    pub fn new(headings: &[&str]) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_header(headings.to_vec());
        Self { table }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.table.add_row(cells);
    }

    /// Writes the table to standard output, without the blanks at the ends of its lines.
    pub fn print(&self) {
        let mut text = String::new();
        for line in self.table.lines() {
            // The library puts one blank before the first column.
            text.push_str(line.strip_prefix(' ').unwrap_or(&line).trim_end());
            text.push('\n');
        }
        print(&text);
    }
}

/// Writes to standard output; a reader that went away (`| head`) ends the program as it ends others.
pub fn print(text: &str) {
    let mut stdout = std::io::stdout().lock();
    if stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_err() {
        std::process::exit(141); // 128 + SIGPIPE
    }
}

/// A line on standard output, by [`print`]: `println!` panics when its reader goes away.
macro_rules! say {
    () => { $crate::cli::output::print("\n") };
    ($($words:tt)*) => { $crate::cli::output::print(&(format!($($words)*) + "\n")) };
}
pub(crate) use say;

/// Writes a JSON document to standard output.
pub fn json(value: &serde_json::Value) {
    print(&format!("{value:#}\n"));
}

/// Whether standard output is a terminal that shows colours (<https://no-color.org>).
pub fn stdout_wants_color() -> bool {
    std::io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Whether standard error is a terminal.
pub fn stderr_is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// Bytes for people: "48 MiB", "1.5 GiB".
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 || value >= 10.0 || value.fract() < 0.05 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// A text in lines of 80 characters at most, those after the first indented by two.
pub fn wrap(text: &str) -> String {
    let mut out = String::new();
    let mut width = 0;
    for word in text.split(' ') {
        let length = word.chars().count();
        if width > 0 && width + 1 + length > 80 {
            out.push_str("\n  ");
            width = 2;
        } else if width > 0 {
            out.push(' ');
            width += 1;
        }
        out.push_str(word);
        width += length;
    }
    out
}

/// A span of time for people: "380 ms", "4.2 s", "3 min 20 s", "2 h 5 min".
pub fn duration(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{:.1} s", ms as f64 / 1000.0),
        60_000..3_600_000 => format!("{} min {} s", ms / 60_000, ms / 1000 % 60),
        _ => format!("{} h {} min", ms / 3_600_000, ms / 60_000 % 60),
    }
}

/// How long ago a time was, both in ms since 1970.
pub fn age(since_ms: u64) -> String {
    match now_ms().saturating_sub(since_ms) {
        ms @ 0..60_000 => format!("{} s", ms / 1000),
        ms => duration(ms),
    }
}

/// "1 VM", "30 VMs".
pub fn plural(count: impl Into<u64>, one: &str) -> String {
    match count.into() {
        1 => format!("1 {one}"),
        count => format!("{count} {one}s"),
    }
}

/// Now, in ms since 1970.
pub fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A state's word.
pub fn state(state: VmState) -> &'static str {
    match state {
        VmState::Unspecified => "?",
        VmState::Pending => "pending",
        VmState::Starting => "starting",
        VmState::Booting => "booting",
        VmState::Running => "running",
        VmState::Paused => "paused",
        VmState::Stopping => "stopping",
        VmState::Stopped => "stopped",
        VmState::Failed => "failed",
        VmState::Unknown => "unknown",
    }
}

/// A state's word in its colour: green for what is well, red for what failed, yellow for what is on its way.
pub fn colored_state(value: VmState, color: bool) -> String {
    let word = state(value);
    if !color {
        return word.to_owned();
    }
    let code = match value {
        VmState::Running => "32",
        VmState::Failed => "31",
        VmState::Stopped | VmState::Paused => "2",
        _ => "33",
    };
    format!("\x1b[{code}m{word}\x1b[0m")
}

/// "28 running, 2 failed".
pub fn counts(counts: &[StateCount]) -> String {
    let parts: Vec<_> = counts
        .iter()
        .filter(|entry| entry.count > 0)
        .map(|entry| format!("{} {}", entry.count, state(entry.state())))
        .collect();
    if parts.is_empty() { "no VMs".into() } else { parts.join(", ") }
}

/// An outcome's word.
pub fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Unspecified => "?",
        Outcome::Ok => "ok",
        Outcome::AlreadySo => "already so",
        Outcome::Failed => "failed",
        Outcome::Unknown => "unknown",
        Outcome::NotReached => "not reached",
    }
}

/// Outcomes as JSON.
pub fn folds_json(folds: &[OutcomeFold]) -> serde_json::Value {
    folds
        .iter()
        .map(|fold| {
            serde_json::json!({
                "outcome": outcome(fold.outcome()), "reason": fold.reason, "count": fold.count, "targets": fold.targets,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(48 << 20), "48 MiB");
        assert_eq!(bytes(3 << 29), "1.5 GiB");
        assert_eq!(bytes(u64::MAX), "16777216 TiB");
    }

    #[test]
    fn times_read_well() {
        assert_eq!(duration(380), "380 ms");
        assert_eq!(duration(4_200), "4.2 s");
        assert_eq!(duration(200_000), "3 min 20 s");
        assert_eq!(duration(7_500_000), "2 h 5 min");
    }
}
