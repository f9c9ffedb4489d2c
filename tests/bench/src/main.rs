//! `make bench`: what `fleet up` costs beside a bare loop that starts the same VMs, in one run on one machine.
//!
//! Both start the same UML processes (same kernel, initrd, memory, command line, one tap each on one bridge), as many
//! at once, and are done when every guest's init has spoken. Fleet also gives each guest its settings. CPU seconds are
//! read from control groups (`cpu.stat`): all of the guests and their helpers, and whoever starts them. Runs alternate,
//! and the medians are compared, so that what else the machine does hits both.

mod bare;
mod cgroup;
mod fleet;
mod report;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use fleet_images::ImageStore;
use netlang_bench::page::write_section;

/// Guest memory in MiB: what Debian's UML kernel needs.
const MEMORY_MIB: u32 = 48;

/// Measures `fleet up` beside a bare loop.
#[derive(Debug, Parser)]
struct Cli {
    /// The program fleet
    #[arg(long)]
    fleet: PathBuf,
    /// VMs to start
    #[arg(long, default_value_t = 30)]
    count: u32,
    /// VMs starting at once; the same for both
    #[arg(long, default_value_t = 8)]
    concurrency: usize,
    /// Runs of each; medians are compared
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Where images are
    #[arg(long, default_value = "/var/lib/fleet/images")]
    images: PathBuf,
    /// Write the section of this page
    #[arg(long)]
    out: Option<PathBuf>,
}

/// One run: until every guest was up.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    /// Seconds.
    wall: f64,
    /// Seconds of the guests and all of their processes.
    guests_cpu: f64,
    /// Seconds of whoever started them.
    starter_cpu: f64,
}

impl Cost {
    fn cpu(self) -> f64 {
        self.guests_cpu + self.starter_cpu
    }
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let store = ImageStore::open(&cli.images)?;
    let image = store.resolve("tiny").context("the bench needs the image tiny: `make images`")?;
    let uml = image.uml.context("the image tiny has no UML kernel")?;
    let mut bare_runs = Vec::new();
    let mut fleet_runs = Vec::new();
    for run in 1..=cli.runs {
        eprintln!("bench: run {run} of {}: the bare loop, {} VMs", cli.runs, cli.count);
        bare_runs.push(bare::run(&uml, cli.count, cli.concurrency)?);
        eprintln!("bench: run {run} of {}: fleet up, {} VMs", cli.runs, cli.count);
        fleet_runs.push(fleet::run(&cli.fleet, &cli.images, cli.count, cli.concurrency)?);
    }
    let table = report::table(&bare_runs, &fleet_runs, cli.count, cli.concurrency);
    print!("{table}");
    if let Some(out) = cli.out {
        write_section(&out, "`fleet up`", &table)?;
    }
    Ok(())
}
