//! What the small QEMU does and Debian's does not. Run by `make test-small-qemu`, which builds it.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::time::Duration;

use fleet_vm::hypervisor::SMALL_PROGRAM;
use tokio::time::timeout;

use crate::common::{PATIENCE, Place, qemu, run};

/// Bytes of translated code that a process has in memory: of the one mapping that can be written and executed.
fn translated(pid: i32) -> u64 {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let mut lines = maps.lines().skip_while(|line| !line.contains(" rwxp "));
    let rss = lines.find_map(|line| line.strip_prefix("Rss:")).expect("no translated code: is it emulated?");
    rss.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[tokio::test]
#[ignore = "needs the small QEMU: `make test-small-qemu`"]
async fn an_idle_guest_gives_its_translated_code_back_and_goes_on() {
    const MIB: u64 = 1 << 20;
    assert!(SMALL_PROGRAM.has_best(), "the small QEMU is not here: run `make small-qemu`");
    let place = Place::new();
    let machine = place.host().launch(qemu("a"), Vec::new()).await.unwrap();
    machine.control().hello(PATIENCE).await.unwrap();
    let busy = translated(machine.pid());
    assert!(busy > 2 * MIB, "a guest that has booted has {busy} bytes of code");
    let idle = async {
        while translated(machine.pid()) > MIB {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    assert!(timeout(PATIENCE, idle).await.is_ok(), "{} of {busy} bytes are still there", translated(machine.pid()));
    assert_eq!(run(&machine, &["/bin/sh", "-c", "echo on"]).await, (0, "on\n".to_owned()));
    machine.remove().await.unwrap();
}
