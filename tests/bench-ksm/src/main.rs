//! `make bench-ksm`: how quickly regulators of KSM merge the memory of freshly started clones, and what it costs.
//!
//! Each regulator gets clones of its own, started without fleet from one template: QEMU processes without address space
//! randomisation that opted in with `PR_SET_MEMORY_MERGE`, so that guest memory, heap and translations can be merged.
//! When all run, the regulator is switched on, and profit (`general_profit`) and ksmd's processor time are read until
//! nine tenths of what can be had are had, and for some time after. What can be had is the most that any of them
//! reached. Between two runs everything is put back: KSM is one resource of the host.

mod guests;
mod plot;
mod report;
mod rules;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use fleet_images::ImageStore;
use fleet_ksm::{Custody, HostReader, KsmConfig, Sysfs};
use netlang_bench::page::write_section;

use guests::{Guest, Template};
use rules::Rule;

/// What counts as done.
pub const PART: f64 = 0.9;
/// Between two readings.
const READING: Duration = Duration::from_millis(50);
/// New clones settle before a regulator is switched on, the same for all.
const SETTLE: Duration = Duration::from_secs(2);
/// Without growth for so long the first run has had what it can have.
const PLATEAU: Duration = Duration::from_secs(10);
/// ksmd may take so long to forget clones that are gone.
const CLEARING: Duration = Duration::from_secs(60);

/// Measures regulators of KSM on clones.
#[derive(Debug, Parser)]
struct Cli {
    /// Clones for each regulator
    #[arg(long, default_value_t = 200)]
    count: u32,
    /// Seconds that are watched after nine tenths were reached
    #[arg(long, default_value_t = 600)]
    after: u64,
    /// Seconds after which a regulator that has not reached them is given up
    #[arg(long, default_value_t = 420)]
    until: u64,
    /// Only these, by the first word of their name
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// The image that the clones start from
    #[arg(long, default_value = "tiny-kernels")]
    image: String,
    /// Guest memory in MiB; the image's least when left out
    #[arg(long)]
    memory: Option<u32>,
    /// Where images are
    #[arg(long, default_value = "/var/lib/fleet/images")]
    images: PathBuf,
    /// Write the section of this page, and the plot into `pictures/` beside it
    #[arg(long)]
    out: Option<PathBuf>,
}

/// One reading.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// Seconds since the regulator was switched on.
    pub time: f64,
    /// Bytes saved.
    pub saved: f64,
    /// ksmd's processor time, seconds.
    pub cpu: f64,
}

/// One regulator's run.
pub struct Run {
    /// Which one.
    pub rule: Rule,
    /// Readings in order.
    pub points: Vec<Point>,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let guest = guest(&cli)?;
    let config = KsmConfig::default();
    let dir = tempfile::Builder::new().prefix("fleet-bench-ksm").tempdir_in("/dev/shm")?;
    eprintln!("bench: booting the template");
    let template = Template::boot(guest, dir.path())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut runs: Vec<Run> = Vec::new();
    for rule in Rule::ALL {
        if !cli.only.is_empty() && !cli.only.iter().any(|only| rule.name().starts_with(only.as_str())) {
            continue;
        }
        // Also what an earlier bench that was killed has left.
        clear(&config)?;
        eprintln!("bench: {}: starting {} clones", rule.name(), cli.count);
        let mut clones = template.clones(cli.count)?;
        std::thread::sleep(SETTLE);
        eprintln!("bench: {}: merging", rule.name());
        let best = runs.iter().flat_map(|run| run.points.iter()).map(|point| point.saved).fold(0.0, f64::max);
        let points = runtime.block_on(async {
            let active = rules::switch_on(rule, &config, cli.count)?;
            let points = watch(&cli, &config, best).await;
            active.switch_off().await?;
            points
        })?;
        clones.check()?;
        drop(clones);
        clear(&config)?;
        runs.push(Run { rule, points });
    }
    let report = report::section(&runs, cli.count, cli.after, cli.until);
    print!("{report}");
    if let Some(out) = &cli.out {
        write_section(out, "KSM", &report)?;
        let picture = out.parent().unwrap_or(Path::new(".")).join(report::PICTURE);
        std::fs::write(&picture, plot::svg(&runs)).with_context(|| format!("cannot write {}", picture.display()))?;
    }
    Ok(())
}

/// What is booted.
fn guest(cli: &Cli) -> Result<Guest> {
    let image = ImageStore::open(&cli.images)?.resolve(&cli.image);
    let image = image.context("the bench needs an image with the tiny kernels: `make kernels`")?;
    let x86 = image.x86.context("the image has no kernel for QEMU")?;
    let memory = cli.memory.unwrap_or(x86.min_mem_mib);
    // The console tells when the template's init runs, and must not be quiet for that.
    let words = x86.cmdline.split_whitespace().filter(|word| *word != "quiet").collect::<Vec<_>>();
    Ok(Guest { kernel: x86.vmlinux, initrd: x86.initrd, memory, cmdline: words.join(" "), acpi: x86.acpi })
}

/// Reads until the part is reached and the time after is over. `best` is what an earlier regulator reached; the first
/// one has none, and is taken to be done when nothing grows any more.
async fn watch(cli: &Cli, config: &KsmConfig, best: f64) -> Result<Vec<Point>> {
    let (sysfs, host) = (Sysfs::new(&config.sysfs), HostReader::new(&config.proc));
    let cpu = || host.ksmd_cpu().context("ksmd's processor time cannot be read here").map(|cpu| cpu.as_secs_f64());
    let (after, until) = (Duration::from_secs(cli.after), Duration::from_secs(cli.until));
    let (start, cpu_before) = (Instant::now(), cpu()?);
    let mut points = Vec::new();
    let (mut grown, mut most, mut reached) = (start, 0.0, None);
    loop {
        let saved = sysfs.counters()?.saved_bytes() as f64;
        points.push(Point { time: start.elapsed().as_secs_f64(), saved, cpu: cpu()? - cpu_before });
        if saved > most * 1.01 {
            (most, grown) = (saved, Instant::now());
        }
        let done = if best > 0.0 { saved >= PART * best } else { most > 0.0 && grown.elapsed() > PLATEAU };
        if done && reached.is_none() {
            reached = Some(if best > 0.0 { Instant::now() } else { grown });
        }
        match reached {
            Some(at) if at.elapsed() >= after => return Ok(points),
            None if start.elapsed() >= until => return Ok(points),
            _ => {}
        }
        // Finely while much happens, then once a second.
        let pause = if reached.is_some_and(|at| at.elapsed() > PLATEAU) { Duration::from_secs(1) } else { READING };
        tokio::time::sleep(pause).await;
    }
}

/// Lets ksmd forget what is gone, and puts everything back.
fn clear(config: &KsmConfig) -> Result<()> {
    let sysfs = Sysfs::new(&config.sysfs);
    let mut custody = Custody::take(&config.state_dir, &rules::boot_id()?)?;
    let now = sysfs.settings()?;
    if custody.found().is_none() {
        custody.keep(now)?;
    }
    sysfs.set(&fleet_ksm::Settings {
        run: 1,
        pages_to_scan: 100_000,
        sleep_millisecs: 1,
        advisor: now.advisor.map(|_| 0),
        ..now
    })?;
    let start = Instant::now();
    while sysfs.counters()?.shared > 0 {
        if start.elapsed() > CLEARING {
            bail!("other processes of this host have merged pages; the bench needs KSM for itself");
        }
        std::thread::sleep(READING);
    }
    custody.put_back(&sysfs)?;
    Ok(())
}
