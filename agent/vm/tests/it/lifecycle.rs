//! The life of real VMs: start, pause, end, removal.
#![allow(clippy::unwrap_used, missing_docs)]

use std::time::Duration;

use crate::common::{PATIENCE, Place, qemu, run, uml};
use fleet_vm::{VmError, VmSpec};
use tokio::time::timeout;

async fn boots_answers_and_powers_off(spec: VmSpec) {
    let place = Place::new();
    let machine = place.host().launch(spec, Vec::new()).await.unwrap();
    let hello = machine.control().hello(PATIENCE).await.unwrap();
    assert!(hello.kernel.starts_with("6."), "{hello:?}");
    assert!(machine.control().ping(PATIENCE).await.unwrap() < PATIENCE);
    assert_eq!(run(&machine, &["/bin/sh", "-c", "echo $((6*7)); exit 3"]).await, (3, "42\n".to_owned()));
    let usage = machine.usage().unwrap();
    assert!(usage.cpu > Duration::ZERO && usage.memory_bytes > 4 << 20, "{usage:?}");
    let exit = machine.shutdown(PATIENCE).await.unwrap();
    assert!(exit.is_clean(), "{exit} {exit:?}");
    machine.remove().await.unwrap();
}

#[tokio::test]
async fn a_uml_vm_boots_answers_and_powers_off() {
    boots_answers_and_powers_off(uml("web[1]")).await;
}

#[tokio::test]
async fn a_qemu_vm_boots_answers_and_powers_off() {
    boots_answers_and_powers_off(qemu("web[1]")).await;
}

async fn gives_the_panic_as_its_reason(mut spec: VmSpec) {
    let place = Place::new();
    spec.cmdline = spec.cmdline.replace("rdinit=/init", "rdinit=/no/such/init");
    let machine = place.host().launch(spec, Vec::new()).await.unwrap();
    let exit = timeout(PATIENCE, machine.wait()).await.unwrap();
    let panic = exit.panic.clone().unwrap_or_default();
    assert!(panic.contains("VFS: Unable to mount root fs"), "{exit:?}");
    assert!(exit.last_lines.iter().any(|line| line.contains("Kernel panic")) || exit.last_lines.len() == 20);
    assert!(!exit.is_clean());
    assert_eq!(place.processes(), Vec::<i32>::new());
}

#[tokio::test]
async fn a_uml_guest_that_panics_gives_the_panic_as_its_reason() {
    gives_the_panic_as_its_reason(uml("sad")).await;
}

#[tokio::test]
async fn a_qemu_guest_that_panics_gives_the_panic_as_its_reason() {
    gives_the_panic_as_its_reason(qemu("sad")).await;
}

async fn pause_stops_time(spec: VmSpec) {
    let place = Place::new();
    let machine = place.host().launch(spec, Vec::new()).await.unwrap();
    let control = machine.control();
    control.hello(PATIENCE).await.unwrap();
    machine.pause().await.unwrap();
    assert!(machine.is_paused());
    assert!(control.ping(Duration::from_millis(500)).await.is_err(), "a paused guest answered");
    let before = machine.usage().unwrap().cpu;
    assert!(control.ping(Duration::from_millis(500)).await.is_err(), "a paused guest answered");
    let spent = machine.usage().unwrap().cpu - before;
    assert!(spent < Duration::from_millis(100), "a paused guest used {spent:?}");
    machine.resume().await.unwrap();
    assert!(!machine.is_paused());
    control.ping(PATIENCE).await.unwrap();
    machine.remove().await.unwrap();
}

#[tokio::test]
async fn pause_stops_the_time_of_a_uml_vm_and_resume_goes_on() {
    pause_stops_time(uml("p")).await;
}

#[tokio::test]
async fn pause_stops_the_time_of_a_qemu_vm_and_resume_goes_on() {
    pause_stops_time(qemu("p")).await;
}

#[tokio::test]
async fn remove_leaves_nothing() {
    let place = Place::new();
    let host = place.host();
    let machine = host.launch(uml("a"), Vec::new()).await.unwrap();
    machine.control().hello(PATIENCE).await.unwrap();
    assert!(!place.processes().is_empty());
    machine.remove().await.unwrap();
    assert_eq!(place.processes(), Vec::<i32>::new());
    assert_eq!(place.cgroups(), Vec::<std::path::PathBuf>::new());
    let left = |dir: &str| std::fs::read_dir(place.path().join(dir)).unwrap().count();
    assert_eq!((left("run"), left("ram")), (0, 0));
    machine.remove().await.unwrap(); // a second time is no error
    host.remove("exp", "a").await.unwrap();
}

#[tokio::test]
async fn a_vm_whose_first_process_is_killed_leaves_no_helpers() {
    let place = Place::new();
    let machine = place.host().launch(uml("a"), Vec::new()).await.unwrap();
    machine.control().hello(PATIENCE).await.unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(machine.pid()), nix::sys::signal::Signal::SIGKILL).unwrap();
    let exit = timeout(PATIENCE, machine.wait()).await.unwrap();
    assert_eq!(exit.signal, Some(9));
    assert_eq!(place.processes(), Vec::<i32>::new());
}

#[tokio::test]
async fn without_control_groups_no_helper_is_left_either() {
    let place = Place::without_cgroups();
    let machine = place.host().launch(uml("a"), Vec::new()).await.unwrap();
    machine.control().hello(PATIENCE).await.unwrap();
    assert!(place.processes().len() > 1, "a UML VM has helpers");
    assert!(machine.usage().unwrap().cpu > Duration::ZERO);
    machine.kill().await.unwrap();
    assert_eq!(place.processes(), Vec::<i32>::new());
    machine.remove().await.unwrap();
}

async fn is_undone_when_dropped(place: Place) {
    let host = place.host();
    tokio::select! { // polled once, then dropped: a start takes less than a timer's tick
        biased;
        _ = host.launch(uml("a"), Vec::new()) => panic!("it was not broken off"),
        () = std::future::ready(()) => {}
    }
    // The thread that was at it undoes it; there is nothing to wait on but what it removes, the control group last.
    let left = || {
        let directories = std::fs::read_dir(place.config().run_dir).unwrap().count();
        directories > 0 || !place.processes().is_empty() || !place.cgroups().is_empty()
    };
    let gone = async {
        while left() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(timeout(PATIENCE, gone).await.is_ok(), "{:?}, {:?}", place.processes(), place.cgroups());
}

#[tokio::test]
async fn a_launch_that_is_dropped_is_undone() {
    is_undone_when_dropped(Place::new()).await;
    is_undone_when_dropped(Place::without_cgroups()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn twenty_vms_start_at_once() {
    let place = Place::new();
    let host = place.host();
    let starts: Vec<_> = (0..20)
        .map(|index| {
            let host = host.clone();
            tokio::spawn(async move {
                let machine = host.launch(uml(&format!("n[{index}]")), Vec::new()).await.unwrap();
                machine.control().hello(PATIENCE).await.unwrap();
                machine
            })
        })
        .collect();
    let mut boots = std::collections::BTreeSet::new();
    for start in starts {
        let machine = start.await.unwrap();
        boots.insert(machine.control().hello(PATIENCE).await.unwrap().boot_id);
        machine.remove().await.unwrap();
    }
    assert_eq!(boots.len(), 20);
    assert_eq!(place.processes(), Vec::<i32>::new());
}

#[tokio::test]
async fn a_launch_that_is_refused_leaves_nothing() {
    let place = Place::new();
    let host = place.host();
    let refused = |spec: VmSpec| {
        let host = host.clone();
        async move { host.launch(spec, Vec::new()).await.err().map(|error| error.to_string()).unwrap_or_default() }
    };
    let huge = refused(VmSpec { memory_bytes: 1 << 50, ..uml("a") }).await;
    assert!(huge.contains("exp.a needs 1125899906842624 bytes") && huge.contains("enlarge it"), "{huge}");
    let kernel = refused(VmSpec { kernel: "/no/kernel".into(), ..uml("a") }).await;
    assert!(kernel.contains("cannot open /no/kernel"), "{kernel}");
    let script = refused(VmSpec { kernel: "/etc/passwd".into(), ..uml("a") }).await;
    assert!(script.contains("cannot start /etc/passwd"), "{script}");
    assert_eq!(std::fs::read_dir(place.config().run_dir).unwrap().count(), 0);
    assert_eq!(place.cgroups(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn a_second_vm_of_the_same_name_is_refused_and_the_first_lives_on() {
    let place = Place::new();
    let host = place.host();
    let first = host.launch(uml("a"), Vec::new()).await.unwrap();
    assert!(matches!(host.launch(uml("a"), Vec::new()).await, Err(VmError::AlreadyExists { .. })));
    first.control().hello(PATIENCE).await.unwrap();
    first.remove().await.unwrap();
}
