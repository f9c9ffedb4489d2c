//! `make bench-boot`: what fleet costs beside a bare loop that starts the same VMs, in one run on one machine.
//!
//! Both start the same processes (same kernel, root, memory, command line), with and without a network interface, and
//! are done when every guest's init has its settings. Then all guests are asked by echo requests from the host's side of
//! their lan. CPU seconds are read from control groups (`cpu.stat`): all of the guests and their helpers, and whoever
//! starts them. Memory is the difference of MemAvailable, so that everything counts, kernel and agent too.

mod bare;
mod cgroup;
mod fleet;
mod host;
mod ping;
mod report;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use fleet_images::ImageStore;
use netlang_bench::page::write_section;

use crate::host::Taken;
use crate::ping::Answers;

/// VMs of one lan: a Linux bridge takes 1023 ports (`BR_MAX_PORTS`).
const LAN: u32 = 1000;

/// Measures `fleet up` beside a bare loop.
#[derive(Debug, Parser)]
struct Cli {
    /// The program fleet
    #[arg(long)]
    fleet: PathBuf,
    /// VMs to start
    #[arg(long, default_value_t = 100)]
    count: u32,
    /// VMs that the bare loop starts at once; fleet finds its own number
    #[arg(long, default_value_t = 8)]
    concurrency: usize,
    /// Runs of each; medians are compared
    #[arg(long, default_value_t = 1)]
    runs: usize,
    /// What is measured, separated by commas: uml, uml-net, clones, clones-net
    #[arg(long, default_value = "uml,uml-net,clones,clones-net", value_delimiter = ',')]
    cases: Vec<String>,
    /// Only fleet, for counts that a bare loop takes too long for
    #[arg(long)]
    no_floor: bool,
    /// The image
    #[arg(long, default_value = "tiny-kernels")]
    image: String,
    /// Where images are
    #[arg(long, default_value = "/var/lib/fleet/images")]
    images: PathBuf,
    /// Write the section of this page
    #[arg(long)]
    out: Option<PathBuf>,
}

/// What is started.
#[derive(Clone, Debug)]
pub struct Load {
    /// VMs.
    pub count: u32,
    /// At once, by the bare loop.
    pub concurrency: usize,
    /// Each has an interface on a lan.
    pub wired: bool,
    /// QEMU, clones of a template; else user-mode Linux.
    pub clones: bool,
    /// Name of the image.
    pub image: String,
    /// Guest memory.
    pub memory_mib: u32,
}

impl Load {
    /// The hypervisor's name in a network file.
    pub fn hypervisor(&self) -> &'static str {
        if self.clones { "qemu" } else { "uml" }
    }

    /// VMs of each lan.
    pub fn lans(&self) -> Vec<u32> {
        let full = self.count / LAN;
        let rest = Some(self.count % LAN).filter(|rest| *rest > 0);
        (0..full).map(|_| LAN).chain(rest).collect()
    }
}

/// One run.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// Seconds until every guest had its settings.
    pub wall: f64,
    /// CPU seconds of the guests and all of their processes until then.
    pub guests_cpu: f64,
    /// CPU seconds of whoever started them until then.
    pub starter_cpu: f64,
    /// Memory, and processor time when idle.
    pub taken: Taken,
    /// Over the network, from the moment when all had their settings.
    pub answers: Answers,
    /// VMs that failed.
    pub failed: u64,
    /// Of each `fleet ps` meanwhile, the program's start included, in ms.
    pub ps_ms: Vec<f64>,
    /// Resident memory of controller and agent afterwards, in bytes.
    pub resident: u64,
    /// Seconds of `fleet down`.
    pub down: f64,
}

/// A load by bare loop and by fleet.
pub struct Case {
    /// What was started.
    pub load: Load,
    /// Its runs by the bare loop; empty when it was left out.
    pub bare: Vec<Run>,
    /// Its runs by fleet.
    pub fleet: Vec<Run>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    let store = ImageStore::open(&cli.images)?;
    let image = store.resolve(&cli.image).context("the bench needs an image with the tiny kernels: `make kernels`")?;
    let uml = image.uml.as_ref().context("the image has no UML kernel")?;
    let x86 = image.x86.as_ref().context("the image has no kernel for QEMU")?;
    let (_, lpj) = fleet_vm::probe::probe_uml(Some(&uml.kernel), std::path::Path::new("/dev/shm")).await;
    let tsc_khz = fleet_vm::tsc_khz();
    let mut cases = Vec::new();
    for name in &cli.cases {
        let load = load(&cli, name, &image)?;
        let mut case = Case { load, bare: Vec::new(), fleet: Vec::new() };
        for run in 1..=cli.runs {
            if !cli.no_floor {
                eprintln!("bench: {name}, run {run} of {}: the bare loop, {} VMs", cli.runs, cli.count);
                case.bare.push(if case.load.clones {
                    bare::clones::run(x86, tsc_khz, &case.load)?
                } else {
                    bare::uml::run(uml, lpj, &case.load)?
                });
            }
            eprintln!("bench: {name}, run {run} of {}: fleet up, {} VMs", cli.runs, cli.count);
            case.fleet.push(fleet::run(&cli.fleet, &cli.images, &case.load)?);
        }
        eprint!("{}", report::table(&case));
        cases.push(case);
    }
    let section = report::section(&cases, cli.count);
    print!("{section}");
    if let Some(out) = cli.out {
        write_section(&out, &format!("`fleet up` of {} VMs", cli.count), &section)?;
    }
    Ok(())
}

fn load(cli: &Cli, name: &str, image: &fleet_images::Image) -> Result<Load> {
    let (clones, wired) = match name {
        "uml" => (false, false),
        "uml-net" => (false, true),
        "clones" => (true, false),
        "clones-net" => (true, true),
        _ => anyhow::bail!("no case `{name}`: there are uml, uml-net, clones and clones-net"),
    };
    let uml = image.uml.as_ref().map(|files| files.default_mem_mib);
    let x86 = image.x86.as_ref().map(|files| files.default_mem_mib);
    let memory_mib = if clones { x86 } else { uml }.context("the image has no kernel for this case")?;
    let (count, concurrency) = (cli.count, cli.concurrency);
    Ok(Load { count, concurrency, wired, clones, image: cli.image.clone(), memory_mib })
}
