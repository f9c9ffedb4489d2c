//! What a spec means for this host: the network that is to be, and for each VM what it is to be and what its guest is
//! to be told. Pure; computed from the plan when asked for.
//!
//! The spec's placement says which host has what ([`whereabouts`]). This host makes the VMs and routers that are placed
//! on it and the segments on which it has a port ([`network`]); what is elsewhere it knows by arithmetic, as all do.

mod network;
#[cfg(test)]
mod tests;
mod vni;
mod whereabouts;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use fleet_proto::v1::Spec;
use fleet_vm::spec::NicSpec;
use fleet_wire::{Address, Nic, Route, Settings};
use netlang::{Lock, Plan, Range, Router, SegmentId, Source};

use whereabouts::{Whereabouts, wire_range};

/// The plan of an experiment and the part of it that falls on this host.
#[derive(Clone)]
pub struct Slice {
    /// What was asked for.
    pub spec: Arc<Spec>,
    /// What it means.
    pub plan: Arc<Plan>,
    who: Arc<Whereabouts>,
    /// Those on which this host has a port.
    segments: Arc<BTreeSet<SegmentId>>,
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
    /// Compiles a spec for the host of this name.
    ///
    /// # Errors
    /// When the source, the lock or the placement is wrong, in words for the user.
    pub fn compile(spec: &Spec, host: &str) -> Result<Self, String> {
        let lock = Lock::parse(&spec.lock).map_err(|error| format!("the lock: {error}"))?;
        let source = Source::new(spec.experiment.clone(), spec.source.clone());
        let compilation = netlang::compile(&source, &lock);
        let plan = compilation.plan.ok_or_else(|| {
            let options = netlang::RenderOptions { color: false, width: 100 };
            netlang::render(&compilation.diagnostics, &source, options)
        })?;
        let who = Whereabouts::read(&plan, &spec.hosts, host)?;
        let segments = network::segments_here(&plan, &who);
        let mut slice = Self {
            spec: Arc::new(spec.clone()),
            plan: Arc::new(plan),
            who: Arc::new(who),
            segments: Arc::new(segments),
            hosts: Arc::default(),
        };
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
        self.who.ranges().iter().flat_map(vms).map(|vm| self.wanted(vm))
    }

    /// The routers of this host, with their routes.
    pub fn routers(&self) -> impl Iterator<Item = Router> + '_ {
        self.who.routers().iter().filter_map(|id| self.plan.router(*id))
    }

    /// How many routers this host has.
    pub fn router_count(&self) -> usize {
        self.who.routers().len()
    }

    /// On how many segments this host has a port.
    pub fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// Names of those VMs of this host that are in ranges that came over the wire.
    ///
    /// # Errors
    /// When a range names no group of the plan.
    pub fn names(&self, ranges: &[fleet_proto::v1::Range]) -> Result<Vec<String>, String> {
        let mut names = Vec::new();
        for range in ranges {
            let range = wire_range(&self.plan, range)?;
            let here = range.indices().filter(|index| self.holds(range.group, *index));
            names.extend(here.filter_map(|index| self.plan.vm_name(range.group, index)));
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

    fn holds(&self, group: netlang::GroupId, index: u32) -> bool {
        self.who.of_vm(group, index).is_some_and(|host| self.who.is_own(host))
    }
}

fn wire_route(route: &netlang::Route) -> Route {
    Route { to: Address { ip: route.to, prefix_len: route.prefix_len }, via: route.via }
}

/// An address with its prefix, as `ps` shows it.
pub fn address_text(ip: Ipv4Addr, prefix_len: u8) -> String {
    format!("{ip}/{prefix_len}")
}
