//! Addresses that guests ask for are as fixed as all others.

#![allow(clippy::unwrap_used)]

use netlang::{Lock, Plan, Source, design};

fn plan(text: &str, lock: &Lock) -> (Plan, Lock) {
    let result = design(&Source::new("x".to_owned(), text.to_owned()), lock);
    (result.plan.unwrap_or_else(|| panic!("{:?}", result.diagnostics)), result.lock)
}

/// The last octets of a group's addresses.
fn hosts(plan: &Plan, group: &str) -> Vec<u8> {
    let ranges = plan.resolve(group).unwrap();
    let vms = ranges.iter().flat_map(|r| r.indices().map(|i| plan.vm(r.group, i).unwrap()));
    vms.map(|vm| vm.nics[0].ip.octets()[3]).collect()
}

const LAN: &str = "lan l = 10.0.0.0/24 { dhcp 20..60 }\nrouter gw { on l }\n";

#[test]
fn who_asks_gets_a_number_of_the_range_and_nobody_else_does() {
    let (plan, _) = plan(
        &format!("{LAN}vm asks[0..5] {{ on l dhcp }}\nvm told[0..5] {{ on l }}\nvm both {{ on l at 59 dhcp }}"),
        &Lock::default(),
    );
    assert_eq!(hosts(&plan, "asks"), [20, 21, 22, 23, 24]);
    assert_eq!(hosts(&plan, "told"), [60, 61, 62, 63, 64]);
    assert_eq!(hosts(&plan, "both"), [59]);
}

#[test]
fn a_group_that_asks_keeps_its_numbers_when_others_come() {
    let (_, lock) = plan(&format!("{LAN}vm asks[0..5] {{ on l dhcp }}"), &Lock::default());
    let (second, lock) = plan(
        &format!("{LAN}vm new[0..3] {{ on l dhcp }}\nvm asks[0..8] {{ on l dhcp }}"),
        &Lock::parse(&lock.to_string()).unwrap(),
    );
    assert_eq!(hosts(&second, "asks"), [20, 21, 22, 23, 24, 25, 26, 27]);
    assert_eq!(hosts(&second, "new"), [28, 29, 30]);
    // A group that stops asking moves out of the range.
    let (third, _) = plan(&format!("{LAN}vm asks[0..5] {{ on l }}"), &lock);
    assert_eq!(hosts(&third, "asks"), [60, 61, 62, 63, 64]);
}

#[test]
fn a_range_too_small_for_its_group_is_refused() {
    let text = format!("{LAN}vm asks[0..41] {{ on l dhcp }}");
    let result = design(&Source::new("x".to_owned(), text), &Lock::default());
    assert_eq!(result.diagnostics[0].code, netlang::codes::TOO_LARGE_FOR_LAN);
    assert!(result.diagnostics[0].message.contains("dhcp 20..60"), "{}", result.diagnostics[0].message);
}
