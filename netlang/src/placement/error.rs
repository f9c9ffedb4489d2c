//! Why VMs cannot be placed: with the sums, and what to do.

/// Bytes as people read them.
fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20)];
    // The smaller unit while it says more: 1,536 MiB, not 1 GiB.
    match UNITS.iter().find(|(_, unit)| bytes >= unit * 10 || (bytes >= *unit && bytes.is_multiple_of(*unit))) {
        Some((name, unit)) => format!("{} {name}", crate::text::thousands(bytes.div_ceil(*unit))),
        None => format!("{} KiB", crate::text::thousands(bytes.div_ceil(1024))),
    }
}

fn vms(count: u64) -> String {
    format!("{} VM{}", crate::text::thousands(count), if count == 1 { "" } else { "s" })
}

/// The factor that a file would have to promise by, where that is not out of reason.
fn promise(needed: u64, available: u64) -> String {
    const MOST: u64 = 16;
    let factor = needed.div_ceil(available.max(1)).max(2);
    if factor > MOST { String::new() } else { format!(", promise more than there is with `overcommit {factor}`") }
}

fn of_hosts(count: u64) -> String {
    format!("{count} host{}", if count == 1 { "" } else { "s" })
}

/// Why a plan cannot be placed on the hosts that there are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// There are no hosts.
    #[error("there are no hosts to place VMs on")]
    NoHosts,
    /// Two hosts of one name.
    #[error("two hosts are named `{name}`; give one of them another name")]
    SameName {
        /// The name.
        name: String,
    },
    /// No host is as the file demands.
    #[error("{what} need {wanted}, and there are none; {known}")]
    NoSuchHosts {
        /// Which VMs or routers.
        what: String,
        /// What is demanded of hosts.
        wanted: String,
        /// Which racks and tags there are.
        known: String,
    },
    /// An external network is on a host that there is not.
    #[error("the router {router} is on the external network of host `{host}`, and there is no such host")]
    NoExternalHost {
        /// The router.
        router: String,
        /// The host that the file names.
        host: String,
    },
    /// A VM is larger than every host.
    #[error(
        "{what} needs {} of memory, and no host has more than {}; give it less `mem`{}",
        size(*.needed), size(*.largest), promise(*.needed, *.largest)
    )]
    TooLarge {
        /// The VM.
        what: String,
        /// Bytes it may come to use.
        needed: u64,
        /// Bytes of the largest host that it may run on.
        largest: u64,
    },
    /// There is not enough memory.
    #[error(
        "{} need {} on {wanted}, there are {} on {hosts}; give them less `mem`{}, start fewer, or add hosts",
        vms(*.count), size(*.needed), size(*.available), promise(*.needed, *.available)
    )]
    Memory {
        /// How many VMs.
        count: u64,
        /// Bytes they may come to use.
        needed: u64,
        /// What is demanded of hosts.
        wanted: String,
        /// Bytes that those hosts have.
        available: u64,
        /// The hosts.
        hosts: String,
    },
    /// A rule allows too few on a host.
    #[error(
        "{} of `{what}` cannot be {rule} on {}: {} hosts are needed{}",
        vms(*.count), of_hosts(*.hosts), .needed, if *.hosts > 0 { format!("; they may use {names}") } else { String::new() }
    )]
    TooFewHosts {
        /// The statement.
        what: String,
        /// `apart`, or `at most 5 per host`.
        rule: String,
        /// How many VMs.
        count: u64,
        /// How many hosts they may use.
        hosts: u64,
        /// How many they need.
        needed: u64,
        /// Those that they may use.
        names: String,
    },
    /// A segment has more ports than bridges on all hosts.
    #[error(
        "the lan {segment} has {} on {}, and a bridge on a host takes {} of them: {} hosts are needed, or split the lan",
        vms(*.count), of_hosts(*.hosts), crate::text::thousands(u64::from(*.limit)), .needed
    )]
    Ports {
        /// The segment.
        segment: String,
        /// VMs on it.
        count: u64,
        /// Hosts.
        hosts: u64,
        /// VMs that a bridge on one host takes.
        limit: u32,
        /// Hosts that are needed.
        needed: u64,
    },
    /// The sums are right, and yet some find no place.
    #[error(
        "no host has room for {what} ({} of {} that are left over); {room}; add hosts, or demand less with `place`",
        vms(*.count), size(*.each)
    )]
    NoRoom {
        /// The first VMs without a host.
        what: String,
        /// How many VMs are left over in all.
        count: u64,
        /// Bytes that one of the first may come to use.
        each: u64,
        /// What is left on the hosts that they may use.
        room: String,
    },
}

/// "h1, h2, h3 and 97 more".
pub(super) fn names(hosts: &[&str]) -> String {
    const SHOWN: usize = 4;
    if hosts.len() <= SHOWN + 1 {
        return hosts.join(", ");
    }
    format!("{} and {} more", hosts[..SHOWN].join(", "), hosts.len() - SHOWN)
}

/// What is left, in words.
pub(super) fn room(free: u64, host: &str, hosts: usize) -> String {
    match hosts {
        0 | 1 => format!("{host} has {} left", size(free)),
        _ => format!("of the {hosts} hosts that they may use, {host} has the most memory left, {}", size(free)),
    }
}
