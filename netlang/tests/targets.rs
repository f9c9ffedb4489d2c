//! Targets of the command line lead to VMs, with or without the experiment's name in front.
#![allow(clippy::unwrap_used, missing_docs)]

use netlang::{Lock, Plan, Source, design};

fn plan(experiment: &str, text: &str) -> Plan {
    let result = design(&Source::new(experiment, text), &Lock::default());
    result.plan.unwrap_or_else(|| panic!("{:#?}\n{text}", result.diagnostics))
}

fn names(plan: &Plan, target: &str) -> Vec<String> {
    let ranges = plan.resolve(target).unwrap_or_else(|error| panic!("{target}: {error}"));
    ranges.iter().flat_map(|range| range.indices().map(|index| plan.vm_name(range.group, index).unwrap())).collect()
}

fn refusal(plan: &Plan, target: &str) -> String {
    plan.resolve(target).unwrap_err().to_string()
}

#[test]
fn the_experiments_name_may_stand_in_front() {
    let plan = plan("shop", "lan l\nvm web[0..4] { on l }\nvm db { on l }\n");
    assert_eq!(names(&plan, "web[1..3]"), ["web[1]", "web[2]"]);
    assert_eq!(names(&plan, "shop.web[1..3]"), ["web[1]", "web[2]"]);
    assert_eq!(names(&plan, "shop.db"), ["db"]);
    assert_eq!(names(&plan, "shop").len(), 5);
    assert!(refusal(&plan, "shop.wep").contains("did you mean `web`?"));
    assert!(refusal(&plan, "shop[0]").contains("nothing is named `shop`"));
}

#[test]
fn a_group_of_the_experiments_own_name_is_found_with_and_without_it() {
    let plan = plan("q", "lan l\nvm q[0..3] { on l }\nvm other { on l }\n");
    assert_eq!(names(&plan, "q[0..2]"), ["q[0]", "q[1]"]);
    assert_eq!(names(&plan, "q.q[0..2]"), ["q[0]", "q[1]"]);
    assert_eq!(names(&plan, "q.q").len(), 3);
    assert_eq!(names(&plan, "q.q[*]").len(), 3);
    assert_eq!(names(&plan, "q.other"), ["other"]);
    // A name of the file wins: all VMs have to be asked for in another way.
    assert_eq!(names(&plan, "q").len(), 3);
    // What is wrong is said of what was meant.
    assert!(refusal(&plan, "q.q[5]").contains("the last is 2"), "{}", refusal(&plan, "q.q[5]"));
    assert!(refusal(&plan, "q.othr").contains("did you mean `other`?"), "{}", refusal(&plan, "q.othr"));
    assert!(refusal(&plan, "q[7]").contains("the last is 2"));
}

#[test]
fn a_single_vm_of_the_experiments_own_name_is_found_too() {
    let plan = plan("q", "lan l\nvm q { on l }\n");
    for target in ["q", "q.q"] {
        assert_eq!(names(&plan, target), ["q"]);
    }
    assert!(refusal(&plan, "q.q[0]").contains("it has no index"), "{}", refusal(&plan, "q.q[0]"));
    assert!(refusal(&plan, "q.q.q").contains("nothing is within it"), "{}", refusal(&plan, "q.q.q"));
}

#[test]
fn an_instance_of_the_experiments_own_name_wins_where_it_has_the_part() {
    let text = "module site { lan l\nvm pc[0..2] { on l } }\nlan top\nsite q\nvm lone { on top }\n";
    let plan = plan("q", text);
    assert_eq!(names(&plan, "q.pc"), ["q.pc[0]", "q.pc[1]"]);
    assert_eq!(names(&plan, "q.q.pc[0]"), ["q.pc[0]"]);
    assert_eq!(names(&plan, "q.lone"), ["lone"]);
    assert!(refusal(&plan, "q.nowhere").contains("`nowhere`"));
}
