//! The network of this host: its routers, and the segments on which it has a port. What else is on these is told with
//! the host that it is on.

use std::collections::{BTreeSet, HashMap};

use fleet_net::{
    Attachment as NetAttachment, InterfaceSpec, NetworkOptions, NetworkSpec, PortSpec, RemoteStation, RouteSpec,
    RouterSpec, SegmentSpec, TunnelSpec, router_port_id,
};
use netlang::{Attachment, Interface, LinkId, Plan, PortOwner, Router, Segment, SegmentId};

use super::vni::Vnis;
use super::whereabouts::{HostId, Whereabouts};
use super::{Slice, port_id};

/// The segments on which a host has a port.
pub fn segments_here(plan: &Plan, who: &Whereabouts) -> BTreeSet<SegmentId> {
    if who.is_whole() {
        return plan.segments().map(|segment| segment.id).collect();
    }
    let vms = who.ranges().iter().flat_map(|range| range.indices().filter_map(|index| plan.vm(range.group, index)));
    let of_vms = vms.flat_map(|vm| vm.nics).map(|nic| nic.segment);
    let interfaces = who.routers().iter().filter_map(|id| plan.interfaces(*id)).flatten();
    let of_routers = interfaces.filter_map(|interface| match interface.attachment {
        Attachment::Segment(segment) => Some(segment),
        _ => None,
    });
    of_vms.chain(of_routers).collect()
}

impl Slice {
    /// The network of this host.
    ///
    /// # Errors
    /// In words for the user, when something crosses to a host that cannot have tunnels, or to none.
    pub fn network(&self) -> Result<NetworkSpec, String> {
        let mut build = Build { slice: self, vnis: Vnis::of(self.plan.experiment()), links: None };
        let segments = self.segments.iter().filter_map(|id| self.plan.segment(*id));
        let segments = segments.map(|segment| build.segment(segment)).collect::<Result<_, _>>()?;
        let routers = self.routers().map(|router| build.router(router)).collect::<Result<_, _>>()?;
        Ok(NetworkSpec {
            experiment: self.plan.experiment().to_owned(),
            segments,
            routers,
            underlay: self.who.underlay(),
            options: NetworkOptions::default(),
        })
    }
}

struct Build<'a> {
    slice: &'a Slice,
    vnis: Vnis,
    /// Of links; worked out for the first one that crosses.
    links: Option<HashMap<LinkId, u32>>,
}

impl Build<'_> {
    fn segment(&self, segment: Segment) -> Result<SegmentSpec, String> {
        let Slice { plan, who, .. } = self.slice;
        let (mut ports, mut stations) = (Vec::new(), Vec::new());
        for port in plan.ports_of(segment.id) {
            let host = match port.owner {
                PortOwner::Vm { group, index } => who.of_vm(group, index),
                PortOwner::Router(router) => who.of_router(router),
            };
            // Who is on no host has no port, and nobody can reach it.
            let Some(host) = host else { continue };
            match port.owner {
                _ if !who.is_own(host) => {
                    let host = self.far_end(host, &format!("the lan `{}`", segment.name))?;
                    stations.push(RemoteStation { mac: port.mac, ip: port.ip, host });
                }
                PortOwner::Vm { group, index } => {
                    let vm = plan.vm_name(group, index).unwrap_or_default();
                    let id = port_id(&vm, &format!("eth{}", port.nic));
                    ports.push(PortSpec { id, mac: port.mac, ip: port.ip });
                }
                // Its port comes with the router.
                PortOwner::Router(_) => {}
            }
        }
        let vni = self.vnis.segment(segment.vni);
        Ok(SegmentSpec {
            mtu: u32::from(segment.mtu),
            multicast: false,
            ports,
            tunnel: (!stations.is_empty()).then_some(TunnelSpec { vni, stations }),
            name: segment.name,
        })
    }

    fn router(&mut self, router: Router) -> Result<RouterSpec, String> {
        let interfaces = router.interfaces.iter().map(|interface| {
            Ok(InterfaceSpec {
                name: interface.name.clone(),
                attachment: self.attachment(&router, interface)?,
                mac: interface.mac,
                address: interface.ip,
                prefix_len: interface.prefix_len,
                mtu: u32::from(interface.mtu),
            })
        });
        let routes = router.routes.iter();
        Ok(RouterSpec {
            interfaces: interfaces.collect::<Result<_, String>>()?,
            routes: routes
                .map(|route| RouteSpec { to: route.to, prefix_len: route.prefix_len, via: route.via })
                .collect(),
            name: router.name.clone(),
        })
    }

    fn attachment(&mut self, router: &Router, interface: &Interface) -> Result<NetAttachment, String> {
        let Slice { plan, who, .. } = self.slice;
        // Ids of a plan are dense: what is missing would show as a reference to nothing, which the network refuses.
        let unknown = || Ok(NetAttachment::Segment(String::new()));
        match interface.attachment {
            // Not run yet: compiling for an agent refuses it.
            Attachment::External(_) => unknown(),
            Attachment::Segment(segment) => {
                plan.segment(segment).map_or_else(unknown, |segment| Ok(NetAttachment::Segment(segment.name)))
            }
            Attachment::Link(id) => {
                let Some(link) = plan.link(id) else { return unknown() };
                let (peer, number) = if link.a.0 == router.id { link.b } else { link.a };
                let (Some(name), Some(interfaces)) = (plan.router_name(peer), plan.interfaces(peer)) else {
                    return unknown();
                };
                let Some(end) = interfaces.into_iter().nth(number) else { return unknown() };
                let what = format!("the link `{}`", link.name);
                let host = who.of_router(peer);
                let host = host.ok_or_else(|| format!("{what} leads to the router `{name}`, which is on no host"))?;
                if who.is_own(host) {
                    return Ok(NetAttachment::Link { peer_router: name, peer_interface: end.name });
                }
                let station = RemoteStation { mac: end.mac, ip: end.ip, host: self.far_end(host, &what)? };
                let vnis = match &mut self.links {
                    Some(links) => links,
                    none => none.insert(self.vnis.links(plan)?),
                };
                let Some(vni) = vnis.get(&id).copied() else { return unknown() };
                Ok(NetAttachment::Tunnel { vni, peer: router_port_id(&name, &end.name), station })
            }
        }
    }

    /// A host's end of tunnels.
    fn far_end(&self, host: HostId, what: &str) -> Result<std::net::IpAddr, String> {
        let host = self.slice.who.host(host);
        host.and_then(|host| host.underlay).ok_or_else(|| {
            let name = host.map_or("", |host| &host.name);
            format!("{what} crosses to the host `{name}`, which has no underlay address for tunnels")
        })
    }
}
