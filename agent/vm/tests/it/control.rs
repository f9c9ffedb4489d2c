//! The control channel with the real init.
#![allow(clippy::unwrap_used, missing_docs)]

use std::time::Duration;

use crate::common::{PATIENCE, Place, qemu, run, uml};
use fleet_vm::{ControlError, ExecEvent, ExecSession, ExecSpec, Machine, VmSpec};
use tokio::time::timeout;

async fn up(place: &Place, spec: VmSpec) -> Machine {
    let machine = place.host().launch(spec, Vec::new()).await.unwrap();
    machine.control().hello(PATIENCE).await.unwrap();
    machine
}

async fn start(machine: &Machine, script: &str) -> ExecSession {
    let argv = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    machine.control().exec(ExecSpec { argv, ..ExecSpec::default() }, PATIENCE).await.unwrap()
}

async fn next(session: &mut ExecSession) -> ExecEvent {
    timeout(PATIENCE, session.next()).await.unwrap().unwrap()
}

async fn streams_are_complete(spec: VmSpec) {
    let place = Place::new();
    let machine = up(&place, spec).await;
    // More than the window, in both directions at once.
    let mut session = start(&machine, "cat; echo done >&2; exit 7").await;
    let input = session.input();
    let sent: Vec<u8> = (0..400_000_u32).map(|number| (number % 251) as u8).collect();
    let writing = {
        let sent = sent.clone();
        tokio::spawn(async move {
            input.write(&sent).await.unwrap();
            input.close().await.unwrap();
        })
    };
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let code = loop {
        match next(&mut session).await {
            ExecEvent::Stdout(data) => output.extend(data),
            ExecEvent::Stderr(data) => errors.extend(data),
            ExecEvent::Exited(code) => break code,
        }
    };
    writing.await.unwrap();
    assert!(output == sent, "{} of {} bytes came back", output.len(), sent.len());
    assert_eq!((code, errors.as_slice()), (7, b"done\n".as_slice()));
    assert_eq!(session.next().await, Err(ControlError::Ended));
    machine.remove().await.unwrap();
}

#[tokio::test]
async fn streams_of_a_command_in_a_uml_vm_are_complete() {
    streams_are_complete(uml("x")).await;
}

#[tokio::test]
async fn streams_of_a_command_in_a_qemu_vm_are_complete() {
    streams_are_complete(qemu("x")).await;
}

#[tokio::test]
async fn a_command_that_nobody_reads_waits_and_holds_nothing_else_up() {
    let place = Place::new();
    let machine = up(&place, uml("x")).await;
    let mut idle = start(&machine, "while :; do echo 0123456789abcdef; done").await;
    assert!(matches!(next(&mut idle).await, ExecEvent::Stdout(_)));
    assert_eq!(run(&machine, &["/bin/sh", "-c", "echo free"]).await.1, "free\n");
    machine.control().ping(PATIENCE).await.unwrap();
    machine.remove().await.unwrap();
}

#[tokio::test]
async fn a_dropped_session_ends_its_command() {
    let place = Place::new();
    let machine = up(&place, uml("x")).await;
    let mut session = start(&machine, "echo up; exec sleep 7654").await;
    assert_eq!(next(&mut session).await, ExecEvent::Stdout(b"up\n".to_vec()));
    drop(session);
    // The kill was sent before this is asked, but takes effect on its own: the guest waits for it.
    let script = "while pidof sleep > /dev/null; do usleep 10000; done; echo gone";
    assert_eq!(run(&machine, &["/bin/sh", "-c", script]).await.1, "gone\n");
    machine.remove().await.unwrap();
}

#[tokio::test]
async fn a_terminal_has_its_size_and_takes_signals() {
    let place = Place::new();
    let machine = up(&place, uml("x")).await;
    let argv = ["/bin/sh", "-c", "stty size; read line; stty size; exec sleep 999"].map(str::to_owned).to_vec();
    let spec = ExecSpec { argv, env: vec!["A=b".to_owned()], tty: Some((30, 90)) };
    let mut session = machine.control().exec(spec, PATIENCE).await.unwrap();
    let input = session.input();
    let mut seen = String::new();
    let mut typed = false;
    let code = loop {
        match next(&mut session).await {
            ExecEvent::Stdout(data) | ExecEvent::Stderr(data) => seen.push_str(&String::from_utf8_lossy(&data)),
            ExecEvent::Exited(code) => break code,
        }
        if seen.contains("30 90") && !typed {
            typed = true;
            input.resize(40, 120).await.unwrap();
            input.write(b"\n").await.unwrap();
        }
        if seen.contains("40 120") {
            input.signal(15).await.unwrap();
        }
    };
    assert_eq!(code, 128 + 15, "{seen}");
    machine.remove().await.unwrap();
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    let place = Place::new();
    let machine = up(&place, uml("x")).await;
    let spec = ExecSpec { argv: vec!["/no/such".to_owned()], ..ExecSpec::default() };
    let error = machine.control().exec(spec, PATIENCE).await.map(|_| ()).unwrap_err();
    assert!(matches!(&error, ControlError::ExecFailed { program, errno: 2, .. } if program == "/no/such"), "{error}");
    machine.remove().await.unwrap();
}

#[tokio::test]
async fn settings_are_in_force_when_configure_answers() {
    let place = Place::new();
    let machine = up(&place, uml("x")).await;
    let settings = fleet_wire::Settings { hostname: "web-3".to_owned(), ..Default::default() };
    assert_eq!(machine.control().configure(&settings, PATIENCE).await.unwrap(), Vec::<String>::new());
    assert_eq!(run(&machine, &["/bin/hostname"]).await.1, "web-3\n");
    let loopback = [fleet_wire::ProbeTarget { ip: [127, 0, 0, 1].into() }];
    let probed = machine.control().probe(&loopback, Duration::from_secs(10), 1, PATIENCE).await.unwrap();
    assert!(probed.len() == 1 && probed[0].is_some(), "{probed:?}");
    machine.remove().await.unwrap();
}

#[tokio::test]
async fn a_guest_that_starts_again_is_noticed_and_its_commands_are_lost() {
    let place = Place::new();
    let machine = up(&place, uml("x")).await;
    let control = machine.control();
    let first = control.hello(PATIENCE).await.unwrap().boot_id;
    let mut session = start(&machine, "trap '' TERM HUP; while :; do sleep 1; done").await;
    control.shutdown(true, PATIENCE).await.unwrap();
    let mut link = control.link();
    let again = link.wait_for(|link| link.reboots == 1 && link.hello.is_some());
    let second = timeout(PATIENCE, again).await.unwrap().unwrap().hello.clone().unwrap().boot_id;
    assert_ne!(first, second);
    let end = timeout(PATIENCE, session.next()).await.unwrap();
    assert!(matches!(end, Ok(ExecEvent::Exited(_)) | Err(ControlError::SessionLost)), "{end:?}");
    assert_eq!(run(&machine, &["/bin/echo", "again"]).await.1, "again\n");
    machine.remove().await.unwrap();
}

#[tokio::test]
async fn who_waits_for_a_vm_that_ends_is_told() {
    let place = Place::new();
    let machine = up(&place, uml("x")).await;
    let control = machine.control();
    let mut session = start(&machine, "sleep 999").await;
    machine.kill().await.unwrap();
    let told = timeout(PATIENCE, session.next()).await.unwrap();
    assert!(matches!(told, Err(ControlError::SessionLost | ControlError::Ended)), "{told:?}");
    assert_eq!(control.ping(PATIENCE).await, Err(ControlError::Ended));
}

#[tokio::test]
async fn a_guest_that_does_not_answer_costs_its_deadline_and_no_more() {
    let place = Place::new();
    let dumb = VmSpec { cmdline: "root=/dev/ram0 rdinit=/bin/sleep quiet".to_owned(), ..uml("x") };
    let machine =
        place.host().launch(VmSpec { cmdline: format!("{} 999", dumb.cmdline), ..dumb }, vec![]).await.unwrap();
    let error = machine.control().ping(Duration::from_millis(50)).await.unwrap_err();
    assert!(error.to_string().contains("\"ping\" within 50ms"), "{error}");
    machine.remove().await.unwrap();
}
