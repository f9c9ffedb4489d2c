//! The proofs against plainer ways to come to the same answer, over random networks.

#![allow(clippy::unwrap_used)]

use super::bgp::BgpHop;
use super::fib::Forwarding;
use super::member::Member;
use super::topology::{NONE, Topology};
use super::{Goal, Header, Proof};
use crate::plan::rows::{Data, On, Relation};
use crate::plan::{GroupId, Plan, Protocol, Range, RouterId};
use crate::{Lock, Source, design};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::Ipv4Addr;

fn plan(text: &str) -> Plan {
    let compilation = design(&Source::new("p", text), &Lock::default());
    compilation.plan.unwrap_or_else(|| panic!("{:?}\n{text}", compilation.diagnostics))
}

/// Links between routers `0..n`, each with a cost; no two between the same pair.
fn links(most: usize) -> impl Strategy<Value = (usize, Vec<(usize, usize, u32)>)> {
    (2..most).prop_flat_map(|n| {
        let pair = (0..n, 0..n, 1u32..4).prop_filter("two routers", |(a, b, _)| a != b);
        (Just(n), proptest::collection::vec(pair, 0..2 * n)).prop_map(|(n, mut links)| {
            let mut seen = BTreeSet::new();
            links.retain(|(a, b, _)| seen.insert((*a.min(b), *a.max(b))));
            (n, links)
        })
    })
}

/// A lan, two VMs and a router for each number, and the links; `router` is the rest of each router's block.
fn network(n: usize, links: &[(usize, usize, u32)], kind: &str, router: impl Fn(usize) -> String) -> String {
    let mut text = String::new();
    for i in 0..n {
        let _ = writeln!(text, "lan l{i} = 10.{i}.0.0/24\nvm v{i}[0..2] {{ on l{i} }}");
        let _ = writeln!(text, "router r{i}{kind} {{ on l{i}; {} }}", router(i));
    }
    for (a, b, cost) in links {
        let _ = writeln!(text, "link r{a} -- r{b} {{ cost {cost} }}");
    }
    text
}

fn vm(data: &Data, group: u32, index: u32) -> Member {
    Proof::new(data, Vec::new()).classes.member(group, index).unwrap()
}

/// The routers on the way from a lan to an address, by the routes that the plan hands out.
fn follow(plan: &Plan, from: u32, to: Ipv4Addr) -> Option<Vec<u32>> {
    let inside = |net: Ipv4Addr, len: u8| {
        let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
        u32::from(to) & mask == u32::from(net) & mask
    };
    let mut at = from;
    let mut way = vec![at];
    loop {
        let router = plan.router(RouterId(at))?;
        if router.interfaces.iter().any(|i| inside(i.ip, i.prefix_len)) {
            return Some(way);
        }
        let route = router.routes.iter().filter(|r| inside(r.to, r.prefix_len)).max_by_key(|r| r.prefix_len)?;
        let next = plan.routers().find(|r| r.interfaces.iter().any(|i| i.ip == route.via))?;
        at = next.id.0;
        assert!(!way.contains(&at), "static routes go in circles");
        way.push(at);
    }
}

/// Least costs between all pairs, by Floyd and Warshall.
fn distances(n: usize, links: &[(usize, usize, u32)]) -> Vec<Vec<Option<u32>>> {
    let mut far = vec![vec![None; n]; n];
    for (i, row) in far.iter_mut().enumerate() {
        row[i] = Some(0);
    }
    for (a, b, cost) in links {
        (far[*a][*b], far[*b][*a]) = (Some(*cost), Some(*cost));
    }
    for via in 0..n {
        for a in 0..n {
            for b in 0..n {
                let over: Option<u32> = far[a][via].zip(far[via][b]).map(|(x, y): (u32, u32)| x + y);
                far[a][b] = [far[a][b], over].into_iter().flatten().min();
            }
        }
    }
    far
}

fn cost_of(data: &Data, way: &[(u32, u32)]) -> u32 {
    let links = way.iter().filter(|w| w.1 != NONE).filter_map(|w| match data.interfaces[w.1 as usize].on {
        On::Link(l) => Some(data.links[l as usize].cost),
        _ => None,
    });
    links.sum()
}

/// BGP as the routers do it: everybody tells everybody what policy allows, until nothing changes.
fn path_vector(n: usize, links: &[(usize, usize, Relation)], origin: usize) -> Vec<Option<(u8, u32, usize)>> {
    // Class (0 own, 1 customer, 2 peer, 3 provider), length, neighbour.
    let mut best: Vec<Option<(u8, u32, usize)>> = vec![None; n];
    best[origin] = Some((0, 0, origin));
    for _ in 0..n * n + 1 {
        let before = best.clone();
        for at in (0..n).filter(|a| *a != origin) {
            let mut offers = Vec::new();
            for (a, b, relation) in links {
                for (own, other, own_buys) in [(*a, *b, true), (*b, *a, false)] {
                    let Some((class, len, _)) = before[other].filter(|_| own == at) else { continue };
                    let (mine, told_to_all) = match (relation, own_buys) {
                        (Relation::Peer, _) => (2, false),
                        (Relation::Transit, true) => (3, true),
                        (Relation::Transit, false) => (1, false),
                    };
                    if told_to_all || class <= 1 {
                        offers.push((mine, len + 1, other));
                    }
                }
            }
            best[at] = offers.into_iter().min();
        }
        if best == before {
            break;
        }
    }
    best
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_proof_follows_the_routes_that_routers_get((n, links) in links(8)) {
        let plan = plan(&network(n, &links, "", |_| String::new()));
        let mut proof = Proof::new(&plan.data, Vec::new());
        for (from, to) in (0..n as u32).flat_map(|a| (0..n as u32).map(move |b| (a, b))).filter(|(a, b)| a != b) {
            let (sender, target) = (vm(&plan.data, from, 0), vm(&plan.data, to, 1));
            let trace = proof.trace(&sender, &Goal::Vm(target.clone()), Header::ECHO);
            let way = follow(&plan, from, Ipv4Addr::from(target.nics[0].1));
            prop_assert_eq!(way.is_some(), trace.loss.is_none());
            if let Some(way) = way {
                prop_assert_eq!(way, trace.forward.iter().map(|w| w.0).collect::<Vec<_>>());
            }
            prop_assert_eq!(proof.reaches(&sender, &Goal::Vm(target), Header::ECHO), trace.loss.is_none());
        }
    }

    #[test]
    fn ospf_takes_least_cost_ways_and_never_a_cut_link((n, links) in links(8), cut in any::<proptest::sample::Index>()) {
        let plan = plan(&network(n, &links, " frr", |_| "ospf { area 0 }".to_owned()));
        let gone = (!links.is_empty()).then(|| cut.index(links.len()));
        let left: Vec<_> = links.iter().enumerate().filter(|(i, _)| Some(*i) != gone).map(|(_, l)| *l).collect();
        let far = distances(n, &left);
        let mut proof = Proof::new(&plan.data, gone.into_iter().map(|g| g as u32).collect());
        for (from, to) in (0..n).flat_map(|a| (0..n).map(move |b| (a, b))).filter(|(a, b)| a != b) {
            let (sender, target) = (vm(&plan.data, from as u32, 0), vm(&plan.data, to as u32, 0));
            let trace = proof.trace(&sender, &Goal::Vm(target), Header::ECHO);
            prop_assert_eq!(trace.loss.is_none(), far[from][to].is_some());
            if let Some(cost) = far[from][to] {
                prop_assert_eq!(cost_of(&plan.data, &trace.forward), cost);
            }
        }
    }

    #[test]
    fn bgp_trees_are_what_telling_one_another_comes_to((n, links) in links(10), kinds in any::<u64>()) {
        // A router buys from lower ones only, so nobody is his own customer.
        let links: Vec<(usize, usize, Relation)> = links
            .iter()
            .enumerate()
            .map(|(i, (a, b, _))| match kinds >> (i % 64) & 1 {
                0 => (*a.max(b), *a.min(b), Relation::Transit),
                _ => (*a, *b, Relation::Peer),
            })
            .collect();
        let bgp = |i: usize| format!("bgp {{ asn {}; originate 10.{i}.0.0/24 }}", 64_500 + i);
        let mut text = network(n, &[], " bird", bgp);
        for (a, b, relation) in &links {
            let mark = if *relation == Relation::Peer { "--" } else { "->" };
            let _ = writeln!(text, "link r{a} {mark} r{b}");
        }
        let plan = plan(&text);
        let mut forwarding = Forwarding::new(Topology::new(&plan.data, Vec::new()));
        for origin in 0..n {
            let tree = forwarding.bgp_tree(origin as u32);
            let naive = path_vector(n, &links, origin);
            for at in (0..n).filter(|a| *a != origin) {
                let next = match tree[at] {
                    BgpHop::Out(_, far) => Some(plan.data.interfaces[far as usize].router as usize),
                    BgpHop::None => None,
                    other => panic!("{other:?} in an AS of one router"),
                };
                prop_assert_eq!(next, naive[at].map(|b| b.2), "at r{} to the networks of r{}\n{}", at, origin, &text);
            }
        }
    }

    #[test]
    fn representatives_answer_for_everybody((n, links) in links(5), rules in firewall_rules()) {
        let firewall = |i: usize| {
            let rules: Vec<String> = rules
                .iter()
                .filter(|r| r.router == i)
                .map(|r| format!("{} {} from {} to {}", r.verb, r.service, r.from(n), r.to(n)))
                .collect();
            if rules.is_empty() { String::new() } else { format!("firewall {{ default accept; {} }}", rules.join("; ")) }
        };
        let text = network(n, &links, "", firewall).replace("[0..2]", "[0..6]");
        let plan = plan(&text);
        let mut proof = Proof::new(&plan.data, Vec::new());
        for header in [Header::ECHO, Header::to(Protocol::Tcp, 80), Header::to(Protocol::Udp, 53)] {
            for (a, b) in (0..n as u32).flat_map(|a| (0..n as u32).map(move |b| (a, b))) {
                let all = |group: u32| (0..6).map(move |i| (group, i));
                let everybody: BTreeSet<bool> = all(a)
                    .flat_map(|from| all(b).map(move |to| (from, to)))
                    .filter(|(from, to)| from != to)
                    .map(|(from, to)| {
                        let goal = Goal::Vm(vm(&plan.data, to.0, to.1));
                        proof.trace(&vm(&plan.data, from.0, from.1), &goal, header).loss.is_none()
                    })
                    .collect();
                let range = |group: u32| [Range { group: GroupId(group), first: 0, count: 6 }];
                let targets = proof.members(&range(b));
                let mut few = BTreeSet::new();
                for from in proof.members(&range(a)) {
                    for to in targets.iter().filter(|t| from.matters_with(t)) {
                        few.insert(proof.reaches(&from, &Goal::Vm(to.clone()), header));
                    }
                }
                prop_assert_eq!(few, everybody, "v{} to v{}, {}\n{}", a, b, header, &text);
            }
        }
    }
}

#[derive(Debug, Clone)]
struct Rule {
    router: usize,
    verb: &'static str,
    service: &'static str,
    ends: (usize, usize),
    single: u8,
}

impl Rule {
    fn end(lan: usize, n: usize, single: bool) -> String {
        if single { format!("v{}[{}]", lan % n, lan % 6) } else { format!("l{}", lan % n) }
    }

    fn from(&self, n: usize) -> String {
        Rule::end(self.ends.0, n, self.single & 1 == 1)
    }

    fn to(&self, n: usize) -> String {
        Rule::end(self.ends.1, n, self.single & 2 == 2)
    }
}

fn firewall_rules() -> impl Strategy<Value = Vec<Rule>> {
    let service = proptest::sample::select(vec!["", "tcp", "tcp 80", "udp 53", "icmp", "tcp 22, 80"]);
    let verb = proptest::sample::select(vec!["allow", "deny"]);
    let rule = (0usize..5, verb, service, (0usize..12, 0usize..12), 0u8..4)
        .prop_map(|(router, verb, service, ends, single)| Rule { router, verb, service, ends, single });
    proptest::collection::vec(rule, 0..8)
}
