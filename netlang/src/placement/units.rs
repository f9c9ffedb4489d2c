//! What is to be placed: units, which are ranges of VMs under the same rules, and limits that they count against.

use super::error::names;
use super::{Host, PlaceError, VmShape};
use crate::plan::form::Form;
use crate::plan::placement::{PlaceRow, Spread};
use crate::plan::rows::{Lists, On};
use crate::plan::{GroupId, HypervisorKind, Plan, Range};
use hashbrown::HashMap;
use smallvec::SmallVec;

/// Ports of a Linux bridge that a host can use: `BR_MAX_PORTS` (1024) of the kernel's `net/bridge/br_private.h`, less
/// the number 0.
const BRIDGE_PORTS: u32 = 1023;

/// Hosts that some VMs may run on.
#[derive(Debug)]
pub(super) struct HostSet {
    /// Numbers of hosts in the order in which they are filled.
    pub(super) hosts: Vec<u32>,
    /// The same as a set of bits.
    bits: Vec<u64>,
    /// What makes a host one of the set, in words.
    pub(super) wanted: String,
}

impl HostSet {
    pub(super) fn has(&self, host: u32) -> bool {
        self.bits.get(host as usize / 64).is_some_and(|word| word & (1 << (host % 64)) != 0)
    }

    /// Whether all hosts of this one are in another.
    fn within(&self, other: &HostSet) -> bool {
        self.bits.iter().zip(&other.bits).all(|(mine, theirs)| mine & !theirs == 0)
    }
}

/// At most so much of something on each host.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    pub(super) most: u32,
    /// What it comes from.
    of: LimitOf,
}

#[derive(Debug, Clone, Copy)]
enum LimitOf {
    Row(u32),
    Segment(u32),
}

/// A range of a group under the same rules.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) group: u32,
    pub(super) first: u32,
    pub(super) count: u32,
    /// Bytes and virtual processors of one VM.
    pub(super) memory: u64,
    pub(super) cpu: u32,
    /// Entry of [`Work::sets`].
    pub(super) set: u32,
    /// Limits that each of its VMs counts against, and by how much.
    pub(super) limits: SmallVec<[(u32, u32); 2]>,
    /// NICs on segments that have a limit, where which one depends on the index.
    pub(super) nics: SmallVec<[u32; 1]>,
}

impl Unit {
    pub(super) fn range(&self) -> Range {
        Range { group: GroupId(self.group), first: self.first, count: self.count }
    }
}

/// Units that are placed as one.
#[derive(Debug)]
pub(super) struct Item {
    /// They are to be on one host.
    pub(super) together: bool,
    pub(super) units: Vec<u32>,
    /// How many hosts there are to choose from.
    pub(super) choice: u32,
    pub(super) memory: u64,
    /// Some unit has a limit from a rule.
    limited: bool,
}

/// All that is to be placed, and where it could go.
pub(super) struct Work<'a> {
    pub(super) plan: &'a Plan,
    pub(super) hosts: &'a [Host],
    pub(super) sets: Vec<HostSet>,
    pub(super) limits: Vec<Limit>,
    /// The limit of a segment that has one.
    pub(super) limit_of_segment: HashMap<u32, u32>,
    pub(super) units: Vec<Unit>,
    /// For each group its units, in the order of indices.
    pub(super) units_of_group: Lists,
    pub(super) items: Vec<Item>,
    /// For each router the set of its hosts, where a rule chooses.
    pub(super) router_sets: HashMap<u32, u32>,
}

/// Racks and tags that rules demand.
type Filter = (Vec<String>, Vec<String>);

struct Sets<'a> {
    hosts: &'a [Host],
    /// Numbers of hosts in the order in which they are filled.
    order: Vec<u32>,
    known: HashMap<Filter, u32>,
    sets: Vec<HostSet>,
}

impl Sets<'_> {
    fn of<'r>(&mut self, rows: impl Iterator<Item = &'r PlaceRow>) -> u32 {
        let mut filter = Filter::default();
        for row in rows {
            filter.0.extend(row.rule.rack.clone());
            filter.1.extend(row.rule.tag.clone());
        }
        for part in [&mut filter.0, &mut filter.1] {
            part.sort_unstable();
            part.dedup();
        }
        let next = self.sets.len() as u32;
        let (hosts, order) = (self.hosts, &self.order);
        let sets = &mut self.sets;
        *self.known.entry(filter).or_insert_with_key(|(racks, tags)| {
            let good = |host: &Host| {
                racks.iter().all(|rack| host.rack.as_ref() == Some(rack)) && tags.iter().all(|t| host.tags.contains(t))
            };
            let chosen: Vec<u32> = order.iter().copied().filter(|h| good(&hosts[*h as usize])).collect();
            let mut bits = vec![0u64; hosts.len().div_ceil(64)];
            for host in &chosen {
                bits[*host as usize / 64] |= 1 << (host % 64);
            }
            let mut words: Vec<String> = tags.iter().map(|tag| format!("tag {tag}")).collect();
            words.extend(racks.iter().map(|rack| format!("rack {rack}")));
            let wanted =
                if words.is_empty() { "hosts".to_owned() } else { format!("hosts with {}", words.join(" and ")) };
            sets.push(HostSet { hosts: chosen, bits, wanted });
            next
        })
    }
}

impl<'a> Work<'a> {
    pub(super) fn of(
        plan: &'a Plan,
        hosts: &'a [Host],
        commits: &dyn Fn(&VmShape<'_>) -> u64,
    ) -> Result<Work<'a>, PlaceError> {
        if hosts.is_empty() {
            return Err(PlaceError::NoHosts);
        }
        // By rack, then as a person counts: h2 before h10.
        let mut order: Vec<u32> = (0..hosts.len() as u32).collect();
        order.sort_by_cached_key(|h| {
            let host = &hosts[*h as usize];
            (host.rack.as_deref().map(natural), natural(&host.name), host.name.clone())
        });
        let mut sorted: Vec<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
        sorted.sort_unstable();
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(PlaceError::SameName { name: pair[0].to_owned() });
        }
        let mut sets = Sets { hosts, order, known: HashMap::new(), sets: Vec::new() };
        let data = &plan.data;
        let mut work = Work {
            plan,
            hosts,
            sets: Vec::new(),
            limits: Vec::new(),
            limit_of_segment: HashMap::new(),
            units: Vec::new(),
            units_of_group: Lists::default(),
            items: Vec::new(),
            router_sets: HashMap::new(),
        };
        let limit_of_row: Vec<Option<u32>> =
            (0u32..).zip(&data.places).map(|(id, row)| work.row_limit(id, row)).collect();
        work.segment_limits();
        let class_memory: Vec<u64> = data
            .classes
            .iter()
            .map(|c| {
                let (memory, overcommit) = (c.memory, c.overcommit);
                // A camera takes QEMU: user-mode Linux has no USB.
                let hypervisor = c.hypervisor.or(c.needs_camera.then_some(HypervisorKind::Qemu));
                commits(&VmShape { hypervisor, image: &c.image, cpu: c.cpu, memory, overcommit }).max(1)
            })
            .collect();
        let mut pairs = Vec::new();
        for (row, place) in (0u32..).zip(&data.places) {
            pairs.extend(place.ranges.iter().map(|range| (range.group.0, row)));
        }
        let rows_of_group = Lists::from_pairs(data.groups.len(), &pairs);
        let mut clusters: HashMap<u32, u32> = HashMap::new();
        for group in groups_in_order(plan) {
            let row = data.groups[group as usize];
            let rows = rows_of_group.of(group);
            for (first, count) in pieces(plan, group, rows) {
                let about: SmallVec<[u32; 4]> =
                    rows.iter().copied().filter(|r| covers(&data.places[*r as usize], group, first)).collect();
                let class = &data.classes[row.class as usize];
                let set = sets.of(about.iter().map(|r| &data.places[*r as usize]));
                let mut unit = Unit {
                    group,
                    first,
                    count,
                    memory: class_memory[row.class as usize],
                    cpu: class.cpu,
                    set,
                    limits: about.iter().filter_map(|r| limit_of_row[*r as usize]).map(|l| (l, 1)).collect(),
                    nics: SmallVec::new(),
                };
                let limited = !unit.limits.is_empty();
                work.port_limits(&mut unit);
                let id = work.units.len() as u32;
                let memory = unit.memory.saturating_mul(u64::from(count));
                work.units.push(unit);
                // The widest `together` decides; what is within it is together as well.
                let together = about.iter().filter(|r| data.places[**r as usize].rule.spread == Some(Spread::Together));
                let cluster = together.max_by_key(|r| (data.places[**r as usize].vms(), std::cmp::Reverse(**r)));
                let choice = sets.sets[set as usize].hosts.len() as u32;
                let next = work.items.len() as u32;
                let item = cluster.map_or(next, |row| *clusters.entry(*row).or_insert(next));
                match work.items.get_mut(item as usize) {
                    Some(item) => {
                        item.units.push(id);
                        item.memory = item.memory.saturating_add(memory);
                        item.choice = item.choice.min(choice);
                        item.limited |= limited;
                    }
                    None => {
                        work.items.push(Item { together: cluster.is_some(), units: vec![id], choice, memory, limited })
                    }
                }
            }
        }
        let pairs: Vec<(u32, u32)> = (0u32..).zip(&work.units).map(|(id, unit)| (unit.group, id)).collect();
        work.units_of_group = Lists::from_pairs(data.groups.len(), &pairs);
        let mut rows_of_router: HashMap<u32, SmallVec<[u32; 2]>> = HashMap::new();
        for (row, place) in (0u32..).zip(&data.places).filter(|(_, p)| p.rule.rack.is_some() || p.rule.tag.is_some()) {
            for router in &place.routers {
                rows_of_router.entry(*router).or_default().push(row);
            }
        }
        for router in 0..data.routers.len() as u32 {
            if let Some(rows) = rows_of_router.get(&router) {
                let set = sets.of(rows.iter().map(|r| &data.places[*r as usize]));
                work.router_sets.insert(router, set);
            }
        }
        work.sets = sets.sets;
        work.items.sort_by_key(|item| {
            // The order of the file, but for `together`, which needs the largest gaps.
            let size = if item.together { item.memory } else { 0 };
            (item.choice, !item.together, !item.limited, std::cmp::Reverse(size))
        });
        Ok(work)
    }

    /// A limit for each segment that may have more ports than one bridge takes.
    fn segment_limits(&mut self) {
        let data = &self.plan.data;
        // On several hosts one port is the vxlan between them.
        let bridge = if self.hosts.len() > 1 { BRIDGE_PORTS - 1 } else { BRIDGE_PORTS };
        for segment in 0..data.segments.len() as u32 {
            let routers = data.segment_interfaces.of(segment).len() as u32;
            let nics = data.segment_nics.of(segment);
            let ports = nics.iter().map(|nic| {
                let row = &data.nics[*nic as usize];
                u64::from(data.forms.count(row.segment, &data.indices(row.group), segment))
            });
            let most: u64 = ports.sum();
            if most + u64::from(routers) > u64::from(bridge) {
                self.limit_of_segment.insert(segment, self.limits.len() as u32);
                self.limits.push(Limit { most: bridge.saturating_sub(routers), of: LimitOf::Segment(segment) });
            }
        }
    }

    fn row_limit(&mut self, id: u32, row: &PlaceRow) -> Option<u32> {
        let most = row.rule.most_per_host()?;
        self.limits.push(Limit { most, of: LimitOf::Row(id) });
        Some(self.limits.len() as u32 - 1)
    }

    /// Enters the segments with limits that a unit's NICs are on.
    fn port_limits(&self, unit: &mut Unit) {
        let data = &self.plan.data;
        let row = data.groups[unit.group as usize];
        if self.limit_of_segment.is_empty() {
            return;
        }
        let nics = row.first_nic..row.first_nic + u32::from(row.nic_count);
        if nics.clone().all(|n| matches!(data.nics[n as usize].segment, Form::Const(_))) {
            for nic in nics {
                let Form::Const(segment) = data.nics[nic as usize].segment else { continue };
                let Some(limit) = self.limit_of_segment.get(&segment) else { continue };
                match unit.limits.iter_mut().find(|(l, _)| l == limit) {
                    Some((_, weight)) => *weight += 1,
                    None => unit.limits.push((*limit, 1)),
                }
            }
        } else {
            unit.nics.extend(nics);
        }
    }

    /// Whether hosts are enough by sums alone, for an answer that says what is missing.
    pub(super) fn check_sums(&self) -> Result<(), PlaceError> {
        let mut needed = vec![(0u64, 0u64); self.sets.len()];
        for unit in &self.units {
            let set = &self.sets[unit.set as usize];
            let largest = set.hosts.iter().map(|h| self.hosts[*h as usize].memory).max();
            let Some(largest) = largest else {
                return Err(self.no_such_hosts(set, self.unit_name(unit)));
            };
            if unit.memory > largest {
                let what = self.plan.vm_name(GroupId(unit.group), unit.first).unwrap_or_default();
                return Err(PlaceError::TooLarge { what, needed: unit.memory, largest });
            }
            let sum = &mut needed[unit.set as usize];
            sum.0 += u64::from(unit.count);
            sum.1 = sum.1.saturating_add(unit.memory.saturating_mul(u64::from(unit.count)));
        }
        for set in &self.sets {
            let inner = (0..self.sets.len()).filter(|s| self.sets[*s].within(set)).map(|s| needed[s]);
            let (count, bytes) = inner.fold((0, 0u64), |sum, n| (sum.0 + n.0, sum.1.saturating_add(n.1)));
            let available = set.hosts.iter().fold(0u64, |sum, h| sum.saturating_add(self.hosts[*h as usize].memory));
            if bytes > available {
                let (wanted, hosts) = (set.wanted.clone(), self.host_names(set));
                return Err(PlaceError::Memory { count, needed: bytes, wanted, available, hosts });
            }
        }
        self.check_limits()
    }

    fn check_limits(&self) -> Result<(), PlaceError> {
        // Of each limit: how many count, and one of the sets that may be used (the widest).
        let mut counted = vec![(0u64, 0u32); self.limits.len()];
        for unit in &self.units {
            for (limit, weight) in &unit.limits {
                let it = &mut counted[*limit as usize];
                it.0 += u64::from(unit.count) * u64::from(*weight);
                let (old, new) = (&self.sets[it.1 as usize], &self.sets[unit.set as usize]);
                if it.0 == u64::from(unit.count) * u64::from(*weight) || new.hosts.len() > old.hosts.len() {
                    it.1 = unit.set;
                }
            }
        }
        for (limit, (count, set)) in self.limits.iter().zip(counted) {
            let hosts = match limit.of {
                LimitOf::Row(_) => self.sets.get(set as usize).map_or(0, |s| s.hosts.len() as u64),
                LimitOf::Segment(_) => self.hosts.len() as u64,
            };
            if count <= hosts * u64::from(limit.most) {
                continue;
            }
            let needed = count.div_ceil(u64::from(limit.most.max(1)));
            return Err(match limit.of {
                LimitOf::Row(row) => {
                    let place = &self.plan.data.places[row as usize];
                    let what = self.plan.data.place_texts[place.text as usize].to_string();
                    let rule = match place.rule.spread {
                        Some(Spread::Apart) => "apart".to_owned(),
                        _ => format!("at most {} per host", limit.most),
                    };
                    let names = self.host_names(&self.sets[set as usize]);
                    PlaceError::TooFewHosts { what, rule, count, hosts, needed, names }
                }
                LimitOf::Segment(segment) => {
                    let row = self.plan.data.segments[segment as usize];
                    let segment = self.plan.data.names.path(row.instance, row.decl, row.index);
                    PlaceError::Ports { segment, count, hosts, limit: limit.most, needed }
                }
            });
        }
        self.check_routers()
    }

    fn check_routers(&self) -> Result<(), PlaceError> {
        let data = &self.plan.data;
        for router in 0..data.routers.len() as u32 {
            if let Some(set) = self.router_sets.get(&router).map(|s| &self.sets[*s as usize])
                && set.hosts.is_empty()
            {
                return Err(self.no_such_hosts(set, format!("the router {}", data.router_name(router))));
            }
            for interface in data.interfaces_of(router) {
                let On::External(external) = interface.on else { continue };
                let host = &data.externals[external as usize].host;
                if !self.hosts.iter().any(|h| h.name == **host) {
                    let router = data.router_name(router);
                    return Err(PlaceError::NoExternalHost { router, host: host.to_string() });
                }
            }
        }
        Ok(())
    }

    fn no_such_hosts(&self, set: &HostSet, what: String) -> PlaceError {
        let mut known: Vec<String> =
            self.hosts.iter().flat_map(|h| h.tags.iter().map(|t| format!("tag {t}"))).collect();
        known.extend(self.hosts.iter().filter_map(|h| h.rack.as_ref()).map(|r| format!("rack {r}")));
        known.sort_unstable();
        known.dedup();
        let known = match known.len() {
            0 => "hosts have neither racks nor tags".to_owned(),
            _ => format!("hosts have {}", names(&known.iter().map(String::as_str).collect::<Vec<_>>())),
        };
        PlaceError::NoSuchHosts { what, wanted: set.wanted.clone(), known }
    }

    pub(super) fn unit_name(&self, unit: &Unit) -> String {
        self.plan.range_name(unit.range()).unwrap_or_default()
    }

    pub(super) fn host_names(&self, set: &HostSet) -> String {
        names(&set.hosts.iter().map(|h| self.hosts[*h as usize].name.as_str()).collect::<Vec<_>>())
    }
}

/// Groups so that those of one instance, with all that is in it, follow one another.
fn groups_in_order(plan: &Plan) -> Vec<u32> {
    let names = &plan.data.names;
    let mut children: Vec<(u32, u32)> = Vec::new();
    for (id, instance) in (0u32..).zip(&names.instances).skip(1) {
        children.push((instance.parent, id));
    }
    let children = Lists::from_pairs(names.instances.len(), &children);
    let mut rank = vec![0u32; names.instances.len()];
    let mut open = vec![0u32];
    let mut next = 0;
    while let Some(instance) = open.pop() {
        rank[instance as usize] = next;
        next += 1;
        open.extend(children.of(instance).iter().rev());
    }
    let mut groups: Vec<u32> =
        (0..plan.data.groups.len() as u32).filter(|g| plan.data.groups[*g as usize].count > 0).collect();
    groups.sort_by_key(|g| rank[plan.data.groups[*g as usize].instance as usize]);
    groups
}

/// A group cut where a rule begins or ends: (first, count).
fn pieces(plan: &Plan, group: u32, rows: &[u32]) -> SmallVec<[(u32, u32); 2]> {
    let row = plan.data.groups[group as usize];
    let mut cuts: SmallVec<[u32; 4]> = SmallVec::from_slice(&[row.first, row.first + row.count]);
    for place in rows {
        for range in ranges_of(&plan.data.places[*place as usize], group) {
            cuts.extend([range.indices().start, range.indices().end]);
        }
    }
    cuts.sort_unstable();
    cuts.dedup();
    cuts.windows(2).map(|pair| (pair[0], pair[1] - pair[0])).collect()
}

fn ranges_of(place: &PlaceRow, group: u32) -> impl Iterator<Item = &Range> {
    let from = place.ranges.partition_point(|r| r.group.0 < group);
    place.ranges[from..].iter().take_while(move |r| r.group.0 == group)
}

fn covers(place: &PlaceRow, group: u32, index: u32) -> bool {
    ranges_of(place, group).any(|range| range.indices().contains(&index))
}

/// A name cut into letters and numbers, so that h2 sorts before h10.
fn natural(name: &str) -> Vec<(String, u64)> {
    let mut parts: Vec<(String, u64)> = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let word = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let digits = rest[word..].find(|c: char| !c.is_ascii_digit()).map_or(rest.len(), |n| word + n);
        parts.push((rest[..word].to_owned(), rest[word..digits].parse().unwrap_or(0)));
        rest = &rest[digits..];
    }
    parts
}
