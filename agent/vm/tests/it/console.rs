//! The consoles of real VMs.
#![allow(clippy::unwrap_used, missing_docs)]

use crate::common::{PATIENCE, Place, qemu, uml};
use fleet_vm::{ConsoleSession, VmSpec};
use tokio::time::timeout;

/// Reads until the text comes up.
async fn see(session: &mut ConsoleSession, text: &str) {
    let mut seen = String::new();
    let reading = async {
        while let Some(bytes) = session.next().await.unwrap() {
            seen.push_str(&String::from_utf8_lossy(&bytes));
            if seen.contains(text) {
                return;
            }
        }
        panic!("the console ended");
    };
    let found = timeout(PATIENCE, reading).await;
    assert!(found.is_ok(), "no {text:?} in {seen:?}");
}

async fn takes_input_and_gives_output(spec: VmSpec) {
    let place = Place::new();
    let machine = place.host().launch(spec, Vec::new()).await.unwrap();
    let mut first = machine.console(64 * 1024).await.unwrap();
    see(&mut first, "press Enter").await;
    let mut second = machine.console(0).await.unwrap();
    first.write(b"\r").await.unwrap();
    see(&mut first, "# ").await;
    second.write(b"echo sum $((40+2))\r").await.unwrap();
    see(&mut first, "sum 42").await;
    see(&mut second, "sum 42").await;
    drop((first, second));

    let mut later = machine.console(64 * 1024).await.unwrap();
    see(&mut later, "sum 42").await;
    // A session that was left, and a shell that was left, are followed by others.
    later.write(b"exit\r").await.unwrap();
    see(&mut later, "press Enter").await;
    later.write(b"\r").await.unwrap();
    see(&mut later, "# ").await;
    later.write(b"echo more $((41+2))\r").await.unwrap();
    see(&mut later, "more 43").await;
    assert!(machine.last_lines(50).unwrap().iter().any(|line| line == "sum 42"));
    machine.kill().await.unwrap();
    let end = async { while later.next().await.unwrap().is_some() {} };
    assert!(timeout(PATIENCE, end).await.is_ok(), "a console goes on after the end of its VM");
    assert!(machine.console(0).await.is_err());
    machine.remove().await.unwrap();
}

#[tokio::test]
async fn the_console_of_a_uml_vm_takes_input_and_gives_output() {
    takes_input_and_gives_output(uml("c")).await;
}

#[tokio::test]
async fn the_console_of_a_qemu_vm_takes_input_and_gives_output() {
    takes_input_and_gives_output(qemu("c")).await;
}

#[tokio::test]
async fn a_chatty_guest_takes_bounded_memory() {
    let place = Place::new();
    let machine = place.host().launch(uml("c"), Vec::new()).await.unwrap();
    let script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done > /dev/tty0";
    assert_eq!(crate::common::run(&machine, &["/bin/sh", "-c", script]).await.0, 0);
    let mut console = machine.console(1024).await.unwrap();
    see(&mut console, "line 19999").await;
    machine.trim_console(16 * 1024).unwrap();
    use std::os::unix::fs::MetadataExt;
    let data = std::fs::metadata(machine.paths().console_log()).unwrap();
    assert!(data.len() > 200_000 && data.blocks() * 512 < 40_000, "{} bytes, {} blocks", data.len(), data.blocks());
    assert!(machine.last_lines(5).unwrap().iter().any(|line| line == "line 19999"));
    machine.remove().await.unwrap();
}
