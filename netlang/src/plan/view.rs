//! Reading a plan: rows turned into the public types when they are asked for.

use super::form::Runs;
use super::rows::{GroupRow, InterfaceRow, On, SegmentRow};
use super::{
    Attachment, Check, External, ExternalId, Group, GroupId, Interface, Link, LinkId, Nat, Nic, Plan, Port, PortOwner,
    Route, Router, RouterId, Segment, SegmentId, Unsupported, Vm, mac,
};
use crate::text::fnv32;
use std::net::Ipv4Addr;

/// The longest hostname that Linux and DNS both take.
const MAX_HOSTNAME: usize = 63;

impl Plan {
    /// The experiment's name.
    pub fn experiment(&self) -> &str {
        &self.data.experiment
    }

    /// All groups, in the order of their ids.
    pub fn groups(&self) -> impl ExactSizeIterator<Item = Group> + '_ {
        (0..self.data.groups.len() as u32).map(|id| self.group_at(GroupId(id)))
    }

    /// How many groups there are.
    pub fn group_count(&self) -> usize {
        self.data.groups.len()
    }

    /// A group.
    pub fn group(&self, id: GroupId) -> Option<Group> {
        self.data.groups.get(id.0 as usize).map(|_| self.group_at(id))
    }

    /// `id` is one of this plan.
    fn group_at(&self, id: GroupId) -> Group {
        let row = &self.data.groups[id.0 as usize];
        let class = &self.data.classes[row.class as usize];
        Group {
            id,
            path: self.data.names.path(row.instance, row.decl, None),
            first: row.first,
            count: row.count,
            is_array: row.is_array,
            class: class.clone(),
            nics: usize::from(row.nic_count),
        }
    }

    /// The group of a path such as `web` or `hq.pc`.
    pub fn find_group(&self, path: &str) -> Option<GroupId> {
        match self.resolve(path).ok()?.as_slice() {
            [only] => {
                let row = &self.data.groups[only.group.0 as usize];
                (only.count == row.count && self.data.names.path(row.instance, row.decl, None) == path)
                    .then_some(only.group)
            }
            _ => None,
        }
    }

    /// How many VMs the plan has.
    pub fn total_vms(&self) -> u64 {
        self.data.groups.iter().map(|g| u64::from(g.count)).sum()
    }

    /// Whether the group has a VM of this index.
    fn row_of(&self, group: GroupId, index: u32) -> Option<&GroupRow> {
        let row = self.data.groups.get(group.0 as usize)?;
        index.checked_sub(row.first).filter(|n| *n < row.count).map(|_| row)
    }

    /// The name of a VM: `alice`, `web[3]`.
    pub fn vm_name(&self, group: GroupId, index: u32) -> Option<String> {
        let row = self.row_of(group, index)?;
        Some(self.data.names.path(row.instance, row.decl, row.is_array.then_some(index)))
    }

    /// A VM, worked out.
    pub fn vm(&self, group: GroupId, index: u32) -> Option<Vm> {
        let row = self.row_of(group, index)?;
        let class = &self.data.classes[row.class as usize];
        let name = self.data.names.path(row.instance, row.decl, row.is_array.then_some(index));
        let nics: Vec<Nic> = (0..u32::from(row.nic_count)).filter_map(|n| self.nic(row, n, index)).collect();
        // The first NIC whose lan has a gateway gives the default route.
        let gateway = nics.iter().find_map(|n| self.gateway(n.segment));
        let routes = gateway.map(|via| Route { to: Ipv4Addr::UNSPECIFIED, prefix_len: 0, via });
        Some(Vm { hostname: hostname(&name), name, class: class.clone(), nics, routes: routes.into_iter().collect() })
    }

    fn nic(&self, row: &GroupRow, number: u32, index: u32) -> Option<Nic> {
        let (segment, ip) = self.data.nic_at(row.first_nic + number, index)?;
        let on = &self.data.segments[segment as usize];
        Some(Nic {
            name: format!("eth{number}"),
            segment: SegmentId(segment),
            mac: mac(on.domain, ip),
            ip: Ipv4Addr::from(ip),
            prefix_len: on.prefix.len(),
            mtu: on.mtu,
            dhcp: self.data.nics[(row.first_nic + number) as usize].dhcp,
        })
    }

    fn gateway(&self, segment: SegmentId) -> Option<Ipv4Addr> {
        let row = self.data.segments.get(segment.0 as usize)?;
        row.gateway.map(|i| Ipv4Addr::from(self.data.interfaces[i as usize].ip))
    }

    /// All segments, in the order of their ids.
    pub fn segments(&self) -> impl ExactSizeIterator<Item = Segment> + '_ {
        self.data.segments.iter().enumerate().map(|(id, row)| self.segment_of(id as u32, row))
    }

    /// How many segments there are.
    pub fn segment_count(&self) -> usize {
        self.data.segments.len()
    }

    /// A segment.
    pub fn segment(&self, id: SegmentId) -> Option<Segment> {
        self.data.segments.get(id.0 as usize).map(|row| self.segment_of(id.0, row))
    }

    fn segment_of(&self, id: u32, row: &SegmentRow) -> Segment {
        Segment {
            id: SegmentId(id),
            name: self.data.names.path(row.instance, row.decl, row.index),
            prefix: row.prefix.network(),
            prefix_len: row.prefix.len(),
            mtu: row.mtu,
            vni: row.vni,
            gateway: self.gateway(SegmentId(id)),
            policy: self.data.lan_policies[row.policy as usize],
        }
    }

    /// The ports of a segment: routers first, then VMs in the order of groups and indices.
    pub fn ports_of(&self, segment: SegmentId) -> Ports<'_> {
        Ports::new(self, segment)
    }

    /// All routers, in the order of their ids. Each one's routes are computed on the way.
    pub fn routers(&self) -> impl ExactSizeIterator<Item = Router> + '_ {
        (0..self.data.routers.len() as u32).map(|id| self.router_at(id))
    }

    /// How many routers there are.
    pub fn router_count(&self) -> usize {
        self.data.routers.len()
    }

    /// A router; its routes are computed on the way.
    pub fn router(&self, id: RouterId) -> Option<Router> {
        self.data.routers.get(id.0 as usize).map(|_| self.router_at(id.0))
    }

    /// The name of a router: `core`, `hq.gw[1]`.
    pub fn router_name(&self, id: RouterId) -> Option<String> {
        self.data.routers.get(id.0 as usize).map(|_| self.data.router_name(id.0))
    }

    /// The interfaces of a router, without what it knows of routes.
    pub fn interfaces(&self, id: RouterId) -> Option<Vec<Interface>> {
        self.data.routers.get(id.0 as usize)?;
        let rows = self.data.interfaces_of(id.0).iter().enumerate();
        Some(rows.map(|(number, row)| self.interface(number, row)).collect())
    }

    /// `id` is one of this plan.
    fn router_at(&self, id: u32) -> Router {
        let row = &self.data.routers[id as usize];
        let interfaces = self.data.interfaces_of(id).iter().enumerate();
        Router {
            id: RouterId(id),
            name: self.data.names.path(row.instance, row.decl, row.index),
            kind: row.kind,
            router_id: self.data.router_id(id).map(Ipv4Addr::from),
            interfaces: interfaces.map(|(number, row)| self.interface(number, row)).collect(),
            originates_default: row.originates_default,
            bgp: self.data.bgp_of(id),
            firewall: self.data.firewall_of(id),
            nat: self.data.nats_of(id).iter().map(|n| Nat::from(*n)).collect(),
            routes: super::route::static_routes(&self.data, id),
        }
    }

    fn interface(&self, number: usize, row: &InterfaceRow) -> Interface {
        let (prefix, mtu, domain) = self.data.network_of(row.on);
        Interface {
            name: format!("eth{number}"),
            attachment: match row.on {
                On::Segment(s) => Attachment::Segment(SegmentId(s)),
                On::Link(l) => Attachment::Link(LinkId(l)),
                On::External(e) => Attachment::External(ExternalId(e)),
            },
            mac: mac(domain, row.ip),
            ip: Ipv4Addr::from(row.ip),
            prefix_len: prefix.len(),
            mtu,
            gateway: row.gateway.map(Ipv4Addr::from),
            ospf: row.ospf,
        }
    }

    /// All links, in the order of their ids.
    pub fn links(&self) -> impl ExactSizeIterator<Item = Link> + '_ {
        (0..self.data.links.len() as u32).map(|id| self.link_at(id))
    }

    /// A link.
    pub fn link(&self, id: LinkId) -> Option<Link> {
        self.data.links.get(id.0 as usize).map(|_| self.link_at(id.0))
    }

    /// `id` is one of this plan.
    fn link_at(&self, id: u32) -> Link {
        let row = &self.data.links[id as usize];
        let end = |end: usize| {
            let router = row.routers[end];
            let number = row.interfaces[end] - self.data.routers[router as usize].first_interface;
            (RouterId(router), number as usize)
        };
        Link {
            id: LinkId(id),
            name: self.data.link_name(id),
            a: end(0),
            b: end(1),
            prefix: row.prefix.network(),
            prefix_len: row.prefix.len(),
            cost: row.cost,
            mtu: row.mtu,
            relation: row.relation,
            policy: self.data.link_policies[row.policy as usize],
        }
    }

    /// All external networks, in the order of their ids.
    pub fn externals(&self) -> impl Iterator<Item = External> + '_ {
        (0u32..).zip(&self.data.externals).map(|(id, row)| External {
            id: ExternalId(id),
            name: self.data.names.path(0, row.decl, None),
            host: row.host.to_string(),
            interface: row.interface.to_string(),
            prefix: row.prefix.network(),
            prefix_len: row.prefix.len(),
        })
    }

    /// What the file asks for and this version of fleet cannot run yet; empty for plans of
    /// [`compile`](crate::compile).
    pub fn unsupported(&self) -> impl ExactSizeIterator<Item = Unsupported> + '_ {
        let code = crate::diag::codes::NOT_YET;
        self.data.unsupported.iter().map(move |(span, what)| Unsupported { span: *span, code, what: what.clone() })
    }

    /// The file's `check` lines. All of them hold on the plan, or there would be none.
    pub fn checks(&self) -> &[Check] {
        &self.data.checks
    }
}

/// The hostname of a VM: `hq.pc[7]` is `hq-pc-7`. One that would be too long ends in a hash of the name instead.
fn hostname(name: &str) -> String {
    let mut host: String =
        name.chars().filter(|c| *c != ']').map(|c| if matches!(c, '.' | '[') { '-' } else { c }).collect();
    if host.len() > MAX_HOSTNAME {
        host.truncate(MAX_HOSTNAME - 9);
        host.push_str(&format!("-{:08x}", fnv32(name.as_bytes())));
    }
    host
}

/// The ports of a segment, one after another; see [`Plan::ports_of`].
pub struct Ports<'p> {
    plan: &'p Plan,
    segment: u32,
    interface: usize,
    /// Which of the segment's NIC rows `runs` is of, plus one.
    nic: usize,
    runs: Runs<'p>,
    run: std::ops::Range<u32>,
}

impl<'p> Ports<'p> {
    fn new(plan: &'p Plan, segment: SegmentId) -> Ports<'p> {
        Ports { plan, segment: segment.0, interface: 0, nic: 0, runs: Runs::One(None), run: 0..0 }
    }

    fn router_port(&self, interface: u32) -> Port {
        let data = &self.plan.data;
        let row = &data.interfaces[interface as usize];
        Port {
            owner: PortOwner::Router(RouterId(row.router)),
            nic: (interface - data.routers[row.router as usize].first_interface) as usize,
            mac: mac(data.segments[self.segment as usize].domain, row.ip),
            ip: Ipv4Addr::from(row.ip),
        }
    }

    fn vm_port(&self, nic: u32, index: u32) -> Option<Port> {
        let data = &self.plan.data;
        let (segment, ip) = data.nic_at(nic, index)?;
        let row = &data.nics[nic as usize];
        Some(Port {
            owner: PortOwner::Vm { group: GroupId(row.group), index },
            nic: (nic - data.groups[row.group as usize].first_nic) as usize,
            mac: mac(data.segments[segment as usize].domain, ip),
            ip: Ipv4Addr::from(ip),
        })
    }
}

impl Iterator for Ports<'_> {
    type Item = Port;

    fn next(&mut self) -> Option<Port> {
        let data = &self.plan.data;
        if let Some(interface) = data.segment_interfaces.of(self.segment).get(self.interface) {
            self.interface += 1;
            return Some(self.router_port(*interface));
        }
        let nics = data.segment_nics.of(self.segment);
        loop {
            if let Some(index) = self.run.next() {
                match self.nic.checked_sub(1).and_then(|at| self.vm_port(*nics.get(at)?, index)) {
                    Some(port) => return Some(port),
                    None => continue,
                }
            }
            match self.runs.next() {
                Some(run) => self.run = run,
                None => {
                    self.runs = data.indices_on(*nics.get(self.nic)?, self.segment);
                    self.nic += 1;
                }
            }
        }
    }
}
