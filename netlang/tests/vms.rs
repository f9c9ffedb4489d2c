//! What a file says of its VMs beside their network: memory that is promised, and what becomes of VMs that fail.
#![allow(clippy::unwrap_used, missing_docs)]

use netlang::{Host, Lock, PlaceError, Plan, Restart, RestartMode, Source, VmShape, codes, design};

const MIB: u64 = 1 << 20;

fn plan(text: &str) -> Plan {
    let result = design(&Source::new("p", text), &Lock::default());
    result.plan.unwrap_or_else(|| panic!("{:#?}\n{text}", result.diagnostics))
}

fn restarts(text: &str) -> Vec<(String, Restart)> {
    plan(text).groups().map(|group| (group.path, group.class.restart)).collect()
}

#[test]
fn what_a_vm_says_of_restarts_holds_before_what_the_default_says() {
    let found = restarts(
        "lan l\nlet n = 4\ndefault vm { restart failed times n + 1 }\nvm a { on l; restart never }\nvm b { on l }\n\
         vm c { on l; restart always }\n",
    );
    let restart = |mode, times| Restart { mode, times };
    assert_eq!(found[0].1.mode, RestartMode::Never);
    assert_eq!(found[1].1, restart(RestartMode::Failed, 5));
    assert_eq!(found[2].1, restart(RestartMode::Always, 3), "as a whole: the default's count is not taken");
    assert_eq!(restarts("lan l\nvm a { on l }\n")[0].1, restart(RestartMode::Boot, 3));
}

#[test]
fn only_the_policies_that_say_so_start_again_what_has_run() {
    let tries = |mode, ran| Restart { mode, times: 5 }.tries(ran);
    assert_eq!((tries(RestartMode::Never, false), tries(RestartMode::Never, true)), (0, 0));
    assert_eq!((tries(RestartMode::Boot, false), tries(RestartMode::Boot, true)), (5, 0));
    assert_eq!((tries(RestartMode::Failed, false), tries(RestartMode::Failed, true)), (5, 5));
}

#[test]
fn wrong_words_and_numbers_are_errors() {
    for (wrong, code) in [
        ("restart sometimes", codes::NOT_A_CHOICE),
        ("restart failed times 0", codes::OUT_OF_BOUNDS),
        ("overcommit 0", codes::OUT_OF_BOUNDS),
        ("overcommit 101", codes::OUT_OF_BOUNDS),
        ("overcommit 2; overcommit 3", codes::REPEATED),
    ] {
        let result = design(&Source::new("p", format!("lan l\nvm a {{ on l; {wrong} }}\n")), &Lock::default());
        let codes: Vec<_> = result.diagnostics.iter().map(|it| it.code).collect();
        assert!(codes.contains(&code), "{wrong}: {codes:?}");
    }
}

#[test]
fn a_placement_promises_as_much_memory_as_the_file_allows() {
    let hosts = [Host { name: "h".into(), rack: None, tags: Vec::new(), memory: 24 << 30, cores: 2, closed: false }];
    let commits = |vm: &VmShape<'_>| vm.committed(vm.memory.unwrap_or(0)) + 2 * MIB;
    let place = |more: &str| {
        let lans = "lan l[i in 0..4] = (10.0.0.0/8).sub(/16, i)\n";
        let text = format!("{lans}default vm {{ mem 16MiB{more} }}\nvm v[i in 0..3000] {{ on l[i mod 4] }}\n");
        plan(&text).place(&hosts, &commits, None)
    };
    assert!(matches!(place(""), Err(PlaceError::Memory { .. })));
    let placed = place("; overcommit 3").unwrap();
    assert_eq!(placed.hosts[0].vms, 3000);
    assert_eq!(placed.hosts[0].memory, 3000 * ((16 * MIB).div_ceil(3) + 2 * MIB));
}

#[test]
fn an_image_whose_name_has_a_hyphen_is_to_be_quoted() {
    let text = |image: &str| format!("lan l\nvm a {{ on l; image {image} }}\n");
    let result = design(&Source::new("p", text("tiny-kernels")), &Lock::default());
    let found: Vec<_> = result.diagnostics.iter().map(|it| (it.code, it.primary.text.as_str())).collect();
    assert_eq!(found, [(codes::WRONG_TYPE, "help: `\"tiny-kernels\"`")]);
    assert_eq!(&*plan(&text("\"tiny-kernels\"")).groups().next().unwrap().class.image, "tiny-kernels");
}
