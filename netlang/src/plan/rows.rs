//! The columns of a plan.

use super::form::{Form, Forms};
use super::names::Names;
use super::{Check, HypervisorKind, RouterKind};
use crate::address::prefix::Prefix;

/// Everything that VMs of a kind have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Class {
    pub(crate) hypervisor: Option<HypervisorKind>,
    pub(crate) image: std::sync::Arc<str>,
    pub(crate) cpu: u32,
    pub(crate) memory: Option<u64>,
}

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
}

/// What an interface is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum On {
    Segment(u32),
    Link(u32),
}

/// A router's interface.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InterfaceRow {
    pub(crate) router: u32,
    pub(crate) on: On,
    pub(crate) ip: u32,
}

/// A link between two routers.
#[derive(Debug, Clone)]
pub(crate) struct LinkRow {
    pub(crate) name: Box<str>,
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

/// All columns of a plan.
#[derive(Debug, Clone, Default)]
pub(crate) struct Data {
    pub(crate) experiment: String,
    pub(crate) names: Names,
    pub(crate) forms: Forms,
    pub(crate) classes: Vec<Class>,
    pub(crate) groups: Vec<GroupRow>,
    pub(crate) nics: Vec<NicRow>,
    pub(crate) segments: Vec<SegmentRow>,
    pub(crate) routers: Vec<RouterRow>,
    pub(crate) interfaces: Vec<InterfaceRow>,
    pub(crate) links: Vec<LinkRow>,
    pub(crate) checks: Vec<Check>,
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

    /// The interfaces of a router.
    pub(crate) fn interfaces_of(&self, router: u32) -> &[InterfaceRow] {
        let row = &self.routers[router as usize];
        &self.interfaces[row.first_interface as usize..(row.first_interface + row.interface_count) as usize]
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
        }
    }
}
