//! Reconcile is level-triggered: whatever it finds, it makes of it what the plan says, and leaves alone what is right.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use crate::common::{
    Lab, chain,
    guest::{Guest, ping},
    inspect, ip, lan, mac, on_lan, on_link, port, port_id, reconcile, router, segment, two_lans,
};
use fleet_net::{NetReport, NetworkSpec, Progress, run_in};

#[tokio::test]
async fn the_first_run_makes_everything_and_the_second_nothing() {
    let lab = Lab::new();
    let (network, spec) = (lab.network("twice"), two_lans("twice"));
    let first = reconcile(&network, &spec).await;
    let expected = [
        "interface core/eth0",
        "interface core/eth1",
        "lan lan1",
        "lan lan2",
        "port pc1[0]/eth0",
        "port pc1[1]/eth0",
        "port pc2[0]/eth0",
        "port pc2[1]/eth0",
        "router core",
    ];
    let made = expected.map(str::to_owned).to_vec();
    assert_eq!(first, NetReport { made, ..NetReport::default() });
    let second = reconcile(&network, &spec).await;
    assert_eq!(second, NetReport { unchanged: expected.len(), ..NetReport::default() });
}

#[tokio::test]
async fn a_new_process_finds_what_an_earlier_one_made() {
    let lab = Lab::new();
    let spec = chain("found");
    lab.up(&spec).await;
    assert!(reconcile(&lab.network("found"), &spec).await.is_empty());
}

#[tokio::test]
async fn a_plan_says_what_reconcile_does_and_does_nothing() {
    let lab = Lab::new();
    let network = lab.network("planned");
    let mut spec = chain("planned");
    let planned = network.plan(&spec).await.unwrap();
    assert_eq!(lab.files(), Vec::<std::path::PathBuf>::new());
    assert_eq!(planned, reconcile(&network, &spec).await);

    spec.segments[0].ports.push(port(1, 3));
    spec.segments[0].ports.remove(0);
    spec.segments[1].mtu = 9000;
    spec.routers.truncate(1);
    spec.routers[0].interfaces.truncate(1);
    spec.routers[0].routes.clear();
    let before = inspect::links(&network.switch_namespace());
    let planned = network.plan(&spec).await.unwrap();
    assert_eq!(inspect::links(&network.switch_namespace()), before);
    assert_eq!(planned, reconcile(&network, &spec).await);
    assert_eq!(planned.made, ["port pc1[2]/eth0"]);
    assert!(planned.removed.contains(&"router c".to_owned()), "{planned:?}");
    assert!(planned.changed.contains(&"lan lan2".to_owned()), "{planned:?}");
}

#[tokio::test]
async fn a_port_is_added_and_one_removed_without_disturbing_the_others() {
    let lab = Lab::new();
    let mut spec = lan("grown", 3);
    let network = lab.up(&spec).await;
    let (mut a, mut b) = (Guest::plug(&network, 1, 1).await, Guest::plug(&network, 1, 2).await);
    let before = inspect::links(&network.switch_namespace());

    spec.segments[0].ports.push(port(1, 4));
    spec.segments[0].ports.remove(2);
    let report = reconcile(&network, &spec).await;
    assert_eq!(report.made, [format!("port {}", port_id(1, 4))]);
    assert_eq!(report.removed, [format!("port {}", port_id(1, 3))]);
    assert_eq!((report.changed.len(), report.unchanged), (0, 3));

    let after = inspect::links(&network.switch_namespace());
    for kept in ["lan1".to_owned(), port_id(1, 1), port_id(1, 2)] {
        assert_eq!(after[&kept], before[&kept]);
    }
    assert!(!after.contains_key(&port_id(1, 3)));
    // The guests that were there still hold the same ports.
    let hop = b.ip;
    ping(&mut a, &mut b, hop, 1);
    let mut c = Guest::plug(&network, 1, 4).await;
    let hop = a.ip;
    ping(&mut c, &mut a, hop, 2);
    // Nobody answers for the one that went.
    assert_eq!(inspect::permanent_neighbours(&network.switch_namespace()), 3);
}

#[tokio::test]
async fn a_deleted_port_is_made_again() {
    let lab = Lab::new();
    let spec = lan("deleted", 3);
    let network = lab.up(&spec).await;
    let switch = network.switch_namespace();
    inspect::delete_link(&switch, inspect::links(&switch)[&port_id(1, 2)].index);
    let report = reconcile(&network, &spec).await;
    assert_eq!((report.made, report.changed), (vec![format!("port {}", port_id(1, 2))], Vec::new()));
    let (mut a, mut b) = (Guest::plug(&network, 1, 1).await, Guest::plug(&network, 1, 2).await);
    let hop = b.ip;
    ping(&mut a, &mut b, hop, 1);
}

#[tokio::test]
async fn a_deleted_bridge_is_made_again_with_its_ports_plugged_in() {
    let lab = Lab::new();
    let spec = two_lans("unbridged");
    let network = lab.up(&spec).await;
    let switch = network.switch_namespace();
    let (mut a, mut b) = (Guest::plug(&network, 1, 1).await, Guest::plug(&network, 2, 1).await);
    inspect::delete_link(&switch, inspect::links(&switch)["lan1"].index);
    let planned = network.plan(&spec).await.unwrap();
    assert_eq!(planned.made, ["lan lan1"]);
    assert_eq!(planned.changed, ["interface core/eth0", "port pc1[0]/eth0", "port pc1[1]/eth0"]);
    assert_eq!(reconcile(&network, &spec).await, planned);
    ping(&mut a, &mut b, ip(1, 254), 1);
}

#[tokio::test]
async fn settings_that_somebody_changed_are_put_back() {
    let lab = Lab::new();
    let spec = two_lans("tampered");
    let network = lab.up(&spec).await;
    let (switch, core) = (network.switch_namespace(), network.router_namespace("core"));
    inspect::set_mtu(&switch, inspect::links(&switch)[&port_id(1, 1)].index, 1280);
    inspect::set_down(&switch, inspect::links(&switch)[&port_id(1, 2)].index);
    run_in(&core, || std::fs::write("/proc/sys/net/ipv4/ip_forward", "0")).unwrap().unwrap();
    let report = reconcile(&network, &spec).await;
    // The bridge's own MTU had followed that of its port.
    assert_eq!(report.changed, ["lan lan1", "port pc1[0]/eth0", "port pc1[1]/eth0", "router core"]);
    assert_eq!(inspect::links(&switch)[&port_id(1, 1)].mtu, 1500);
    assert!(network.routers().await.unwrap()[0].is_up());
    assert!(reconcile(&network, &spec).await.is_empty());
}

#[tokio::test]
async fn a_half_made_namespace_is_finished() {
    let lab = Lab::new();
    let (network, spec) = (lab.network("half"), two_lans("half"));
    // A crash between the two steps of making a namespace leaves an empty file …
    std::fs::create_dir_all(lab.config().netns_dir).unwrap();
    std::fs::write(network.switch_namespace(), "").unwrap();
    std::fs::write(network.router_namespace("core"), "").unwrap();
    reconcile(&network, &spec).await;
    assert!(reconcile(&network, &spec).await.is_empty());
    // … and one after them a namespace without devices or settings.
    nix::mount::umount2(&network.router_namespace("core"), nix::mount::MntFlags::MNT_DETACH).unwrap();
    let report = reconcile(&network, &spec).await;
    assert_eq!(report.made, ["interface core/eth0", "interface core/eth1", "router core"]);
    let (mut a, mut b) = (Guest::plug(&network, 1, 1).await, Guest::plug(&network, 2, 1).await);
    ping(&mut a, &mut b, ip(1, 254), 1);
}

#[tokio::test]
async fn a_cancelled_run_is_continued_by_the_next() {
    let lab = Lab::new();
    let (network, spec) = (lab.network("cancelled"), lan("cancelled", 200));
    let (cancel, cancelled) = tokio::sync::oneshot::channel::<()>();
    let cancel = Mutex::new(Some(cancel));
    let run = network.reconcile(&spec, move |progress: Progress| {
        if progress.done > 30 {
            cancel.lock().unwrap().take();
        }
    });
    tokio::select! {
        result = run => panic!("it was not cancelled: {result:?}"),
        _ = cancelled => {}
    }
    // Waits for the thread of the first run, which stops at its next look at the caller.
    let report = reconcile(&network, &spec).await;
    assert_eq!(report.made.len() + report.changed.len() + report.unchanged, 201);
    assert!(report.unchanged > 0 || !report.changed.is_empty(), "the second run began anew");
    assert!(reconcile(&network, &spec).await.is_empty());
}

#[tokio::test]
async fn routers_are_linked_anew_as_the_plan_says() {
    let lab = Lab::new();
    let mut spec = chain("relinked");
    let network = lab.up(&spec).await;
    // Instead of b, a new router d sits between a and c; a's and c's interfaces keep their names and addresses.
    let mut d = spec.routers.remove(1);
    d.name = "d".into();
    spec.routers.push(d);
    spec.routers[0].interfaces[1] = on_link("eth1", ("d", "eth0"), 1, 1);
    spec.routers[1].interfaces[0] = on_link("eth0", ("d", "eth1"), 2, 2);
    let report = reconcile(&network, &spec).await;
    let made: BTreeSet<_> = report.made.iter().map(String::as_str).collect();
    let interfaces = ["interface a/eth1", "interface c/eth0", "interface d/eth0", "interface d/eth1", "router d"];
    assert_eq!(made, BTreeSet::from(interfaces));
    assert_eq!(report.removed, ["router b"]);
    let (mut a, mut b) = (Guest::plug(&network, 1, 1).await, Guest::plug(&network, 2, 1).await);
    assert_eq!(ping(&mut a, &mut b, ip(1, 254), 1), 61);
}

#[tokio::test]
async fn a_guest_moves_to_another_port_with_its_address() {
    let lab = Lab::new();
    let mut spec = lan("moved", 2);
    let network = lab.up(&spec).await;
    // The second port gets the first one's addresses and the first one new ones.
    spec.segments[0].ports[1].mac = mac(1, 1);
    spec.segments[0].ports[1].ip = ip(1, 1);
    spec.segments[0].ports[0].mac = mac(1, 9);
    spec.segments[0].ports[0].ip = ip(1, 9);
    let report = reconcile(&network, &spec).await;
    assert_eq!(report.changed, ["port pc1[0]/eth0", "port pc1[1]/eth0"]);
    assert!(reconcile(&network, &spec).await.is_empty());
    assert_eq!(inspect::permanent_neighbours(&network.switch_namespace()), 2);
}

#[tokio::test]
async fn five_hundred_ports_and_a_router_come_up_in_one_go() {
    let lab = Lab::new();
    let spec = NetworkSpec {
        segments: vec![segment(1, 500)],
        routers: vec![router("gate", vec![on_lan("eth0", 1, 1000)], Vec::new())],
        ..lan("many", 0)
    };
    let network = lab.network("many");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&seen);
    let report = network.reconcile(&spec, move |progress| told.lock().unwrap().push(progress)).await.unwrap();
    assert_eq!(report.made.len(), 503);
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    assert!(seen.iter().all(|progress| progress.done <= progress.total), "{seen:?}");
    assert!(seen.iter().any(|progress| progress.done < progress.total), "progress comes while the work goes on");
    let (mut first, mut last) = (Guest::plug(&network, 1, 1).await, Guest::plug(&network, 1, 500).await);
    let hop = last.ip;
    ping(&mut first, &mut last, hop, 1);
    // The router knows all of them and asks nobody.
    assert_eq!(inspect::permanent_neighbours(&network.router_namespace("gate")), 500);
}
