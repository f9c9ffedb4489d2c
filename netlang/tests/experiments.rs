//! What happens when, and to whom: the promises of `experiment` and `telemetry`.

#![allow(clippy::unwrap_used)]

use netlang::{Action, Event, Experiment, HypervisorKind, KsmMode, Lock, Plan, RenderOptions, Source, design, render};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn plan(text: &str) -> Plan {
    let source = Source::new("p", text);
    let result = design(&source, &Lock::default());
    let options = RenderOptions { color: false, width: 120 };
    result.plan.unwrap_or_else(|| panic!("{}", render(&result.diagnostics, &source, options)))
}

/// A small network: sites with two lans each, a mesh, a named link, a group, a VM and a router alone.
const NETWORK: &str = "
    module site {
      param id int
      lan desk = (10.0.0.0/8).sub(/16, id)
      router gw { on desk }
      router inner { on desk at 2 }
      lan back = (172.16.0.0/12).sub(/24, id)
      router last { on back }
      link inner -- last
      vm pc[0..40] { on back }
    }
    site hq { id 1 }
    site branch[i in 0..20] { id 2 + i }
    link mesh branch[0..4].gw as ring { delay 1ms }
    link hq.gw -- branch[0].gw as fibre
    link branch[1].gw -> hq.gw
    lan yard
    vm web[0..300] { on yard }
    vm solo { on yard }
    router lone { on yard }";

/// The network, and an experiment with these lines.
fn network(lines: &str) -> Plan {
    plan(&format!("{NETWORK}\nexperiment e {{\n{lines}\n}}"))
}

fn only(plan: &Plan) -> &Experiment {
    let [experiment] = plan.experiments() else { panic!("one experiment") };
    experiment
}

/// The names of the VMs that an event meets.
fn vms(plan: &Plan, event: &Event, firing: u64) -> BTreeSet<String> {
    let ranges = plan.affected(event, firing).vms;
    let names = ranges.iter().flat_map(|r| r.indices().map(|i| plan.vm_name(r.group, i).unwrap()));
    let list: Vec<String> = names.collect();
    let set: BTreeSet<String> = list.iter().cloned().collect();
    assert_eq!(set.len(), list.len(), "a VM is met twice");
    set
}

fn links(plan: &Plan, event: &Event) -> Vec<String> {
    plan.affected(event, 0).links.iter().map(|l| plan.link(*l).unwrap().name).collect()
}

fn routers(plan: &Plan, event: &Event, firing: u64) -> Vec<String> {
    plan.affected(event, firing).routers.iter().map(|r| plan.router(*r).unwrap().name).collect()
}

#[test]
fn the_samples_are_planned_as_they_read() {
    let texts = [
        ("enterprise", include_str!("samples/enterprise.fleet")),
        ("internet", include_str!("samples/internet.fleet")),
    ];
    for (name, text) in texts {
        let plan = plan(text);
        let mut lines = plan.summary().schedule();
        lines.push(serde_json::to_string_pretty(&plan.summary().telemetry).unwrap());
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(format!("schedule_{name}"), lines.join("\n"));
        });
    }
}

#[test]
fn the_examples_of_the_documentation_are_right() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/language");
    let mut examples = 0;
    for page in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if page.extension().is_some_and(|e| e == "md") {
            let text = std::fs::read_to_string(&page).unwrap();
            for example in text.split("```fleet\n").skip(1).map(|rest| rest.split("```").next().unwrap()) {
                plan(example);
                examples += 1;
            }
        }
    }
    assert!(examples >= 10, "only {examples} examples");
}

#[test]
fn a_repeated_event_happens_from_its_start_and_before_its_stop() {
    let plan = network("every 10s from 1min until 90s { reboot solo }\nevery 10s from 1min until 91s reboot solo");
    let mut times: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
    for firing in only(&plan).timeline() {
        times.entry(firing.event).or_default().push(firing.at / 1_000_000_000);
    }
    assert_eq!(times[&0], [60, 70, 80]);
    assert_eq!(times[&1], [60, 70, 80, 90]);
}

#[test]
fn nothing_happens_after_the_end_and_all_that_is_due_before_it() {
    let plan = network("at 2min end\nat 2min stop solo\nat 121s stop solo\nevery 50s from 0s until 1h reboot web");
    let experiment = only(&plan);
    let seen: Vec<(u64, usize)> = experiment.timeline().map(|f| (f.at / 1_000_000_000, f.event)).collect();
    assert_eq!(seen, [(0, 2), (50, 2), (100, 2), (120, 0)]);
    assert_eq!((experiment.firings(), experiment.last()), (4, Some(120_000_000_000)));
}

#[test]
fn one_line_and_block_mean_the_same() {
    let line = network("at 5s fail ring\nat 5s fail solo\nevery 1s from 6s until 9s run \"ls\" on 3 of web seed 2");
    let block = network("at 5s { fail ring; fail solo }\nevery 1s from 6s until 9s { run \"ls\" on 3 of web seed 2 }");
    let events = |plan: &Plan| -> Vec<_> {
        only(plan).events.iter().map(|e| (e.at, e.every, e.action.clone(), e.targets.clone(), e.text.clone())).collect()
    };
    assert_eq!(events(&line), events(&block));
    assert_eq!(events(&line)[2].2, Action::Run("ls".into()));
    assert_eq!(events(&line)[2].4, "run \"ls\" on 3 of web seed 2");
}

#[test]
fn targets_are_what_their_names_say() {
    let plan = network(
        "at 1s fail fibre
         at 1s fail link branch[0].gw -- hq.gw
         at 1s fail branch[2].gw -- branch[1].gw
         at 1s fail hq.gw -- branch[1].gw
         at 1s fail ring
         at 1s set hq.gw delay 5ms jitter 1ms
         at 1s fail hq, web[0..2], hq.pc[3], yard
         at 1s stop branch[*].pc[0]
         at 1s fail lone",
    );
    let events = &only(&plan).events;
    assert_eq!(links(&plan, &events[0]), ["fibre"]);
    assert_eq!(links(&plan, &events[1]), ["fibre"]);
    assert_eq!(links(&plan, &events[2]), ["branch[1].gw--branch[2].gw"]);
    assert_eq!(links(&plan, &events[3]), ["branch[1].gw--hq.gw"]);
    assert_eq!(links(&plan, &events[4]).len(), 6);
    assert_eq!(links(&plan, &events[5]), ["fibre", "branch[1].gw--hq.gw"]);
    let hq = plan.affected(&events[6], 0);
    assert_eq!(routers(&plan, &events[6], 0), ["hq.gw", "hq.inner", "hq.last"]);
    assert_eq!((vms(&plan, &events[6], 0).len(), hq.segments.len()), (42, 1));
    assert_eq!(vms(&plan, &events[7], 0).len(), 20);
    assert_eq!((routers(&plan, &events[8], 0).len(), vms(&plan, &events[8], 0).len()), (1, 0));
}

#[test]
fn machines_of_an_instance_are_its_vms_only() {
    let plan = network("at 1s reboot hq\nat 2s fail 2 of branch[*] seed 4");
    let events = &only(&plan).events;
    assert_eq!((vms(&plan, &events[0], 0).len(), routers(&plan, &events[0], 0).len()), (40, 0));
    // A share of instances is whole instances.
    assert_eq!((vms(&plan, &events[1], 0).len(), routers(&plan, &events[1], 0).len()), (80, 6));
}

#[test]
fn the_same_words_mean_the_same_ones() {
    let plan = network("at 1s stop 7% of web seed 3\nat 2s start 7% of web[*] seed 3\nat 3s stop 7% of web seed 4");
    let events = &only(&plan).events;
    assert_eq!(vms(&plan, &events[0], 0), vms(&plan, &events[1], 0));
    assert_ne!(vms(&plan, &events[0], 0), vms(&plan, &events[2], 0));
}

#[test]
fn what_else_is_in_the_file_does_not_change_a_choice() {
    let text = |more: &str| {
        format!(
            "{more}\nmodule m {{ router a {{ on l }}; router b {{ on l at 2 }}; lan l {{ gateway a }}; vm v[0..9] {{ on l }} }}
             m x[0..50]\nexperiment e {{ at 1s fail 20% of x[*].b; at 1s fail 20% of x[*]; at 1s stop 20% of x[*].v[1..4] }}"
        )
    };
    let (small, large) = (
        plan(&text("")),
        plan(&text("lan first\nlan second\nvm other[0..77] { on first }\nrouter r[0..5] { on second }")),
    );
    for number in 0..3 {
        let of = |plan: &Plan| {
            let event = &only(plan).events[number];
            (vms(plan, event, 0), routers(plan, event, 0))
        };
        assert_eq!(of(&small), of(&large));
    }
    assert_eq!(routers(&small, &only(&small).events[0], 0).len(), 10);
}

#[test]
fn booting_takes_every_vm_once_and_those_left_out_last() {
    let plan = network("boot rate 50 per second order web[10..20], branch[3..5], solo");
    let boot = only(&plan).boot.as_ref().unwrap();
    assert_eq!(boot.rate, Some(50));
    let sizes: Vec<u32> = boot.order.iter().map(|s| s.vms.iter().map(|r| r.count).sum()).collect();
    assert_eq!(sizes, [10, 80, 1, 290 + 40 + 18 * 40]);
    let all: Vec<_> = boot.order.iter().flat_map(|s| &s.vms).flat_map(|r| r.indices().map(|i| (r.group, i))).collect();
    let set: BTreeSet<_> = all.iter().collect();
    assert_eq!((all.len(), set.len() as u64), (plan.total_vms() as usize, plan.total_vms()));
    assert_eq!(boot.order.last().unwrap().text, None);
}

#[test]
fn a_million_vms_are_targets_without_a_list_of_them() {
    let plan = plan(
        "lan wide[i in 0..1024] = (10.0.0.0/8).sub(/20, i)
         vm v[i in 0..1000000] { on wide[i mod 1024] at 16 + i div 1024 }
         experiment e { every 1s from 0s until 10s reboot 5% of v[*] seed 1 }",
    );
    let event = &only(&plan).events[0];
    assert_eq!((event.targets.among.len(), event.targets.count), (1, 50_000));
    let hit: u32 = plan.affected(event, 3).vms.iter().map(|r| r.count).sum();
    assert_eq!(hit, 50_000);
    // Whether one VM is meant is known without the others.
    let choice = event.targets.choice(3);
    assert_eq!((0..1_000).filter(|i| choice.contains(*i)).count(), {
        let ranges = plan.affected(event, 3).vms;
        ranges.iter().flat_map(|r| r.indices()).filter(|i| *i < 1_000).count()
    });
}

#[test]
fn telemetry_is_what_the_block_says() {
    let plan = plan(
        "lan l
         router a { on l }
         router b[0..3] { on far[*] }
         lan far[0..3]
         link mesh b[*] as net
         link a -- b[0]
         vm v[0..250] { on l }
         vm w { on l; console off }
         telemetry {
           every 2s
           collect net, cpu, net
           pcap net, a -- b[0] max 1Mbit
           sample 1 of 100 of v[*] every 200ms
           console w, v[0..3]
           console v[2..5]
           routes b, a
         }",
    );
    let telemetry = plan.telemetry().unwrap();
    assert_eq!(telemetry.collect.len(), 2);
    assert_eq!((telemetry.captures[0].links.len(), telemetry.captures[0].max), (4, Some(1_000_000)));
    let sample = &telemetry.samples[0];
    assert_eq!((sample.choice().count(), sample.choice().total(), sample.every), (3, 250, Some(200_000_000)));
    assert_eq!(telemetry.consoles.iter().map(|r| r.count).sum::<u32>(), 6);
    assert_eq!(telemetry.routes.len(), 4);
}

#[test]
fn properties_of_vms_come_from_their_block_or_from_the_default() {
    let plan = plan(
        "lan l
         default vm { ksm aggressive; console off }
         vm a { on l }
         vm b { on l; ksm off; console on; needs camera }",
    );
    let of = |path: &str| {
        let group = plan.group(plan.find_group(path).unwrap()).unwrap();
        let vm = plan.vm(group.id, 0).unwrap();
        assert_eq!(
            (group.class.ksm, group.class.console, group.class.needs_camera),
            (vm.class.ksm, vm.class.console, vm.class.needs_camera)
        );
        (vm.class.ksm, vm.class.console, vm.class.needs_camera)
    };
    assert_eq!(of("a"), (Some(KsmMode::Aggressive), false, false));
    assert_eq!(of("b"), (Some(KsmMode::Off), true, true));
    let hypervisor = |path: &str| plan.group(plan.find_group(path).unwrap()).unwrap().class.hypervisor;
    assert_eq!((hypervisor("a"), hypervisor("b")), (None, Some(HypervisorKind::Qemu)), "only that one has USB");
}

/// Lines of an experiment: once, or again and again.
fn events() -> impl Strategy<Value = Vec<(u64, Option<(u64, u64)>)>> {
    let repeat = proptest::option::of((1u64..40, 1u64..300));
    proptest::collection::vec((0u64..200, repeat), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_timeline_goes_by_time_and_then_by_the_file(events in events(), end in proptest::option::of(0u64..300)) {
        let mut lines = String::new();
        let mut expected = Vec::new();
        for (number, (at, repeat)) in events.iter().enumerate() {
            match repeat {
                None => {
                    lines.push_str(&format!("at {at}s pause solo\n"));
                    expected.push((*at, number, 0));
                }
                Some((period, length)) => {
                    lines.push_str(&format!("every {period}s from {at}s until {}s pause solo\n", at + length));
                    let times = (*at..at + length).step_by(*period as usize);
                    expected.extend(times.zip(0u64..).map(|(time, firing)| (time, number, firing)));
                }
            }
        }
        if let Some(end) = end {
            lines.push_str(&format!("at {end}s end\n"));
            expected.retain(|(at, ..)| *at <= end);
        }
        expected.sort_unstable();
        let plan = network(&lines);
        let experiment = only(&plan);
        let found: Vec<_> = experiment.timeline().map(|f| (f.at / 1_000_000_000, f.event, f.number)).collect();
        prop_assert_eq!(found.len() as u64, experiment.firings());
        prop_assert_eq!(experiment.last().map(|at| at / 1_000_000_000), expected.last().map(|e| e.0));
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn a_share_meets_so_many_each_once_and_others_the_next_time(percent in 1u32..=100, seed in 0u64..1 << 60) {
        let words = format!("{percent}% of web[20..120], hq.pc, branch[3..7].pc[10..20], solo");
        let plan = network(&format!("every 1s from 0s until 9s {{ reboot {words} seed {seed} }}"));
        let event = &only(&plan).events[0];
        let total = 100 + 40 + 40 + 1;
        prop_assert_eq!(event.targets.total(), total);
        let count = ((total * u64::from(percent) + 50) / 100).max(1) as usize;
        let all = network(&format!("at 0s reboot {}", words.split_once(" of ").unwrap().1));
        let all = vms(&all, &only(&all).events[0], 0);
        let chosen: Vec<BTreeSet<String>> = (0..9).map(|firing| vms(&plan, event, firing)).collect();
        for (firing, names) in chosen.iter().enumerate() {
            prop_assert_eq!(names.len(), count);
            prop_assert!(names.is_subset(&all));
            prop_assert_eq!(names, &vms(&plan, event, firing as u64));
        }
        if (20..160).contains(&count) {
            prop_assert!(chosen.windows(2).all(|pair| pair[0] != pair[1]));
        }
    }
}

/// Words of experiments and telemetry in any order: many are wrong, some are right.
fn lines() -> impl Strategy<Value = String> {
    const WORDS: &[&str] = &[
        "at 5s",
        "at",
        "every 2s from 1s until 9s",
        "every",
        "from",
        "until",
        "fail",
        "heal",
        "set",
        "reboot",
        "stop",
        "run",
        "\"ls\"",
        "on",
        "end",
        "boot",
        "wait converged",
        "max",
        "rate",
        "5 per second",
        "order",
        "seed 3",
        "seed",
        "5% of",
        "2 of",
        "of",
        "0s",
        "18446744073s",
        "200%",
        "web",
        "web[0..3]",
        "web[*]",
        "solo",
        "hq",
        "branch[*]",
        "branch[*].pc[*]",
        "hq.gw -- branch[*].gw",
        "link",
        "--",
        "->",
        ",",
        "fibre",
        "ring",
        "lone",
        "yard",
        "delay 5ms",
        "loss 1%",
        "cost 3",
        "{",
        "}",
        "\n",
        "\n",
        ";",
        "5",
        "every 1s",
        "collect cpu",
        "pcap",
        "sample 1 of 9 of",
        "console",
        "routes",
    ];
    proptest::collection::vec(proptest::sample::select(WORDS), 0..60).prop_map(|words| words.join(" "))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_an_experiment_says_it_is_answered(block in lines(), telemetry: bool) {
        let keyword = if telemetry { "telemetry" } else { "experiment e" };
        let source = Source::new("p", format!("{NETWORK}\n{keyword} {{\n{block}\n}}"));
        let result = design(&source, &Lock::default());
        render(&result.diagnostics, &source, RenderOptions { color: false, width: 100 });
        prop_assert_eq!(result.plan.is_none(), result.has_errors());
        let Some(plan) = result.plan else { return Ok(()) };
        serde_json::to_string(&plan.summary()).unwrap();
        for experiment in plan.experiments() {
            for firing in experiment.timeline().take(50) {
                vms(&plan, &experiment.events[firing.event], firing.number);
            }
        }
    }
}
