//! `make bench-usb`: a picture fetched by the real `gphoto2` in a guest, in three ways: from the camera in software that QEMU is
//! connected to, with no fleet at all ([`bare`]); by `fleet usb attach` from a usbredir server of the VM's own host; and from
//! one of another host, through two agents ([`fleet`]).
//!
//! A download is timed in the guest, and that of a picture of one byte is taken off: what is left is the way of the bytes. The
//! camera is a thread of this program, and always the same.
#![allow(clippy::unwrap_used, reason = "a benchmark: what goes wrong ends it, with its place")]

mod bare;
mod cpu;
mod fleet;
mod measure;
mod report;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use netlang_bench::page::write_section;

/// Measures what is between a camera and a guest.
#[derive(Debug, Parser)]
struct Cli {
    /// Bytes of the picture
    #[arg(long, default_value_t = 30_000_000)]
    size: usize,
    /// Downloads each way; the median is told
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Only QEMU and the camera, without fleet
    #[arg(long)]
    bare: bool,
    /// Folder of the image store for the bare guest
    #[arg(long, default_value = "target/tmp/images")]
    images: PathBuf,
    /// Write the section of this page instead of printing it
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let load = measure::Load { size: cli.size, runs: cli.runs.max(1) };
    let mut ways = vec![("QEMU and the camera alone", bare::run(&cli.images, &load)?)];
    if !cli.bare {
        ways.push(("fleet, one host", fleet::one_host(&load)?));
        ways.push(("fleet, two agents", fleet::two_hosts(&load)?));
    }
    let section = report::section(&load, &ways);
    match &cli.out {
        Some(path) => write_section(path, report::TITLE, &section),
        None => {
            println!("{section}");
            Ok(())
        }
    }
}
