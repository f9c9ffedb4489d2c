//! What a file says about hosts: rows of VMs and routers with a rule each.
//!
//! The hosts themselves are not known to the file. [`Plan::place`](super::Plan::place) brings the two together.

use super::{Plan, Range};
use crate::source::Span;
use serde::Serialize;
use std::fmt;

/// How the VMs of a rule stand to one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Spread {
    /// On as few hosts as fit, on one if it has room.
    Together,
    /// No two on one host.
    Apart,
}

/// What a `place` statement, or the property of a vm, demands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize)]
pub struct PlaceRule {
    /// Only hosts in this rack.
    pub rack: Option<String>,
    /// Only hosts with this tag.
    pub tag: Option<String>,
    /// How the VMs stand to one another.
    pub spread: Option<Spread>,
    /// At most so many of the VMs on a host.
    pub per_host: Option<u32>,
}

impl PlaceRule {
    /// Whether nothing is demanded.
    pub fn is_empty(&self) -> bool {
        *self == PlaceRule::default()
    }

    /// How many of its VMs a host may have.
    pub fn most_per_host(&self) -> Option<u32> {
        if self.spread == Some(Spread::Apart) { Some(1) } else { self.per_host }
    }
}

impl fmt::Display for PlaceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if let Some(tag) = &self.tag {
            parts.push(format!("hosts with tag {tag}"));
        }
        if let Some(rack) = &self.rack {
            parts.push(format!("hosts in rack {rack}"));
        }
        match self.spread {
            Some(Spread::Together) => parts.push("together".to_owned()),
            Some(Spread::Apart) => parts.push("apart".to_owned()),
            None => {}
        }
        if let Some(most) = self.per_host {
            parts.push(format!("at most {most} per host"));
        }
        f.write_str(&parts.join(", "))
    }
}

/// A rule and what it is about.
#[derive(Debug, Clone)]
pub(crate) struct PlaceRow {
    /// VMs, sorted; no two ranges overlap or touch.
    pub(crate) ranges: Box<[Range]>,
    /// Routers, sorted: their hosts are chosen by `rack` and `tag`.
    pub(crate) routers: Box<[u32]>,
    pub(crate) rule: PlaceRule,
    /// Entry of [`Data::place_texts`](super::rows::Data::place_texts).
    pub(crate) text: u32,
    /// Where the file says how the VMs stand to one another, and where which hosts.
    pub(crate) spread_span: Span,
    pub(crate) hosts_span: Span,
}

impl PlaceRow {
    /// How many VMs it is about.
    pub(crate) fn vms(&self) -> u64 {
        self.ranges.iter().map(|r| u64::from(r.count)).sum()
    }
}

/// A statement about hosts, with what it came to in all instances.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlaceSummary {
    /// The statement: `place t1[*]`, `place together in module isp`, `vm dc.db`.
    pub text: String,
    /// How many sets of VMs it makes: one an instance of its module, or one a group.
    pub sets: u32,
    /// VMs in all of them.
    pub vms: u64,
    /// Routers in all of them.
    pub routers: u64,
    /// What it demands; that of the first set, where instances differ.
    pub rule: PlaceRule,
}

impl Plan {
    /// What the file says about hosts, a line a statement.
    pub fn place_rules(&self) -> Vec<PlaceSummary> {
        let mut summaries: Vec<Option<PlaceSummary>> = vec![None; self.data.place_texts.len()];
        for row in &self.data.places {
            let Some(slot) = summaries.get_mut(row.text as usize) else { continue };
            let summary = slot.get_or_insert_with(|| PlaceSummary {
                text: self.data.place_texts[row.text as usize].to_string(),
                sets: 0,
                vms: 0,
                routers: 0,
                rule: row.rule.clone(),
            });
            summary.sets += 1;
            summary.vms += row.vms();
            summary.routers += row.routers.len() as u64;
        }
        summaries.into_iter().flatten().collect()
    }
}
