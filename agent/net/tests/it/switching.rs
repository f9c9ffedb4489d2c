//! Frames on one segment: what must pass, and what the guards must hold back.

#![allow(clippy::unwrap_used)]

use crate::common::{
    Lab,
    guest::{Guest, experiment_frame, ping},
    inspect, ip, lan, mac, port_id,
};
use fleet_net::{NetError, NetworkOptions, NetworkSpec};

#[tokio::test]
async fn two_guests_of_a_segment_reach_each_other() {
    let lab = Lab::new();
    let network = lab.up(&lan("pair", 2)).await;
    let (mut a, mut b) = (Guest::plug(&network, 1, 1).await, Guest::plug(&network, 1, 2).await);
    for sequence in 1..=3 {
        let hop = b.ip;
        assert_eq!(ping(&mut a, &mut b, hop, sequence), 64);
    }
}

#[tokio::test]
async fn arp_for_a_known_address_is_answered_by_the_bridge_and_reaches_no_guest() {
    let lab = Lab::new();
    let network = lab.up(&lan("arp", 3)).await;
    let mut a = Guest::plug(&network, 1, 1).await;
    let mut target = Guest::plug(&network, 1, 2).await;
    let mut bystander = Guest::plug(&network, 1, 3).await;
    assert_eq!(a.resolve(target.ip), Some(target.mac));
    a.send(&a.marker(1));
    assert_eq!(target.frames_until_marker(&a, 1), Vec::<Vec<u8>>::new());
    assert_eq!(bystander.frames_until_marker(&a, 1), Vec::<Vec<u8>>::new());
}

#[tokio::test]
async fn arp_for_a_guest_that_does_not_run_is_answered_too() {
    let lab = Lab::new();
    let network = lab.up(&lan("absent", 2)).await;
    let mut a = Guest::plug(&network, 1, 1).await;
    assert_eq!(a.resolve(ip(1, 2)), Some(mac(1, 2)));
}

#[tokio::test]
async fn arp_for_a_stranger_reaches_everybody() {
    let lab = Lab::new();
    let network = lab.up(&lan("stranger", 2)).await;
    let (mut a, mut b) = (Guest::plug(&network, 1, 1).await, Guest::plug(&network, 1, 2).await);
    let request = a.arp_request(ip(1, 77));
    a.send(&request);
    a.send(&a.marker(1));
    assert_eq!(b.frames_until_marker(&a, 1), vec![request]);
}

#[tokio::test]
async fn a_frame_for_one_guest_or_for_nobody_reaches_no_other() {
    let lab = Lab::new();
    let network = lab.up(&lan("unknown", 3)).await;
    let mut a = Guest::plug(&network, 1, 1).await;
    let mut b = Guest::plug(&network, 1, 2).await;
    let mut bystander = Guest::plug(&network, 1, 3).await;
    let for_b = experiment_frame(b.mac, a.mac);
    a.send(&for_b);
    a.send(&experiment_frame([0x02, 0xee, 0, 0, 0, 1], a.mac));
    a.send(&a.marker(1));
    assert_eq!(b.frames_until_marker(&a, 1), vec![for_b]);
    assert_eq!(bystander.frames_until_marker(&a, 1), Vec::<Vec<u8>>::new());
}

#[tokio::test]
async fn multicast_reaches_the_guests_of_a_segment_that_asks_for_it_only() {
    for multicast in [false, true] {
        let lab = Lab::new();
        let mut spec = lan("multicast", 2);
        spec.segments[0].multicast = multicast;
        let network = lab.up(&spec).await;
        let (mut a, mut b) = (Guest::plug(&network, 1, 1).await, Guest::plug(&network, 1, 2).await);
        // All OSPF routers.
        let hello = experiment_frame([0x01, 0, 0x5e, 0, 0, 5], a.mac);
        a.send(&hello);
        a.send(&a.marker(1));
        let expected = if multicast { vec![hello] } else { Vec::new() };
        assert_eq!(b.frames_until_marker(&a, 1), expected);
    }
}

#[tokio::test]
async fn forged_sources_are_dropped_and_leave_no_trace() {
    let lab = Lab::new();
    let network = lab.up(&lan("forged", 3)).await;
    let (mut a, mut b) = (Guest::plug(&network, 1, 1).await, Guest::plug(&network, 1, 2).await);
    for number in 0..1000_u16 {
        a.send(&experiment_frame(b.mac, mac(99, number)));
    }
    // The address of another guest.
    a.send(&experiment_frame(b.mac, mac(1, 3)));
    a.send(&a.marker(1));
    assert_eq!(b.frames_until_marker(&a, 1), Vec::<Vec<u8>>::new());
    assert_eq!(inspect::learnt_macs(&network.switch_namespace()), Vec::<[u8; 6]>::new());
}

#[tokio::test]
async fn without_port_security_forged_sources_pass_but_are_still_not_learnt() {
    let lab = Lab::new();
    let spec = NetworkSpec { options: NetworkOptions { port_security: false }, ..lan("bridging", 2) };
    let network = lab.up(&spec).await;
    let (mut a, mut b) = (Guest::plug(&network, 1, 1).await, Guest::plug(&network, 1, 2).await);
    let forged = experiment_frame(b.mac, mac(99, 1));
    a.send(&forged);
    a.send(&a.marker(1));
    assert_eq!(b.frames_until_marker(&a, 1), vec![forged]);
    assert_eq!(inspect::learnt_macs(&network.switch_namespace()), Vec::<[u8; 6]>::new());
}

#[tokio::test]
async fn segments_are_apart() {
    let lab = Lab::new();
    let spec =
        NetworkSpec { segments: vec![crate::common::segment(1, 2), crate::common::segment(2, 1)], ..lan("apart", 0) };
    let network = lab.up(&spec).await;
    let mut a = Guest::plug(&network, 1, 1).await;
    let mut b = Guest::plug(&network, 1, 2).await;
    let mut other = Guest::plug(&network, 2, 1).await;
    a.send(&experiment_frame(other.mac, a.mac));
    a.send(&a.marker(1));
    b.frames_until_marker(&a, 1);
    assert_eq!(other.receive(std::time::Duration::ZERO), None);
}

#[tokio::test]
async fn a_port_is_given_to_one_holder_at_a_time() {
    let lab = Lab::new();
    let network = lab.up(&lan("busy", 1)).await;
    let held = network.open_tap(&port_id(1, 1)).await.unwrap();
    let error = network.open_tap(&port_id(1, 1)).await.unwrap_err();
    assert!(matches!(&error, NetError::PortInUse { port, .. } if *port == port_id(1, 1)), "{error}");
    drop(held);
    network.open_tap(&port_id(1, 1)).await.unwrap();
}

#[tokio::test]
async fn a_port_that_does_not_exist_is_not_made_by_opening_it() {
    let lab = Lab::new();
    let network = lab.up(&lan("lacking", 1)).await;
    let before = inspect::links(&network.switch_namespace());
    let error = network.open_tap("nobody/eth0").await.unwrap_err();
    assert!(matches!(error, NetError::NoSuchPort { .. }), "{error}");
    assert_eq!(inspect::links(&network.switch_namespace()), before);
    let error = lab.network("never-made").open_tap("a/eth0").await.unwrap_err();
    assert!(matches!(error, NetError::NoSuchPort { .. }), "{error}");
}

#[tokio::test]
async fn counters_tell_what_the_guest_sent_and_got() {
    let lab = Lab::new();
    let network = lab.up(&lan("counted", 2)).await;
    let (mut a, mut b) = (Guest::plug(&network, 1, 1).await, Guest::plug(&network, 1, 2).await);
    let before = network.counters().await.unwrap();
    for _ in 0..10 {
        a.send(&experiment_frame(b.mac, a.mac));
    }
    a.send(&a.marker(1));
    b.frames_until_marker(&a, 1);
    let after = network.counters().await.unwrap();
    let of = |counters: &[fleet_net::PortCounters], host| {
        counters.iter().find(|c| c.port == port_id(1, host)).unwrap().clone()
    };
    let (a0, a1, b0, b1) = (of(&before, 1), of(&after, 1), of(&before, 2), of(&after, 2));
    assert_eq!(a1.segment.as_deref(), Some("lan1"));
    assert_eq!((a1.tx_frames - a0.tx_frames, a1.tx_bytes - a0.tx_bytes), (11, 11 * 60));
    assert_eq!((b1.rx_frames - b0.rx_frames, b1.rx_bytes - b0.rx_bytes), (11, 11 * 60));
    assert_eq!(b1.tx_frames, b0.tx_frames);
}
