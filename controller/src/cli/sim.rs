//! `fleet sim`: a whole fleet in memory under a virtual clock and random faults, from a seed.

use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use fleet_sim::{Params, Progress, Report, SimError};
use indicatif::{ProgressBar, ProgressStyle};

use super::output::{self, Table};
use super::{Context, Exit, Failure};

#[derive(Args, Debug)]
pub struct SimArgs {
    /// Hosts
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    hosts: u32,
    /// VMs, in three experiments
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    vms: u32,
    /// How long a message takes at least; each pair of hosts has its own time, up to half as much again
    #[arg(long, value_name = "TIME", default_value = "1ms", value_parser = latency)]
    latency: Duration,
    /// Share of the hosts that die during the first `up`, and again later
    #[arg(long, value_name = "SHARE", default_value = "1%", value_parser = share)]
    fail: f64,
    /// Where all chance comes from: the same seed gives the same run
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Faults and wishes of users after the first `up`
    #[arg(long, value_name = "N", default_value_t = 40)]
    steps: u32,
    /// Run so many seeds, one after the other, until one fails
    #[arg(long, value_name = "N", default_value_t = 1)]
    seeds: u64,
}

/// "1ms", "250us", "0.5s".
fn latency(text: &str) -> Result<Duration, String> {
    let units = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0)];
    let known = units.iter().find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?.parse::<f64>().ok()?, seconds)));
    match known {
        Some((number, unit)) if (0.0..=60.0).contains(&(number * unit)) => Ok(Duration::from_secs_f64(number * unit)),
        _ => Err("give a time up to a minute, as 1ms or 250us".to_owned()),
    }
}

/// "1%".
fn share(text: &str) -> Result<f64, String> {
    let percent = text.strip_suffix('%').and_then(|number| number.parse::<f64>().ok());
    percent.map(|percent| percent / 100.0).ok_or_else(|| "give a share of the hosts, as 1%".to_owned())
}

pub fn sim(context: &Context, args: &SimArgs) -> Result<Exit, Failure> {
    let mut reports = Vec::new();
    for seed in args.seed..args.seed.saturating_add(args.seeds) {
        let params = Params {
            hosts: args.hosts,
            vms: args.vms,
            latency: args.latency,
            fail: args.fail,
            seed,
            steps: args.steps,
        };
        let mut display = Display::new(context.json, seed, args.steps);
        let report = fleet_sim::run(&params, &mut |progress| display.step(progress));
        display.end();
        match report {
            Ok(report) if context.json => reports.push(report),
            Ok(report) => print(&report),
            Err(SimError::Violation { what, replay }) => {
                if context.json {
                    output::json(&serde_json::json!({ "runs": reports, "violation": what, "replay": replay }));
                }
                let failure = Failure::new(Exit::Partial, format!("seed {seed}: {what}"));
                return Err(failure.help(format!("this replays the run: {replay}")));
            }
            Err(SimError::Params(error)) => return Err(Failure::usage(error)),
            Err(error) => return Err(Failure::internal(error)),
        }
    }
    if context.json {
        output::json(&serde_json::json!({ "runs": reports }));
    }
    Ok(Exit::Ok)
}

/// One line on a terminal; elsewhere one for each stage.
struct Display {
    bar: Option<ProgressBar>,
    quiet: bool,
    stage: &'static str,
}

impl Display {
    fn new(quiet: bool, seed: u64, steps: u32) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new(u64::from(steps));
            let style = ProgressStyle::with_template("{prefix} [{bar:16}] {pos}/{len} {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
            bar.set_prefix(format!("sim, seed {seed}"));
            bar
        });
        Self { bar, quiet, stage: "" }
    }

    fn step(&mut self, progress: Progress) {
        match &self.bar {
            Some(bar) => {
                bar.set_position(u64::from(progress.step));
                bar.set_message(format!(
                    "{}, {} of virtual time",
                    progress.stage,
                    output::duration(progress.virtual_ms)
                ));
            }
            None if !self.quiet && self.stage != progress.stage => {
                eprintln!("fleet: {} ({} of virtual time)", progress.stage, output::duration(progress.virtual_ms));
            }
            None => {}
        }
        self.stage = progress.stage;
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn print(report: &Report) {
    let wall = output::duration(report.wall_ms);
    output::say!("seed {}: all invariants hold, {} events, digest {}", report.seed, report.events, report.digest);
    let mut table = Table::new(&["WHAT", "HOW MUCH"]);
    let mut row = |what: &str, how_much: String| table.row(vec![what.to_owned(), how_much]);
    row(
        "fleet",
        format!("{}, {} that run at the end", output::plural(report.hosts, "host"), output::plural(report.vms, "VM")),
    );
    row("faults", faults(report));
    row(
        "users",
        format!(
            "{}, carried out in {}",
            output::plural(report.operations, "operation"),
            output::plural(report.waves, "wave")
        ),
    );
    row("first up, to its answer", output::duration(report.first_up_ms));
    row("last fault until all is as wanted", output::duration(report.convergence_ms));
    row("messages of all", traffic(report.messages, report.bytes));
    row("messages of controllers", traffic(report.controller_messages, report.controller_bytes));
    row("virtual time", format!("{}, simulated in {wall}", output::duration(report.virtual_ms)));
    table.print();
}

fn faults(report: &Report) -> String {
    format!(
        "{} of agents, {} of the controller; {} of hosts, {} of the network",
        output::plural(report.kills, "death"),
        output::plural(report.controller_kills, "death"),
        output::plural(report.silences, "silence"),
        output::plural(report.partitions, "partition"),
    )
}

fn traffic(messages: u64, bytes: u64) -> String {
    format!("{messages}, {}", output::bytes(bytes))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn times_and_shares_are_read_as_they_are_written() {
        assert_eq!(latency("1ms"), Ok(Duration::from_millis(1)));
        assert_eq!(latency("250us"), Ok(Duration::from_micros(250)));
        assert_eq!(latency("0.5s"), Ok(Duration::from_millis(500)));
        assert!(
            latency("5").is_err() && latency("-1s").is_err() && latency("NaNs").is_err() && latency("2000s").is_err()
        );
        assert_eq!(share("1%"), Ok(0.01));
        assert!(share("0.01").is_err());
    }
}
