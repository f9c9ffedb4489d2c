//! What the plan derives for a name: prefixes, addresses, values. Instances are folded: a few are shown, the others
//! counted.

use super::Analysis;
use super::scope::{DeclId, decl};
use super::uses::Use;
use crate::plan::path::{Selected, parts};
use crate::plan::rows::{Data, LinkRow, On};
use crate::plan::{GroupId, Plan, SegmentId, mac};
use crate::syntax::tree::Expr;
use crate::text::thousands;
use crate::vocab::Kind;
use std::net::Ipv4Addr;

/// Lines shown of a list.
const MAX_LINES: usize = 6;
/// VMs of a group whose addresses are looked at.
const MAX_VMS: u32 = 1 << 16;

impl Analysis {
    /// What is known about a name at a place, a line each.
    pub(super) fn facts(&self, found: &Use, id: DeclId) -> Vec<String> {
        let Some(it) = decl(self.names(), id) else { return Vec::new() };
        if matches!(it.kind, Kind::Let | Kind::Param) {
            return self.value_facts(id);
        }
        let Some(plan) = self.plan() else { return Vec::new() };
        let data = &*plan.data;
        let selected = self.selected(found, id);
        let mut lines = match it.kind {
            Kind::Lan => elements(data, &selected).map(|row| lan(plan, row)).take(MAX_LINES).collect(),
            Kind::Router => elements(data, &selected).flat_map(|row| router(data, row)).take(MAX_LINES).collect(),
            Kind::Vm => selected.iter().filter(|s| s.count > 0).flat_map(|s| vms(plan, s)).take(MAX_LINES).collect(),
            Kind::Link => self.links(data, id),
            Kind::External => {
                let of = data.externals.iter().filter(|e| e.decl == id.decl);
                of.map(|e| format!("{} on interface `{}` of host `{}`", e.prefix, e.interface, e.host)).collect()
            }
            Kind::Instance => {
                let vms: u64 = data.vms_of(&selected).iter().map(|r| u64::from(r.count)).sum();
                vec![format!("{} VMs", thousands(vms))]
            }
            Kind::Module => {
                let of = self.scopes().module_of_stmt.get(&it.stmt).copied();
                let count = self.names().instances.iter().filter(|i| Some(i.module) == of).count() as u64;
                vec![format!("{} instances", thousands(count))]
            }
            _ => Vec::new(),
        };
        let all = match it.kind {
            Kind::Lan => selected.iter().map(|s| s.count as usize).sum(),
            Kind::Vm => selected.len(),
            _ => 0,
        };
        if all > MAX_LINES {
            lines.push(format!("… {} in all", thousands(all as u64)));
        }
        lines
    }

    /// The elements that are meant: those of the path if it says, else those of all instances.
    fn selected(&self, found: &Use, id: DeclId) -> Vec<Selected> {
        let (tree, names) = (&self.parts.tree, self.names());
        if let Some((path, 0)) = found.path {
            let mut number = |e| if let Expr::Int(n) = tree.expr(e) { Some(tree.int(n)) } else { None };
            let path = parts(tree, &names.interner, path, &mut number);
            if let Some(selected) = path.and_then(|p| names.select(0, &p).ok()).filter(|s| !s.is_empty()) {
                return selected;
            }
        }
        let of = (0u32..).zip(&names.instances).filter(|(_, i)| i.module == id.module);
        let kind = decl(names, id).map_or(Kind::Lan, |d| d.kind);
        let select = |(instance, _)| {
            let rows = names.rows(instance, id.decl);
            Selected { kind, instance, decl: id.decl, first: rows.first, count: rows.count }
        };
        of.map(select).collect()
    }

    /// The values of a `let` or parameter; equal ones of several instances are one line.
    fn value_facts(&self, id: DeclId) -> Vec<String> {
        let names = self.names();
        let mut values: Vec<(String, u32, u64)> = Vec::new();
        for (instance, _) in (0u32..).zip(&names.instances).filter(|(_, i)| i.module == id.module) {
            let Some(value) = self.parts.values.get(&(instance, id.decl)) else { continue };
            let text = value.written(self.text());
            if let Some((.., count)) = values.iter_mut().find(|(known, ..)| *known == text) {
                *count += 1;
            } else if values.len() <= MAX_LINES {
                values.push((text, instance, 1));
            }
        }
        let more = values.len() > MAX_LINES;
        values.truncate(MAX_LINES);
        let line = |(text, instance, count): (String, u32, u64)| {
            let at = self.instance_path(instance);
            match (at, count) {
                (None, _) => format!("`{text}`"),
                (Some(at), 1) => format!("`{text}` in `{at}`"),
                (Some(at), _) => format!("`{text}` in `{at}` and {} more", thousands(count - 1)),
            }
        };
        let mut lines: Vec<String> = values.into_iter().map(line).collect();
        if more {
            lines.push("… and others".into());
        }
        lines
    }

    fn instance_path(&self, instance: u32) -> Option<String> {
        let it = self.names().instances.get(instance as usize).filter(|_| instance != 0)?;
        Some(self.names().path(it.parent, it.decl, it.index))
    }

    fn links(&self, data: &Data, id: DeclId) -> Vec<String> {
        let Some(it) = decl(self.names(), id) else { return Vec::new() };
        let links = (0u32..).zip(&data.links).filter(|(_, l)| l.stmt == it.stmt);
        links.map(|(number, row)| link(data, number, row)).take(MAX_LINES).collect()
    }
}

fn link(data: &Data, number: u32, row: &LinkRow) -> String {
    let end = |end: usize| {
        let ip = data.interfaces.get(row.interfaces[end] as usize).map_or(0, |i| i.ip);
        format!("`{}` {}", data.router_name(row.routers[end]), Ipv4Addr::from(ip))
    };
    format!("`{}`: {}, {} to {}, cost {}", data.link_name(number), row.prefix, end(0), end(1), row.cost)
}

/// The rows of selected elements that have one each.
fn elements<'a>(data: &'a Data, selected: &'a [Selected]) -> impl Iterator<Item = u32> + 'a {
    selected.iter().flat_map(|s| {
        let rows = data.names.rows(s.instance, s.decl);
        let base = rows.base + (s.first - rows.first);
        base..base + s.count
    })
}

fn lan(plan: &Plan, row: u32) -> String {
    let Some(it) = plan.segment(SegmentId(row)) else { return String::new() };
    let gateway = it.gateway.map_or_else(|| "no gateway".to_owned(), |g| format!("gateway {g}"));
    format!("`{}`: {}/{}, {gateway}, VNI {}, MTU {}", it.name, it.prefix, it.prefix_len, it.vni, it.mtu)
}

fn router(data: &Data, row: u32) -> Vec<String> {
    let Some(it) = data.routers.get(row as usize) else { return Vec::new() };
    let name = data.names.path(it.instance, it.decl, it.index);
    let line = |(number, i): (usize, &crate::plan::rows::InterfaceRow)| {
        let (prefix, mtu, domain) = data.network_of(i.on);
        let on = match i.on {
            On::Segment(s) => data.segments.get(s as usize).map(|s| data.names.path(s.instance, s.decl, s.index)),
            On::Link(l) => Some(data.link_name(l)),
            On::External(e) => data.externals.get(e as usize).map(|e| data.names.path(0, e.decl, None)),
        };
        let (ip, mac) = (Ipv4Addr::from(i.ip), mac_text(mac(domain, i.ip)));
        let ospf = i.ospf.map_or_else(String::new, |o| format!(", OSPF area {}", o.area));
        format!(
            "`{name}` eth{number}: {ip}/{} on `{}`, MAC {mac}, MTU {mtu}{ospf}",
            prefix.len(),
            on.unwrap_or_default()
        )
    };
    let bgp = it.bgp.and_then(|b| data.bgp.get(b as usize)).map(|b| format!("`{name}`: AS {}", b.asn));
    bgp.into_iter().chain(data.interfaces_of(row).iter().enumerate().map(line)).collect()
}

/// The addresses of some VMs of a group, a line for each NIC.
fn vms(plan: &Plan, selected: &Selected) -> Vec<String> {
    let data = &*plan.data;
    let group = data.names.rows(selected.instance, selected.decl).base;
    let (Some(row), Some(it)) = (data.groups.get(group as usize), plan.group(GroupId(group))) else {
        return Vec::new();
    };
    let until = selected.first + selected.count;
    let name = match (it.is_array, selected.count) {
        (false, _) => it.path.clone(),
        (true, 1) => format!("{}[{}]", it.path, selected.first),
        (true, _) => format!("{}[{}..{until}]", it.path, selected.first),
    };
    let nics = (0u32..).take(usize::from(row.nic_count)).filter_map(|number| {
        let nic = row.first_nic + number;
        let at = |i| data.nic_at(nic, i).map(|(segment, ip)| (ip, segment));
        let all = || (selected.first..until.min(selected.first.saturating_add(MAX_VMS))).filter_map(at);
        let (low, high) = (all().min()?, all().max()?);
        let network = |s: u32| data.segments.get(s as usize).map(|s| (s.prefix.len(), s.domain));
        let address = |(ip, segment): (u32, u32)| {
            let (len, domain) = network(segment).unwrap_or_default();
            (format!("{}/{len}", Ipv4Addr::from(ip)), mac_text(mac(domain, ip)))
        };
        let (low, high) = (address(low), address(high));
        Some(match selected.count {
            1 => format!("`{name}` eth{number}: {}, MAC {}", low.0, low.1),
            _ => format!("`{name}` eth{number}: {} to {}, MAC {} to {}", low.0, high.0, low.1, high.1),
        })
    });
    let mut lines: Vec<String> = nics.collect();
    if lines.is_empty() {
        lines.push(format!("`{name}`: on no lan"));
    }
    lines
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}
