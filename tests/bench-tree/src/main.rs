//! `make bench-tree`: what a wave costs, flat and as a tree, by numbers of hosts: in a model ([`model`]), over mutual TLS
//! ([`mutual`]), and a command on many hosts beside clush and pdsh ([`commands`]).
//!
//! All of it is on one machine, so no wall time of a tree says anything here: the tree moves work off the controller, and
//! what all hosts do together grows. What is measured is therefore the controller's processor time and bytes, and what
//! an agent pays beside a bare call.
#![allow(clippy::unwrap_used, reason = "a benchmark: what goes wrong ends it, with its place")]

mod agents;
mod clocks;
mod commands;
mod instant;
mod model;
mod mutual;
mod sockets;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use netlang_bench::page::{machine, write_section};

/// What the section's line starts with.
const TITLE: &str = "The tree";

/// Measures what waves cost.
#[derive(Debug, Parser)]
struct Cli {
    /// Numbers of hosts over mutual TLS
    #[arg(long, value_delimiter = ',', default_value = "100,1000")]
    hosts: Vec<usize>,
    /// Hosts of the command beside clush and pdsh
    #[arg(long, default_value_t = 256)]
    commands: usize,
    /// Times that each thing is measured; the median is told
    #[arg(long, default_value_t = 9)]
    runs: usize,
    /// Write the section of this page instead of printing it
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let build = if cfg!(debug_assertions) { " An unoptimised build: for a look only." } else { "" };
    let section = format!(
        "## {TITLE}: what a wave costs\n\n{} Written by `make bench-tree`.{build}\n\nAn `apply` of a 10,000-byte spec for a hundred VMs a \
         host, whose work is nothing. All hosts are on one machine: what the tree moves off the controller, others do.\n\n\
         ### In a model\n\nAgents in memory under a virtual clock. It has latency only: a sender's own time for its \
         messages, which is what a flat root pays, is in the root's CPU, measured without a transport.\n\n{}\n{}\n{}",
        machine(),
        model::table(),
        mutual::section(&cli.hosts, cli.runs.max(1))?,
        commands::section(cli.commands, cli.runs.max(1))?,
    );
    match &cli.out {
        Some(path) => write_section(path, TITLE, &section),
        None => {
            println!("{section}");
            Ok(())
        }
    }
}
