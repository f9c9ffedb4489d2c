//! Who is on which host, as the spec's placement says: for every VM and router of a plan, in ranges. Every agent reads
//! the same placement, so all agree on it.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use fleet_proto::v1::HostPlacement;
use netlang::{GroupId, Plan, Range, RouterId};

/// A host of the placement, by its position in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostId(usize);

/// A host that has a part of the experiment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Its end of tunnels.
    pub underlay: Option<IpAddr>,
}

/// VMs of one group on one host: own indices `first..until`.
#[derive(Clone, Copy, Debug)]
struct Span {
    first: u32,
    until: u32,
    host: HostId,
}

/// Who is where.
#[derive(Clone, Debug)]
pub struct Whereabouts {
    hosts: Vec<Host>,
    /// There is no placement: one host has everything.
    whole: bool,
    /// The host that asks; `None` when nothing is on it.
    own: Option<HostId>,
    /// The VMs of this host, in the order of the placement.
    ranges: Vec<Range>,
    /// The routers of this host, in the order of the plan.
    routers: Vec<RouterId>,
    /// By group, in ascending order.
    vms: HashMap<GroupId, Vec<Span>>,
    router_hosts: HashMap<RouterId, HostId>,
}

impl Whereabouts {
    /// Reads a placement as the host `own` sees it; an empty one puts everything on that host.
    ///
    /// # Errors
    /// In words for the user: when it names what the plan has not, or puts something on two hosts.
    pub fn read(plan: &Plan, placement: &[HostPlacement], own: &str) -> Result<Self, String> {
        let mut all = Self {
            hosts: Vec::new(),
            whole: placement.is_empty(),
            own: None,
            ranges: Vec::new(),
            routers: Vec::new(),
            vms: HashMap::new(),
            router_hosts: HashMap::new(),
        };
        if placement.is_empty() {
            let here = all.add(own, None);
            all.own = Some(here);
            // Not by name: something in the file may be named as the experiment is.
            for group in plan.groups() {
                all.put(Range { group: group.id, first: group.first, count: group.count }, here);
            }
            all.routers = (0..plan.router_count()).filter_map(|id| u32::try_from(id).ok()).map(RouterId).collect();
            all.router_hosts = all.routers.iter().map(|id| (*id, here)).collect();
            return Ok(all);
        }
        let names = (0..plan.router_count()).filter_map(|id| u32::try_from(id).ok()).map(RouterId);
        let routers: BTreeMap<String, RouterId> =
            names.filter_map(|id| plan.router_name(id).map(|name| (name, id))).collect();
        for on in placement {
            if all.hosts.iter().any(|host| host.name == on.host) {
                return Err(format!("the placement names the host `{}` twice", on.host));
            }
            let underlay = match on.underlay.as_str() {
                "" => None,
                text => {
                    Some(text.parse().map_err(|_| format!("`{text}`, the underlay of `{}`, is no address", on.host))?)
                }
            };
            let host = all.add(&on.host, underlay);
            if on.host == own {
                all.own = Some(host);
            }
            for range in &on.ranges {
                all.put(wire_range(plan, range)?, host);
            }
            for name in &on.routers {
                let router = *routers.get(name).ok_or_else(|| format!("the plan has no router `{name}`"))?;
                if let Some(other) = all.router_hosts.insert(router, host) {
                    return Err(format!("the router `{name}` is on two hosts: {}", all.both(other, host)));
                }
                if all.own == Some(host) {
                    all.routers.push(router);
                }
            }
        }
        all.routers.sort_unstable();
        all.sort(plan)?;
        Ok(all)
    }

    fn add(&mut self, name: &str, underlay: Option<IpAddr>) -> HostId {
        self.hosts.push(Host { name: name.to_owned(), underlay });
        HostId(self.hosts.len() - 1)
    }

    fn put(&mut self, range: Range, host: HostId) {
        if range.count == 0 {
            return;
        }
        let indices = range.indices();
        self.vms.entry(range.group).or_default().push(Span { first: indices.start, until: indices.end, host });
        if self.own == Some(host) {
            self.ranges.push(range);
        }
    }

    /// Sorts the spans of each group, and finds VMs that are on two hosts.
    fn sort(&mut self, plan: &Plan) -> Result<(), String> {
        for spans in self.vms.values_mut() {
            spans.sort_unstable_by_key(|span| span.first);
        }
        for (group, spans) in &self.vms {
            for pair in spans.windows(2) {
                if let [one, next] = pair
                    && next.first < one.until
                {
                    let name = plan.vm_name(*group, next.first).unwrap_or_default();
                    return Err(format!("the VM `{name}` is on two hosts: {}", self.both(one.host, next.host)));
                }
            }
        }
        Ok(())
    }

    fn both(&self, one: HostId, other: HostId) -> String {
        let name = |id: HostId| self.hosts.get(id.0).map_or("", |host| &host.name);
        format!("`{}` and `{}`", name(one), name(other))
    }

    /// The VMs of this host.
    pub fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    /// The routers of this host.
    pub fn routers(&self) -> &[RouterId] {
        &self.routers
    }

    /// This host's end of tunnels.
    pub fn underlay(&self) -> Option<IpAddr> {
        self.host(self.own?)?.underlay
    }

    /// A host of the placement.
    pub fn host(&self, id: HostId) -> Option<&Host> {
        self.hosts.get(id.0)
    }

    /// Whether there is but one host, which has everything, used or not.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// Whether a host of the placement is this one.
    pub fn is_own(&self, id: HostId) -> bool {
        self.own == Some(id)
    }

    /// The host of a VM; `None` when it is on none.
    pub fn of_vm(&self, group: GroupId, index: u32) -> Option<HostId> {
        let spans = self.vms.get(&group)?;
        let after = spans.partition_point(|span| span.first <= index);
        let span = spans.get(after.checked_sub(1)?)?;
        (index < span.until).then_some(span.host)
    }

    /// The host of a router; `None` when it is on none.
    pub fn of_router(&self, router: RouterId) -> Option<HostId> {
        self.router_hosts.get(&router).copied()
    }
}

/// A range that came over the wire, as one of the plan.
///
/// # Errors
/// In words for the user, when it is none.
pub fn wire_range(plan: &Plan, range: &fleet_proto::v1::Range) -> Result<Range, String> {
    let group = plan.find_group(&range.group);
    let group = group.ok_or_else(|| format!("the plan has no group `{}`", range.group))?;
    let known = plan.group(group).map(|group| group.first..group.first.saturating_add(group.count)).unwrap_or_default();
    let asked = range.first..range.first.saturating_add(range.count);
    if asked.start < known.start || asked.end > known.end {
        return Err(format!("`{}` has the indices {known:?}: {asked:?} is not among them", range.group));
    }
    Ok(Range { group, first: range.first, count: range.count })
}
