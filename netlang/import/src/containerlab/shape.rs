//! From nodes and links to VMs, routers, lans and links between routers.
//!
//! A veth between two routers is a link; any other veth is a lan of two. Bridges are lans, and bridges that a veth
//! joins are one lan.

use std::collections::BTreeMap;

use super::exec::Cidr;
use super::network::{External, Host, Lan, Line, Network, On, Port, Sets};
use super::read::{End, Link, LinkKind, Topology};
use super::role::{self, Role};
use super::{fields, resources};
use crate::name::Names;
use crate::note::{NoteKind, Notes};

/// NICs that a VM has at most.
const MOST_NICS: usize = 32;

/// Lays out the network of a topology.
pub(super) fn network(topology: &Topology, notes: &mut Notes) -> Network {
    let roles = role::roles(topology, notes);
    fields::of_nodes(topology, &roles, notes);
    let mut shape = Shape {
        topology,
        notes,
        names: Names::default(),
        network: Network::default(),
        places: vec![Place::Nowhere; topology.nodes.len()],
        pairs: BTreeMap::new(),
        used: topology.nodes.iter().map(|node| vec![false; node.setup.addresses.len()]).collect(),
    };
    shape.nodes(&roles);
    for link in &topology.links {
        shape.link(link);
    }
    shape.unused_addresses();
    shape.unlinked();
    for host in &mut shape.network.hosts {
        host.ports.sort_by_key(|port| natural(&port.interface));
    }
    shape.renumbered();
    shape.network
}

/// What a node became.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The host itself.
    Nowhere,
    Vm(usize),
    Router(usize),
    Lan(usize),
}

struct Shape<'t, 'n> {
    topology: &'t Topology,
    notes: &'n mut Notes,
    names: Names,
    network: Network,
    places: Vec<Place>,
    /// Links between two routers, for the names of further ones.
    pairs: BTreeMap<(usize, usize), usize>,
    /// Which of a node's addresses were taken over or spoken of.
    used: Vec<Vec<bool>>,
}

impl Shape<'_, '_> {
    fn nodes(&mut self, roles: &[Role]) {
        let topology = self.topology;
        let mut sets = self.bridges(roles);
        // Names that can stay do, whatever stands before them.
        let kept: Vec<bool> = topology
            .nodes
            .iter()
            .enumerate()
            .map(|(at, node)| roles[at] != Role::Host && sets.of(at) == at && self.names.take(&node.name))
            .collect();
        for (at, node) in topology.nodes.iter().enumerate() {
            if roles[at] == Role::Host {
                let why = "it stands for the host itself, which is no part of a network";
                self.notes.fold(node.line, NoteKind::LeftOut, "kind `host`", &node.name, why);
                continue;
            }
            let first = sets.of(at);
            if first != at {
                self.places[at] = self.places[first];
                let why = "a link joins these bridges: they are one lan";
                self.notes.fold(node.line, NoteKind::Changed, "", &node.name, why);
                continue;
            }
            let name = if kept[at] { node.name.clone() } else { self.rename(at) };
            if roles[at] == Role::Bridge {
                self.places[at] = Place::Lan(self.lan(name, node.line));
                continue;
            }
            let router = match roles[at] {
                Role::Router { kind, .. } => Some(kind),
                _ => None,
            };
            let host = self.network.hosts.len();
            self.places[at] = if router.is_some() { Place::Router(host) } else { Place::Vm(host) };
            let (cpu, memory) = (node.cpu.as_ref(), node.memory.as_ref());
            let (cpu, memory) = if router.is_some() {
                if let Some(word) = cpu.or(memory) {
                    let why = "a router has the host's processors and little memory";
                    self.notes.fold(word.line, NoteKind::LeftOut, "`cpu` and `memory`", &node.name, why);
                }
                (None, None)
            } else {
                (
                    cpu.and_then(|word| resources::cpus(word, &node.name, self.notes)),
                    memory.and_then(|word| resources::memory(word, &node.name, self.notes)),
                )
            };
            let ports = Vec::new();
            self.network.hosts.push(Host { name, node: at, router, image: None, cpu, memory, ports });
        }
    }

    /// Which bridges are one.
    fn bridges(&self, roles: &[Role]) -> Sets {
        let mut sets = Sets::new(roles.len());
        for link in self.topology.links.iter().filter(|link| link.kind == LinkKind::Veth) {
            if let [a, b] = link.ends.as_slice()
                && let (Some(a), Some(b)) = (self.topology.by_name.get(&a.node), self.topology.by_name.get(&b.node))
                && roles[*a] == Role::Bridge
                && roles[*b] == Role::Bridge
            {
                sets.join(*a, *b);
            }
        }
        sets
    }

    fn rename(&mut self, at: usize) -> String {
        let node = &self.topology.nodes[at];
        let name = self.names.free(&node.name);
        let what = format!("`{}` as `{name}`", printable(&node.name));
        let why = "names are a-z, 0-9 and _, start with a letter, are no keyword, and each is used once";
        self.notes.fold(node.line, NoteKind::Changed, "", &what, why);
        name
    }

    fn lan(&mut self, name: String, line: usize) -> usize {
        self.network.lans.push(Lan { name, line, prefix: None, gateway: None, mtu: None });
        self.network.lans.len() - 1
    }

    fn link(&mut self, link: &Link) {
        match (&link.kind, link.ends.as_slice()) {
            (LinkKind::Macvlan(interface), [end]) => self.macvlan(link, interface, end),
            (LinkKind::Other(kind), ends) => self.special(link, kind, ends.first()),
            (LinkKind::Veth, [a, b]) => match (self.place(a), self.place(b)) {
                (Some(at), Some(bt)) => self.veth(link, (a, at), (b, bt)),
                (None, Some(_)) => self.special(link, &a.node, Some(b)),
                (Some(_), None) => self.special(link, &b.node, Some(a)),
                (None, None) => self.special(link, &a.node, None),
            },
            _ => self.notes.add(link.line, NoteKind::LeftOut, "a link", "it does not have two ends"),
        }
    }

    /// What a node of a link became; `None` for a name of containerlab's own, such as `mgmt-net`, or an unknown one.
    fn place(&self, end: &End) -> Option<Place> {
        self.topology.by_name.get(&end.node).map(|at| self.places[*at])
    }

    /// A link that leads out of the network.
    fn special(&mut self, link: &Link, kind: &str, end: Option<&End>) {
        let why = match kind {
            "mgmt-net" => "there is no management network",
            "host" => "the host's own network is no part of this one; `external` leads to an interface of a host",
            "dummy" => "an interface that leads nowhere",
            "macvlan" => "it does not say which interface of the host",
            "vxlan" | "vxlan-stitch" => "lans reach over hosts by themselves; `external` leads to other networks",
            "veth" => "it does not have two ends",
            _ => "no node has that name",
        };
        let subject = format!("a link to `{}`", printable(kind));
        self.notes.fold(link.line, NoteKind::LeftOut, &subject, end.map_or("?", |end| end.node.as_str()), why);
    }

    fn veth(&mut self, link: &Link, (a, at): (&End, Place), (b, bt): (&End, Place)) {
        match (at, bt) {
            (Place::Nowhere, _) => self.special(link, "host", Some(b)),
            (_, Place::Nowhere) => self.special(link, "host", Some(a)),
            (Place::Lan(_), Place::Lan(_)) => {}
            (Place::Lan(lan), Place::Vm(host) | Place::Router(host)) => self.join(link, lan, host, b),
            (Place::Vm(host) | Place::Router(host), Place::Lan(lan)) => self.join(link, lan, host, a),
            (Place::Vm(x) | Place::Router(x), Place::Vm(y) | Place::Router(y)) if x == y => {
                let why = "both ends are of one node";
                self.notes.fold(link.line, NoteKind::LeftOut, "a link", &a.node, why);
            }
            (Place::Router(x), Place::Router(y)) => self.line(link, (x, a), (y, b)),
            (Place::Vm(x) | Place::Router(x), Place::Vm(y) | Place::Router(y)) => {
                if [x, y].into_iter().any(|host| self.is_full(link, host)) {
                    return;
                }
                let name = format!("{}_{}", self.network.hosts[x].name, self.network.hosts[y].name);
                let name = self.names.free(&name);
                let lan = self.lan(name, link.line);
                self.attach(link, On::Lan(lan), x, a);
                self.attach(link, On::Lan(lan), y, b);
                self.set_mtu(link, lan);
            }
        }
    }

    /// Puts a host on the lan of a bridge.
    fn join(&mut self, link: &Link, lan: usize, host: usize, end: &End) {
        if self.is_full(link, host) {
            return;
        }
        let row = &self.network.hosts[host];
        if row.router.is_some() && row.ports.iter().any(|port| port.on == On::Lan(lan)) {
            let why = format!("a router is on a lan once, and it is on `{}` already", self.network.lans[lan].name);
            self.notes.fold(link.line, NoteKind::LeftOut, "a second link", &end.node, &why);
            return;
        }
        self.attach(link, On::Lan(lan), host, end);
        self.set_mtu(link, lan);
    }

    fn is_full(&mut self, link: &Link, host: usize) -> bool {
        let row = &self.network.hosts[host];
        let full = row.router.is_none() && row.ports.len() >= MOST_NICS;
        if full {
            let why = format!("a VM has at most {MOST_NICS} NICs");
            self.notes.fold(link.line, NoteKind::LeftOut, "links", &row.name, &why);
        }
        full
    }

    fn attach(&mut self, link: &Link, on: On, host: usize, end: &End) {
        let address = self.address(host, end);
        let port = Port { interface: end.interface.clone(), on, address, line: link.line, at: None };
        self.network.hosts[host].ports.push(port);
    }

    /// The address of an end: that of the link, else the first that `exec` gives to the interface.
    fn address(&mut self, host: usize, end: &End) -> Option<Cidr> {
        let node = self.network.hosts[host].node;
        if let Some(word) = &end.ipv4 {
            let found = Cidr::parse(word.text.trim());
            if found.is_none() {
                let why = "not like `10.0.0.1/24`";
                self.notes.fold(word.line, NoteKind::LeftOut, "`ipv4`", &end.node, why);
            }
            return found;
        }
        let given = &self.topology.nodes[node].setup.addresses;
        let at = given.iter().position(|given| given.interface == end.interface)?;
        self.used[node][at] = true;
        Some(given[at].address)
    }

    fn line(&mut self, link: &Link, (x, a): (usize, &End), (y, b): (usize, &End)) {
        for (host, end) in [(x, a), (y, b)] {
            if let Some(address) = self.address(host, end) {
                let what = format!("{} of {}", address, printable(&end.node));
                let why = "links between routers take their addresses from `pool link`";
                self.notes.fold(link.line, NoteKind::Changed, "", &what, why);
            }
        }
        let count = self.pairs.entry((x.min(y), x.max(y))).or_default();
        *count += 1;
        let name = (*count > 1).then(|| format!("{}_{}", self.network.hosts[x].name, self.network.hosts[y].name));
        let name = name.map(|name| self.names.free(&name));
        let mtu = self.mtu(link);
        self.network.lines.push(Line { ends: [x, y], name, mtu });
    }

    fn mtu(&mut self, link: &Link) -> Option<u32> {
        let word = link.mtu.as_ref()?;
        let mtu = word.text.trim().parse().ok().filter(|mtu| (576..=65_535).contains(mtu));
        if mtu.is_none() {
            self.notes.add(word.line, NoteKind::LeftOut, "`mtu`", "it is a number from 576 to 65535");
        }
        mtu
    }

    fn set_mtu(&mut self, link: &Link, lan: usize) {
        let mtu = self.mtu(link);
        let row = &mut self.network.lans[lan];
        if let (Some(old), Some(new)) = (row.mtu, mtu)
            && old != new
        {
            let what = format!("`mtu` of lan {}", row.name);
            self.notes.add(link.line, NoteKind::Changed, what, "a lan has one: the smallest of its links");
        }
        row.mtu = row.mtu.into_iter().chain(mtu).min();
    }

    /// A router on an interface of the host: an external network, if it is known which.
    fn macvlan(&mut self, link: &Link, interface: &str, end: &End) {
        let Some(place) = self.place(end) else { return self.special(link, &end.node, None) };
        let Place::Router(host) = place else {
            let why = "only routers can be on an interface of a host: put one between, on an `external`";
            self.notes.fold(link.line, NoteKind::LeftOut, "a link to `macvlan`", &end.node, why);
            return;
        };
        let address = self.address(host, end).filter(|address| (1..=30).contains(&address.len));
        let known = self.network.externals.iter().position(|external| external.interface == interface);
        let agrees = known.is_none_or(|at| address.map(Cidr::prefix) == Some(self.network.externals[at].prefix));
        let Some(address) = address.filter(|_| agrees) else {
            let why = format!(
                "the prefix there is not given: `external uplink {{ host \"NAME\"; interface \"{0}\"; net PREFIX }}` and `on uplink at N` \
                 make it an external network",
                printable(interface)
            );
            self.notes.fold(link.line, NoteKind::LeftOut, "a link to `macvlan`", &end.node, &why);
            return;
        };
        let at = known.unwrap_or_else(|| {
            let name = self.names.free(&format!("{interface}_net"));
            let why = "which host has the interface is not given: put its name in the place of `localhost`";
            self.notes.add(link.line, NoteKind::Advice, format!("external {name}"), why);
            let interface = interface.to_owned();
            self.network.externals.push(External { name, interface, prefix: address.prefix() });
            self.network.externals.len() - 1
        });
        if self.network.hosts[host].ports.iter().all(|port| port.on != On::External(at)) {
            let port = Port {
                interface: end.interface.clone(),
                on: On::External(at),
                address: Some(address),
                line: link.line,
                at: Some(address.host()),
            };
            self.network.hosts[host].ports.push(port);
        }
    }

    fn unused_addresses(&mut self) {
        for (node, used) in self.topology.nodes.iter().zip(&self.used) {
            for (given, _) in node.setup.addresses.iter().zip(used).filter(|(_, used)| !**used) {
                let why = match given.interface.as_str() {
                    "lo" => "there are no loopback addresses",
                    _ => "not the first address of an interface that a link ends at",
                };
                let what = format!("{} {} {}", node.name, printable(&given.interface), given.address);
                self.notes.fold(given.line, NoteKind::LeftOut, "addresses", &what, why);
            }
        }
    }

    /// The first interface that is called otherwise in its VM.
    fn renumbered(&mut self) {
        let vms = self.network.hosts.iter().filter(|host| host.router.is_none());
        let mut ports = vms.flat_map(|host| host.ports.iter().enumerate());
        if let Some((at, port)) = ports.find(|(at, port)| port.interface != format!("eth{at}")) {
            let what = format!("interfaces of VMs: `{}` is `eth{at}`", printable(&port.interface));
            let why = "they are eth0, eth1, … in the order of their `on` lines";
            self.notes.add(port.line, NoteKind::Changed, what, why);
        }
    }

    fn unlinked(&mut self) {
        for host in self.network.hosts.iter().filter(|host| host.router.is_none() && host.ports.is_empty()) {
            let node = &self.topology.nodes[host.node];
            let why = "on no lan, so nothing can reach it: `on LAN` in its block attaches it";
            self.notes.fold(node.line, NoteKind::Advice, "", &host.name, why);
        }
    }
}

/// A text without control characters and of bounded length, for messages.
fn printable(text: &str) -> String {
    text.chars().take(60).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Orders `eth2` before `eth10`.
fn natural(interface: &str) -> Vec<(u64, String)> {
    let mut parts: Vec<(u64, String)> = Vec::new();
    let mut rest = interface;
    while !rest.is_empty() {
        let text = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (word, after) = rest.split_at(text);
        let digits = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
        let (number, after) = after.split_at(digits);
        parts.push((0, word.to_owned()));
        parts.push((number.parse().unwrap_or(u64::MAX), String::new()));
        rest = after;
    }
    parts
}
