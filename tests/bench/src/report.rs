//! The section of the page of benchmarks: one table, fleet beside the bare loop.

use fleet_vm::hypervisor::SMALL_PROGRAM;
use netlang_bench::page::machine;

use crate::{Case, Run};

/// The middle value; of an even number, the upper one.
fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    percentile(values, 50)
}

fn percentile(values: impl IntoIterator<Item = f64>, percent: usize) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let at = (values.len() * percent / 100).min(values.len().saturating_sub(1));
    values.get(at).copied().unwrap_or(f64::NAN)
}

/// A line of the table: its name, its value of a run, and how many digits are worth telling.
type Line = (&'static str, fn(&Run, f64) -> f64, usize);

/// Values by run and number of VMs.
const LINES: &[Line] = &[
    ("wall, s", |run, _| run.wall, 1),
    ("CPU a VM, s", |run, n| (run.guests_cpu + run.starter_cpu) / n, 4),
    ("… of the guest", |run, n| run.guests_cpu / n, 4),
    ("… of the starter", |run, n| run.starter_cpu / n, 4),
    ("memory a VM, MB", |run, n| run.taken.memory / n / 1e6, 2),
    ("memory a VM after a rest, MB", |run, n| run.taken.memory_at_rest / n / 1e6, 2),
    ("idle, % of a core a VM", |run, n| run.taken.idle * 100.0 / n, 4),
    ("first answer, s", |run, _| run.answers.first, 3),
    ("last answer, s", |run, _| run.answers.last, 3),
    ("no answer", |run, _| run.answers.missing as f64, 0),
    ("failed", |run, _| run.failed as f64, 0),
];

/// A section of Markdown.
pub fn section(cases: &[Case], count: u32) -> String {
    let mut text = format!("## `fleet up` of {count} VMs\n\n{}\n\n", machine());
    text += "Medians. Bare: a loop that starts the same processes; both are done when each guest has its settings. CPU and \
             idle time of all processes, starter included; memory as the difference of MemAvailable, at once and after 75 s of \
             rest. Answers to echo requests from the host's side of the lan are counted from the moment when all guests had \
             their settings.\n\n";
    for case in cases {
        text += &table(case);
    }
    text
}

/// The table of one case.
pub fn table(case: &Case) -> String {
    let (load, n) = (&case.load, f64::from(case.load.count));
    let what = match (load.clones, SMALL_PROGRAM.has_best()) {
        (false, _) => "user-mode Linux",
        (true, false) => "QEMU clones",
        (true, true) => "clones on the small QEMU",
    };
    let wired = if load.wired { "each with an interface on a lan" } else { "without network" };
    let mut text = format!("### {what}, {} MiB, {wired}\n\n", load.memory_mib);
    text += "| | bare loop | fleet | ratio |\n|---|---|---|---|\n";
    for (name, value, digits) in LINES {
        if !load.wired && name.contains("answer") {
            continue;
        }
        let of = |runs: &[Run]| median(runs.iter().map(|run| value(run, n)));
        let (bare, fleet) = (of(&case.bare), of(&case.fleet));
        let cell = |value: f64| if value.is_nan() { "–".to_owned() } else { format!("{value:.digits$}") };
        let ratio = fleet / bare;
        let ratio = if ratio.is_finite() { format!("{ratio:.2}") } else { "–".to_owned() };
        text += &format!("| {name} | {} | {} | {ratio} |\n", cell(bare), cell(fleet));
    }
    let ps: Vec<f64> = case.fleet.iter().flat_map(|run| run.ps_ms.clone()).collect();
    let (p50, p95) = (median(ps.clone()), percentile(ps.clone(), 95));
    let resident = median(case.fleet.iter().map(|run| run.resident as f64)) / 1e6;
    let down = median(case.fleet.iter().map(|run| run.down));
    text += &format!(
        "\n- {} run(s); `fleet ps --json` meanwhile (the program's own start included, {} calls): median {p50:.0} ms, p95 \
         {p95:.0} ms.\n- Controller and agent, one process: {resident:.0} MB resident. `fleet down`: {down:.2} s.\n\n",
        case.fleet.len(),
        ps.len()
    );
    text
}
