//! The regulator on a kernel made of files: it restores what it found, whatever ends it. One test uses the real kernel.
#![allow(clippy::unwrap_used)]

mod common;

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Tree, config};
use fleet_ksm::{Custody, Demand, KsmConfig, Mode, Phase, Regulator, Status, Sysfs};

/// Long enough for any machine; nothing waits so long when all is well.
const DEADLINE: Duration = Duration::from_secs(60);
/// Tells this program, started again, to regulate the tree of this folder until it is killed.
const CHILD: &str = "FLEET_KSM_TEST_TREE";

const WANTED: Demand = Demand { mode: Mode::Aggressive, vms: 300 };
const UNWANTED: Demand = Demand { mode: Mode::Off, vms: 0 };

async fn wait_for(regulator: &Regulator, what: impl Fn(&Status) -> bool) -> Status {
    let mut status = regulator.watch();
    let found = tokio::time::timeout(DEADLINE, status.wait_for(|status| what(status))).await;
    found.expect("in time").unwrap().clone()
}

fn untouched(tree: &Tree) -> bool {
    let expected = [("run", "0"), ("pages_to_scan", "100"), ("sleep_millisecs", "20"), ("max_page_sharing", "256")];
    expected.iter().all(|(name, value)| tree.ksm(name) == *value) && tree.ksm("use_zero_pages") == "0"
}

#[tokio::test]
async fn nothing_is_written_while_nobody_asks() {
    let tree = Tree::new();
    let regulator = Regulator::start(tree.config(), UNWANTED);
    let status = wait_for(&regulator, |status| !status.reason.is_empty()).await;
    assert_eq!((status.phase, status.found, status.problem.as_str()), (Phase::Off, None, ""));
    assert!(untouched(&tree) && !tree.config().state_dir.exists());
    regulator.shutdown().await;
}

#[tokio::test]
async fn every_setting_is_put_back_at_the_end() {
    let tree = Tree::new();
    let regulator = Regulator::start(tree.config(), WANTED);
    let status = wait_for(&regulator, |status| status.phase == Phase::Burst).await;
    assert_eq!((tree.ksm("run"), tree.ksm("max_page_sharing")), ("1".into(), "1024".into()));
    assert_eq!(status.found.map(|found| found.run), Some(0));
    assert_eq!(status.ksmd_cpu, Some(Duration::from_secs(4)), "150 and 250 ticks of its stat file");
    assert!(Custody::is_owed(&tree.config().state_dir));
    regulator.shutdown().await;
    assert!(untouched(&tree) && !Custody::is_owed(&tree.config().state_dir));
}

#[tokio::test]
async fn every_setting_is_put_back_when_the_last_vm_has_gone() {
    let tree = Tree::new();
    let regulator = Regulator::start(tree.config(), WANTED);
    wait_for(&regulator, |status| status.phase == Phase::Burst).await;
    regulator.want(Demand { mode: Mode::Off, vms: 0 });
    wait_for(&regulator, |status| status.phase == Phase::Off && status.demand == UNWANTED).await;
    assert!(untouched(&tree));
    regulator.shutdown().await;
}

/// This program again, regulating the tree until it is killed. It says so when it has begun.
fn other_process(tree: &Tree) -> Child {
    let program = std::env::current_exe().unwrap();
    let args = ["--exact", "regulates_until_it_is_killed", "--nocapture", "--include-ignored"];
    let mut child = Command::new(program)
        .args(args)
        .env(CHILD, tree.dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    assert!(lines.any(|line| line.unwrap().contains("regulating")));
    child
}

#[tokio::test]
#[ignore = "the other process of two tests"]
async fn regulates_until_it_is_killed() {
    let Some(root) = std::env::var_os(CHILD) else { return };
    let regulator = Regulator::start(config(root.as_ref()), WANTED);
    wait_for(&regulator, |status| status.phase == Phase::Burst).await;
    println!("regulating");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn what_a_killed_agent_changed_is_put_back_by_the_next() {
    let tree = Tree::new();
    let mut killed = other_process(&tree);
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(!untouched(&tree) && Custody::is_owed(&tree.config().state_dir));

    let regulator = Regulator::start(tree.config(), UNWANTED);
    wait_for(&regulator, |status| !status.reason.is_empty()).await;
    assert!(untouched(&tree) && !Custody::is_owed(&tree.config().state_dir));
    regulator.shutdown().await;
}

#[tokio::test]
async fn an_agent_that_goes_on_after_a_crash_puts_back_what_the_first_one_found() {
    let tree = Tree::new();
    let mut killed = other_process(&tree);
    killed.kill().unwrap();
    killed.wait().unwrap();

    let regulator = Regulator::start(tree.config(), WANTED);
    let status = wait_for(&regulator, |status| status.phase == Phase::Burst).await;
    assert_eq!(status.found.map(|found| (found.run, found.pages_to_scan)), Some((0, 100)));
    regulator.shutdown().await;
    assert!(untouched(&tree));
}

#[tokio::test]
async fn settings_of_an_earlier_boot_are_not_put_back() {
    let tree = Tree::new();
    let mut killed = other_process(&tree);
    killed.kill().unwrap();
    killed.wait().unwrap();
    tree.write("proc/sys/kernel/random/boot_id", "another-boot\n");
    tree.write("ksm/pages_to_scan", "77");
    let regulator = Regulator::start(tree.config(), WANTED);
    wait_for(&regulator, |status| status.phase == Phase::Burst).await;
    regulator.shutdown().await;
    assert_eq!(tree.ksm("pages_to_scan"), "77");
}

#[tokio::test]
async fn of_two_agents_on_a_host_one_regulates() {
    let tree = Tree::new();
    let mut other = other_process(&tree);
    let regulator = Regulator::start(tree.config(), WANTED);
    let status = wait_for(&regulator, |status| !status.problem.is_empty()).await;
    assert!(status.problem.contains("another agent regulates"), "{}", status.problem);
    assert_eq!(status.phase, Phase::Off);
    regulator.shutdown().await;
    assert!(!untouched(&tree), "the other one goes on");
    other.kill().unwrap();
    other.wait().unwrap();
}

#[tokio::test]
async fn a_setting_that_another_program_makes_is_left_to_it() {
    let tree = Tree::new();
    let regulator = Regulator::start(tree.config(), WANTED);
    wait_for(&regulator, |status| status.phase == Phase::Burst).await;
    tree.write("ksm/pages_to_scan", "1250");
    let status = wait_for(&regulator, |status| !status.problem.is_empty()).await;
    assert!(status.problem.contains("another program set pages_to_scan to 1250"), "{}", status.problem);
    assert_eq!(
        (tree.ksm("pages_to_scan"), tree.ksm("run"), tree.ksm("sleep_millisecs")),
        ("1250".into(), "0".into(), "20".into())
    );
    // New VMs are a new beginning.
    regulator.wave_began();
    regulator.wave_ended();
    wait_for(&regulator, |status| status.phase == Phase::Burst).await;
    regulator.shutdown().await;
    assert_eq!(tree.ksm("pages_to_scan"), "1250", "what was found this time");
}

#[tokio::test]
async fn a_kernel_without_ksm_is_a_reason_and_no_failure() {
    let tree = Tree::new();
    let config = KsmConfig { sysfs: tree.dir.path().join("nowhere"), ..tree.config() };
    let regulator = Regulator::start(config, WANTED);
    let status = wait_for(&regulator, |status| !status.problem.is_empty()).await;
    assert!(status.problem.contains("CONFIG_KSM"), "{}", status.problem);
    assert!(regulator.preview(Mode::On).is_err());
    regulator.shutdown().await;
}

#[tokio::test]
async fn settings_that_cannot_be_written_are_a_reason_and_no_failure() {
    let tree = Tree::new();
    // A folder in the place of a setting cannot be written, not even by root; nor can it be read as a number.
    std::fs::remove_file(tree.dir.path().join("ksm/pages_to_scan")).unwrap();
    std::fs::create_dir(tree.dir.path().join("ksm/pages_to_scan")).unwrap();
    let regulator = Regulator::start(tree.config(), WANTED);
    let status = wait_for(&regulator, |status| !status.problem.is_empty()).await;
    assert!(status.problem.contains("pages_to_scan"), "{}", status.problem);
    regulator.shutdown().await;
}

#[tokio::test]
async fn a_preview_changes_nothing() {
    let tree = Tree::new();
    let regulator = Regulator::start(tree.config(), UNWANTED);
    let decision = regulator.preview(Mode::Aggressive).unwrap();
    assert_eq!((decision.state.phase, decision.settings.run), (Phase::Burst, 1));
    regulator.shutdown().await;
    assert!(untouched(&tree));
}

#[tokio::test]
async fn only_what_differs_is_written() {
    let tree = Tree::new();
    let sysfs = Sysfs::new(&tree.config().sysfs);
    let now = sysfs.settings().unwrap();
    let stamp = |name: &str| std::fs::metadata(tree.dir.path().join("ksm").join(name)).unwrap().modified().unwrap();
    let before = (stamp("run"), stamp("sleep_millisecs"));
    sysfs.set(&fleet_ksm::Settings { pages_to_scan: 4000, ..now }).unwrap();
    assert_eq!((tree.ksm("pages_to_scan"), (stamp("run"), stamp("sleep_millisecs"))), ("4000".into(), before));
}

/// The real kernel, under the host's lock; where there is none, or it cannot be changed, the reason is tested.
#[tokio::test]
async fn the_real_kernels_settings_are_put_back() {
    let config = KsmConfig::default();
    let sysfs = Sysfs::new(&config.sysfs);
    let before = sysfs.settings();
    let regulator = Regulator::start(config, Demand { mode: Mode::On, vms: 1 });
    let status = wait_for(&regulator, |status| status.phase == Phase::Burst || !status.problem.is_empty()).await;
    regulator.shutdown().await;
    match (before, status.found) {
        (Ok(_), Some(found)) if status.problem.is_empty() => {
            assert_eq!(status.settings.map(|settings| settings.run), Some(1), "{status:?}");
            assert!(!Custody::is_owed("/run/fleet-ksm".as_ref()));
            assert_eq!(sysfs.settings().unwrap(), found);
        }
        _ => assert!(!status.problem.is_empty(), "{status:?}"),
    }
}
