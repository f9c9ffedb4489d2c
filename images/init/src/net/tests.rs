//! The readers alone, and `apply` against a real kernel, in a network namespace of its own.
#![allow(clippy::unwrap_used)]

use std::{process::Command, thread};

use nix::sched::{CloneFlags, unshare};

use super::*;

const MAC: MacAddress = [2, 0, 0, 0, 0, 1];
const OTHER: MacAddress = [2, 0, 0, 0, 0, 2];

/// Runs a test in a network namespace of its own thread, with two interfaces that bear the wrong names.
fn in_namespace(test: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            loopback_up().unwrap();
            ip("link add eth1 address 02:00:00:00:00:01 type veth peer name eth0 address 02:00:00:00:00:02");
            test();
        });
        inside.join().unwrap();
    });
}

fn ip(words: &str) -> String {
    let output = Command::new("ip").args(words.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn address(text: &str) -> Address {
    let (ip, prefix_len) = text.split_once('/').unwrap();
    Address { ip: ip.parse().unwrap(), prefix_len: prefix_len.parse().unwrap() }
}

fn nic(name: &str, mac: MacAddress, addresses: &[&str]) -> Nic {
    Nic { name: name.to_owned(), mac, mtu: 1300, addresses: addresses.iter().map(|text| address(text)).collect() }
}

fn route(to: &str, via: &str) -> Route {
    Route { to: address(to), via: via.parse().unwrap() }
}

/// IPv4 addresses of an interface, as another program shows them.
fn addresses(name: &str) -> Vec<String> {
    let text = ip(&format!("-4 -o addr show dev {name}"));
    text.lines().map(|line| line.split_whitespace().nth(3).unwrap().to_owned()).collect()
}

fn none() -> Vec<String> {
    Vec::new()
}

#[test]
fn interfaces_that_bear_each_others_names_are_told_apart_by_mac() {
    in_namespace(|| {
        let nics = [nic("eth0", MAC, &["10.0.0.1/24"]), nic("eth1", OTHER, &["10.0.1.1/24"])];
        assert_eq!(apply(&nics, &[], &[]), none());
        let shown = ip("-o link show dev eth0");
        assert!(shown.contains("02:00:00:00:00:01") && shown.contains("mtu 1300") && shown.contains(",UP"), "{shown}");
        assert_eq!((addresses("eth0"), addresses("eth1")), (vec!["10.0.0.1/24".into()], vec!["10.0.1.1/24".into()]));
    });
}

#[test]
fn the_same_settings_again_change_nothing() {
    in_namespace(|| {
        let nics = [nic("lan", MAC, &["10.0.0.1/24", "10.0.0.2/24", "10.9.0.1/32"])];
        let routes = [route("0.0.0.0/0", "10.0.0.254"), route("10.5.5.5/16", "10.0.0.253")];
        assert_eq!(apply(&nics, &routes, &[]), none());
        // Without the carrier, whose state follows the interface's a moment later.
        let state = || (ip("-4 -o addr"), ip("-d route").replace("linkdown ", ""));
        let before = state();
        assert_eq!(apply(&nics, &routes, &nics), none());
        assert_eq!(state(), before);
        assert!(before.1.contains("default via 10.0.0.254") && before.1.contains("10.5.0.0/16 via 10.0.0.253"));
    });
}

#[test]
fn only_what_is_wanted_stays_and_foreign_routes_too() {
    in_namespace(|| {
        let first = [nic("lan", MAC, &["10.0.0.1/24", "10.0.0.2/24"]), nic("wan", OTHER, &["10.0.9.1/24"])];
        let routes = [route("10.5.0.0/16", "10.0.0.253"), route("10.6.0.0/16", "10.0.0.253")];
        assert_eq!(apply(&first, &routes, &[]), none());
        ip("route add 10.77.0.0/16 via 10.0.0.99");
        // The first address goes, with which the kernel drops the second of its subnet: that one must come back.
        let second = [nic("lan", MAC, &["10.0.0.2/24"])];
        let routes = [route("10.6.0.0/16", "10.0.0.252"), route("10.7.0.0/16", "10.0.0.253")];
        assert_eq!(apply(&second, &routes, &first), none());
        assert_eq!(addresses("lan"), ["10.0.0.2/24"]);
        assert_eq!(addresses("wan"), none());
        assert!(!ip("-o link show dev wan").contains(",UP"));
        let shown = ip("route");
        assert!(shown.contains("10.6.0.0/16 via 10.0.0.252") && shown.contains("10.7.0.0/16"), "{shown}");
        assert!(!shown.contains("10.5.0.0"), "{shown}");

        ip("route add 10.78.0.0/16 via 10.0.0.98");
        assert_eq!(apply(&second, &[], &second), none());
        let shown = ip("route");
        assert!(shown.contains("10.78.0.0/16 via 10.0.0.98") && !shown.contains("10.6.0.0"), "{shown}");
    });
}

#[test]
fn what_cannot_be_done_is_said_and_the_rest_is_done() {
    in_namespace(|| {
        let nics = [nic("lan", MAC, &["10.0.0.1/24"]), nic("no", [2, 9, 9, 9, 9, 9], &[])];
        let routes = [route("10.5.0.0/16", "192.0.2.1"), route("10.6.0.0/16", "10.0.0.2")];
        let errors = apply(&nics, &routes, &[]);
        assert_eq!(errors.len(), 2, "{errors:?}");
        assert!(errors[0].contains("no interface has the address 02:09:09:09:09:09"), "{errors:?}");
        assert!(errors[1].starts_with("route 10.5.0.0/16 via 192.0.2.1: adding"), "{errors:?}");
        assert!(ip("route").contains("10.6.0.0/16 via 10.0.0.2"));
    });
}

#[test]
fn a_mask_is_right_for_every_length() {
    assert_eq!(mask(0), Ipv4Addr::UNSPECIFIED);
    assert_eq!(mask(20), Ipv4Addr::new(255, 255, 240, 0));
    assert_eq!(mask(32), Ipv4Addr::BROADCAST);
    assert_eq!(network(address("10.1.2.3/8")).ip, Ipv4Addr::new(10, 0, 0, 0));
}

#[test]
fn no_message_of_the_kernel_can_break_the_readers() {
    for length in 0..64 {
        for byte in [0, 1, 4, 0xff] {
            let body = vec![byte; length];
            let _any = (parse_link(&body), parse_address(&body), parse_route(&body));
        }
    }
}
