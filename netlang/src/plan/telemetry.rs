//! The `telemetry` block: what is measured, beyond what always is.

use super::choose::Choice;
use super::{LinkId, Plan, Range, RouterId};
use crate::text::{duration, rate};
use serde::Serialize;

/// What the file wants measured.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Telemetry {
    /// The period of samples in nanoseconds; `None` leaves it to the host.
    pub every: Option<u64>,
    /// What is sampled; empty leaves it to the host.
    pub collect: Vec<Metric>,
    /// Links whose packets are kept.
    pub captures: Vec<Capture>,
    /// VMs of which a few are sampled with a period of their own.
    pub samples: Vec<Sample>,
    /// VMs whose consoles are kept.
    pub consoles: Vec<Range>,
    /// Routers whose routing tables are kept.
    pub routes: Vec<RouterId>,
}

/// What can be sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// Time of processors.
    Cpu,
    /// Memory.
    Mem,
    /// Bytes and frames of ports.
    Net,
    /// Pages that KSM merged.
    Ksm,
}

/// `pcap LINK [max RATE]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Capture {
    /// The links.
    pub links: Vec<LinkId>,
    /// What is kept at most, of each link, in bits a second; `None` for all.
    pub max: Option<u64>,
    /// The words after `pcap`.
    pub text: String,
}

/// `sample FEW of MANY of VMS [every TIME]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sample {
    /// So many …
    pub few: u32,
    /// … of so many.
    pub many: u32,
    /// VMs, in the order of the file's words.
    pub vms: Vec<Range>,
    /// The period in nanoseconds; `None` for that of the block.
    pub every: Option<u64>,
    /// The words after `sample`.
    pub text: String,
}

impl Sample {
    /// Which of the VMs, by their place in `vms`, are sampled: always the same ones, at least one.
    pub fn choice(&self) -> Choice {
        let total: u64 = self.vms.iter().map(|range| u64::from(range.count)).sum();
        let count = (total * u64::from(self.few)).div_ceil(u64::from(self.many.max(1)));
        Choice::new(total, count, 0)
    }
}

/// The block in a few words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TelemetrySummary {
    /// The period of samples in nanoseconds, if the file says so.
    pub every_ns: Option<u64>,
    /// What is sampled.
    pub collect: Vec<Metric>,
    /// The words after `pcap`, one entry a line.
    pub captures: Vec<String>,
    /// The words after `sample`, one entry a line.
    pub samples: Vec<String>,
    /// VMs that are sampled by `sample` lines.
    pub sampled_vms: u64,
    /// VMs whose consoles are kept.
    pub consoles: u64,
    /// Routers whose routing tables are kept.
    pub routes: u64,
}

impl Plan {
    /// What the file's `telemetry` block wants, if there is one.
    pub fn telemetry(&self) -> Option<&Telemetry> {
        self.data.telemetry.as_ref()
    }
}

impl Telemetry {
    /// The block in a few words.
    pub fn summary(&self) -> TelemetrySummary {
        let capture = |c: &Capture| match c.max {
            Some(max) => format!("{} max {}", c.text, rate(max)),
            None => c.text.clone(),
        };
        let sample = |s: &Sample| match s.every {
            Some(every) => format!("{} every {}", s.text, duration(every)),
            None => s.text.clone(),
        };
        TelemetrySummary {
            every_ns: self.every,
            collect: self.collect.clone(),
            captures: self.captures.iter().map(capture).collect(),
            samples: self.samples.iter().map(sample).collect(),
            sampled_vms: self.samples.iter().map(|s| s.choice().count()).sum(),
            consoles: self.consoles.iter().map(|range| u64::from(range.count)).sum(),
            routes: self.routes.len() as u64,
        }
    }
}
