//! A VM's memory and devices are kept on disk, and it goes on from there.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use crate::common::{PATIENCE, Place, qemu, run, uml};
use fleet_vm::{Adopted, Machine, SnapshotError, SnapshotQuota, SnapshotStore, VmHost, VmSpec};

async fn shell(machine: &Machine, script: &str) -> String {
    run(machine, &["/bin/sh", "-c", script]).await.1
}

/// Regular files below a directory.
fn files(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { files(&entry.path()) } else { 1 }).sum()
}

/// Puts a VM back to its snapshot, as an agent does: its process is ended and another one goes on.
async fn back(host: &VmHost, store: &Arc<SnapshotStore>, spec: &VmSpec, name: &str) -> Machine {
    store.check(spec, name).await.unwrap();
    host.remove(&spec.experiment, &spec.name).await.unwrap();
    host.restore(spec.clone(), Vec::new(), store, name).await.unwrap()
}

async fn goes_back(place: &Place, host: &VmHost, first: Machine) {
    let disk = place.path().join("disk");
    let store = Arc::new(SnapshotStore::open(disk.clone(), SnapshotQuota::default()));
    let spec = first.spec().clone();
    shell(&first, "echo old > /root/file; hostname before").await;
    let boot = first.control().hello(PATIENCE).await.unwrap().boot_id;
    first.snapshot(&store, "a").await.unwrap();
    // It goes on as if nothing had been.
    assert_eq!(shell(&first, "cat /root/file").await, "old\n");
    assert_eq!(first.control().hello(PATIENCE).await.unwrap().boot_id, boot);
    shell(&first, "echo new > /root/file; hostname after").await;
    drop(first);

    let mut random = BTreeSet::new();
    let mut boots = BTreeSet::from([boot]);
    for _ in 0..2 {
        let machine = back(host, &store, &spec, "a").await;
        boots.insert(machine.control().hello(PATIENCE).await.unwrap().boot_id);
        assert_eq!(shell(&machine, "cat /root/file; hostname").await, "old\nbefore\n");
        random.insert(shell(&machine, "head -c 16 /dev/urandom | od -An -tx1").await);
        let time: u64 = shell(&machine, "date +%s").await.trim().parse().unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        assert!((now - 60..=now + 1).contains(&time), "the clock says {time}, not {now}");
        shell(&machine, "echo newer > /root/file").await;
        // A restored VM is a VM: it can be paused, found again, and snapshotted.
        machine.pause().await.unwrap();
        machine.snapshot(&store, "paused").await.unwrap();
        assert!(machine.is_paused());
        machine.resume().await.unwrap();
        machine.control().ping(PATIENCE).await.unwrap();
    }
    assert_eq!((random.len(), boots.len()), (2, 3), "{random:?} {boots:?}");
    let machine = back(host, &store, &spec, "paused").await;
    assert_eq!(shell(&machine, "cat /root/file").await, "newer\n");
    machine.remove().await.unwrap();

    let listed = store.list(Some("exp")).unwrap();
    let names: Vec<_> = listed.iter().map(|snapshot| (snapshot.vm.as_str(), snapshot.name.as_str())).collect();
    assert_eq!(names, [(spec.name.as_str(), "a"), (spec.name.as_str(), "paused")]);
    assert!(
        listed.iter().all(|snapshot| snapshot.bytes > 1 << 20 && snapshot.shared_bytes > snapshot.bytes / 4),
        "{listed:?}"
    );
    assert_eq!(store.remove("exp", "a").await.unwrap(), 1);
    assert_eq!(store.remove("exp", "a").await.unwrap(), 0);
    store.check(&spec, "paused").await.unwrap();
    assert_eq!(store.remove("exp", "paused").await.unwrap(), 1);
    assert!(!disk.exists(), "nothing of a store without snapshots stays");
}

#[tokio::test]
async fn a_vm_goes_back_to_its_snapshot() {
    let place = Place::new();
    let host = place.host();
    let machine = host.launch(qemu("s"), Vec::new()).await.unwrap();
    goes_back(&place, &host, machine).await;
}

#[tokio::test]
async fn a_clone_goes_back_to_its_snapshot() {
    let place = Place::new();
    let host = place.host();
    let _expected = host.expect([&qemu("s"), &qemu("s")]);
    let machine = host.launch(qemu("s"), Vec::new()).await.unwrap();
    assert!(machine.is_clone());
    goes_back(&place, &host, machine).await;
}

#[tokio::test]
async fn equal_memory_of_many_vms_is_stored_once() {
    let place = Place::new();
    let host = place.host();
    let store = Arc::new(SnapshotStore::open(place.path().join("disk"), SnapshotQuota::default()));
    let _expected = host.expect([&qemu("a"), &qemu("b")]);
    let mut machines = Vec::new();
    for name in ["a", "b"] {
        let machine = host.launch(qemu(name), Vec::new()).await.unwrap();
        machine.control().hello(PATIENCE).await.unwrap();
        machine.snapshot(&store, "x").await.unwrap();
        machines.push(machine);
    }
    let listed = store.list(None).unwrap();
    assert_eq!(listed.len(), 2);
    assert!(listed.iter().all(|snapshot| snapshot.shared_bytes > snapshot.bytes / 2), "{listed:?}");
    for machine in machines {
        machine.remove().await.unwrap();
    }
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_is_refused_and_the_vm_goes_on() {
    let place = Place::new();
    let host = place.host();
    let disk = place.path().join("disk");
    let store = Arc::new(SnapshotStore::open(disk.clone(), SnapshotQuota::default()));
    let machine = host.launch(uml("u"), Vec::new()).await.unwrap();
    let error = machine.snapshot(&store, "a").await.unwrap_err().to_string();
    assert!(error.contains("exp.u runs on uml") && error.contains("hypervisor qemu"), "{error}");
    machine.control().ping(PATIENCE).await.unwrap();
    machine.remove().await.unwrap();
    assert!(!disk.exists());

    assert!(matches!(store.check(&qemu("q"), "a").await, Err(SnapshotError::NotFound { .. })));
    let huge = VmSpec { memory_bytes: 96 << 20, ..qemu("q") };
    let machine = host.launch(huge.clone(), Vec::new()).await.unwrap();
    machine.control().hello(PATIENCE).await.unwrap();
    machine.snapshot(&store, "a").await.unwrap();
    let error = store.check(&VmSpec { cpus: 2, ..huge.clone() }, "a").await.unwrap_err().to_string();
    assert!(error.contains("has changed") && error.contains("processors"), "{error}");
    // A chunk that was changed on disk is found before the VM that runs is of no use.
    let chunks = disk.join("chunks");
    let any = std::fs::read_dir(&chunks).unwrap().next().unwrap().unwrap().path();
    std::fs::remove_dir_all(any).unwrap();
    let error = store.check(&huge, "a").await.unwrap_err().to_string();
    assert!(error.contains("damaged") && error.contains("is missing"), "{error}");
    machine.control().ping(PATIENCE).await.unwrap();
    machine.remove().await.unwrap();
}

#[tokio::test]
async fn snapshots_take_no_more_than_they_may() {
    let place = Place::new();
    let host = place.host();
    let disk = place.path().join("disk");
    let machine = host.launch(qemu("q"), Vec::new()).await.unwrap();
    machine.control().hello(PATIENCE).await.unwrap();
    let memory = machine.spec().memory_bytes;

    // Refused before anything is written, with the sums.
    let store = Arc::new(SnapshotStore::open(disk.clone(), SnapshotQuota::Bytes(memory - 1)));
    let error = machine.snapshot(&store, "a").await.unwrap_err().to_string();
    let mib = memory >> 20;
    for part in [format!("may take {mib} MiB"), format!("take 0 of {} MiB", mib - 1), "snapshot_quota".to_owned()] {
        assert!(error.contains(&part), "{part}: {error}");
    }
    assert!(!disk.exists());

    // What was replaced makes room for the next one: one of a name takes no more and no more.
    let store = Arc::new(SnapshotStore::open(disk.clone(), SnapshotQuota::Bytes(memory * 2)));
    for _ in 0..6 {
        shell(&machine, "head -c 12000000 /dev/urandom > /root/file").await;
        machine.snapshot(&store, "a").await.unwrap();
    }
    assert_eq!(store.list(None).unwrap().len(), 1);
    store.check(machine.spec(), "a").await.unwrap();
    machine.control().ping(PATIENCE).await.unwrap();
    machine.remove().await.unwrap();
}

#[tokio::test]
async fn a_snapshot_of_another_qemu_or_machine_is_refused_and_the_vm_goes_on() {
    let place = Place::new();
    let host = place.host();
    let disk = place.path().join("disk");
    let store = Arc::new(SnapshotStore::open(disk.clone(), SnapshotQuota::default()));
    let machine = host.launch(qemu("q"), Vec::new()).await.unwrap();
    machine.control().hello(PATIENCE).await.unwrap();
    machine.snapshot(&store, "a").await.unwrap();
    store.check(machine.spec(), "a").await.unwrap();
    let manifest = disk.join("manifests/exp/a/q.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    let mut other: serde_json::Value = serde_json::from_str(&text).unwrap();
    let platform = other["platform"].as_object().unwrap().clone();
    for (key, value) in [("program", "qemu 1.2.3"), ("machine", "pc")] {
        other["platform"] = platform.clone().into();
        other["platform"][key] = value.into();
        std::fs::write(&manifest, other.to_string()).unwrap();
        let error = store.check(machine.spec(), "a").await.unwrap_err().to_string();
        assert!(error.contains(value) && error.contains(platform["program"].as_str().unwrap()), "{error}");
        assert!(error.contains("was taken under"), "{error}");
    }
    // One of before this was noted is taken as it is.
    other.as_object_mut().unwrap().remove("platform");
    std::fs::write(&manifest, other.to_string()).unwrap();
    store.check(machine.spec(), "a").await.unwrap();
    machine.control().ping(PATIENCE).await.unwrap();
    machine.remove().await.unwrap();
}

#[tokio::test]
async fn a_snapshot_in_the_middle_of_a_conversation_is_whole() {
    let place = Place::new();
    let host = place.host();
    let store = Arc::new(SnapshotStore::open(place.path().join("disk"), SnapshotQuota::default()));
    let machine = host.launch(qemu("q"), Vec::new()).await.unwrap();
    machine.control().hello(PATIENCE).await.unwrap();
    let spec = machine.spec().clone();
    for round in 0..4 {
        // What is said to the guest while it is stopped must not be in its memory and missing in its devices.
        let talking = {
            let machine = machine.clone();
            tokio::spawn(async move {
                loop {
                    machine.control().ping(PATIENCE).await.unwrap();
                }
            })
        };
        machine.snapshot(&store, &format!("s{round}")).await.unwrap();
        talking.abort();
    }
    drop(machine);
    for round in 0..4 {
        let machine = back(&host, &store, &spec, &format!("s{round}")).await;
        machine.control().ping(PATIENCE).await.unwrap();
    }
    host.remove("exp", "q").await.unwrap();
}

#[tokio::test]
async fn what_an_interrupted_snapshot_leaves_is_swept() {
    let place = Place::new();
    let disk = place.path().join("disk");
    let host = place.host();
    let machine = host.launch(qemu("s"), Vec::new()).await.unwrap();
    machine.control().hello(PATIENCE).await.unwrap();
    let store = Arc::new(SnapshotStore::open(disk.clone(), SnapshotQuota::default()));
    machine.snapshot(&store, "a").await.unwrap();
    // As if the agent had died before the manifest was written, with the guest stopped.
    std::fs::remove_dir_all(disk.join("manifests")).unwrap();
    assert!(files(&disk) > 0);
    let record = machine.paths().record();
    machine.pause().await.unwrap();
    let mut text: serde_json::Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
    text["paused"] = false.into();
    text["snapshotting"] = true.into();
    drop((machine, store, host));
    std::fs::write(&record, text.to_string()).unwrap();

    drop(SnapshotStore::open(disk.clone(), SnapshotQuota::default()));
    assert!(!disk.exists());
    let Adopted::Running(machine) = place.host().adopt("exp", "s").await.unwrap() else { panic!("it does not run") };
    machine.control().ping(PATIENCE).await.unwrap();
    assert!(!machine.is_paused());
    // One that was being filled has never run.
    text["filling"] = true.into();
    drop(machine);
    std::fs::write(&record, text.to_string()).unwrap();
    assert!(matches!(place.host().adopt("exp", "s").await.unwrap(), Adopted::NeverStarted { .. }));
    assert_eq!(place.processes(), Vec::<i32>::new());
    place.host().remove("exp", "s").await.unwrap();
}
