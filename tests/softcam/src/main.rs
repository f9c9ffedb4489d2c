//! `softcam`: a Nikon D7000 in software behind a usbredir server socket, until it is told to end (SIGINT, SIGTERM).

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use fleet_softcam::{Address, Options, Persona, Policy, Softcam, Speed, control, folder, pictures};
use tokio::signal::unix::{SignalKind, signal};

/// A camera in software behind a usbredir server socket
#[derive(Debug, Parser)]
struct Cli {
    /// Where clients connect: unix:PATH or HOST:PORT
    #[arg(long)]
    listen: Address,
    /// Its serial number
    #[arg(long, default_value = "6011")]
    serial: String,
    /// Folder whose files are its pictures
    #[arg(long, conflicts_with_all = ["files", "size"])]
    folder: Option<PathBuf>,
    /// Made-up pictures
    #[arg(long, default_value_t = 3)]
    files: usize,
    /// Bytes of each
    #[arg(long, default_value_t = 300_000)]
    size: usize,
    /// What it is at first: ptp or mass-storage
    #[arg(long, default_value = "ptp", value_parser = read_persona)]
    persona: Persona,
    /// low, full, high or super
    #[arg(long, default_value = "high", value_parser = read_speed)]
    speed: Speed,
    /// Lets settings be changed; uploads and removals never may
    #[arg(long)]
    settings: bool,
    /// Socket for lines that unplug, plug, switch and break it: unix:PATH
    #[arg(long)]
    control: Option<Address>,
}

fn read_persona(text: &str) -> Result<Persona, String> {
    let all = [Persona::Ptp, Persona::MassStorage];
    all.into_iter().find(|persona| persona.as_str() == text).ok_or_else(|| "ptp or mass-storage".to_owned())
}

fn read_speed(text: &str) -> Result<Speed, String> {
    control::read_speed(text).ok_or_else(|| "low, full, high or super".to_owned())
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let files = match &cli.folder {
        Some(path) => folder(path).with_context(|| format!("cannot read {}", path.display()))?,
        None => pictures(cli.files, cli.size),
    };
    let control = match cli.control {
        None => None,
        Some(Address::Unix(path)) => Some(path),
        Some(Address::Tcp(_)) => anyhow::bail!("--control is a socket of this machine: write unix:PATH"),
    };
    let policy = Policy { settings: cli.settings };
    let count = files.len();
    let options = Options {
        control,
        files,
        policy,
        persona: cli.persona,
        speed: cli.speed,
        ..Options::new(cli.listen, &cli.serial)
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Asked for before anybody is told that it is there.
    let (mut interrupt, mut terminate) = runtime.block_on(async {
        Ok::<_, std::io::Error>((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?))
    })?;
    let softcam = Softcam::start(options).context("cannot listen")?;
    println!("softcam: {} {} with {count} files at {}", cli.persona.as_str(), cli.serial, softcam.address());
    runtime.block_on(async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    });
    Ok(())
}
