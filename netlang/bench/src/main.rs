//! `make bench-lang`: what the network language costs, beside a bare floor measured in the same run.
//!
//! Each case runs in a process of its own (this program, started again with `--case`), so that its peak of memory is
//! its own; it does the work several times and reports the median. The floor of a text is reading it from the page
//! cache and finding its words with a plain split: what any program that looks at the text must do.

mod cases;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use cases::{Cost, costly_names};
use clap::Parser;
use netlang_bench::counting::Counting;
use netlang_bench::page::{machine, write_section};

#[global_allocator]
static COUNTING: Counting = Counting;

/// Measures the network language
#[derive(Debug, Parser)]
struct Cli {
    /// Write the section of this page
    #[arg(long)]
    out: Option<PathBuf>,
    /// The file of a million VMs
    #[arg(long, default_value = "netlang/tests/samples/internet.fleet")]
    sample: PathBuf,
    /// Only this case, as one line of JSON
    #[arg(long, hide = true)]
    case: Option<String>,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    if let Some(name) = &cli.case {
        println!("{}", serde_json::to_string(&cases::run(name, &cli.sample)?)?);
        return Ok(());
    }
    let section = section(&cli)?;
    print!("{section}");
    match cli.out {
        Some(out) => write_section(&out, "The network language", &section),
        None => Ok(()),
    }
}

/// A case in a process of its own.
fn measure(cli: &Cli, case: &str) -> Result<Cost> {
    eprintln!("bench: {case}");
    let program = std::env::current_exe().context("cannot find this program")?;
    let output = Command::new(program)
        .args(["--case", case])
        .arg("--sample")
        .arg(&cli.sample)
        .output()
        .context("cannot start a case")?;
    if !output.status.success() {
        bail!("{case}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("{case} printed no figures"))
}

const HEADINGS: &str = "| | wall, s | CPU, s | peak, MB | allocations | allocated, MB | floor, CPU s | CPU / floor |\n\
                        |---|---|---|---|---|---|---|---|\n";

fn row(name: &str, cost: &Cost, floor: Option<&Cost>) -> String {
    let mb = |bytes: f64| bytes / 1e6;
    let floor = match floor {
        Some(floor) => format!("{:.4} | {:.0}", floor.cpu, cost.cpu / floor.cpu.max(1e-6)),
        None => " | ".to_owned(),
    };
    format!(
        "| {name} | {:.3} | {:.3} | {:.0} | {} | {:.0} | {floor} |\n",
        cost.wall,
        cost.cpu,
        mb(cost.resident as f64),
        cost.counts.calls,
        mb(cost.counts.total as f64),
    )
}

fn section(cli: &Cli) -> Result<String> {
    let mut text = format!(
        "## The network language\n\n{} Written by `make bench-lang`.\n\n\
         Each case in a process of its own, medians of several runs. The floor reads the text from the page cache and \
         splits it into words; for the slice, it walks over as many numbers as the slice has ports.\n\n",
        machine()
    );
    text += HEADINGS;
    let floor = measure(cli, "floor:sample")?;
    text += &row("`internet.fleet`, 1,000,000 VMs: check, plan, proofs", &measure(cli, "sample")?, Some(&floor));
    let floor = measure(cli, "floor:million")?;
    text += &row("1,000,000 `vm` lines: check, plan", &measure(cli, "million")?, Some(&floor));
    text += &row("the same, with its lock", &measure(cli, "million:lock")?, Some(&floor));
    text += &row("the same, laid out", &measure(cli, "million:format")?, Some(&floor));
    let floor = measure(cli, "floor:slice")?;
    text += &row(
        "one host's slice of `internet.fleet`: VMs and ports of 100 groups",
        &measure(cli, "slice")?,
        Some(&floor),
    );
    text += "\nInputs of at most 1 MB, each as costly as it can be in one way; the dearest ten by CPU:\n\n";
    text += HEADINGS;
    let mut costs = Vec::new();
    for name in costly_names() {
        let floor = measure(cli, &format!("floor:{name}"))?;
        costs.push((name, measure(cli, name)?, floor));
    }
    costs.sort_by(|a, b| b.1.cpu.total_cmp(&a.1.cpu));
    for (name, cost, floor) in costs.iter().take(10) {
        text += &row(name, cost, Some(floor));
    }
    let most = |what: fn(&Cost) -> f64| costs.iter().map(|(_, cost, _)| what(cost)).fold(0.0, f64::max);
    text += &format!(
        "\nOf all {}: at most {:.2} s of CPU and {:.0} MB.\n",
        costs.len(),
        most(|cost| cost.cpu),
        most(|cost| cost.resident as f64) / 1e6
    );
    Ok(text)
}
