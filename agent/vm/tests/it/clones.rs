//! VMs that start from a template: what they share, what they do not, and what is left.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::common::daemon::Daemon;
use crate::common::taps::bridge;
use crate::common::{PATIENCE, Place, qemu, run};
use fleet_vm::{Adopted, Expected, Machine, NicSpec, VmHost, VmSpec};
use fleet_wire::{Address, Nic, ProbeTarget, Settings};
use tokio::time::timeout;

/// What the RAM directory of a place holds: names of templates, finished or not.
fn templates(place: &Place) -> BTreeSet<String> {
    let entries = std::fs::read_dir(place.config().ram_dir).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Asserts that a place holds nothing any more.
fn nothing_is_left(place: &Place) {
    assert_eq!(place.processes(), Vec::<i32>::new());
    assert_eq!(templates(place), BTreeSet::new());
    assert_eq!(std::fs::read_dir(place.config().run_dir).unwrap().count(), 0);
    assert_eq!(place.cgroups(), Vec::<PathBuf>::new());
}

/// Holds a template for VMs like this one.
fn many(host: &VmHost, spec: &VmSpec) -> Expected {
    host.expect([spec, spec])
}

async fn clone_of(host: &VmHost, spec: VmSpec, taps: Vec<OwnedFd>) -> Machine {
    let machine = host.launch(spec, taps).await.unwrap();
    assert!(machine.is_clone() && machine.warning().is_none(), "{:?}", machine.warning());
    machine
}

fn with_nics(name: &str, nics: Vec<NicSpec>) -> VmSpec {
    VmSpec { nics, ..qemu(name) }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_clones_share_nothing_that_makes_a_guest_itself_and_reach_each_other() {
    const COUNT: u8 = 10;
    const MTU: u16 = 1400;
    let place = Place::new();
    let host = place.host();
    // Two interfaces each, all on one wire: the second has no address.
    let (taps, _namespace) = bridge(usize::from(COUNT) * 2, MTU);
    let mut taps = taps.into_iter();
    let mac = |guest: u8, nic: u8| [2, 0, 10, 9, nic, guest];
    let nic = |guest: u8, nic: u8| NicSpec { name: format!("eth{nic}"), mac: mac(guest, nic), mtu: MTU };
    let specs: Vec<_> =
        (10..10 + COUNT).map(|guest| with_nics(&format!("c[{guest}]"), vec![nic(guest, 0), nic(guest, 1)])).collect();
    let _expected = host.expect(&specs);
    let starts: Vec<_> = specs
        .into_iter()
        .map(|spec| {
            let (host, taps) = (host.clone(), taps.by_ref().take(2).collect());
            tokio::spawn(async move { clone_of(&host, spec, taps).await })
        })
        .collect();
    let mut machines = Vec::new();
    for start in starts {
        machines.push(start.await.unwrap());
    }
    assert_eq!(templates(&place).len(), 1, "one template for all");

    let mut boots = BTreeSet::new();
    let mut kernels_boots = BTreeSet::new();
    let mut random = BTreeSet::new();
    for (guest, machine) in (10..).zip(&machines) {
        // Before anything is configured: what follows is not owed to a seed that comes with the settings.
        boots.insert(machine.control().hello(PATIENCE).await.unwrap().boot_id);
        random.insert(run(machine, &["/bin/sh", "-c", "head -c 16 /dev/urandom | od -An -tx1"]).await.1);
        kernels_boots.insert(run(machine, &["/bin/cat", "/proc/sys/kernel/random/boot_id"]).await.1);
        let before = now();
        let time: u64 = run(machine, &["/bin/date", "+%s"]).await.1.trim().parse().unwrap();
        assert!((before.as_secs() - 1..=now().as_secs() + 1).contains(&time), "the clock is {time}, not {before:?}");
        let addresses = |nic: u8| match nic {
            0 => vec![Address { ip: [10, 9, 0, guest].into(), prefix_len: 24 }],
            _ => Vec::new(),
        };
        let nics = (0..2).map(|nic| Nic {
            name: format!("eth{nic}"),
            mac: mac(guest, nic),
            mtu: MTU,
            addresses: addresses(nic),
        });
        let settings = Settings { hostname: format!("c-{guest}"), nics: nics.collect(), ..Settings::default() };
        assert_eq!(machine.control().configure(&settings, PATIENCE).await.unwrap(), Vec::<String>::new());
    }
    assert_eq!(
        (boots.len(), kernels_boots.len(), random.len()),
        (10, 10, 10),
        "{boots:?} {kernels_boots:?} {random:?}"
    );

    let targets: Vec<_> = (10..10 + COUNT).map(|guest| ProbeTarget { ip: [10, 9, 0, guest].into() }).collect();
    for (guest, machine) in (10_u8..).zip(&machines) {
        let shown =
            run(machine, &["/bin/sh", "-c", "hostname; cat /sys/class/net/eth[01]/address /sys/class/net/eth[01]/mtu"])
                .await
                .1;
        let macs = [mac(guest, 0), mac(guest, 1)].map(|mac| mac.map(|byte| format!("{byte:02x}")).join(":"));
        assert_eq!(shown, format!("c-{guest}\n{}\n{}\n{MTU}\n{MTU}\n", macs[0], macs[1]));
        let answers = machine.control().probe(&targets, Duration::from_secs(5), 10, PATIENCE).await.unwrap();
        assert!(answers.iter().all(Option::is_some), "{guest}: {answers:?}");
        let frame = (MTU - 28).to_string();
        let ping = run(machine, &["/bin/ping", "-c", "1", "-W", "20", "-s", &frame, "10.9.0.10"]).await;
        assert_eq!(ping.0, 0, "a frame of {MTU} bytes: {}", ping.1);
    }
    for machine in machines {
        machine.remove().await.unwrap();
    }
}

#[tokio::test]
async fn a_clone_is_a_vm_like_any_other() {
    let place = Place::new();
    let host = place.host();
    let expected = many(&host, &qemu("a"));
    let machine = clone_of(&host, qemu("a"), Vec::new()).await;
    assert_eq!(run(&machine, &["/bin/sh", "-c", "echo $((6*7)); exit 3"]).await, (3, "42\n".to_owned()));

    machine.pause().await.unwrap();
    assert!(machine.control().ping(Duration::from_millis(500)).await.is_err(), "a paused guest answered");
    machine.resume().await.unwrap();
    machine.control().ping(PATIENCE).await.unwrap();

    let mut console = machine.console(0).await.unwrap();
    console.write(b"\n").await.unwrap();
    console.write(b"echo sum $((40+2))\n").await.unwrap();
    let seen = async {
        let mut text = String::new();
        while !text.contains("sum 42") {
            text += &String::from_utf8_lossy(&console.next().await.unwrap().unwrap());
        }
    };
    timeout(PATIENCE, seen).await.unwrap();
    drop(console);

    let exit = machine.shutdown(PATIENCE).await.unwrap();
    assert!(exit.is_clean(), "{exit} {exit:?}");
    drop(expected);
    assert_eq!(templates(&place).len(), 1, "its template stays while it is there");
    machine.remove().await.unwrap();
    nothing_is_left(&place);
}

#[tokio::test]
async fn one_vm_boots_in_full_and_so_do_all_where_clones_are_off() {
    let place = Place::new();
    let host = place.host();
    let _expected = host.expect([&qemu("a")]);
    let machine = host.launch(qemu("a"), Vec::new()).await.unwrap();
    assert!(!machine.is_clone());
    machine.remove().await.unwrap();

    let host = VmHost::new(fleet_vm::HostConfig { clones: false, ..place.config() }).unwrap();
    let _expected = many(&host, &qemu("a"));
    let machine = host.launch(qemu("a"), Vec::new()).await.unwrap();
    assert!(!machine.is_clone() && machine.warning().is_none());
    machine.remove().await.unwrap();
    assert_eq!(templates(&place), BTreeSet::new());
}

#[tokio::test]
async fn another_command_line_needs_another_template() {
    let place = Place::new();
    let host = place.host();
    let other = |name| VmSpec { cmdline: format!("{} panic=1", qemu(name).cmdline), ..qemu(name) };
    let _expected = [many(&host, &qemu("a")), many(&host, &other("b"))];
    let first = clone_of(&host, qemu("a"), Vec::new()).await;
    let before = templates(&place);
    let again = clone_of(&host, qemu("a2"), Vec::new()).await;
    assert_eq!(templates(&place), before);
    let second = clone_of(&host, other("b"), Vec::new()).await;
    assert_eq!(templates(&place).len(), 2);
    let line = run(&second, &["/bin/cat", "/proc/cmdline"]).await.1;
    assert!(line.contains("panic=1"), "{line}");
    for machine in [first, again, second] {
        machine.remove().await.unwrap();
    }
}

#[tokio::test]
async fn a_template_whose_files_are_damaged_or_gone_is_made_again() {
    let place = Place::new();
    let host = place.host();
    let _expected = many(&host, &qemu("a"));
    let first = clone_of(&host, qemu("a"), Vec::new()).await;
    let ram = place.config().ram_dir.join(templates(&place).first().unwrap()).join("ram");
    let inode = || std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&ram).unwrap());
    let before = inode();
    use std::os::unix::fs::FileExt;
    std::fs::File::options().write(true).open(&ram).unwrap().write_all_at(b"damage", 1 << 20).unwrap();
    let second = clone_of(&host, qemu("b"), Vec::new()).await;
    assert_ne!(inode(), before);

    std::fs::remove_dir_all(ram.parent().unwrap()).unwrap();
    let third = clone_of(&host, qemu("c"), Vec::new()).await;
    // The earlier ones keep the memory that they started from.
    for machine in [first, second, third] {
        assert_eq!(run(&machine, &["/bin/echo", "here"]).await.1, "here\n");
        machine.remove().await.unwrap();
    }
}

#[tokio::test]
async fn a_vm_whose_template_cannot_be_made_boots_in_full_and_says_why() {
    let place = Place::new();
    let host = place.host();
    // Not an init that speaks with an agent: its kernel panics when it ends.
    let missing = VmSpec { cmdline: qemu("a").cmdline.replace("rdinit=/init", "rdinit=/bin/busybox"), ..qemu("a") };
    let _expected = many(&host, &missing);
    let machine = host.launch(missing.clone(), Vec::new()).await.unwrap();
    assert!(!machine.is_clone());
    let warning = machine.warning().unwrap().to_owned();
    assert!(warning.contains("boots in full") && warning.contains("panicked"), "{warning}");
    assert_eq!(templates(&place), BTreeSet::new());
    // The next ones do not try at once again.
    let next = host.launch(VmSpec { name: "b".to_owned(), ..missing }, Vec::new()).await.unwrap();
    assert!(!next.is_clone() && next.warning().is_none());
    for machine in [machine, next] {
        machine.remove().await.unwrap();
    }
    nothing_is_left(&place);
}

#[tokio::test]
async fn a_clone_is_found_again_and_its_template_with_it() {
    let place = Place::new();
    let first = place.host();
    let expected = many(&first, &qemu("a"));
    let machine = clone_of(&first, qemu("a"), Vec::new()).await;
    let boot = machine.control().hello(PATIENCE).await.unwrap().boot_id;
    // A clone that no agent has spoken to yet.
    drop(clone_of(&first, qemu("b"), Vec::new()).await);
    let before = templates(&place);
    drop((machine, expected, first)); // as a daemon does that dies: its VMs and files stay

    let host = place.host();
    assert_eq!(templates(&place), before, "a template that is in use is kept");
    let mut boots = BTreeSet::from([boot]);
    let mut machines = Vec::new();
    for name in ["a", "b"] {
        match host.adopt("exp", name).await.unwrap() {
            Adopted::Running(machine) => machines.push(machine),
            other => panic!("{name} does not run: {other:?}"),
        }
    }
    boots.insert(machines[0].control().hello(PATIENCE).await.unwrap().boot_id);
    assert_eq!(boots.len(), 1, "it became itself only once");
    boots.insert(machines[1].control().hello(PATIENCE).await.unwrap().boot_id);
    assert_eq!(boots.len(), 2);
    // The template serves the next agent: one more VM needs no further one to be expected.
    machines.push(clone_of(&host, qemu("c"), Vec::new()).await);
    assert_eq!(templates(&place), before);
    for machine in machines {
        assert!(!templates(&place).is_empty());
        machine.remove().await.unwrap();
    }
    nothing_is_left(&place);
}

/// Kills a daemon that starts three clones, once `reached` holds; then an agent must find everything in order.
async fn killed_when(reached: impl Fn(&Place) -> bool) {
    let place = Place::new();
    let names = ["a", "b", "c"];
    let mut daemon = Daemon::start(&place, &names.map(qemu));
    let waiting = async {
        while !reached(&place) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap();
    daemon.kill();

    let host = place.host();
    assert!(!templates(&place).iter().any(|name| name.starts_with("making-")), "{:?}", templates(&place));
    let mut running = BTreeSet::new();
    for (dir, found) in host.adopt_all().await.unwrap() {
        match found {
            Ok(Adopted::Running(machine)) => drop(running.insert(machine.spec().name.clone())),
            _ => host.remove_dir(&dir).await.unwrap(),
        }
    }
    assert_eq!(place.processes().len(), running.len(), "no process but those of VMs that were found");
    // It goes on: those that run are whole, and the others can be started.
    let expected = many(&host, &qemu("a"));
    for name in names {
        let found = if running.contains(name) { Some(host.adopt("exp", name).await.unwrap()) } else { None };
        let machine = match found {
            Some(Adopted::Running(machine)) => machine,
            _ => clone_of(&host, qemu(name), Vec::new()).await,
        };
        assert_eq!(run(&machine, &["/bin/echo", name]).await.1, format!("{name}\n"));
    }
    drop(expected);
    for name in names {
        host.remove("exp", name).await.unwrap();
    }
    nothing_is_left(&place);
}

#[tokio::test]
async fn an_agent_killed_as_a_template_boots_leaves_no_half_of_it() {
    killed_when(|place| {
        !place.processes().is_empty() && templates(place).iter().any(|name| name.starts_with("making-"))
    })
    .await;
}

#[tokio::test]
async fn an_agent_killed_as_a_template_is_written_leaves_no_half_of_it() {
    let written = |place: &Place, name: &String| place.config().ram_dir.join(name).join("state").exists();
    killed_when(|place| templates(place).iter().any(|name| written(place, name))).await;
}

#[tokio::test]
async fn an_agent_killed_as_clones_start_loses_none() {
    killed_when(|place| place.config().run_dir.join("exp/vms/a").exists()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_launch_that_is_dropped_while_its_template_is_made_leaves_nothing() {
    let place = Place::new();
    let host = place.host();
    let expected = many(&host, &qemu("a"));
    let launch = host.launch(qemu("a"), Vec::new());
    let begun = async {
        while place.processes().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        _ = launch => panic!("it was not broken off"),
        () = begun => {}
    }
    drop(expected);
    let gone = async {
        while !place.processes().is_empty() || !templates(&place).is_empty() || !place.cgroups().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(timeout(PATIENCE, gone).await.is_ok(), "{:?} {:?}", place.processes(), templates(&place));
    // The one that waited makes it instead.
    let _expected = many(&host, &qemu("a"));
    let dropped = timeout(Duration::from_millis(300), host.launch(qemu("a"), Vec::new()));
    let (dropped, machine) = tokio::join!(dropped, host.launch(qemu("b"), Vec::new()));
    let machine = machine.unwrap();
    assert!(machine.is_clone());
    if let Ok(machine) = dropped {
        machine.unwrap().remove().await.unwrap(); // a fast host
    }
    machine.remove().await.unwrap();
}
