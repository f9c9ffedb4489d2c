//! Addresses: prefixes of lans and host numbers, as far as the topology gives them without contradiction.
//!
//! A lan takes over its prefix when all addresses on it are of one, and no other lan that routers join it with
//! overlaps it. A member keeps its number if it has one. Others get one only where the language would not find one by
//! itself: a second router, and VMs on a prefix with no room from 16 up.

use std::collections::{BTreeMap, BTreeSet};

use super::exec::Cidr;
use super::network::{Network, On, Sets};
use super::read::Topology;
use crate::note::{NoteKind, Notes};

/// Lengths of prefixes that are taken over.
const LENGTHS: std::ops::RangeInclusive<u8> = 8..=30;
/// The first host number that VMs are given.
const FIRST_OF_VMS: u32 = 16;
/// Where lans and links take their prefixes from, in the order of preference; the first of each is the usual one.
const POOLS: [(&str, [&str; 2]); 2] =
    [("lan", ["10.0.0.0/8", "172.16.0.0/12"]), ("link", ["100.64.0.0/10", "198.18.0.0/15"])];

/// Gives lans their prefixes and ports their host numbers.
pub(super) fn give(topology: &Topology, network: &mut Network, notes: &mut Notes) {
    let members = network.members();
    for (lan, members) in members.iter().enumerate() {
        network.lans[lan].prefix = prefix(network, lan, members, notes);
    }
    drop_overlaps(network, notes);
    for (lan, members) in members.iter().enumerate() {
        if !number(topology, network, lan, members, notes) {
            let row = &mut network.lans[lan];
            let prefix = row.prefix.take().map(|prefix| prefix.to_string()).unwrap_or_default();
            let why = "it has no room for all that are on the lan; fleet chooses another prefix";
            notes.fold(row.line, NoteKind::Changed, &format!("prefix {prefix}"), &row.name, why);
            number(topology, network, lan, members, notes);
        }
    }
    network.pools = pools(network);
}

/// The prefix that the addresses on a lan agree on.
fn prefix(network: &Network, lan: usize, members: &[(usize, usize)], notes: &mut Notes) -> Option<Cidr> {
    let row = &network.lans[lan];
    let mut found: Vec<(Cidr, String)> = Vec::new();
    for (host, port) in members {
        let host = &network.hosts[*host];
        let Some(address) = host.ports[*port].address else { continue };
        if !LENGTHS.contains(&address.len) {
            let why = format!("prefixes from /{} to /{} are taken over", LENGTHS.start(), LENGTHS.end());
            let what = format!("{address} of {}", host.name);
            notes.fold(host.ports[*port].line, NoteKind::Changed, "", &what, &why);
            continue;
        }
        found.push((address.prefix(), format!("{address} of {}", host.name)));
    }
    let first = found.first()?.0;
    if let Some(other) = found.iter().find(|(prefix, _)| *prefix != first) {
        let what = format!("addresses on lan {}", row.name);
        let why = format!("{} and {} are not of one prefix; fleet chooses one", found[0].1, other.1);
        notes.add(row.line, NoteKind::Changed, what, why);
        return None;
    }
    Some(first)
}

/// Drops prefixes that overlap where routers could take either.
fn drop_overlaps(network: &mut Network, notes: &mut Notes) {
    // Lans first, then routers.
    let lans = network.lans.len();
    let mut sets = Sets::new(lans + network.hosts.len());
    for (at, host) in network.hosts.iter().enumerate().filter(|(_, host)| host.router.is_some()) {
        for port in &host.ports {
            if let On::Lan(lan) = port.on {
                sets.join(lan, lans + at);
            }
        }
    }
    for line in &network.lines {
        sets.join(lans + line.ends[0], lans + line.ends[1]);
    }
    let mut given: Vec<(usize, Cidr, usize)> = Vec::new();
    for (at, lan) in network.lans.iter().enumerate() {
        given.extend(lan.prefix.map(|prefix| (sets.of(at), prefix, at)));
    }
    given.sort_by_key(|(set, prefix, at)| (*set, prefix.bounds().0, prefix.len, *at));
    let mut overlapping: BTreeMap<usize, Cidr> = BTreeMap::new();
    let mut widest: Option<(usize, Cidr, usize)> = None;
    for it in given {
        if let Some((set, prefix, at)) = widest
            && set == it.0
            && it.1.bounds().0 <= prefix.bounds().1
        {
            overlapping.insert(at, prefix);
            overlapping.insert(it.2, prefix);
        }
        if widest.is_none_or(|(set, prefix, _)| set != it.0 || it.1.bounds().1 > prefix.bounds().1) {
            widest = Some(it);
        }
    }
    for (at, prefix) in overlapping {
        let row = &mut network.lans[at];
        row.prefix = None;
        let why = "several lans have it, and routers join them: something between them switches there. Make them one \
                   lan, or keep the prefixes that fleet chooses";
        notes.fold(row.line, NoteKind::Changed, &format!("prefix {prefix}"), &row.name, why);
    }
}

/// Gives host numbers to the members of a lan; `false` if its prefix has too few.
fn number(
    topology: &Topology,
    network: &mut Network,
    lan: usize,
    members: &[(usize, usize)],
    notes: &mut Notes,
) -> bool {
    let prefix = network.lans[lan].prefix;
    // The last but one of the prefix; a prefix that fleet chooses is as large as it has to be.
    let last = prefix.map_or(u32::MAX, |prefix| prefix.bounds().1 - prefix.bounds().0 - 1);
    let mut taken = BTreeSet::new();
    let mut routers = Vec::new();
    let mut vms = Vec::new();
    for (host, port) in members {
        let row = &mut network.hosts[*host];
        let (name, is_router) = (row.name.clone(), row.router.is_some());
        let port_row = &mut row.ports[*port];
        port_row.at = None;
        if let (Some(prefix), Some(address)) = (prefix, port_row.address)
            && prefix == address.prefix()
        {
            let number = address.host();
            let why = match number {
                _ if number == 0 || number > last => "no host of that prefix can have it; another is chosen",
                _ if !taken.insert(number) => "another on that lan has it; another is chosen",
                _ => {
                    port_row.at = Some(number);
                    continue;
                }
            };
            notes.fold(port_row.line, NoteKind::Changed, "", &format!("{address} of {name}"), why);
        }
        if is_router { routers.push((*host, *port)) } else { vms.push((*host, *port)) }
    }
    // What VMs send their packets to is the router's address, if there is one router to have it.
    let hop = prefix.and_then(|prefix| hops(topology, network, members).find(|hop| prefix.contains(*hop)));
    if let (Some(prefix), Some(hop), [(host, port)]) = (prefix, hop, routers.as_slice()) {
        let number = Cidr { ip: hop, len: prefix.len }.host();
        if number > 0 && number <= last && taken.insert(number) {
            network.hosts[*host].ports[*port].at = Some(number);
            routers.clear();
        }
    }
    let enough = u64::from(FIRST_OF_VMS) + (vms.len() + taken.len() + routers.len()) as u64 <= u64::from(last);
    let explicit = if enough { Vec::new() } else { vms };
    let mut next = 1;
    for (host, port) in routers.into_iter().chain(explicit) {
        while !taken.insert(next) {
            next += 1;
        }
        if next > last {
            return false;
        }
        network.hosts[host].ports[port].at = Some(next);
    }
    true
}

/// The next hops that the VMs on a lan know.
fn hops(
    topology: &Topology,
    network: &Network,
    members: &[(usize, usize)],
) -> impl Iterator<Item = std::net::Ipv4Addr> {
    members
        .iter()
        .map(|(host, _)| &network.hosts[*host])
        .filter(|host| host.router.is_none())
        .flat_map(|host| topology.nodes[host.node].setup.hops.iter().copied())
}

/// Pools that replace the usual ones, where a given prefix leaves those no room.
fn pools(network: &Network) -> Vec<(&'static str, &'static str)> {
    let wide = |pool: Cidr| {
        let short = |prefix: &Cidr| prefix.len <= pool.len.max(12);
        let mut given = network.lans.iter().filter_map(|lan| lan.prefix).filter(short);
        given.any(|prefix| prefix.bounds().0 <= pool.bounds().1 && pool.bounds().0 <= prefix.bounds().1)
    };
    let mut pools = Vec::new();
    for (kind, choices) in POOLS {
        let free = choices.iter().position(|pool| Cidr::parse(pool).is_some_and(|pool| !wide(pool)));
        if let Some(at @ 1..) = free {
            pools.push((kind, choices[at]));
        }
    }
    pools
}
