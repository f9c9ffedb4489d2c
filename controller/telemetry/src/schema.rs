//! The database's schema in one place: collections, their identity fields, and the table of metrics.
//!
//! Samples live in time-series collections: `ts` is the time, `meta` holds the stable identity of the series and
//! nothing else, the measured fields follow in constant order. Writer, queries, completions and documentation are all
//! driven by these tables.

use std::fmt;

/// The database.
pub const DATABASE: &str = "fleet";

/// A collection of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Collection {
    /// One document a host and instant.
    HostSamples,
    /// One document a VM and instant.
    VmSamples,
    /// One document a port and instant.
    PortSamples,
    /// One document a camera that is in a VM over the network, and instant.
    CameraSamples,
    /// One document an event; an ordinary collection, `_id` is the event's id.
    Events,
}

impl Collection {
    /// The time-series collections.
    pub const SERIES: [Self; 4] = [Self::HostSamples, Self::VmSamples, Self::PortSamples, Self::CameraSamples];

    /// Its name in the database.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HostSamples => "host_samples",
            Self::VmSamples => "vm_samples",
            Self::PortSamples => "port_samples",
            Self::CameraSamples => "camera_samples",
            Self::Events => "events",
        }
    }

    /// The fields that say whose document it is: below `meta` in a time series, at the top of an event.
    pub const fn identity(self) -> &'static [&'static str] {
        match self {
            Self::HostSamples => &["host"],
            Self::VmSamples | Self::Events => &["experiment", "host", "vm"],
            Self::PortSamples => &["experiment", "host", "vm", "port"],
            Self::CameraSamples => &["experiment", "host", "vm", "camera_host", "camera"],
        }
    }

    /// The path of an identity field, for a filter or an expression (there with `$` before it).
    pub fn identity_path(self, field: &str) -> String {
        match self {
            Self::Events => field.to_owned(),
            _ => format!("meta.{field}"),
        }
    }

    /// What it has documents of, in words.
    pub const fn of(self) -> &'static str {
        match self {
            Self::HostSamples => "hosts",
            Self::VmSamples => "VMs",
            Self::PortSamples => "ports",
            Self::CameraSamples => "cameras",
            Self::Events => "events",
        }
    }
}

impl fmt::Display for Collection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a metric's numbers are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A value at an instant.
    Gauge,
    /// A total since the start of what is counted; it begins at nought again when that starts anew.
    Counter,
}

/// One thing that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// As users write it.
    pub name: &'static str,
    /// Where it is kept.
    pub collection: Collection,
    /// The field that holds it.
    pub field: &'static str,
    /// Unit of a value; of a counter's total.
    pub unit: &'static str,
    /// Gauge or counter.
    pub kind: Kind,
    /// What it is, in a line.
    pub about: &'static str,
}

macro_rules! metrics {
    ($($name:ident: $collection:ident . $field:ident, $kind:ident, $unit:literal, $about:literal;)*) => {
        &[$(Metric {
            name: stringify!($name),
            collection: Collection::$collection,
            field: stringify!($field),
            unit: $unit,
            kind: Kind::$kind,
            about: $about,
        }),*]
    };
}

/// Every metric, in the order in which lists show them.
pub const METRICS: &[Metric] = metrics! {
    cpu: VmSamples.cpu, Gauge, "% of a core", "CPU that the VM's processes used since the sample before";
    memory: VmSamples.memory, Gauge, "bytes", "resident memory of the VM on its host";
    cpu_time: VmSamples.cpu_time_ms, Counter, "ms", "CPU time since the VM's start";
    rx_bytes: PortSamples.rx_bytes, Counter, "bytes", "bytes that the VM received";
    tx_bytes: PortSamples.tx_bytes, Counter, "bytes", "bytes that the VM sent";
    rx_frames: PortSamples.rx_frames, Counter, "frames", "frames that the VM received";
    tx_frames: PortSamples.tx_frames, Counter, "frames", "frames that the VM sent";
    rx_dropped: PortSamples.rx_dropped, Counter, "frames", "frames to the VM that were thrown away";
    tx_dropped: PortSamples.tx_dropped, Counter, "frames", "frames of the VM that were thrown away";
    camera_to_guest: CameraSamples.to_guest, Counter, "bytes", "bytes from a redirected camera to its VM since it was attached";
    camera_from_guest: CameraSamples.from_guest, Counter, "bytes", "bytes from the VM to it";
    host_cpu: HostSamples.cpu, Gauge, "% of all cores", "CPU of the host in use since the sample before";
    host_memory: HostSamples.memory_total, Gauge, "bytes", "memory of the host";
    host_available: HostSamples.memory_available, Gauge, "bytes", "memory of the host that can be had without swapping";
    psi_memory: HostSamples.psi_memory, Gauge, "%", "share of the last 10 s in which some task waited for memory";
    psi_cpu: HostSamples.psi_cpu, Gauge, "%", "share of the last 10 s in which some task waited for a core";
    load1: HostSamples.load1, Gauge, "tasks", "load average over one minute";
    vms_running: HostSamples.vms_running, Gauge, "VMs", "VMs whose processes run";
    ksm_shared: HostSamples.ksm_shared, Gauge, "pages", "merged pages that are kept once";
    ksm_sharing: HostSamples.ksm_sharing, Gauge, "pages", "places that use a merged page: what is saved";
    ksm_volatile: HostSamples.ksm_volatile, Gauge, "pages", "pages that change too quickly to be merged";
    ksm_scanned: HostSamples.ksm_scanned, Counter, "pages", "pages that KSM has looked at";
    ksm_cpu: HostSamples.ksm_cpu, Counter, "ms", "processor time of ksmd since boot";
    ksm_profit: HostSamples.ksm_profit, Gauge, "bytes", "memory that KSM saves, less what it costs";
    agent_memory: HostSamples.agent_memory, Gauge, "bytes", "resident memory of the agent";
    dropped: HostSamples.dropped, Counter, "samples", "samples lost on the way from the agent";
    writer_dropped: HostSamples.writer_dropped, Counter, "samples", "samples lost by the controller before the database";
};

/// Finds a metric by its name.
pub fn metric(name: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| metric.name == name)
}

/// The metric whose name is nearest to what was written, if one is near enough to be meant.
pub fn nearest_metric(name: &str) -> Option<&'static Metric> {
    let nearest = METRICS.iter().map(|metric| (distance(name, metric.name), metric)).min_by_key(|(far, _)| *far);
    nearest.filter(|(far, metric)| *far <= metric.name.len().div_ceil(3)).map(|(_, metric)| metric)
}

/// Levenshtein distance in bytes. Names are short; a very long word is near to none of them.
fn distance(a: &str, b: &str) -> usize {
    const LONGEST: usize = 64;
    if a.len() > LONGEST {
        return a.len();
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_and_places_are_unique() {
        let names: HashSet<_> = METRICS.iter().map(|metric| metric.name).collect();
        let places: HashSet<_> = METRICS.iter().map(|metric| (metric.collection, metric.field)).collect();
        assert_eq!(names.len(), METRICS.len());
        assert_eq!(places.len(), METRICS.len());
    }

    #[test]
    fn a_slip_of_the_pen_is_understood_and_nonsense_is_not() {
        assert_eq!(nearest_metric("cpuu").map(|metric| metric.name), Some("cpu"));
        assert_eq!(nearest_metric("rx_byte").map(|metric| metric.name), Some("rx_bytes"));
        assert_eq!(nearest_metric("memroy").map(|metric| metric.name), Some("memory"));
        assert_eq!(nearest_metric("temperature"), None);
        assert_eq!(nearest_metric(&"cpu".repeat(1000)), None);
    }

    #[test]
    fn distance_is_levenshteins() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", "abc"), 0);
    }
}
