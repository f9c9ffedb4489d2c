//! Packets through linux routers.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::common::{
    Lab, chain,
    guest::{Guest, ping},
    inspect, ip, reconcile, route_to, two_lans,
};
use fleet_net::run_in;

#[tokio::test]
async fn guests_of_two_segments_reach_each_other_through_a_router() {
    let lab = Lab::new();
    let network = lab.up(&two_lans("routed")).await;
    let (mut a, mut b) = (Guest::plug(&network, 1, 1).await, Guest::plug(&network, 2, 1).await);
    assert_eq!(ping(&mut a, &mut b, ip(1, 254), 1), 63);
    assert_eq!(ping(&mut b, &mut a, ip(2, 254), 2), 63);
}

#[tokio::test]
async fn a_chain_of_three_linked_routers_forwards() {
    let lab = Lab::new();
    let network = lab.up(&chain("chain")).await;
    let (mut a, mut b) = (Guest::plug(&network, 1, 1).await, Guest::plug(&network, 2, 2).await);
    assert_eq!(ping(&mut a, &mut b, ip(1, 254), 1), 61);
}

#[tokio::test]
async fn a_router_answers_on_all_its_addresses() {
    let lab = Lab::new();
    let network = lab.up(&two_lans("answers")).await;
    let mut a = Guest::plug(&network, 1, 1).await;
    let hop = a.resolve(ip(1, 254)).unwrap();
    for (sequence, to) in [(1, ip(1, 254)), (2, ip(2, 254))] {
        a.send(&a.echo_request(hop, to, sequence));
        a.await_echo(to, sequence);
    }
}

#[tokio::test]
async fn namespaces_are_set_for_their_work() {
    let lab = Lab::new();
    let network = lab.up(&two_lans("settings")).await;
    let setting = |namespace: PathBuf, name: &str| {
        let file = Path::new("/proc/sys/net").join(name);
        let value = run_in(&namespace, || fs::read_to_string(&file)).unwrap();
        value.map_or_else(|_| "lacking".into(), |value| value.trim().to_owned())
    };
    let (switch, core) = (network.switch_namespace(), network.router_namespace("core"));
    assert_eq!(setting(switch.clone(), "ipv4/ip_forward"), "0");
    assert_eq!(setting(core.clone(), "ipv4/ip_forward"), "1");
    assert_eq!(setting(core.clone(), "ipv4/conf/eth0/send_redirects"), "0");
    assert_eq!(setting(core.clone(), "ipv4/conf/eth0/rp_filter"), "0");
    for table in ["iptables", "ip6tables", "arptables"] {
        let value = setting(switch.clone(), &format!("bridge/bridge-nf-call-{table}"));
        assert!(["0", "lacking"].contains(&value.as_str()), "{table}: {value}");
    }
    for namespace in [switch, core] {
        let addresses = run_in(&namespace, || fs::read_to_string("/proc/thread-self/net/if_inet6")).unwrap();
        assert_eq!(addresses.unwrap_or_default(), "", "no device has an IPv6 address");
    }
}

#[tokio::test]
async fn routers_tell_their_state() {
    let lab = Lab::new();
    let spec = chain("state");
    let network = lab.up(&spec).await;
    let routers = network.routers().await.unwrap();
    assert_eq!(routers.iter().map(|router| router.name.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert!(routers.iter().all(|router| router.is_up() && router.interfaces.len() == 2), "{routers:?}");
    let b = network.router_namespace("b");
    inspect::set_down(&b, inspect::links(&b)["b/eth0 -> a/eth1"].index);
    let up: Vec<_> = network.routers().await.unwrap().iter().map(|router| router.is_up()).collect();
    assert_eq!(up, [false, false, true], "both ends of a cut cable are down");
    // The network's own work brings it back, with the routes that the kernel dropped.
    let report = reconcile(&network, &spec).await;
    assert!(report.changed.contains(&"interface b/eth0".to_owned()), "{report:?}");
    let (mut x, mut y) = (Guest::plug(&network, 1, 1).await, Guest::plug(&network, 2, 1).await);
    ping(&mut x, &mut y, ip(1, 254), 1);
}

#[tokio::test]
async fn counters_include_the_routers_interfaces() {
    let lab = Lab::new();
    let network = lab.up(&chain("counted-routers")).await;
    let (mut a, mut b) = (Guest::plug(&network, 1, 1).await, Guest::plug(&network, 2, 1).await);
    ping(&mut a, &mut b, ip(1, 254), 1);
    let counters = network.counters().await.unwrap();
    let port = |id: &str| counters.iter().find(|counter| counter.port == id).unwrap();
    assert_eq!(port("a/eth0").segment.as_deref(), Some("lan1"));
    assert_eq!(port("b/eth0").segment, None);
    for id in ["a/eth0", "a/eth1", "b/eth0", "b/eth1", "c/eth0", "c/eth1"] {
        assert!(port(id).rx_frames >= 1 && port(id).tx_frames >= 1, "{:?}", port(id));
    }
    // Four ports of VMs and six interfaces of routers; the bridges' ends of cables are nobody's ports.
    assert_eq!(counters.len(), 10);
}

#[tokio::test]
async fn routes_and_addresses_follow_the_plan() {
    let lab = Lab::new();
    let mut spec = chain("replanned");
    let network = lab.up(&spec).await;
    // Without the way back, no reply comes: b drops what is for lan1.
    let routes = std::mem::take(&mut spec.routers[1].routes);
    assert_eq!(reconcile(&network, &spec).await.changed, ["router b"]);
    spec.routers[1].routes = routes;
    assert_eq!(reconcile(&network, &spec).await.changed, ["router b"]);
    // Another address on a link takes the routes over it along.
    spec.routers[1].interfaces[1].address = crate::common::link_ip(3, 1);
    spec.routers[2].interfaces[0].address = crate::common::link_ip(3, 2);
    spec.routers[1].routes[1] = route_to(2, crate::common::link_ip(3, 2));
    spec.routers[2].routes[0] = route_to(1, crate::common::link_ip(3, 1));
    let report = reconcile(&network, &spec).await;
    assert_eq!(report.changed, ["interface b/eth1", "interface c/eth0", "router b", "router c"]);
    assert!(reconcile(&network, &spec).await.is_empty());
    let (mut a, mut b) = (Guest::plug(&network, 1, 1).await, Guest::plug(&network, 2, 1).await);
    assert_eq!(ping(&mut a, &mut b, ip(1, 254), 1), 61);
}
