//! What a spec means for this host: the network that is to be, and for each VM what it is to be and what its guest is
//! to be told. Pure; computed from the plan when asked for.

use std::net::Ipv4Addr;
use std::sync::Arc;

use fleet_net::{
    Attachment as NetAttachment, InterfaceSpec, NetworkOptions, NetworkSpec, PortSpec, RouteSpec, RouterSpec,
    SegmentSpec,
};
use fleet_proto::v1::Spec;
use fleet_vm::spec::NicSpec;
use fleet_wire::{Address, Nic, Route, Settings};
use netlang::{Attachment, Lock, Plan, PortOwner, Range, Source};

/// The plan of an experiment and the part of it that falls on this host.
#[derive(Clone)]
pub struct Slice {
    /// What was asked for.
    pub spec: Arc<Spec>,
    /// What it means.
    pub plan: Arc<Plan>,
    ranges: Vec<Range>,
    /// Lines for every guest's /etc/hosts; empty for experiments that are too large for that.
    hosts: Arc<Vec<(Ipv4Addr, String)>>,
}

/// Experiments with at most so many VMs have all their names in each guest's /etc/hosts: the lines of all guests grow
/// with the square of it.
const NAMED: u64 = 256;

/// One VM of the slice.
#[derive(Clone, Debug)]
pub struct WantedVm {
    /// What the plan says.
    pub vm: netlang::Vm,
    /// Its interfaces as a hypervisor takes them.
    pub nics: Vec<NicSpec>,
    /// The ports of its interfaces, in the same order.
    pub ports: Vec<String>,
    /// What its guest is told when it runs.
    pub settings: Settings,
}

/// The id of a VM's port.
pub fn port_id(vm: &str, nic: &str) -> String {
    format!("{vm}/{nic}")
}

impl Slice {
    /// Compiles a spec.
    ///
    /// # Errors
    /// When the source, the lock or the placement is wrong, in words for the user.
    pub fn compile(spec: &Spec) -> Result<Self, String> {
        let lock = Lock::parse(&spec.lock).map_err(|error| format!("the lock: {error}"))?;
        let source = Source::new(spec.experiment.clone(), spec.source.clone());
        let compilation = netlang::compile(&source, &lock);
        let plan = compilation.plan.ok_or_else(|| {
            let options = netlang::RenderOptions { color: false, width: 100 };
            netlang::render(&compilation.diagnostics, &source, options)
        })?;
        let ranges = if spec.placement.is_empty() {
            // Not by name: something in the file may be named as the experiment is.
            plan.groups().map(|group| Range { group: group.id, first: group.first, count: group.count }).collect()
        } else {
            spec.placement.iter().map(|range| wire_range(&plan, range)).collect::<Result<_, _>>()?
        };
        let mut slice = Self { spec: Arc::new(spec.clone()), plan: Arc::new(plan), ranges, hosts: Arc::default() };
        if slice.plan.total_vms() <= NAMED {
            let groups = slice.plan.groups();
            let vms = groups.flat_map(|group| {
                (0..group.count).filter_map(move |at| group.first.checked_add(at).map(|at| (group.id, at)))
            });
            let named = vms.filter_map(|(group, index)| slice.plan.vm(group, index));
            let lines = named.filter_map(|vm| Some((vm.nics.first()?.ip, vm.hostname))).collect();
            slice.hosts = Arc::new(lines);
        }
        Ok(slice)
    }

    /// The VMs of this host.
    pub fn vms(&self) -> impl Iterator<Item = WantedVm> + '_ {
        let vms = move |range: &Range| {
            let group = range.group;
            range.indices().filter_map(move |index| self.plan.vm(group, index))
        };
        self.ranges.iter().flat_map(vms).map(|vm| self.wanted(vm))
    }

    /// Names of the VMs in ranges that came over the wire.
    ///
    /// # Errors
    /// When a range names no group of the plan.
    pub fn names(&self, ranges: &[fleet_proto::v1::Range]) -> Result<Vec<String>, String> {
        let mut names = Vec::new();
        for range in ranges {
            let range = wire_range(&self.plan, range)?;
            names.extend(range.indices().filter_map(|index| self.plan.vm_name(range.group, index)));
        }
        Ok(names)
    }

    /// A VM of the plan in the words of those who make it.
    fn wanted(&self, vm: netlang::Vm) -> WantedVm {
        let address = |nic: &netlang::Nic| Address { ip: nic.ip, prefix_len: nic.prefix_len };
        let settings = Settings {
            hostname: vm.hostname.clone(),
            nics: vm
                .nics
                .iter()
                .map(|nic| Nic { name: nic.name.clone(), mac: nic.mac, mtu: nic.mtu, addresses: vec![address(nic)] })
                .collect(),
            routes: vm.routes.iter().map(wire_route).collect(),
            hosts: match self.hosts.as_slice() {
                [] => vm.nics.first().map(|nic| (nic.ip, vm.hostname.clone())).into_iter().collect(),
                all => all.to_vec(),
            },
            seed: Vec::new(),
            time_ns: 0,
        };
        WantedVm {
            nics: vm.nics.iter().map(|nic| NicSpec { name: nic.name.clone(), mac: nic.mac, mtu: nic.mtu }).collect(),
            ports: vm.nics.iter().map(|nic| port_id(&vm.name, &nic.name)).collect(),
            settings,
            vm,
        }
    }

    /// The network of this host.
    pub fn network(&self) -> NetworkSpec {
        let plan = &self.plan;
        let segments = plan.segments().map(|segment| {
            let ports = plan.ports_of(segment.id).filter_map(|port| match port.owner {
                PortOwner::Vm { group, index } if self.holds(group, index) => {
                    let vm = plan.vm_name(group, index)?;
                    Some(PortSpec { id: port_id(&vm, &format!("eth{}", port.nic)), mac: port.mac, ip: port.ip })
                }
                _ => None,
            });
            SegmentSpec {
                name: segment.name.clone(),
                mtu: u32::from(segment.mtu),
                multicast: false,
                ports: ports.collect(),
            }
        });
        let all: Vec<netlang::Router> = plan.routers().collect();
        let routers = all.iter().map(|router| RouterSpec {
            name: router.name.clone(),
            interfaces: router
                .interfaces
                .iter()
                .map(|interface| InterfaceSpec {
                    name: interface.name.clone(),
                    attachment: self.attachment(&all, router, interface),
                    mac: interface.mac,
                    address: interface.ip,
                    prefix_len: interface.prefix_len,
                    mtu: u32::from(interface.mtu),
                })
                .collect(),
            routes: router
                .routes
                .iter()
                .map(|route| RouteSpec { to: route.to, prefix_len: route.prefix_len, via: route.via })
                .collect(),
        });
        NetworkSpec {
            experiment: plan.experiment().to_owned(),
            segments: segments.collect(),
            routers: routers.collect(),
            options: NetworkOptions::default(),
        }
    }

    fn attachment(
        &self,
        all: &[netlang::Router],
        router: &netlang::Router,
        interface: &netlang::Interface,
    ) -> NetAttachment {
        // Ids of a plan are dense: what is missing would show as a reference to nothing, which the network refuses.
        let unknown = || NetAttachment::Segment(String::new());
        match interface.attachment {
            // Not run yet: compiling for an agent refuses it.
            Attachment::External(_) => unknown(),
            Attachment::Segment(segment) => {
                self.plan.segment(segment).map_or_else(unknown, |segment| NetAttachment::Segment(segment.name))
            }
            Attachment::Link(link) => {
                let Some(link) = self.plan.link(link) else { return unknown() };
                let (peer, number) = if link.a.0 == router.id { link.b } else { link.a };
                let peer = all.get(peer.0 as usize);
                let end = peer.and_then(|peer| Some((peer, peer.interfaces.get(number)?)));
                end.map_or_else(unknown, |(peer, interface)| NetAttachment::Link {
                    peer_router: peer.name.clone(),
                    peer_interface: interface.name.clone(),
                })
            }
        }
    }

    fn holds(&self, group: netlang::GroupId, index: u32) -> bool {
        self.ranges.iter().any(|range| range.group == group && range.indices().contains(&index))
    }
}

fn wire_range(plan: &Plan, range: &fleet_proto::v1::Range) -> Result<Range, String> {
    let group = plan.find_group(&range.group);
    let group = group.ok_or_else(|| format!("the plan has no group `{}`", range.group))?;
    let known = plan.group(group).map(|group| group.first..group.first.saturating_add(group.count)).unwrap_or_default();
    let asked = range.first..range.first.saturating_add(range.count);
    if asked.start < known.start || asked.end > known.end {
        return Err(format!("`{}` has the indices {known:?}: {asked:?} is not among them", range.group));
    }
    Ok(Range { group, first: range.first, count: range.count })
}

fn wire_route(route: &netlang::Route) -> Route {
    Route { to: Address { ip: route.to, prefix_len: route.prefix_len }, via: route.via }
}

/// An address with its prefix, as `ps` shows it.
pub fn address_text(ip: Ipv4Addr, prefix_len: u8) -> String {
    format!("{ip}/{prefix_len}")
}
