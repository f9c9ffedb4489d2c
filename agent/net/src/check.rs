//! Refuses a desired network that cannot exist, before anything is made.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::{IpAddr, Ipv4Addr},
};

use crate::{
    naming,
    spec::{
        Attachment, InterfaceSpec, Mac, NetworkSpec, RemoteStation, RouterSpec, mac_text, network_of, router_port_id,
    },
};

/// The kernel gives each port of a bridge a 10-bit number of which 0 is not used (`BR_MAX_PORTS`).
pub const MAX_BRIDGE_PORTS: usize = 1023;
/// Longest port id in bytes: it becomes a device's alias, of which the kernel keeps 255 bytes, together with its peer's.
const LONGEST_ID: usize = 100;
/// Longest device name, `IFNAMSIZ` less the closing zero.
const LONGEST_DEVICE: usize = 15;
/// VNIs have 24 bits (RFC 7348); 0 is left out, as other programs use it for a default.
const MAX_VNI: u32 = (1 << 24) - 1;
/// The MTUs that bridges, taps and veths all take, in bytes.
const MTUS: std::ops::RangeInclusive<u32> = 68..=65_521;

/// One reason why a desired network cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// More ports than a bridge takes.
    #[error(
        "lan {segment} has {ports} ports on this host and a bridge takes {MAX_BRIDGE_PORTS}: split the lan or use more hosts"
    )]
    TooManyPorts {
        /// The segment.
        segment: String,
        /// Its ports on this host, those of routers and the tunnel to other hosts included.
        ports: usize,
    },
    /// Two things have one name.
    #[error("two {kind}s are called {name}: rename one")]
    Duplicate {
        /// What kind of thing.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// Two ports of one segment or link have one MAC address.
    #[error("{first} and {second} both have the MAC address {mac}: change one")]
    DuplicateMac {
        /// One port.
        first: String,
        /// The other port.
        second: String,
        /// The address.
        mac: String,
    },
    /// Two ports of one segment or link have one IP address.
    #[error("{first} and {second} both have the address {ip}: change one")]
    DuplicateAddress {
        /// One port.
        first: String,
        /// The other port.
        second: String,
        /// The address.
        ip: Ipv4Addr,
    },
    /// Something names a segment, router or interface that is not there.
    #[error("{user} refers to {kind} {name}, which does not exist")]
    Unknown {
        /// Who refers.
        user: String,
        /// What kind of thing is missing.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The other end of a link leads elsewhere.
    #[error("{port} is linked to {peer}, but {peer} is not linked back to {port}")]
    OneSidedLink {
        /// One end.
        port: String,
        /// The other end.
        peer: String,
    },
    /// A name that the kernel cannot take.
    #[error("{kind} name {name:?} {problem}")]
    BadName {
        /// What kind of thing.
        kind: &'static str,
        /// The name.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A value outside its range.
    #[error("{owner}: {what}")]
    BadValue {
        /// Whose value.
        owner: String,
        /// What is wrong.
        what: String,
    },
    /// A next hop that no interface can reach.
    #[error("router {router}: the next hop {via} is in none of the router's networks")]
    UnreachableHop {
        /// The router.
        router: String,
        /// The next hop.
        via: Ipv4Addr,
    },
    /// A segment or link crosses hosts, and nobody said where this host's end of tunnels is.
    #[error("{what} crosses hosts, and this host has no underlay address: give it one that the other hosts reach")]
    NoLocalEnd {
        /// The segment or link.
        what: String,
    },
    /// A tunnel's other end cannot be one.
    #[error("{what} cannot have a tunnel to {host}: {problem}")]
    BadFarEnd {
        /// The segment or link.
        what: String,
        /// The other host's address.
        host: IpAddr,
        /// What is wrong.
        problem: &'static str,
    },
    /// Two segments or links have one VNI, or it has more than 24 bits.
    #[error("{what}: the VNI {vni} {problem}")]
    BadVni {
        /// The segment or link.
        what: String,
        /// The VNI.
        vni: u32,
        /// What is wrong.
        problem: &'static str,
    },
    /// Another experiment of this host uses the VNI.
    #[error(
        "the VNI {vni} is in use by experiment {experiment} on this host: bring that one down, or give this one another name"
    )]
    VniTaken {
        /// The VNI.
        vni: u32,
        /// The other experiment.
        experiment: String,
    },
    /// The kernel has no vxlan.
    #[error(
        "it crosses hosts, and this host's kernel has no vxlan: load it (modprobe vxlan), or place all on one host"
    )]
    NoTunnels,
    /// The address is none of this host's.
    #[error("the underlay address {address} is on no device of this host: give the host an address that it has")]
    NoUnderlay {
        /// The address.
        address: IpAddr,
    },
    /// Packets do not fit into the underlay.
    #[error(
        "{what} has MTU {mtu}, and the underlay ({device}) has {underlay}, of which a tunnel takes {overhead}: write `mtu {}` in the file, or raise the MTU of {device} to {} on all hosts",
        .underlay.saturating_sub(*.overhead), .mtu + .overhead
    )]
    UnderlayMtu {
        /// The segment or link.
        what: String,
        /// Its MTU.
        mtu: u32,
        /// The underlay's device.
        device: String,
        /// That device's MTU.
        underlay: u32,
        /// Bytes of a tunnel's headers.
        overhead: u32,
    },
    /// Two names have one hash.
    #[error("{first} and {second} would have the same device name {device}: rename one")]
    NameCollision {
        /// One owner.
        first: String,
        /// The other owner.
        second: String,
        /// The device's name.
        device: String,
    },
}

impl NetworkSpec {
    /// Every reason why this network cannot be built; empty when it can.
    pub fn check(&self) -> Vec<SpecError> {
        let mut check = Check::default();
        check.name("experiment", &self.experiment);
        check.unique("lan", self.segments.iter().map(|segment| segment.name.as_str()));
        check.unique("router", self.routers.iter().map(|router| router.name.as_str()));
        check.unique("port", self.port_ids().iter().map(String::as_str));
        for segment in &self.segments {
            check.name("lan", &segment.name);
            check.mtu(&format!("lan {}", segment.name), segment.mtu);
            for port in &segment.ports {
                check.name("port", &port.id);
                check.station(&segment.name, &port.id, port.mac, port.ip);
            }
            if let Some(tunnel) = &segment.tunnel {
                let what = format!("lan {}", segment.name);
                check.tunnel(self, &what, tunnel.vni);
                for station in &tunnel.stations {
                    check.remote(self, &what, &segment.name, station);
                }
            }
        }
        for router in &self.routers {
            check.router(self, router);
        }
        check.port_counts(self);
        check.collisions(self);
        check.problems
    }

    fn port_ids(&self) -> Vec<String> {
        let taps = self.segments.iter().flat_map(|segment| segment.ports.iter().map(|port| port.id.clone()));
        let interfaces = self
            .routers
            .iter()
            .flat_map(|router| router.interfaces.iter().map(|interface| router_port_id(&router.name, &interface.name)));
        taps.chain(interfaces).collect()
    }
}

#[derive(Default)]
struct Check {
    problems: Vec<SpecError>,
    /// Who has an address on a segment or link.
    macs: HashMap<(String, Mac), String>,
    ips: HashMap<(String, Ipv4Addr), String>,
    vnis: HashSet<u32>,
    /// Other ends of tunnels that were found wrong: each is told once.
    far: HashSet<IpAddr>,
}

impl Check {
    fn unique<'a>(&mut self, kind: &'static str, names: impl Iterator<Item = &'a str>) {
        let (mut seen, mut told) = (HashSet::new(), BTreeSet::new());
        for name in names {
            if !seen.insert(name) && told.insert(name) {
                self.problems.push(SpecError::Duplicate { kind, name: name.to_owned() });
            }
        }
    }

    fn name(&mut self, kind: &'static str, name: &str) {
        let problem = match name {
            "" => "is empty",
            _ if name.len() > LONGEST_ID => "is longer than 100 bytes",
            _ if name.chars().any(char::is_control) => "holds a control character",
            _ => return,
        };
        self.problems.push(SpecError::BadName { kind, name: name.to_owned(), problem });
    }

    fn interface_name(&mut self, name: &str) {
        let problem = match name {
            "" => "is empty",
            "lo" | "." | ".." => "is taken by the system",
            "all" | "default" => "means every interface to the kernel",
            _ if name.len() > LONGEST_DEVICE => "is longer than 15 bytes",
            // The kernel refuses '/', ':' and white space (`dev_valid_name`); '%' begins a pattern.
            _ if name.contains(['/', ':', '%']) || name.chars().any(|c| c.is_whitespace() || c.is_control()) => {
                "holds a character that a device name cannot have"
            }
            _ => return,
        };
        self.problems.push(SpecError::BadName { kind: "interface", name: name.to_owned(), problem });
    }

    fn mtu(&mut self, owner: &str, mtu: u32) {
        if !MTUS.contains(&mtu) {
            let what = format!("MTU {mtu} is outside {} to {}", MTUS.start(), MTUS.end());
            self.problems.push(SpecError::BadValue { owner: owner.to_owned(), what });
        }
    }

    /// One station with its addresses in the L2 domain `domain`.
    fn station(&mut self, domain: &str, port: &str, mac: Mac, ip: Ipv4Addr) {
        if mac[0] & 1 == 1 || mac == [0; 6] {
            let what = format!("{} is not the MAC address of a single station", mac_text(&mac));
            self.problems.push(SpecError::BadValue { owner: port.to_owned(), what });
        }
        if ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() || ip.is_loopback() {
            let what = format!("{ip} is not the address of a single station");
            self.problems.push(SpecError::BadValue { owner: port.to_owned(), what });
        }
        let second = port.to_owned();
        if let Some(first) = self.macs.insert((domain.to_owned(), mac), second.clone()) {
            self.problems.push(SpecError::DuplicateMac { first, second: second.clone(), mac: mac_text(&mac) });
        }
        if let Some(first) = self.ips.insert((domain.to_owned(), ip), second.clone()) {
            self.problems.push(SpecError::DuplicateAddress { first, second, ip });
        }
    }

    fn tunnel(&mut self, spec: &NetworkSpec, what: &str, vni: u32) {
        if spec.underlay.is_none() {
            self.problems.push(SpecError::NoLocalEnd { what: what.to_owned() });
        }
        let problem = match vni {
            1..=MAX_VNI if self.vnis.insert(vni) => return,
            1..=MAX_VNI => "is another's, too",
            _ => "is outside 1 to 16,777,215",
        };
        self.problems.push(SpecError::BadVni { what: what.to_owned(), vni, problem });
    }

    /// A station on another host, in the L2 domain `domain`.
    fn remote(&mut self, spec: &NetworkSpec, what: &str, domain: &str, station: &RemoteStation) {
        let host = station.host;
        self.station(domain, &format!("{} behind {host}", station.ip), station.mac, station.ip);
        let problem = match spec.underlay {
            Some(local) if local == host => "it is this host's own address",
            Some(local) if local.is_ipv4() != host.is_ipv4() => "one has an IPv4 address and the other IPv6",
            _ if host.is_unspecified() || host.is_multicast() => "it is not the address of a host",
            _ => return,
        };
        if self.far.insert(host) {
            self.problems.push(SpecError::BadFarEnd { what: what.to_owned(), host, problem });
        }
    }

    fn router(&mut self, spec: &NetworkSpec, router: &RouterSpec) {
        self.name("router", &router.name);
        for interface in &router.interfaces {
            self.interface(spec, router, interface);
        }
        let destinations = router.routes.iter().map(|route| {
            format!("{}/{} of router {}", network_of(route.to, route.prefix_len), route.prefix_len, router.name)
        });
        let destinations: Vec<_> = destinations.collect();
        self.unique("route", destinations.iter().map(String::as_str));
        for route in &router.routes {
            self.prefix(&format!("router {}", router.name), route.prefix_len);
            let reachable = router.interfaces.iter().any(|interface| {
                interface.address != route.via
                    && network_of(interface.address, interface.prefix_len)
                        == network_of(route.via, interface.prefix_len)
            });
            if !reachable {
                self.problems.push(SpecError::UnreachableHop { router: router.name.clone(), via: route.via });
            }
        }
    }

    fn prefix(&mut self, owner: &str, prefix_len: u8) {
        if prefix_len > 32 {
            let what = format!("a prefix of {prefix_len} bits is longer than 32");
            self.problems.push(SpecError::BadValue { owner: owner.to_owned(), what });
        }
    }

    fn interface(&mut self, spec: &NetworkSpec, router: &RouterSpec, interface: &InterfaceSpec) {
        let port = router_port_id(&router.name, &interface.name);
        self.interface_name(&interface.name);
        self.mtu(&port, interface.mtu);
        self.prefix(&port, interface.prefix_len);
        match &interface.attachment {
            Attachment::Segment(segment) => {
                if !spec.segments.iter().any(|s| s.name == *segment) {
                    let (kind, name) = ("lan", segment.clone());
                    self.problems.push(SpecError::Unknown { user: port.clone(), kind, name });
                }
                self.station(segment, &port, interface.mac, interface.address);
            }
            Attachment::Link { peer_router, peer_interface } => {
                let peer = router_port_id(peer_router, peer_interface);
                match find_interface(spec, peer_router, peer_interface) {
                    None => {
                        let (kind, name) = ("interface", peer.clone());
                        self.problems.push(SpecError::Unknown { user: port.clone(), kind, name });
                    }
                    Some(other) => {
                        let back = Attachment::Link {
                            peer_router: router.name.clone(),
                            peer_interface: interface.name.clone(),
                        };
                        if other.attachment != back || peer == port {
                            self.problems.push(SpecError::OneSidedLink { port: port.clone(), peer: peer.clone() });
                        }
                    }
                }
                // A name that no segment can have: ids of ports hold a slash and no newline.
                let domain = format!("link\n{}\n{}", port.as_str().min(&peer), port.as_str().max(&peer));
                self.station(&domain, &port, interface.mac, interface.address);
            }
            Attachment::Tunnel { vni, peer, station } => {
                let what = format!("the link from {port} to {peer}");
                self.tunnel(spec, &what, *vni);
                let domain = format!("link\n{port}");
                self.station(&domain, &port, interface.mac, interface.address);
                self.remote(spec, &what, &domain, station);
            }
        }
    }

    fn port_counts(&mut self, spec: &NetworkSpec) {
        let mut counts: BTreeMap<&str, usize> =
            spec.segments.iter().map(|s| (s.name.as_str(), s.ports.len() + usize::from(s.tunnel.is_some()))).collect();
        for interface in spec.routers.iter().flat_map(|router| &router.interfaces) {
            if let Attachment::Segment(segment) = &interface.attachment
                && let Some(count) = counts.get_mut(segment.as_str())
            {
                *count += 1;
            }
        }
        for (segment, ports) in counts.into_iter().filter(|(_, ports)| *ports > MAX_BRIDGE_PORTS) {
            self.problems.push(SpecError::TooManyPorts { segment: segment.to_owned(), ports });
        }
    }

    fn collisions(&mut self, spec: &NetworkSpec) {
        let bridges = spec.segments.iter().map(|s| (naming::bridge_name(&s.name), s.name.clone()));
        let tunnels = spec.segments.iter().filter(|s| s.tunnel.is_some());
        let tunnels = tunnels.map(|s| (naming::tunnel_name(&s.name), format!("the tunnel of {}", s.name)));
        let taps = spec.segments.iter().flat_map(|s| &s.ports).map(|p| (naming::tap_name(&p.id), p.id.clone()));
        let ports = spec.routers.iter().flat_map(|router| {
            router.interfaces.iter().map(|interface| {
                let id = router_port_id(&router.name, &interface.name);
                (naming::router_port_name(&id), id)
            })
        });
        let mut owners = HashMap::new();
        for (device, second) in bridges.chain(tunnels).chain(taps).chain(ports) {
            match owners.insert(device.clone(), second.clone()) {
                Some(first) if first != second => {
                    self.problems.push(SpecError::NameCollision { first, second, device });
                }
                _ => {}
            }
        }
    }
}

fn find_interface<'a>(spec: &'a NetworkSpec, router: &str, interface: &str) -> Option<&'a InterfaceSpec> {
    let router = spec.routers.iter().find(|r| r.name == router)?;
    router.interfaces.iter().find(|i| i.name == interface)
}
