//! What `fleet plan` shows: sums, segments, groups as ranges. Its size goes with the declarations, not the VMs.

use super::duties::BgpRole;
use super::rows::{InterfaceRow, On};
use super::{
    Experiment, ExperimentSummary, External, Firewall, LanPolicy, LinkId, LinkPolicy, Nat, PlaceSummary, Plan,
    Relation, RouterKind, SegmentId, Telemetry, TelemetrySummary, VmClass,
};
use crate::address::prefix::Prefix;
use hashbrown::HashMap;
use serde::Serialize;
use std::net::Ipv4Addr;

/// A plan in ranges; serialize it for `fleet plan --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlanSummary {
    /// The experiment's name.
    pub experiment: String,
    /// Sums over everything.
    pub totals: Totals,
    /// Groups of VMs.
    pub groups: Vec<GroupSummary>,
    /// Segments.
    pub segments: Vec<SegmentSummary>,
    /// Routers.
    pub routers: Vec<RouterSummary>,
    /// Links.
    pub links: Vec<LinkSummary>,
    /// Networks outside.
    pub externals: Vec<External>,
    /// What the file says about hosts.
    pub places: Vec<PlaceSummary>,
    /// The text of the `check` lines.
    pub checks: Vec<String>,
    /// What happens when.
    pub experiments: Vec<ExperimentSummary>,
    /// What is measured, if the file says so.
    pub telemetry: Option<TelemetrySummary>,
}

/// Sums over a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Totals {
    /// VMs.
    pub vms: u64,
    /// Virtual processors.
    pub cpus: u64,
    /// Memory of the VMs whose memory the file gives, in bytes.
    pub memory: u64,
    /// VMs whose memory hypervisor and image decide.
    pub vms_of_default_memory: u64,
    /// Groups.
    pub groups: u64,
    /// Segments.
    pub segments: u64,
    /// Ports on segments.
    pub ports: u64,
    /// Routers.
    pub routers: u64,
    /// Links.
    pub links: u64,
}

/// Addresses of a group on one of its NICs: the lowest and the highest, and on how many segments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Interval {
    /// The first segment's name.
    pub segment: String,
    /// How many segments the group is spread over.
    pub segments: u32,
    /// Lowest address.
    pub first: Ipv4Addr,
    /// Highest address.
    pub last: Ipv4Addr,
}

/// A group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GroupSummary {
    /// `web[0..300]`, or `alice`.
    pub name: String,
    /// How many VMs.
    pub count: u32,
    /// What each of them is.
    #[serde(flatten)]
    pub class: VmClass,
    /// Addresses, one entry a NIC.
    pub addresses: Vec<Interval>,
}

/// A segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SegmentSummary {
    /// Name.
    pub name: String,
    /// Prefix.
    pub prefix: Prefix,
    /// Address of the gateway, if there is one.
    pub gateway: Option<Ipv4Addr>,
    /// Ports, of VMs and routers.
    pub ports: u32,
    /// VXLAN network identifier.
    pub vni: u32,
    /// Largest packet, in bytes.
    pub mtu: u16,
    /// What it does with frames.
    pub policy: LanPolicy,
}

/// A router.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RouterSummary {
    /// Name.
    pub name: String,
    /// What routes.
    pub kind: RouterKind,
    /// Addresses of its interfaces.
    pub addresses: Vec<Ipv4Addr>,
    /// Its interfaces, eth0 first.
    pub interfaces: Vec<InterfaceSummary>,
    /// The OSPF areas that it is in, in ascending order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ospf_areas: Vec<u32>,
    /// BGP, if it speaks it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bgp: Option<BgpSummary>,
    /// What it lets through, if it has a firewall.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firewall: Option<Firewall>,
    /// Translations.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nat: Vec<Nat>,
}

/// A router's interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InterfaceSummary {
    /// `segment`, `link` or `external`.
    pub on: &'static str,
    /// The name of the segment, link or external network.
    pub network: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Length of the prefix on it.
    pub prefix_len: u8,
}

/// A router's BGP, its sessions counted by what the neighbour is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BgpSummary {
    /// Number of its autonomous system.
    pub asn: u32,
    /// Prefixes that it announces as its own.
    pub originate: Vec<Prefix>,
    /// Sessions with those that buy transit from it.
    pub customers: u32,
    /// Sessions with those that sell transit to it.
    pub providers: u32,
    /// Sessions with peers.
    pub peers: u32,
    /// Sessions within the autonomous system.
    pub internal: u32,
}

/// A link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LinkSummary {
    /// Name.
    pub name: String,
    /// Prefix.
    pub prefix: Prefix,
    /// The ends' routers.
    pub routers: [String; 2],
    /// The ends' addresses.
    pub addresses: [Ipv4Addr; 2],
    /// What a route over it costs.
    pub cost: u32,
    /// Largest packet, in bytes.
    pub mtu: u16,
    /// What the ends are to each other, if both speak BGP.
    pub relation: Relation,
    /// How it is shaped.
    pub policy: LinkPolicy,
}

impl Plan {
    /// The plan in ranges.
    pub fn summary(&self) -> PlanSummary {
        let data = &self.data;
        let mut ports: Vec<u32> =
            (0..data.segments.len()).map(|s| data.segment_interfaces.of(s as u32).len() as u32).collect();
        let mut totals = Totals {
            groups: data.groups.len() as u64,
            segments: data.segments.len() as u64,
            routers: data.routers.len() as u64,
            links: data.links.len() as u64,
            ..Totals::default()
        };
        let groups = (0..data.groups.len()).map(|g| self.group_summary(g, &mut ports, &mut totals)).collect();
        totals.ports = ports.iter().map(|p| u64::from(*p)).sum();
        let mut members: HashMap<u32, u32> = HashMap::new();
        for row in data.routers.iter().filter_map(|r| data.bgp.get(r.bgp? as usize)) {
            *members.entry(row.asn).or_default() += 1;
        }
        let name = |row: &super::rows::RouterRow| data.names.path(row.instance, row.decl, row.index);
        PlanSummary {
            experiment: data.experiment.clone(),
            totals,
            groups,
            segments: self
                .segments()
                .zip(&ports)
                .map(|(s, ports)| SegmentSummary {
                    name: s.name,
                    prefix: data.segments[s.id.0 as usize].prefix,
                    gateway: s.gateway,
                    ports: *ports,
                    vni: s.vni,
                    mtu: s.mtu,
                    policy: s.policy,
                })
                .collect(),
            routers: (0u32..)
                .zip(&data.routers)
                .map(|(id, row)| RouterSummary {
                    name: name(row),
                    kind: row.kind,
                    addresses: data.interfaces_of(id).iter().map(|i| Ipv4Addr::from(i.ip)).collect(),
                    ospf_areas: self.ospf_areas(id),
                    bgp: self.bgp_summary(id, &members),
                    firewall: data.firewall_of(id),
                    nat: data.nats_of(id).iter().map(|n| Nat::from(*n)).collect(),
                    interfaces: data.interfaces_of(id).iter().map(|i| self.interface_summary(i)).collect(),
                })
                .collect(),
            links: (0..data.links.len() as u32)
                .filter_map(|id| self.link(LinkId(id)))
                .map(|l| LinkSummary {
                    prefix: data.links[l.id.0 as usize].prefix,
                    routers: [l.a.0, l.b.0].map(|r| name(&data.routers[r.0 as usize])),
                    addresses: data.links[l.id.0 as usize]
                        .interfaces
                        .map(|i| Ipv4Addr::from(data.interfaces[i as usize].ip)),
                    cost: l.cost,
                    mtu: l.mtu,
                    name: l.name,
                    relation: l.relation,
                    policy: l.policy,
                })
                .collect(),
            externals: self.externals().collect(),
            places: self.place_rules(),
            checks: data.checks.iter().map(|c| c.text.clone()).collect(),
            experiments: data.experiments.iter().map(Experiment::summary).collect(),
            telemetry: data.telemetry.as_ref().map(Telemetry::summary),
        }
    }

    fn ospf_areas(&self, router: u32) -> Vec<u32> {
        let interfaces = self.data.interfaces_of(router).iter();
        let mut areas: Vec<u32> = interfaces.filter_map(|i| i.ospf.map(|o| o.area)).collect();
        areas.sort_unstable();
        areas.dedup();
        areas
    }

    /// `members` counts the routers of each autonomous system.
    fn bgp_summary(&self, router: u32, members: &HashMap<u32, u32>) -> Option<BgpSummary> {
        let row = self.data.bgp.get(self.data.routers[router as usize].bgp? as usize)?;
        let mut summary = BgpSummary {
            asn: row.asn,
            originate: row.originate.to_vec(),
            customers: 0,
            providers: 0,
            peers: 0,
            internal: members.get(&row.asn).map_or(0, |n| n.saturating_sub(1)),
        };
        for (_, _, role) in self.data.external_sessions(router) {
            match role {
                BgpRole::Customer => summary.customers += 1,
                BgpRole::Provider => summary.providers += 1,
                BgpRole::Peer => summary.peers += 1,
                BgpRole::Internal => summary.internal += 1,
            }
        }
        Some(summary)
    }

    fn interface_summary(&self, row: &InterfaceRow) -> InterfaceSummary {
        let data = &self.data;
        let (on, network) = match row.on {
            On::Segment(s) => {
                let segment = &data.segments[s as usize];
                ("segment", data.names.path(segment.instance, segment.decl, segment.index))
            }
            On::Link(l) => ("link", data.link_name(l)),
            On::External(e) => ("external", data.names.path(0, data.externals[e as usize].decl, None)),
        };
        InterfaceSummary { on, network, address: Ipv4Addr::from(row.ip), prefix_len: data.network_of(row.on).0.len() }
    }

    fn group_summary(&self, group: usize, ports: &mut [u32], totals: &mut Totals) -> GroupSummary {
        let data = &self.data;
        let row = &data.groups[group];
        let class = &data.classes[row.class as usize];
        totals.vms += u64::from(row.count);
        totals.cpus += u64::from(row.count) * u64::from(class.cpu);
        match class.memory {
            Some(bytes) => totals.memory = totals.memory.saturating_add(u64::from(row.count).saturating_mul(bytes)),
            None => totals.vms_of_default_memory += u64::from(row.count),
        }
        let until = row.first + row.count;
        let path = data.names.path(row.instance, row.decl, None);
        let nics = row.first_nic..row.first_nic + u32::from(row.nic_count);
        GroupSummary {
            name: if row.is_array { format!("{path}[{}..{until}]", row.first) } else { path },
            count: row.count,
            class: class.clone(),
            addresses: nics.filter_map(|nic| self.interval(nic, row.first..until, ports)).collect(),
        }
    }

    /// The addresses of a NIC over its group, counting the ports on the way.
    fn interval(&self, nic: u32, indices: std::ops::Range<u32>, ports: &mut [u32]) -> Option<Interval> {
        let (data, row) = (&self.data, self.data.nics.get(nic as usize)?);
        let segments = data.forms.values(row.segment, &indices);
        let (mut lowest, mut highest) = (u32::MAX, 0);
        for segment in &segments {
            ports[*segment as usize] += data.forms.count(row.segment, &indices, *segment);
            let (low, high) = data.hosts_on(nic, *segment)?;
            let first = data.segments[*segment as usize].prefix.first();
            (lowest, highest) = (lowest.min(first.saturating_add(low)), highest.max(first.saturating_add(high)));
        }
        let segment = self.segment(SegmentId(*segments.iter().min()?))?.name;
        let segments = segments.len() as u32;
        Some(Interval { segment, segments, first: Ipv4Addr::from(lowest), last: Ipv4Addr::from(highest) })
    }
}
