//! What a long operation shows while it runs: one live line on a terminal, plain lines otherwise.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use fleet_proto::v1::{Outcome, Progress, VmState};
use indicatif::{ProgressBar, ProgressStyle};

use super::output;

/// Between two redraws of the line, so that the time goes on when nothing else does.
const TICK: Duration = Duration::from_millis(200);
/// Between two lines where there is no terminal.
const PACE: Duration = Duration::from_secs(2);
/// How many failures are told while the operation goes on; the summary has them all, folded.
const TOLD: usize = 5;

/// Shows the progress of one operation on standard error.
pub struct Display {
    bar: Option<ProgressBar>,
    quiet: bool,
    begin: Instant,
    since: Instant,
    told: usize,
}

impl Display {
    /// A display that says `verb` ("up hello"); `quiet` shows nothing (`--json`).
    pub fn new(verb: &str, quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new(1);
            let style = ProgressStyle::with_template("{prefix} [{bar:16}] {pos}/{len} {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
            bar.set_prefix(verb.to_owned());
            bar.enable_steady_tick(TICK);
            bar
        });
        Self { bar, quiet, begin: Instant::now(), since: Instant::now(), told: 0 }
    }

    /// Takes one step of the operation.
    pub fn step(&mut self, progress: &Progress) {
        if self.quiet {
            return;
        }
        for ended in progress.ended.iter().filter(|ended| ended.outcome() == Outcome::Failed) {
            self.told += 1;
            if self.told <= TOLD {
                self.line(&format!("{}: {}", ended.target, ended.reason));
            }
        }
        match &self.bar {
            Some(_) if progress.targets == 0 => {}
            Some(bar) => {
                bar.set_length(u64::from(progress.targets));
                bar.set_position(u64::from(progress.done));
                bar.set_message(live(progress, self.begin.elapsed()));
            }
            None => self.plain(progress),
        }
    }

    /// A line that stays.
    pub fn line(&self, text: &str) {
        match &self.bar {
            _ if self.quiet => {}
            Some(bar) => bar.suspend(|| eprintln!("fleet: {text}")),
            None => eprintln!("fleet: {text}"),
        }
    }

    /// Without a terminal: a line now and then. What is done at once needs none; the summary says it.
    fn plain(&mut self, progress: &Progress) {
        if !progress.finished && progress.done > 0 && self.since.elapsed() >= PACE {
            self.since = Instant::now();
            eprintln!("fleet: {}/{} ({})", progress.done, progress.targets, output::counts(&progress.counts));
        }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// "7 booting, 4 pending · 2.1/s · 7 s left".
fn live(progress: &Progress, elapsed: Duration) -> String {
    let others: Vec<_> =
        progress.counts.iter().filter(|entry| entry.count > 0 && entry.state() != VmState::Running).copied().collect();
    let mut parts = Vec::new();
    if !others.is_empty() {
        parts.push(output::counts(&others));
    }
    if progress.done > 0 && progress.done < progress.targets {
        let rate = f64::from(progress.done) / elapsed.as_secs_f64().max(0.001);
        parts.push(format!("{rate:.1}/s"));
        parts.push(format!("{:.0} s left", f64::from(progress.targets - progress.done) / rate));
    }
    parts.join(" · ")
}
