//! The section of the page of benchmarks.

use netlang_bench::page::machine;

use crate::Cost;
use crate::fleet::Run;

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

/// A section of Markdown.
pub fn table(bare: &[Cost], fleet: &[Run], count: u32, concurrency: usize) -> String {
    let of = |costs: &[Cost], what: fn(&Cost) -> f64| median(costs.iter().map(what));
    let fleet_costs: Vec<Cost> = fleet.iter().map(|run| run.cost).collect();
    let row = |name: &str, what: fn(&Cost) -> f64| {
        let (floor, cost) = (of(bare, what), of(&fleet_costs, what));
        format!("| {name} | {floor:.2} | {cost:.2} | {:.2} |\n", cost / floor)
    };
    let ps: Vec<f64> = fleet.iter().flat_map(|run| run.ps_ms.clone()).collect();
    let (p50, p95) = (median(ps.clone()), percentile(ps.clone(), 95));
    let resident = median(fleet.iter().map(|run| run.resident as f64)) / 1e6;
    let down = median(fleet.iter().map(|run| run.down));
    let mut text = format!(
        "## `fleet up` of {count} UML VMs\n\n{}\n\n{count} VMs of the image `tiny` (Debian's UML kernel, 48 MiB), one tap each on one bridge, \
         {concurrency} starting at once, medians of {} alternating runs. The bare loop starts the same processes and \
         waits for the first byte of each guest's init; fleet also gives each guest its addresses.\n\n",
        machine(),
        bare.len()
    );
    text += "| | bare loop | fleet | ratio |\n|---|---|---|---|\n";
    text += &row("wall, s", |cost| cost.wall);
    text += &row("CPU of all, s", |cost| cost.cpu());
    text += &row("CPU of the guests, s", |cost| cost.guests_cpu);
    text += &row("CPU of the starter, s", |cost| cost.starter_cpu);
    text += &format!(
        "\n- `fleet ps --json` while they boot (the program's own start included, {} calls): median {p50:.0} ms, p95 {p95:.0} ms.\n\
         - Controller and agent, one process, with {count} VMs up: {resident:.0} MB resident.\n- `fleet down` of all: {down:.2} s.\n",
        ps.len()
    );
    text
}
