//! `make fuzz`: bytes of cameras under libFuzzer (crate fleet-fuzz).

use anyhow::Result;
use clap::Parser;
use fleet_fuzz::{Campaign, Run};
use fleet_usb_fuzz::seeds::{corpus, dictionary};

/// Looks for bytes of cameras that break a promise
#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    run: Run,
}

fn main() -> Result<()> {
    let campaign = Campaign {
        what: "usbredir and descriptors",
        package: "fleet-usb-fuzz",
        target: "fleet-usb-fuzz-target",
        regressions: "agent/usb/fuzz/regressions",
        corpus: corpus()?,
        dictionary: dictionary(),
        longest: 65_536,
        // An input has at most 64 KiB, so no reader has a reason to take more than a few of its copies.
        allocation_mib: 4,
    };
    campaign.run(&Cli::parse().run)
}
