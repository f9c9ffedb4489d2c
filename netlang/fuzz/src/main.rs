//! `make fuzz`: the network language under libFuzzer (crate fleet-fuzz).

use anyhow::Result;
use clap::Parser;
use fleet_fuzz::{Campaign, Run};
use netlang_fuzz::seeds::{corpus, dictionary};

/// Looks for inputs that break a promise of the network language
#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    run: Run,
}

fn main() -> Result<()> {
    let campaign = Campaign {
        what: "the network language",
        package: "netlang-fuzz",
        target: "netlang-fuzz-target",
        regressions: "netlang/fuzz/regressions",
        corpus: corpus()?,
        dictionary: dictionary(),
        longest: 8192,
        allocation_mib: 2048,
    };
    campaign.run(&Cli::parse().run)
}
