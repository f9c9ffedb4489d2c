//! The columns of what routers do: protocols, firewalls, address translation; and the policies of lans and links.

use crate::address::prefix::Prefix;
use crate::source::Span;
use hashbrown::HashMap;
use serde::Serialize;
use smallvec::SmallVec;

/// A network outside, on an interface of a host.
#[derive(Debug, Clone)]
pub(crate) struct ExternalRow {
    /// Its declaration in the file.
    pub(crate) decl: u32,
    /// The host that has the interface.
    pub(crate) host: Box<str>,
    pub(crate) interface: Box<str>,
    pub(crate) prefix: Prefix,
}

/// What a lan does with frames, besides carrying them. Lans that are alike share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct LanPolicy {
    /// What carries the frames.
    pub switch: SwitchKind,
    /// Members reach only the gateway, not one another.
    pub isolate: bool,
    /// The bridge learns MAC addresses; otherwise they are written from the plan.
    pub learn: bool,
    /// ARP requests reach every member; otherwise the bridge answers them.
    pub flood_arp: bool,
    /// Broadcast frames a second that a port may send.
    pub storm: Option<u64>,
    /// Host numbers that the gateway lends by DHCP.
    pub dhcp: Option<DhcpRange>,
}

/// What carries the frames of a lan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SwitchKind {
    /// A Linux bridge.
    Bridge,
    /// A VDE switch, in user space.
    Vde,
}

/// Host numbers for DHCP: `first..until`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct DhcpRange {
    /// The lowest host number.
    pub first: u32,
    /// One past the highest.
    pub until: u32,
    /// Lease time in seconds.
    pub lease: u32,
}

/// How a link is shaped. Links that are alike share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
pub struct LinkPolicy {
    /// One-way delay, in nanoseconds.
    pub delay: u64,
    /// Variation of the delay, in nanoseconds.
    pub jitter: u64,
    /// Rate each way in bits a second; `None` for no limit.
    pub rate: Option<u64>,
    /// Packets lost, in parts of a billion.
    pub loss: u64,
}

/// OSPF on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct OspfInterface {
    /// The area.
    pub area: u32,
    /// The network is announced, but nobody is spoken to.
    pub passive: bool,
    /// Hello interval, in milliseconds.
    pub hello: u32,
    /// Dead interval, in milliseconds.
    pub dead: u32,
}

/// A router that speaks BGP.
#[derive(Debug, Clone)]
pub(crate) struct BgpRow {
    pub(crate) asn: u32,
    pub(crate) originate: Box<[Prefix]>,
    /// The `asn` in the file.
    pub(crate) span: Span,
}

/// A firewall: its rules are `rules[first_rule..first_rule + rule_count]`, the first that matches wins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FirewallRow {
    pub(crate) first_rule: u32,
    pub(crate) rule_count: u32,
    /// Whether what no rule matched passes.
    pub(crate) default_allow: bool,
    /// The `default` line, or the word `firewall`.
    pub(crate) default_span: Span,
}

/// The protocol of a rule or check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP.
    Icmp,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Icmp => "icmp",
        })
    }
}

/// Ports of a rule, both ends included; empty for all.
pub(crate) type PortList = SmallVec<[(u16, u16); 2]>;

/// A rule of a firewall.
#[derive(Debug, Clone)]
pub(crate) struct RuleRow {
    pub(crate) allow: bool,
    pub(crate) protocol: Option<Protocol>,
    pub(crate) ports: PortList,
    pub(crate) from: Zone,
    pub(crate) to: Zone,
    pub(crate) span: Span,
}

/// Where packets come from or go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Zone {
    Any,
    /// Through the interface on an external network.
    External(u32),
    /// An address of a set, by its number in [`Zones`].
    Addresses(u32),
}

/// Address translation by a router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NatRow {
    /// Sources of packets that leave to an external network become the router's address there.
    Masquerade { external: u32, span: Span },
    /// What comes to a port on an external network goes to a VM.
    Forward { protocol: Protocol, port: u16, external: u32, to: u32, to_port: u16, span: Span },
}

/// Sets of addresses, each a sorted list of closed intervals that do not touch; equal sets are kept once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Zones {
    sets: Vec<Box<[(u32, u32)]>>,
    ids: HashMap<Box<[(u32, u32)]>, u32>,
}

impl Zones {
    /// The number of a set that is given as closed intervals in any order.
    pub(crate) fn intern(&mut self, mut intervals: Vec<(u32, u32)>) -> u32 {
        intervals.sort_unstable();
        let mut set: Vec<(u32, u32)> = Vec::with_capacity(intervals.len());
        for (first, last) in intervals {
            match set.last_mut() {
                Some(before) if u64::from(first) <= u64::from(before.1) + 1 => before.1 = before.1.max(last),
                _ => set.push((first, last)),
            }
        }
        let set = set.into_boxed_slice();
        if let Some(id) = self.ids.get(&set) {
            return *id;
        }
        let id = self.sets.len() as u32;
        self.sets.push(set.clone());
        self.ids.insert(set, id);
        id
    }

    /// The intervals of a set.
    pub(crate) fn intervals(&self, id: u32) -> &[(u32, u32)] {
        self.sets.get(id as usize).map_or(&[], |s| s)
    }

    /// Whether an address is in a set.
    pub(crate) fn contains(&self, id: u32, address: u32) -> bool {
        let set = self.intervals(id);
        let at = set.partition_point(|(_, last)| *last < address);
        set.get(at).is_some_and(|(first, _)| *first <= address)
    }

    /// Every set, in the order in which they came.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &[(u32, u32)]> {
        self.sets.iter().map(|s| &**s)
    }
}
