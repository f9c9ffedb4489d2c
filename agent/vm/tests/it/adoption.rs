//! VMs outlive the program that started them, and none is ever lost.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::PathBuf;
use std::process::Command;

use crate::common::daemon::Daemon;
use crate::common::{PATIENCE, Place, qemu, run, uml};
use fleet_vm::{Adopted, Machine, VmExit, VmSpec};
use tokio::time::timeout;

async fn adopted(place: &Place, name: &str) -> Machine {
    match place.host().adopt("exp", name).await.unwrap() {
        Adopted::Running(machine) => machine,
        other => panic!("{name} does not run: {other:?}"),
    }
}

async fn survives_its_daemon(spec: VmSpec) {
    let place = Place::new();
    let name = spec.name.clone();
    let mut daemon = Daemon::start(&place, &[spec]);
    daemon.wait_for(1);
    daemon.kill();

    let machine = adopted(&place, &name).await;
    let boot = machine.control().hello(PATIENCE).await.unwrap().boot_id;
    assert_eq!(run(&machine, &["/bin/sh", "-c", "echo still here"]).await.1, "still here\n");
    drop(machine);

    // The next one after that finds it too, and the guest was not started again.
    let machine = adopted(&place, &name).await;
    assert_eq!(machine.control().hello(PATIENCE).await.unwrap().boot_id, boot);
    let exit = machine.shutdown(PATIENCE).await.unwrap();
    assert_eq!((exit.signal, exit.panic.as_deref()), (None, None), "{exit:?}");
    // Known although it was somebody else's child: init may be faster where the kernel is older than 6.15.
    assert!(exit.code == Some(0) || !exit_status_of_others_is_known(), "{exit:?}");
    assert_eq!(place.processes(), Vec::<i32>::new());
}

/// Since Linux 6.15 the kernel gives the status of a process that was somebody else's child.
fn exit_status_of_others_is_known() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut parts = release.split(['.', '-']).map(|part| part.trim().parse::<u32>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (6, 15)
}

#[tokio::test]
async fn a_uml_vm_survives_the_death_of_its_daemon() {
    survives_its_daemon(uml("web[1]")).await;
}

#[tokio::test]
async fn a_qemu_vm_survives_the_death_of_its_daemon() {
    survives_its_daemon(qemu("web[1]")).await;
}

#[tokio::test]
async fn a_guest_that_talks_while_its_daemon_dies_is_heard_by_the_next_one() {
    let place = Place::new();
    let machine = place.host().launch(qemu("a"), Vec::new()).await.unwrap();
    machine.control().hello(PATIENCE).await.unwrap();
    drop(machine);
    for _ in 0..8 {
        let machine = adopted(&place, "a").await;
        machine.control().ping(PATIENCE).await.unwrap();
        let argv = ["/bin/sh", "-c", "while :; do echo talks; done"].map(str::to_owned).to_vec();
        let talk = fleet_vm::ExecSpec { argv, ..Default::default() };
        let mut session = machine.control().exec(talk, PATIENCE).await.unwrap();
        for _ in 0..20 {
            timeout(PATIENCE, session.next()).await.unwrap().unwrap();
        }
        // The stream is closed with all that the guest has under way, as when a process is killed.
        drop((machine, session));
    }
    let machine = adopted(&place, "a").await;
    machine.control().ping(PATIENCE).await.unwrap();
    machine.remove().await.unwrap();
}

#[tokio::test]
async fn a_paused_vm_is_found_paused() {
    let place = Place::new();
    let mut daemon = Daemon::start(&place, &[uml("a")]);
    daemon.wait_for(1);
    daemon.kill();
    let machine = adopted(&place, "a").await;
    machine.control().hello(PATIENCE).await.unwrap();
    machine.pause().await.unwrap();
    drop(machine);
    let machine = adopted(&place, "a").await;
    assert!(machine.is_paused());
    machine.resume().await.unwrap();
    machine.control().ping(PATIENCE).await.unwrap();
    machine.remove().await.unwrap();
}

#[tokio::test]
async fn a_dead_vm_gives_its_reason_to_a_later_daemon() {
    let place = Place::new();
    let sad = VmSpec { cmdline: "rdinit=/no/such/init quiet".to_owned(), ..uml("sad") };
    let machine = place.host().launch(sad, Vec::new()).await.unwrap();
    let exit = timeout(PATIENCE, machine.wait()).await.unwrap();
    drop(machine);
    match place.host().adopt("exp", "sad").await.unwrap() {
        Adopted::Ended { exit: found, .. } => assert_eq!(found, exit),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_daemon_killed_at_any_moment_of_a_launch_loses_no_vm() {
    for running in [0, 1, 6] {
        let place = Place::new();
        let specs: Vec<VmSpec> = (0..12).map(|index| uml(&format!("n[{index}]"))).collect();
        let mut daemon = Daemon::start(&place, &specs);
        if running == 0 {
            // In the midst of the first ones: as soon as there is a directory.
            while !place.config().run_dir.join("exp").exists() {
                tokio::task::yield_now().await;
            }
        }
        daemon.wait_for(running);
        daemon.kill();

        let host = place.host();
        let mut kept = 0;
        for (dir, found) in host.adopt_all().await.unwrap() {
            match found {
                Ok(Adopted::Running(machine)) => {
                    kept += 1;
                    machine.remove().await.unwrap();
                }
                Ok(Adopted::NeverStarted { .. } | Adopted::Ended { .. }) | Err(_) => {
                    host.remove_dir(&dir).await.unwrap();
                }
            }
        }
        assert!(kept >= running, "{kept} of {running} are left");
        assert_eq!(place.processes(), Vec::<i32>::new(), "killed after {running}");
        assert_eq!(std::fs::read_dir(place.config().run_dir).unwrap().count(), 0);
        assert_eq!(place.cgroups(), Vec::<PathBuf>::new());
    }
}

#[tokio::test]
async fn an_intent_without_a_process_was_never_started() {
    let place = Place::new();
    let host = place.host();
    let machine = host.launch(uml("a"), Vec::new()).await.unwrap();
    let path = machine.paths().record();
    let mut record: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    machine.kill().await.unwrap();
    record["process"] = serde_json::Value::Null;
    std::fs::write(&path, record.to_string()).unwrap();
    assert!(matches!(host.adopt("exp", "a").await.unwrap(), Adopted::NeverStarted { .. }));
    // After another boot of the host, nothing that it names can run.
    record["process"] = serde_json::json!({ "pid": 1, "start": 0 });
    record["boot_id"] = "another".into();
    std::fs::write(&path, record.to_string()).unwrap();
    match host.adopt("exp", "a").await.unwrap() {
        Adopted::Ended { exit, .. } => {
            assert_eq!(exit, VmExit { last_lines: exit.last_lines.clone(), ..VmExit::default() })
        }
        other => panic!("{other:?}"),
    }
    host.remove("exp", "a").await.unwrap();
}

#[tokio::test]
async fn a_process_that_got_the_number_of_a_vm_is_left_alone() {
    let place = Place::new();
    let host = place.host();
    let machine = host.launch(uml("a"), Vec::new()).await.unwrap();
    let path = machine.paths().record();
    let mut record: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    machine.kill().await.unwrap();
    let mut bystander = Command::new("sleep").arg("600").spawn().unwrap();
    record["process"]["pid"] = bystander.id().into();
    record["process"]["start"] = 1.into(); // the two may have started within one tick of the clock
    std::fs::write(&path, record.to_string()).unwrap();
    assert!(matches!(host.adopt("exp", "a").await.unwrap(), Adopted::Ended { .. }));
    host.remove("exp", "a").await.unwrap();
    assert!(bystander.try_wait().unwrap().is_none(), "the bystander was killed");
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

#[tokio::test]
async fn a_damaged_record_is_told_and_can_be_removed() {
    let place = Place::new();
    let host = place.host();
    let machine = host.launch(uml("a"), Vec::new()).await.unwrap();
    let path = machine.paths().record();
    machine.kill().await.unwrap();
    std::fs::write(&path, "{").unwrap();
    let error = host.adopt("exp", "a").await.map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("vm.json is damaged"), "{error}");
    host.remove("exp", "a").await.unwrap();
    assert!(!path.exists());
}
