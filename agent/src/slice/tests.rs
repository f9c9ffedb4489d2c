//! Promises of slices: together they hold everything once, and all agree on who is where.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use fleet_net::{Attachment, InterfaceSpec, Mac, NetworkSpec, router_port_id};
use fleet_proto::v1::{HostPlacement, Range, Spec};
use netlang::{Lock, Source};
use proptest::prelude::*;

use super::Slice;

/// A network and where its parts are.
#[derive(Clone, Debug)]
struct Model {
    lans: usize,
    /// The lans of each router; each is linked to the one before it.
    routers: Vec<Vec<usize>>,
    /// The lans of each group's VMs, and the host of each VM.
    groups: Vec<(Vec<usize>, Vec<usize>)>,
    router_hosts: Vec<usize>,
    hosts: usize,
}

fn models() -> impl Strategy<Value = Model> {
    let routers = proptest::collection::vec(proptest::collection::btree_set(0usize..4, 0..3), 0..5);
    // A host that is not there: some VMs are on none.
    let vms = proptest::collection::vec(0usize..5, 1..12);
    let groups = proptest::collection::vec((proptest::collection::btree_set(0usize..4, 1..3), vms), 1..5);
    (routers, groups, proptest::collection::vec(0usize..4, 5), 1usize..5).prop_map(
        |(routers, groups, router_hosts, hosts)| Model {
            lans: 4,
            routers: routers.into_iter().map(|lans| lans.into_iter().collect()).collect(),
            groups: groups.into_iter().map(|(lans, vms)| (lans.into_iter().collect(), vms)).collect(),
            router_hosts: router_hosts.into_iter().map(|host| host % hosts).collect(),
            hosts,
        },
    )
}

fn underlay(host: usize) -> IpAddr {
    Ipv4Addr::from(0xc000_0200 + host as u32).into()
}

fn name(host: usize) -> String {
    format!("h{host}")
}

impl Model {
    fn source(&self) -> String {
        let mut text = "language 1\n".to_owned();
        let on = |lans: &[usize]| lans.iter().map(|lan| format!("on l{lan}; ")).collect::<String>();
        (0..self.lans).for_each(|lan| text.push_str(&format!("lan l{lan}\n")));
        for (number, lans) in self.routers.iter().enumerate() {
            text.push_str(&format!("router r{number} {{ {}}}\n", on(lans)));
            if let Some(before) = number.checked_sub(1) {
                text.push_str(&format!("link r{before} -- r{number}\n"));
            }
        }
        for (number, (lans, vms)) in self.groups.iter().enumerate() {
            text.push_str(&format!("vm g{number}[0..{}] {{ {}}}\n", vms.len(), on(lans)));
        }
        text
    }

    /// `None` when the language refuses the network, for example as a router has nothing to do.
    fn spec(&self) -> Option<Spec> {
        let source = self.source();
        let compiled = netlang::compile(&Source::new("placed", source.as_str()), &Lock::default());
        let lock = compiled.plan.as_ref().map(|_| compiled.lock.to_string())?;
        Some(Spec { experiment: "placed".into(), source, lock, hosts: self.placement(), ..Spec::default() })
    }

    fn placement(&self) -> Vec<HostPlacement> {
        let place = |host: usize| {
            let vms = self.groups.iter().enumerate().flat_map(|(group, (_, vms))| {
                let here = (0u32..).zip(vms).filter(move |(_, at)| **at == host);
                here.map(move |(first, _)| Range { group: format!("g{group}"), first, count: 1 })
            });
            let routers = (0..self.routers.len()).filter(|number| self.router_hosts[*number] == host);
            HostPlacement {
                host: name(host),
                underlay: underlay(host).to_string(),
                ranges: vms.collect(),
                routers: routers.map(|number| format!("r{number}")).collect(),
            }
        };
        (0..self.hosts).map(place).collect()
    }

    fn placed(&self) -> usize {
        self.groups.iter().flat_map(|(_, vms)| vms).filter(|host| **host < self.hosts).count()
    }
}

/// Who is on a segment.
type Stations = BTreeSet<(Mac, Ipv4Addr)>;

fn interfaces(spec: &NetworkSpec) -> impl Iterator<Item = (String, &InterfaceSpec)> {
    let of = |router: &str, interface: &InterfaceSpec| router_port_id(router, &interface.name);
    spec.routers.iter().flat_map(move |router| router.interfaces.iter().map(move |i| (of(&router.name, i), i)))
}

/// The stations that a host has itself, by segment.
fn own_stations(spec: &NetworkSpec) -> BTreeMap<String, Stations> {
    let mut stations: BTreeMap<String, Stations> = BTreeMap::new();
    for segment in &spec.segments {
        stations.entry(segment.name.clone()).or_default().extend(segment.ports.iter().map(|port| (port.mac, port.ip)));
    }
    for (_, interface) in interfaces(spec) {
        if let Attachment::Segment(segment) = &interface.attachment {
            stations.entry(segment.clone()).or_default().insert((interface.mac, interface.address));
        }
    }
    stations
}

/// All promises about the networks of hosts `h0..`, whose whole is `whole`.
fn agree(networks: &[NetworkSpec], whole: &NetworkSpec) -> Result<(), TestCaseError> {
    let mut vnis: BTreeMap<u32, String> = BTreeMap::new();
    let mut same_vni = |vni: u32, what: String| {
        let first = vnis.entry(vni).or_insert_with(|| what.clone());
        prop_assert_eq!(&*first, &what, "one VNI for two");
        Ok(())
    };
    let mut together: BTreeMap<String, Stations> = BTreeMap::new();
    for network in networks {
        prop_assert_eq!(network.check(), Vec::new());
        for (segment, stations) in own_stations(network) {
            let all = together.entry(segment).or_default();
            for station in stations {
                prop_assert!(all.insert(station), "a station is on two hosts");
            }
        }
    }
    for (number, network) in networks.iter().enumerate() {
        prop_assert!(network.segments.is_empty() || network.underlay == Some(underlay(number)));
        let own = own_stations(network);
        for segment in &network.segments {
            prop_assert!(!own[&segment.name].is_empty(), "a segment without a port here");
            let mut known = own[&segment.name].clone();
            if let Some(tunnel) = &segment.tunnel {
                same_vni(tunnel.vni, segment.name.clone())?;
                prop_assert!(!tunnel.stations.is_empty());
            }
            for station in segment.tunnel.iter().flat_map(|tunnel| &tunnel.stations) {
                prop_assert!(known.insert((station.mac, station.ip)), "told twice");
                let there = networks.iter().position(|other| other.underlay == Some(station.host)).unwrap();
                let theirs = &own_stations(&networks[there])[&segment.name];
                prop_assert!(theirs.contains(&(station.mac, station.ip)), "{station:?} is not there");
            }
            prop_assert_eq!(&known, &together[&segment.name], "not all stations are known");
        }
        for (port, interface) in interfaces(network) {
            let Attachment::Tunnel { vni, peer, station } = &interface.attachment else { continue };
            let ends = BTreeSet::from([&port, peer]);
            same_vni(*vni, format!("{ends:?}"))?;
            let there = networks.iter().find(|other| other.underlay == Some(station.host)).unwrap();
            let (_, end) = interfaces(there).find(|(other, _)| other == peer).unwrap();
            prop_assert_eq!((end.mac, end.address), (station.mac, station.ip));
            let Attachment::Tunnel { vni: other, peer: back, station } = &end.attachment else {
                return Err(TestCaseError::fail("the other end is no tunnel"));
            };
            prop_assert_eq!((other, back), (vni, &port));
            prop_assert_eq!((station.mac, station.ip), (interface.mac, interface.address));
            prop_assert_eq!(Some(station.host), network.underlay);
        }
    }
    // Routers are as on one host, but for the hosts that their links lead to.
    let plain = |network: &NetworkSpec| {
        let mut routers = network.routers.clone();
        for (router, interface) in routers.iter_mut().flat_map(|r| r.interfaces.iter_mut().map(|i| (&r.name, i))) {
            let _ = router;
            if let Attachment::Link { peer_router, peer_interface } = &interface.attachment {
                interface.attachment = Attachment::Segment(router_port_id(peer_router, peer_interface));
            } else if let Attachment::Tunnel { peer, .. } = &interface.attachment {
                interface.attachment = Attachment::Segment(peer.clone());
            }
        }
        routers
    };
    let mut routers: Vec<_> = networks.iter().flat_map(plain).collect();
    let mut expected = plain(whole);
    routers.sort_by(|a, b| a.name.cmp(&b.name));
    expected.sort_by(|a, b| a.name.cmp(&b.name));
    prop_assert_eq!(routers, expected);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn slices_hold_everything_once_and_every_remote_entry_leads_to_its_host(model in models()) {
        let Some(spec) = model.spec() else { return Ok(()) };
        let slices: Vec<_> = (0..model.hosts).map(|host| Slice::compile(&spec, &name(host)).unwrap()).collect();
        let networks: Vec<_> = slices.iter().map(|slice| slice.network().unwrap()).collect();
        let whole = Slice::compile(&Spec { hosts: Vec::new(), ..spec.clone() }, "only").unwrap();
        agree(&networks, &whole.network().unwrap())?;

        let names = |slice: &Slice| slice.vms().map(|vm| vm.vm.name).collect::<Vec<_>>();
        let here: Vec<_> = slices.iter().flat_map(names).collect();
        let distinct: BTreeSet<_> = here.iter().collect();
        prop_assert_eq!((here.len(), distinct.len()), (model.placed(), model.placed()));
        for (slice, network) in slices.iter().zip(&networks) {
            // Each interface of a VM has its port here, and no other port is.
            let wanted: BTreeSet<_> = slice.vms().flat_map(|vm| vm.ports).collect();
            let ports: Vec<_> = network.segments.iter().flat_map(|s| s.ports.iter().map(|port| port.id.clone())).collect();
            prop_assert_eq!(ports.len(), wanted.len());
            prop_assert_eq!(ports.into_iter().collect::<BTreeSet<_>>(), wanted);
            prop_assert_eq!(slice.segment_count(), network.segments.len());
            prop_assert_eq!(slice.router_count(), network.routers.len());
        }
        // Where all are asked for, each host answers for its own.
        let all: Vec<_> = model.groups.iter().enumerate().map(|(group, (_, vms))| {
            Range { group: format!("g{group}"), first: 0, count: vms.len() as u32 }
        }).collect();
        for slice in &slices {
            let mut asked = slice.names(&all).unwrap();
            let mut has = names(slice);
            asked.sort();
            has.sort();
            prop_assert_eq!(asked, has);
        }
        let stranger = Slice::compile(&spec, "not-in-the-list").unwrap();
        let nothing = stranger.network().unwrap();
        prop_assert_eq!((names(&stranger).len(), nothing.segments.len(), nothing.routers.len()), (0, 0, 0));
    }
}

/// Two VMs on a lan with a router, and a second router behind a link.
fn small() -> Spec {
    let source = "lan l\nrouter a { on l }\nrouter b { }\nlink a -- b\nvm g[0..2] { on l }\n".to_owned();
    Spec { experiment: "small".into(), source, ..Spec::default() }
}

fn on(host: usize, vms: &[u32], routers: &[&str]) -> HostPlacement {
    HostPlacement {
        host: name(host),
        underlay: underlay(host).to_string(),
        ranges: vms.iter().map(|first| Range { group: "g".into(), first: *first, count: 1 }).collect(),
        routers: routers.iter().map(|router| (*router).to_owned()).collect(),
    }
}

#[test]
fn an_empty_placement_is_everything_here_without_tunnels() {
    let slice = Slice::compile(&small(), "anywhere").unwrap();
    let network = slice.network().unwrap();
    assert_eq!((slice.vms().count(), network.routers.len(), network.underlay), (2, 2, None));
    assert!(network.segments.iter().all(|segment| segment.tunnel.is_none()));
}

#[test]
fn a_wrong_placement_is_refused_in_words() {
    let refused = |hosts: Vec<HostPlacement>| Slice::compile(&Spec { hosts, ..small() }, "h0").err().unwrap();
    assert_eq!(refused(vec![on(0, &[], &[]), on(0, &[], &[])]), "the placement names the host `h0` twice");
    assert_eq!(refused(vec![on(0, &[1], &[]), on(1, &[0, 1], &[])]), "the VM `g[1]` is on two hosts: `h0` and `h1`");
    assert_eq!(refused(vec![on(0, &[], &["a"]), on(1, &[], &["a"])]), "the router `a` is on two hosts: `h0` and `h1`");
    assert_eq!(refused(vec![on(0, &[], &["c"])]), "the plan has no router `c`");
    assert!(refused(vec![on(0, &[2], &[])]).contains("the indices 0..2: 2..3 is not among them"));
    let odd = HostPlacement { underlay: "here".into(), ..on(0, &[], &[]) };
    assert_eq!(refused(vec![odd]), "`here`, the underlay of `h0`, is no address");
}

#[test]
fn what_crosses_to_a_host_without_underlay_or_to_none_is_refused() {
    let network = |hosts: Vec<HostPlacement>| Slice::compile(&Spec { hosts, ..small() }, "h0").unwrap().network();
    let bare = HostPlacement { underlay: String::new(), ..on(1, &[1], &["a", "b"]) };
    let error = network(vec![on(0, &[0], &[]), bare]).unwrap_err();
    assert_eq!(error, "the lan `l` crosses to the host `h1`, which has no underlay address for tunnels");
    let error = network(vec![on(0, &[0], &["a"])]).unwrap_err();
    assert!(error.ends_with("leads to the router `b`, which is on no host"), "{error}");
    // One host that has everything needs none.
    let alone = HostPlacement { underlay: String::new(), ..on(0, &[0, 1], &["a", "b"]) };
    assert!(network(vec![alone, on(1, &[], &[])]).is_ok());
}

#[test]
fn experiments_have_other_vnis_than_their_neighbours() {
    use super::vni::Vnis;
    let ranges: BTreeSet<u32> = (0..100).map(|n| Vnis::of(&format!("experiment{n}")).segment(1)).collect();
    assert_eq!(ranges.len(), 100);
    assert!(ranges.iter().all(|vni| (1..1 << 24).contains(vni)));
    let near_the_end = (0..5000).map(|n| Vnis::of(&format!("e{n}")).segment((1 << 24) - 2));
    assert!(near_the_end.into_iter().all(|vni| (1..1 << 24).contains(&vni)));
}
