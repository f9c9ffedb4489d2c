//! What a reconcile did or would do, and how far it is.

use std::collections::BTreeSet;

/// The difference between the wanted and the present network: what was made of it, or would be.
///
/// Things are named as people know them: `lan lan0`, `port web[3]/eth0`, `router core`, `interface core/eth0`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetReport {
    /// Things that were lacking.
    pub made: Vec<String>,
    /// Things that were there with a wrong setting.
    pub changed: Vec<String>,
    /// Things that nobody wants any more.
    pub removed: Vec<String>,
    /// How many wanted things were there as they should be.
    pub unchanged: usize,
}

impl NetReport {
    /// Whether all was as it should be.
    pub fn is_empty(&self) -> bool {
        self.made.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }
}

/// How far a reconcile is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub step: Step,
    /// Requests of this step that are done.
    pub done: usize,
    /// Requests of this step.
    pub total: usize,
}

/// The steps of a reconcile, in their order. A step with nothing to do is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Namespaces are made.
    Namespaces,
    /// Devices and routers that nobody wants are removed.
    Remove,
    /// Devices are made.
    Create,
    /// Devices are plugged, set up and given their addresses, FDB entries, neighbours and routes.
    Configure,
}

/// Collects a report: a thing that was made does not count as changed, too.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub made: BTreeSet<String>,
    pub changed: BTreeSet<String>,
    pub removed: BTreeSet<String>,
}

impl Tally {
    /// The report, given the labels of all wanted things.
    pub fn report(self, wanted: &BTreeSet<String>) -> NetReport {
        // A thing that was made anew after its wrong predecessor went is reported as made.
        let removed = self.removed.difference(&self.made).cloned().collect();
        let changed: Vec<_> = self.changed.difference(&self.made).cloned().collect();
        let unchanged = wanted.len().saturating_sub(self.made.len() + changed.len());
        NetReport { made: self.made.into_iter().collect(), changed, removed, unchanged }
    }
}
