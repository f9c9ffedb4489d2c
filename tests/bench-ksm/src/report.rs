//! The section of the page of benchmarks.

use fleet_vm::hypervisor::SMALL_PROGRAM;
use netlang_bench::page::machine;

use crate::{PART, Run};

/// Where the plot is, beside the page.
pub const PICTURE: &str = "pictures/ksm.svg";

/// What one regulator reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// Seconds until the part was reached.
    pub time: Option<f64>,
    /// ksmd's seconds until then, or until it was given up.
    pub cpu: f64,
    /// ksmd's seconds after it, and how long that was.
    pub after: (f64, f64),
    /// Percent of a core in the last third of the time after.
    pub rest: f64,
    /// Bytes saved at the end.
    pub saved: f64,
}

/// The most that any of them saved.
pub fn attainable(runs: &[Run]) -> f64 {
    runs.iter().flat_map(|run| &run.points).map(|point| point.saved).fold(0.0, f64::max)
}

/// Reads a run. A run has at least one point.
pub fn figures(run: &Run, attainable: f64) -> Option<Figures> {
    let (last, reached) = (run.points.last()?, run.points.iter().find(|point| point.saved >= PART * attainable));
    let from = reached.unwrap_or(last);
    let length = last.time - from.time;
    let third = run.points.iter().find(|point| point.time >= from.time + length * 2.0 / 3.0)?;
    let rest = (last.cpu - third.cpu) / (last.time - third.time).max(1e-9) * 100.0;
    Some(Figures {
        time: reached.map(|point| point.time),
        cpu: from.cpu,
        after: (last.cpu - from.cpu, length),
        rest,
        saved: last.saved,
    })
}

/// A section of Markdown.
pub fn section(runs: &[Run], count: u32, after: u64, until: u64) -> String {
    let attainable = attainable(runs);
    let qemu = if SMALL_PROGRAM.has_best() { "the small QEMU" } else { "Debian's QEMU" };
    let mut text = format!(
        "## KSM: {count} clones under different regulators\n\n{} Written by `make bench-ksm`.\n\n\
         Each regulator gets {count} freshly started clones of one template on {qemu}, without address space randomisation, and \
         is switched on when all run. Attainable is the most that any of them saved: {:.0} MB, {:.1} MB a clone. The CPU \
         is ksmd's. \"After\" is the {after} s after nine tenths were reached; one that has not reached them after {until} s is \
         given up. Idle is the CPU in the last third of the time after, when nothing changes any more.\n\n\
         | regulator | 90 % after, s | CPU until then, s | CPU in the {after} s after, s | both, s | idle, % of a core | saved at the end, MB |\n\
         |---|---|---|---|---|---|---|\n",
        machine(),
        attainable / 1e6,
        attainable / 1e6 / f64::from(count),
    );
    for run in runs {
        let Some(figures) = figures(run, attainable) else { continue };
        let saved = figures.saved / 1e6;
        let name = run.rule.name();
        text += &match figures.time {
            Some(time) => format!(
                "| {name} | {time:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {saved:.0} |\n",
                figures.cpu,
                figures.after.0,
                figures.cpu + figures.after.0,
                figures.rest
            ),
            None => format!("| {name} | not in {until} | {:.2} | | {:.2} | | {saved:.0} |\n", figures.cpu, figures.cpu),
        };
    }
    text += &format!("\n![Memory saved and CPU of ksmd over time]({PICTURE})\n");
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{Point, rules::Rule};

    #[test]
    fn a_run_is_split_where_nine_tenths_were_reached() {
        let points = [(0.0, 0.0, 0.0), (1.0, 50.0, 1.0), (2.0, 95.0, 2.0), (4.0, 100.0, 2.5), (8.0, 100.0, 2.6)];
        let points = points.map(|(time, saved, cpu)| Point { time, saved, cpu }).to_vec();
        let run = Run { rule: Rule::Fleet, points };
        let found = figures(&run, 100.0).unwrap();
        assert_eq!((found.time, found.cpu, found.saved), (Some(2.0), 2.0, 100.0));
        assert!((found.after.0 - 0.6).abs() < 1e-9 && (found.after.1 - 6.0).abs() < 1e-9);
        let never = figures(&run, 200.0).unwrap();
        assert_eq!((never.time, never.cpu), (None, 2.6));
    }
}
