//! Promises of placement: rules and memory hold, sums add up, the answer is always the same, and nobody moves who
//! need not.

#![allow(clippy::unwrap_used)]

use netlang::{Host, Lock, PlaceError, Placement, Plan, Source, VmShape, design};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const MIB: u64 = 1 << 20;

fn plan(text: &str) -> Plan {
    let result = design(&Source::new("p", text), &Lock::default());
    result.plan.unwrap_or_else(|| panic!("{:#?}\n{text}", result.diagnostics))
}

fn commits(vm: &VmShape<'_>) -> u64 {
    vm.memory.unwrap_or(10 * MIB)
}

fn host(name: &str, mib: u64) -> Host {
    Host { name: name.into(), rack: None, tags: Vec::new(), memory: mib * MIB, cores: 2, closed: false }
}

fn place(plan: &Plan, hosts: &[Host], previous: Option<&Placement>) -> Result<Placement, PlaceError> {
    plan.place(hosts, &commits, previous)
}

/// Host of every VM, by name; each is on one only.
fn whereabouts(plan: &Plan, placement: &Placement) -> BTreeMap<String, String> {
    let mut hosts = BTreeMap::new();
    for on in &placement.hosts {
        for range in &on.ranges {
            let group = plan.find_group(&range.group).unwrap();
            for index in range.first..range.first + range.count {
                let name = plan.vm_name(group, index).unwrap();
                assert_eq!(hosts.insert(name, on.host.clone()), None, "a VM is on two hosts");
            }
        }
    }
    assert_eq!(hosts.len() as u64, plan.total_vms(), "not all VMs have a host");
    hosts
}

fn hosts_of(all: &BTreeMap<String, String>, prefix: &str) -> Vec<String> {
    all.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, host)| host.clone()).collect()
}

#[test]
fn a_small_network_stays_on_one_host() {
    let plan = plan("lan office\nvm a { on office }\nvm b { on office }");
    let placement = place(&plan, &[host("h1", 1000), host("h2", 1000)], None).unwrap();
    assert_eq!((placement.hosts[0].vms, placement.hosts[1].vms, placement.crossing_segments), (2, 0, 0));
}

#[test]
fn a_large_group_is_spread_by_cores_in_ranges() {
    let plan = plan("lan office = 10.0.0.0/16\nvm web[0..300] { on office }\nrouter gw { on office }");
    let mut hosts = [host("h1", 5000), host("h2", 5000), host("h10", 5000)];
    hosts[1].cores = 4;
    let placement = place(&plan, &hosts, None).unwrap();
    let ranges: Vec<_> =
        placement.hosts.iter().map(|h| (h.ranges[0].first, h.ranges[0].count, h.ranges.len())).collect();
    assert_eq!(ranges, [(0, 75, 1), (75, 150, 1), (225, 75, 1)]);
    assert_eq!(placement.crossing_segments, 1);
    assert_eq!(placement.hosts[1].routers, ["gw"], "the router is where most of its VMs are");
    assert_eq!(placement.hosts[1].memory, 1500 * MIB);
}

#[test]
fn together_goes_to_a_host_with_room_for_all_and_else_to_few() {
    let text = "lan office\nvm a[0..6] { on office }\nvm b[0..30] { on office; together }";
    let hosts = [host("h1", 200), host("h2", 300), host("h3", 200)];
    let all = whereabouts(&plan(text), &place(&plan(text), &hosts, None).unwrap());
    assert_eq!(hosts_of(&all, "b"), vec!["h2"; 30]);
    let hosts = [host("h1", 150), host("h2", 50), host("h3", 200), host("h4", 20)];
    let all = whereabouts(&plan(text), &place(&plan(text), &hosts, None).unwrap());
    let on: BTreeSet<String> = hosts_of(&all, "b").into_iter().collect();
    assert_eq!(on.into_iter().collect::<Vec<_>>(), ["h1", "h3"]);
}

#[test]
fn rules_of_an_instance_are_about_all_that_is_in_it() {
    let text = "module office { param id int\n lan desk = (10.0.0.0/8).sub(/24, id)\n router gw { on desk }\n\
        vm pc[0..20] { on desk }\n vm tv { on desk }\n place together }\n\
        office east[i in 0..4] { id i }\nplace east[1..3] { hosts tag \"core\" rack \"r2\" }";
    let mut hosts: Vec<Host> = (0..6).map(|i| host(&format!("h{i}"), 500)).collect();
    hosts[3].tags = vec!["core".into(), "old".into()];
    hosts[3].rack = Some("r2".into());
    hosts[4].tags = vec!["core".into()];
    let placement = place(&plan(text), &hosts, None).unwrap();
    let all = whereabouts(&plan(text), &placement);
    for i in 0..4 {
        let on: BTreeSet<String> = hosts_of(&all, &format!("east[{i}]")).into_iter().collect();
        assert_eq!(on.len(), 1, "{on:?}");
        assert_eq!(on.contains("h3"), i == 1 || i == 2, "{on:?}");
    }
    assert_eq!(placement.crossing_segments, 0);
    assert!(placement.hosts[3].routers.iter().any(|r| r == "east[1].gw"));
}

#[test]
fn a_lan_has_no_more_ports_on_a_host_than_a_bridge() {
    let text = "lan big = 10.0.0.0/16\nvm web[0..2500] { on big }\nrouter gw { on big }\nplace web { per host 1000 }";
    let hosts: Vec<Host> = (0..3).map(|i| host(&format!("h{i}"), 100_000)).collect();
    let placement = place(&plan(text), &hosts, None).unwrap();
    assert!(placement.hosts.iter().all(|h| h.vms <= 1000));
    let error = place(&plan(text), &hosts[..2], None).unwrap_err().to_string();
    assert_eq!(
        error,
        "2,500 VMs of `place web` cannot be at most 1000 per host on 2 hosts: 3 hosts are needed; they may use h0, h1"
    );
}

#[test]
fn errors_say_the_sums() {
    let text = "lan office\nvm web[0..40] { on office; mem 1GiB }\nvm big { on office; mem 30GiB }\nplace web { hosts tag \"core\" }";
    let plan = plan(text);
    let mut hosts = vec![host("h1", 12 << 10), host("h2", 20 << 10), host("h3", 64 << 10)];
    let fails = |hosts: &[Host]| place(&plan, hosts, None).unwrap_err().to_string();
    assert_eq!(fails(&[]), "there are no hosts to place VMs on");
    assert_eq!(
        fails(&hosts),
        "web[0..40] need hosts with tag core, and there are none; hosts have neither racks nor tags"
    );
    hosts[0].tags = vec!["core".into()];
    hosts[1].tags = vec!["core".into()];
    assert_eq!(
        fails(&hosts),
        "40 VMs need 40 GiB on hosts with tag core, there are 32 GiB on h1, h2; give them less `mem`, promise more than there is with `overcommit 2`, start fewer, or add hosts"
    );
    assert_eq!(
        fails(&hosts[..2]),
        "big needs 30 GiB of memory, and no host has more than 20 GiB; give it less `mem`, promise more than there is with `overcommit 2`"
    );
    hosts[2].name = "h1".into();
    assert_eq!(fails(&hosts), "two hosts are named `h1`; give one of them another name");
}

/// A network of groups with rules, and hosts for it.
#[derive(Debug, Clone)]
struct Model {
    /// Size, MiB of a VM, rule.
    groups: Vec<(u32, u64, u8)>,
    /// MiB, rack, tag.
    hosts: Vec<(u64, u8, bool)>,
}

impl Model {
    fn text(&self, together: bool) -> String {
        let mut text = "lan l = 10.0.0.0/12\n".to_owned();
        for (number, (size, mib, rule)) in self.groups.iter().enumerate() {
            let size = if *rule == 1 { *size % 5 + 1 } else { *size };
            text.push_str(&format!("vm g{number}[0..{size}] {{ on l; mem {mib}MiB }}\n"));
            let rule = match rule {
                1 => "apart".to_owned(),
                2 => format!("per host {}", size / 2 + 1),
                3 => "hosts tag \"t\"".to_owned(),
                4 => "hosts rack \"r1\"; per host 7".to_owned(),
                5 | 6 if together => "together".to_owned(),
                7 if together => "hosts tag \"t\"; together".to_owned(),
                _ => continue,
            };
            text.push_str(&format!("place g{number} {{ {rule} }}\n"));
        }
        text
    }

    fn hosts(&self) -> Vec<Host> {
        let hosts = self.hosts.iter().enumerate();
        hosts
            .map(|(number, (mib, rack, tag))| Host {
                name: format!("h{number}"),
                rack: Some(format!("r{rack}")),
                tags: if *tag { vec!["t".into()] } else { Vec::new() },
                memory: mib * MIB,
                cores: 1 + (number as u32 % 3),
                closed: false,
            })
            .collect()
    }
}

fn models() -> impl Strategy<Value = Model> {
    let group = (1u32..60, 8u64..40, 0u8..9);
    let host = (200u64..3000, 0u8..3, any::<bool>());
    (proptest::collection::vec(group, 1..8), proptest::collection::vec(host, 1..8))
        .prop_map(|(groups, hosts)| Model { groups, hosts })
}

/// Checks everything that a placement promises of itself.
fn holds(model: &Model, together: bool, placement: &Placement) -> Result<(), TestCaseError> {
    let plan = plan(&model.text(together));
    let all = whereabouts(&plan, placement);
    let hosts = model.hosts();
    for (host, on) in hosts.iter().zip(&placement.hosts) {
        prop_assert_eq!(&host.name, &on.host);
        prop_assert!(on.memory <= host.memory, "{} is too full", on.host);
        prop_assert_eq!(on.vms, on.ranges.iter().map(|r| u64::from(r.count)).sum::<u64>());
        prop_assert!(on.vms <= 1022, "more ports than a bridge has");
        let memory = |range: &netlang::PlacedRange| {
            let number: usize = range.group[1..].parse().unwrap();
            u64::from(range.count) * model.groups[number].1 * MIB
        };
        prop_assert_eq!(on.memory, on.ranges.iter().map(memory).sum::<u64>());
    }
    for (number, (size, mib, rule)) in model.groups.iter().enumerate() {
        let on = hosts_of(&all, &format!("g{number}["));
        let distinct: BTreeSet<&String> = on.iter().collect();
        let most = distinct.iter().map(|h| on.iter().filter(|o| *o == *h).count()).max().unwrap_or(0);
        let tagged = |h: &String| hosts.iter().any(|host| host.name == *h && !host.tags.is_empty());
        match rule {
            1 => prop_assert_eq!(distinct.len(), on.len()),
            2 => prop_assert!(most <= *size as usize / 2 + 1),
            3 => prop_assert!(on.iter().all(tagged)),
            4 => prop_assert!(
                most <= 7 && on.iter().all(|h| hosts.iter().any(|x| x.name == *h && x.rack.as_deref() == Some("r1")))
            ),
            5..=7 if together && distinct.len() > 1 => {
                for (host, full) in hosts.iter().zip(&placement.hosts) {
                    let own = on.iter().filter(|h| **h == host.name).count() as u64;
                    let room = (host.memory - full.memory) / (mib * MIB) + own;
                    let allowed = *rule != 7 || !host.tags.is_empty();
                    prop_assert!(!allowed || room < u64::from(*size), "g{} could be on {} alone", number, host.name);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rules_and_memory_hold_and_sums_add_up(model in models()) {
        let plan = plan(&model.text(true));
        let Ok(placement) = place(&plan, &model.hosts(), None) else { return Ok(()) };
        holds(&model, true, &placement)?;
    }

    #[test]
    fn the_answer_is_always_the_same(model in models(), turn in 0usize..8) {
        let hosts = model.hosts();
        let text = model.text(true);
        let first = place(&plan(&text), &hosts, None);
        let mut turned = hosts.clone();
        turned.rotate_left(turn % hosts.len());
        match (first, place(&plan(&text), &turned, None)) {
            (Ok(mut a), Ok(mut b)) => {
                prop_assert_eq!(&a, &place(&plan(&text), &hosts, Some(&a)).unwrap(), "nothing changed, and somebody moved");
                a.hosts.sort_by(|x, y| x.host.cmp(&y.host));
                b.hosts.sort_by(|x, y| x.host.cmp(&y.host));
                prop_assert_eq!(a, b, "the order in which hosts are given matters");
            }
            (a, b) => prop_assert_eq!(a.is_err(), b.is_err()),
        }
    }

    #[test]
    fn nobody_moves_when_vms_or_hosts_come(
        model in models(),
        more in proptest::collection::vec((0usize..8, 1u32..30), 0..3),
        group in (1u32..60, 8u64..40, 0u8..5),
        host in (200u64..3000, 0u8..3, any::<bool>()),
    ) {
        // Without `together`, whose VMs must be on one host as soon as one has room for all.
        let before = plan(&model.text(false));
        let Ok(placement) = place(&before, &model.hosts(), None) else { return Ok(()) };
        let mut larger = model.clone();
        for (number, count) in more {
            if let Some(group) = larger.groups.get_mut(number) && !matches!(group.2, 1 | 2) {
                group.0 += count;
            }
        }
        larger.groups.push(group);
        larger.hosts.push(host);
        let after = plan(&larger.text(false));
        let Ok(next) = place(&after, &larger.hosts(), Some(&placement)) else { return Ok(()) };
        holds(&larger, false, &next)?;
        let then = whereabouts(&after, &next);
        for (name, host) in whereabouts(&before, &placement) {
            prop_assert_eq!(&then[&name], &host, "{} moved", name);
        }
    }

    #[test]
    fn rules_hold_whatever_was_before(model in models(), other in models()) {
        let Ok(before) = place(&plan(&other.text(true)), &other.hosts(), None) else { return Ok(()) };
        let Ok(after) = place(&plan(&model.text(true)), &model.hosts(), Some(&before)) else { return Ok(()) };
        holds(&model, true, &after)?;
    }

    #[test]
    fn when_a_host_goes_only_its_vms_move(model in models(), gone in any::<proptest::sample::Index>()) {
        let plan = plan(&model.text(false));
        let hosts = model.hosts();
        let Ok(before) = place(&plan, &hosts, None) else { return Ok(()) };
        let mut left = hosts.clone();
        let gone = left.remove(gone.index(hosts.len())).name;
        let Ok(after) = place(&plan, &left, Some(&before)) else { return Ok(()) };
        let then = whereabouts(&plan, &after);
        for (name, host) in whereabouts(&plan, &before) {
            prop_assert!(host == gone || then[&name] == host, "{} moved", name);
        }
    }
}

#[test]
fn a_closed_host_keeps_what_it_has_and_gets_nothing_new() {
    let small = plan("lan office\nvm web[0..10] { on office }\nrouter gw { on office }");
    let large = plan("lan office\nvm web[0..30] { on office }\nrouter gw { on office }\nlan b\nrouter r2 { on b }");
    let mut hosts = [host("h1", 1000), host("h2", 1000)];
    let before = place(&small, &hosts, None).unwrap();
    let kept = before.hosts[0].vms;
    hosts[0].closed = true;
    let after = place(&large, &hosts, Some(&before)).unwrap();
    assert_eq!((after.hosts[0].vms, after.hosts[1].vms), (kept, 30 - kept));
    assert_eq!(
        (&after.hosts[0].routers[..], &after.hosts[1].routers[..]),
        (&["gw".to_owned()][..], &["r2".to_owned()][..])
    );
    assert!(place(&large, &hosts[..1], None).is_err());
}
