//! The columns of a plan.

use super::form::{Form, Forms};
use super::names::Names;
use super::placement::PlaceRow;
use super::routing::{BgpRow, ExternalRow, FirewallRow, LanPolicy, LinkPolicy, NatRow, OspfInterface, RuleRow, Zones};
use super::schedule::Experiment;
use super::telemetry::Telemetry;
use super::{Check, RouterKind, VmClass};
use crate::address::prefix::Prefix;
use crate::syntax::tree::StmtId;

/// A group of VMs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GroupRow {
    /// Instance of the module (0 is the file) and declaration in it.
    pub(crate) instance: u32,
    pub(crate) decl: u32,
    pub(crate) first: u32,
    pub(crate) count: u32,
    pub(crate) class: u32,
    /// Its NICs: `nics[first_nic..first_nic + nic_count]`.
    pub(crate) first_nic: u32,
    pub(crate) nic_count: u16,
    pub(crate) is_array: bool,
}

/// A NIC of every VM of a group.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NicRow {
    pub(crate) group: u32,
    /// The segment, as a function of the index.
    pub(crate) segment: Form,
    /// The host number, as a function of the index.
    pub(crate) host: Form,
    /// The guest asks for its address; the lan's server has it reserved for the MAC.
    pub(crate) dhcp: bool,
}

/// A segment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SegmentRow {
    pub(crate) instance: u32,
    pub(crate) decl: u32,
    /// Its own index, when it is an element of an array.
    pub(crate) index: Option<u32>,
    pub(crate) prefix: Prefix,
    pub(crate) mtu: u16,
    pub(crate) vni: u32,
    /// Tells overlapping prefixes apart in MAC addresses.
    pub(crate) domain: u8,
    /// Interface of the gateway.
    pub(crate) gateway: Option<u32>,
    /// Entry of [`Data::lan_policies`].
    pub(crate) policy: u32,
}

/// A router.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RouterRow {
    pub(crate) instance: u32,
    pub(crate) decl: u32,
    pub(crate) index: Option<u32>,
    pub(crate) kind: RouterKind,
    /// Its interfaces: `interfaces[first_interface..first_interface + interface_count]`.
    pub(crate) first_interface: u32,
    pub(crate) interface_count: u32,
    /// It speaks OSPF and announces a default route.
    pub(crate) originates_default: bool,
    /// Entries of [`Data::bgp`] and [`Data::firewalls`].
    pub(crate) bgp: Option<u32>,
    pub(crate) firewall: Option<u32>,
    /// Its rules: `nats[first_nat..first_nat + nat_count]`.
    pub(crate) first_nat: u32,
    pub(crate) nat_count: u32,
}

/// What an interface is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum On {
    Segment(u32),
    Link(u32),
    External(u32),
}

/// A router's interface.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InterfaceRow {
    pub(crate) router: u32,
    pub(crate) on: On,
    pub(crate) ip: u32,
    /// The router on an external network that leads to the rest of the world.
    pub(crate) gateway: Option<u32>,
    pub(crate) ospf: Option<OspfInterface>,
}

/// What two routers with BGP are to each other over a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Relation {
    /// `--`: each tells the other its own and its customers' networks.
    Peer,
    /// `->`: the left one buys transit from the right one, and is told of everything.
    Transit,
}

/// A link between two routers.
#[derive(Debug, Clone)]
pub(crate) struct LinkRow {
    /// The name that the file gives it; links of a mesh are named after their ends.
    pub(crate) name: Option<Box<str>>,
    pub(crate) stmt: StmtId,
    pub(crate) relation: Relation,
    /// Entry of [`Data::link_policies`].
    pub(crate) policy: u32,
    pub(crate) routers: [u32; 2],
    /// The interfaces of the two ends.
    pub(crate) interfaces: [u32; 2],
    pub(crate) prefix: Prefix,
    pub(crate) cost: u32,
    pub(crate) mtu: u16,
}

/// Lists of numbers, one for each row of another column, in two flat vectors.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lists {
    ends: Vec<u32>,
    items: Vec<u32>,
}

impl Lists {
    /// Sorts pairs (row, item) into lists for `rows` rows; items keep their order.
    pub(crate) fn from_pairs(rows: usize, pairs: &[(u32, u32)]) -> Lists {
        let mut ends = vec![0u32; rows + 1];
        for (row, _) in pairs {
            ends[*row as usize + 1] += 1;
        }
        for row in 0..rows {
            ends[row + 1] += ends[row];
        }
        let mut next = ends.clone();
        let mut items = vec![0u32; pairs.len()];
        for (row, item) in pairs {
            let at = &mut next[*row as usize];
            items[*at as usize] = *item;
            *at += 1;
        }
        Lists { ends, items }
    }

    /// The list of a row.
    pub(crate) fn of(&self, row: u32) -> &[u32] {
        match self.ends.get(row as usize..row as usize + 2) {
            Some(&[from, until]) => &self.items[from as usize..until as usize],
            _ => &[],
        }
    }
}

/// MTU of external networks: ordinary Ethernet.
pub(crate) const EXTERNAL_MTU: u16 = 1500;

/// All columns of a plan.
#[derive(Debug, Clone, Default)]
pub(crate) struct Data {
    pub(crate) experiment: String,
    pub(crate) names: Names,
    pub(crate) forms: Forms,
    pub(crate) classes: Vec<VmClass>,
    pub(crate) groups: Vec<GroupRow>,
    pub(crate) nics: Vec<NicRow>,
    pub(crate) segments: Vec<SegmentRow>,
    pub(crate) routers: Vec<RouterRow>,
    pub(crate) interfaces: Vec<InterfaceRow>,
    pub(crate) links: Vec<LinkRow>,
    pub(crate) externals: Vec<ExternalRow>,
    pub(crate) lan_policies: Vec<LanPolicy>,
    pub(crate) link_policies: Vec<LinkPolicy>,
    pub(crate) bgp: Vec<BgpRow>,
    pub(crate) firewalls: Vec<FirewallRow>,
    pub(crate) rules: Vec<RuleRow>,
    pub(crate) nats: Vec<NatRow>,
    pub(crate) zones: Zones,
    pub(crate) checks: Vec<Check>,
    pub(crate) experiments: Vec<Experiment>,
    pub(crate) telemetry: Option<Telemetry>,
    /// What the file says about hosts, and the statements that say it.
    pub(crate) places: Vec<PlaceRow>,
    pub(crate) place_texts: Vec<Box<str>>,
    /// What cannot be run yet: place and words.
    pub(crate) unsupported: Vec<(crate::source::Span, String)>,
    /// For each segment the NIC rows that may be on it.
    pub(crate) segment_nics: Lists,
    /// For each segment the interfaces on it.
    pub(crate) segment_interfaces: Lists,
}

impl Data {
    /// Segment and address of a NIC for an index of its group.
    pub(crate) fn nic_at(&self, nic: u32, index: u32) -> Option<(u32, u32)> {
        let row = self.nics.get(nic as usize)?;
        let segment = self.forms.value(row.segment, index)?;
        let host = self.forms.value(row.host, index)?;
        let prefix = self.segments.get(segment as usize)?.prefix;
        Some((segment, prefix.first().checked_add(host)?))
    }

    /// The indices of a group.
    pub(crate) fn indices(&self, group: u32) -> std::ops::Range<u32> {
        self.groups.get(group as usize).map_or(0..0, |row| row.first..row.first + row.count)
    }

    /// The indices of a NIC's group that are on a segment with it, as ascending runs.
    pub(crate) fn indices_on(&self, nic: u32, segment: u32) -> super::form::Runs<'_> {
        let row = &self.nics[nic as usize];
        self.forms.runs(row.segment, &self.indices(row.group), segment)
    }

    /// The lowest and the highest host number of a NIC's group on a segment.
    pub(crate) fn hosts_on(&self, nic: u32, segment: u32) -> Option<(u32, u32)> {
        let row = &self.nics[nic as usize];
        if let Form::Const(_) = row.segment {
            return self.forms.bounds(row.host, &self.indices(row.group));
        }
        self.forms.bounds_over(row.host, self.indices_on(nic, segment))
    }

    /// The interfaces of a router.
    pub(crate) fn interfaces_of(&self, router: u32) -> &[InterfaceRow] {
        let row = &self.routers[router as usize];
        &self.interfaces[row.first_interface as usize..(row.first_interface + row.interface_count) as usize]
    }

    /// Whether a router speaks OSPF.
    pub(crate) fn speaks_ospf(&self, router: u32) -> bool {
        self.interfaces_of(router).iter().any(|i| i.ospf.is_some())
    }

    /// Whether a router speaks no protocol, and so has static routes to everything.
    pub(crate) fn is_static(&self, router: u32) -> bool {
        self.routers[router as usize].bgp.is_none() && !self.speaks_ospf(router)
    }

    /// The path of a router.
    pub(crate) fn router_name(&self, router: u32) -> String {
        let row = &self.routers[router as usize];
        self.names.path(row.instance, row.decl, row.index)
    }

    /// The name of a link: the file's, or its two ends.
    pub(crate) fn link_name(&self, link: u32) -> String {
        let row = &self.links[link as usize];
        match &row.name {
            Some(name) => name.to_string(),
            None => format!("{}--{}", self.router_name(row.routers[0]), self.router_name(row.routers[1])),
        }
    }

    /// Prefix, MTU and overlap domain of what an interface is on.
    pub(crate) fn network_of(&self, on: On) -> (Prefix, u16, u8) {
        match on {
            On::Segment(s) => {
                let row = &self.segments[s as usize];
                (row.prefix, row.mtu, row.domain)
            }
            On::Link(l) => {
                let row = &self.links[l as usize];
                (row.prefix, row.mtu, 0)
            }
            On::External(e) => (self.externals[e as usize].prefix, EXTERNAL_MTU, 0),
        }
    }
}
