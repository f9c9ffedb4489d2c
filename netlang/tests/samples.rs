//! The large samples: whole networks that use all of the language.

#![allow(clippy::unwrap_used)]

use netlang::{
    BgpRole, DhcpRange, Lock, Nat, Plan, Protocol, RenderOptions, Router, RouterId, RouterKind, Source, SwitchKind,
    design, render,
};
use std::net::Ipv4Addr;
use std::path::Path;

fn plan(name: &str) -> Plan {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples").join(format!("{name}.fleet"));
    let source = Source::new(name.to_owned(), std::fs::read_to_string(file).unwrap());
    let result = design(&source, &Lock::default());
    let text = render(&result.diagnostics, &source, RenderOptions { color: false, width: 120 });
    assert!(result.diagnostics.is_empty(), "{text}");
    result.plan.unwrap()
}

#[test]
fn the_samples_are_right() {
    for name in ["enterprise", "internet"] {
        plan(name);
    }
}

fn router(plan: &Plan, name: &str) -> Router {
    // Names are cheap, routers are not: each has its routes computed.
    let id = plan.summary().routers.iter().position(|r| r.name == name).unwrap();
    plan.router(RouterId(id as u32)).unwrap()
}

#[test]
fn routers_speak_ospf_as_the_file_says() {
    let plan = plan("enterprise");
    let gw = router(&plan, "hq.gw");
    assert_eq!(gw.kind, RouterKind::Frr);
    assert_eq!(gw.router_id, Some("10.1.0.1".parse().unwrap()));
    let ospf: Vec<_> = gw.interfaces.iter().map(|i| i.ospf.unwrap()).collect();
    // Lans first: both passive; then the links.
    assert_eq!(ospf.iter().map(|o| o.passive).collect::<Vec<_>>(), [true, true, false, false]);
    assert!(ospf.iter().all(|o| (o.area, o.hello, o.dead) == (0, 1000, 4000)));
    let edge = router(&plan, "edge");
    assert!(edge.originates_default && !gw.originates_default);
    let outside = &edge.interfaces[0];
    assert_eq!((outside.ospf, outside.gateway), (None, Some("192.0.2.1".parse().unwrap())));
    assert_eq!(outside.ip, "192.0.2.2".parse::<Ipv4Addr>().unwrap());
}

#[test]
fn firewalls_and_translations_are_in_the_plan() {
    let plan = plan("enterprise");
    let gw = router(&plan, "hq.gw").firewall.unwrap();
    assert!(!gw.default_allow);
    assert_eq!(gw.rules[0], "deny from 10.1.8.0/24 to 10.0.0.0/8");
    assert!(gw.rules[1].starts_with("allow tcp 80, 443 from 10.1.8.0/24 to 0.0.0.0-10.0.255.255, "), "{}", gw.rules[1]);
    assert_eq!(gw.rules[2..], ["deny from 10.1.8.0/24", "allow from 10.0.0.0/8"]);
    let edge = router(&plan, "edge");
    assert_eq!(edge.firewall.unwrap().rules[1], "allow tcp 443 from isp to 10.3.0.10");
    let isp = plan.externals().next().unwrap();
    assert_eq!((isp.host.as_str(), isp.interface.as_str()), ("edge01", "eth1"));
    let to = "10.3.0.10".parse().unwrap();
    assert_eq!(
        edge.nat,
        [
            Nat::Masquerade { external: isp.id },
            Nat::Forward { external: isp.id, protocol: Protocol::Tcp, port: 443, to, to_port: 443 }
        ]
    );
}

#[test]
fn lans_have_their_policies_and_lend_addresses() {
    let enterprise = plan("enterprise");
    let lan = |plan: &Plan, name: &str| plan.segments().find(|s| s.name == name).unwrap().policy;
    let users = lan(&enterprise, "hq.users");
    assert_eq!(users.dhcp, Some(DhcpRange { first: 256, until: 1000, lease: 3600 }));
    assert!(lan(&enterprise, "hq.guests").isolate && !users.isolate);
    assert_eq!(lan(&enterprise, "dc.back").switch, SwitchKind::Vde);
    let pc = enterprise.vm(enterprise.find_group("hq.pc").unwrap(), 0).unwrap();
    assert!(pc.nics[0].dhcp);
    assert_eq!(pc.nics[0].ip, "10.1.1.0".parse::<Ipv4Addr>().unwrap());
    let internet = plan("internet");
    let seg = lan(&internet, "stub[7].seg[3]");
    assert_eq!((seg.storm, seg.learn, seg.flood_arp), (Some(200), false, false));
}

#[test]
fn carriers_peer_and_sell_transit_as_the_arrows_say() {
    let plan = plan("internet");
    let summary = plan.summary();
    let carrier = summary.routers.iter().find(|r| r.name == "t1[0].border").unwrap();
    let bgp = carrier.bgp.as_ref().unwrap();
    assert_eq!((bgp.asn, bgp.providers, bgp.peers, bgp.internal), (4_200_000_000, 0, 9, 0));
    assert!(bgp.customers > 0);
    let stubs = summary.routers.iter().filter(|r| r.name.starts_with("stub"));
    assert!(stubs.map(|r| r.bgp.as_ref().unwrap()).all(|b| (b.providers, b.peers, b.customers) == (2, 0, 0)));
    let border = router(&plan, "stub[0].border");
    assert_eq!(border.kind, RouterKind::Bird);
    let bgp = border.bgp.unwrap();
    assert_eq!(bgp.originate.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.6.64.0/20"]);
    for neighbour in bgp.neighbours {
        let link = plan.link(neighbour.link.unwrap()).unwrap();
        assert_eq!((link.a.0, link.b.0), (border.id, neighbour.router));
        assert_eq!((neighbour.role, link.policy.rate), (BgpRole::Provider, Some(200_000_000)));
    }
}

#[test]
fn a_link_that_was_never_made_is_named_without_harm() {
    let text =
        "router a { ospf { area 1 on line } }\nlink a -- a as line\nexperiment x { at 1s fail line; at 2s end }\n";
    let result = design(&Source::new("x".to_owned(), text.to_owned()), &Lock::default());
    assert!(result.diagnostics.iter().any(|d| d.code == netlang::codes::BAD_LINK), "{:?}", result.diagnostics);
}
