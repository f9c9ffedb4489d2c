//! What the tests share: a laboratory that removes its namespaces also when a test panics, and specs of small networks.

#![allow(clippy::unwrap_used)]

pub mod guest;
pub mod hosts;
pub mod inspect;

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use fleet_net::{
    Attachment, InterfaceSpec, Mac, NetConfig, NetReport, Network, NetworkOptions, NetworkSpec, PortSpec, RouteSpec,
    RouterSpec, SegmentSpec,
};
use nix::mount::{MntFlags, umount2};

/// A folder of namespaces of its own, so that tests run side by side. Dropping it removes whatever is in it.
pub struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    pub fn new() -> Self {
        Self { dir: tempfile::Builder::new().prefix("fleet-net-test-").tempdir().unwrap() }
    }

    pub fn config(&self) -> NetConfig {
        NetConfig { netns_dir: self.dir.path().join("netns"), prefix: "test".into(), ..NetConfig::default() }
    }

    pub fn network(&self, experiment: &str) -> Network {
        Network::open(self.config(), experiment).unwrap()
    }

    /// Brings the network up from nothing.
    pub async fn up(&self, spec: &NetworkSpec) -> Network {
        let network = self.network(&spec.experiment);
        reconcile(&network, spec).await;
        network
    }

    /// The files of namespaces that there are.
    pub fn files(&self) -> Vec<PathBuf> {
        files_in(&self.config().netns_dir)
    }

    /// How many namespaces are mounted here.
    pub fn mounts(&self) -> usize {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let dir = self.dir.path().to_str().unwrap();
        mounts.lines().filter(|line| line.contains(dir)).count()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for file in self.files() {
            while umount2(&file, MntFlags::MNT_DETACH).is_ok() {}
        }
    }
}

fn files_in(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Reconciles without looking at the progress.
pub async fn reconcile(network: &Network, spec: &NetworkSpec) -> NetReport {
    network.reconcile(spec, |_| ()).await.unwrap()
}

/// A MAC address from two numbers.
pub fn mac(lan: u8, host: u16) -> Mac {
    let [high, low] = host.to_be_bytes();
    [0x02, 0, 0, lan, high, low]
}

/// The address of a host in 10.`lan`.0.0/16.
pub fn ip(lan: u8, host: u16) -> Ipv4Addr {
    let [high, low] = host.to_be_bytes();
    Ipv4Addr::new(10, lan, high, low)
}

pub fn experiment(name: &str) -> NetworkSpec {
    NetworkSpec {
        experiment: name.into(),
        segments: Vec::new(),
        routers: Vec::new(),
        underlay: None,
        options: NetworkOptions::default(),
    }
}

/// A segment `lan<lan>` with ports `pc<lan>[i]/eth0`, whose hosts are numbered from 1.
pub fn segment(lan: u8, ports: u16) -> SegmentSpec {
    SegmentSpec {
        name: format!("lan{lan}"),
        mtu: 1500,
        multicast: false,
        ports: (1..=ports).map(|host| port(lan, host)).collect(),
        tunnel: None,
    }
}

pub fn port(lan: u8, host: u16) -> PortSpec {
    PortSpec { id: port_id(lan, host), mac: mac(lan, host), ip: ip(lan, host) }
}

pub fn port_id(lan: u8, host: u16) -> String {
    format!("pc{lan}[{}]/eth0", host - 1)
}

/// One segment with some ports.
pub fn lan(name: &str, ports: u16) -> NetworkSpec {
    NetworkSpec { segments: vec![segment(1, ports)], ..experiment(name) }
}

/// A router's interface with the number `host` on `lan<lan>`.
pub fn on_lan(name: &str, lan: u8, host: u16) -> InterfaceSpec {
    InterfaceSpec {
        name: name.into(),
        attachment: Attachment::Segment(format!("lan{lan}")),
        mac: mac(lan, host),
        address: ip(lan, host),
        prefix_len: 16,
        mtu: 1500,
    }
}

/// One end of a link with the number `net` to another router; the ends' addresses are 10.200.`net`.`host`.
pub fn on_link(name: &str, peer: (&str, &str), net: u8, host: u8) -> InterfaceSpec {
    InterfaceSpec {
        name: name.into(),
        attachment: Attachment::Link { peer_router: peer.0.into(), peer_interface: peer.1.into() },
        mac: [0x02, 0, 200, 0, net, host],
        address: link_ip(net, host),
        prefix_len: 30,
        mtu: 1500,
    }
}

pub fn link_ip(net: u8, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 200, net, host)
}

pub fn router(name: &str, interfaces: Vec<InterfaceSpec>, routes: Vec<RouteSpec>) -> RouterSpec {
    RouterSpec { name: name.into(), interfaces, routes }
}

/// The route to 10.`lan`.0.0/16.
pub fn route_to(lan: u8, via: Ipv4Addr) -> RouteSpec {
    RouteSpec { to: ip(lan, 0), prefix_len: 16, via }
}

/// Two segments with two hosts each and the router `core` between them, as host 254 of both.
pub fn two_lans(name: &str) -> NetworkSpec {
    NetworkSpec {
        segments: vec![segment(1, 2), segment(2, 2)],
        routers: vec![router("core", vec![on_lan("eth0", 1, 254), on_lan("eth1", 2, 254)], Vec::new())],
        ..experiment(name)
    }
}

/// Two segments, joined by a chain of three routers a, b, c.
pub fn chain(name: &str) -> NetworkSpec {
    let a = router(
        "a",
        vec![on_lan("eth0", 1, 254), on_link("eth1", ("b", "eth0"), 1, 1)],
        vec![route_to(2, link_ip(1, 2))],
    );
    let b = router(
        "b",
        vec![on_link("eth0", ("a", "eth1"), 1, 2), on_link("eth1", ("c", "eth0"), 2, 1)],
        vec![route_to(1, link_ip(1, 1)), route_to(2, link_ip(2, 2))],
    );
    let c = router(
        "c",
        vec![on_link("eth0", ("b", "eth1"), 2, 2), on_lan("eth1", 2, 254)],
        vec![route_to(1, link_ip(2, 1))],
    );
    NetworkSpec { segments: vec![segment(1, 2), segment(2, 2)], routers: vec![a, b, c], ..experiment(name) }
}
