//! Placement: which host runs which VMs. Pure, deterministic, and in ranges: a host gets `web[0..150]`, never a list
//! of VMs, so a million VMs on a thousand hosts take milliseconds.
//!
//! 1. Groups are cut into [`units`]: ranges that the same rules of the file are about, so all of their VMs may run on
//!    the same hosts and count against the same limits.
//! 2. With an earlier placement, whatever may stay where it is stays ([`fill`]).
//! 3. What has the fewest hosts to choose from goes first; of that `together` before the rest, the largest first.
//! 4. The rest fills one host after the other in the order of the file, so that a segment crosses few hosts. A host is
//!    full, for this purpose, at 4 virtual processors a core, or at its share by cores when there are more than that.
//!    What does not fit in that way goes on with higher limits, at last up to the memory.
//! 5. Routers go where most VMs of their lans are ([`routers`]).
//!
//! Rules of the file hold before anything else, then nobody moves who need not, then load is spread.

mod error;
mod fill;
mod room;
mod routers;
mod units;

pub use error::PlaceError;

use crate::plan::{HypervisorKind, Plan, Range};
use serde::{Deserialize, Serialize};

/// A machine that can run VMs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Its name; no two hosts have the same.
    pub name: String,
    /// The rack it stands in.
    #[serde(default)]
    pub rack: Option<String>,
    /// What else is known of it.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Bytes that it has for VMs, without what it needs itself.
    pub memory: u64,
    /// Processor cores.
    pub cores: u32,
    /// It keeps what it has and gets nothing new: nobody can reach it now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub closed: bool,
}

/// What decides how much memory a VM takes on its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VmShape<'a> {
    /// What must run it; `None` leaves it to the host.
    pub hypervisor: Option<HypervisorKind>,
    /// The image's name.
    pub image: &'a str,
    /// Virtual processors.
    pub cpu: u32,
    /// Memory in bytes that the file gives.
    pub memory: Option<u64>,
    /// What counts is its memory divided by this; at least 1.
    pub overcommit: u32,
}

impl VmShape<'_> {
    /// Bytes of its memory that count on a host, when it has so many.
    pub fn committed(&self, memory: u64) -> u64 {
        committed(memory, self.overcommit)
    }
}

/// Bytes that count on a host of a VM's memory under an overcommit.
pub fn committed(memory: u64, overcommit: u32) -> u64 {
    memory.div_ceil(u64::from(overcommit.max(1)))
}

/// Some VMs of a group on a host: own indices `first..first + count`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PlacedRange {
    /// The group's path: `web`, `hq.pc`.
    pub group: String,
    /// The lowest index.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// What falls on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPlacement {
    /// The host's name.
    pub host: String,
    /// Its VMs, in the order of the file.
    pub ranges: Vec<PlacedRange>,
    /// Its routers, in the order of the file.
    pub routers: Vec<String>,
    /// How many VMs.
    pub vms: u64,
    /// Virtual processors of its VMs.
    pub cpus: u64,
    /// Bytes that its VMs may come to use.
    pub memory: u64,
}

/// Which host runs what. It names groups by their paths, so it outlives changes of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// One entry a host, in the order in which hosts were given.
    pub hosts: Vec<HostPlacement>,
    /// Segments with ports on more than one host.
    pub crossing_segments: u64,
}

impl Plan {
    /// Chooses a host for every VM and router.
    ///
    /// `commits` says how many bytes a VM may come to use on its host: its memory, or what hypervisor and image take
    /// when the file gives none, and the process around it. With `previous`, whatever can stay where it is stays.
    ///
    /// # Errors
    /// When the VMs do not fit, with the sums; nothing is placed then.
    pub fn place(
        &self,
        hosts: &[Host],
        commits: &dyn Fn(&VmShape<'_>) -> u64,
        previous: Option<&Placement>,
    ) -> Result<Placement, PlaceError> {
        let work = units::Work::of(self, hosts, commits)?;
        work.check_sums()?;
        let mut fill = fill::Fill::new(&work);
        if let Some(previous) = previous {
            fill.keep(previous);
        }
        fill.run()?;
        Ok(fill.finish(previous))
    }

    /// The name of a range: `web[0..150]`, or `alice` for what is no array.
    pub fn range_name(&self, range: Range) -> Option<String> {
        let row = self.data.groups.get(range.group.0 as usize)?;
        let path = self.data.names.path(row.instance, row.decl, None);
        let indices = range.indices();
        Some(if row.is_array { format!("{path}[{}..{}]", indices.start, indices.end) } else { path })
    }
}
