//! What works on this host, by trying it.
#![allow(clippy::unwrap_used, missing_docs)]

use fleet_vm::Accelerator;
use fleet_vm::probe::{probe_host, probe_qemu};

#[tokio::test]
async fn the_probe_finds_what_runs_guests() {
    let ram = tempfile::tempdir_in("/dev/shm").unwrap();
    let kernel = crate::common::image().uml.as_ref().unwrap().kernel.clone();
    let report = probe_host(Some(&kernel), ram.path()).await;
    assert!(report.tcg.works, "{report:#?}");
    assert!(report.uml.works && report.uml.detail.contains("Linux 6."), "{report:#?}");
    assert!(report.uml_lpj.is_some_and(|lpj| lpj > 10_000), "{report:#?}");
    let choice = report.choose(None, None).unwrap();
    // Whether the processor's virtualisation is of use here is not this test's to say; that the choice heeds it, is.
    let best = if report.kvm.works { ("qemu", Some(Accelerator::Kvm)) } else { ("uml", None) };
    assert_eq!((choice.hypervisor, choice.accelerator), best);
    assert!(report.kvm.works || report.warning().is_some_and(|line| line.starts_with("kvm is not used: ")));
    assert_eq!(std::fs::read_dir(ram.path()).unwrap().count(), 0, "the probe left something");
}

#[tokio::test]
async fn an_accelerator_is_judged_by_instructions_that_ran() {
    let verdict = probe_qemu(Accelerator::Tcg).await;
    assert!(verdict.works, "{verdict:?}");
}

#[tokio::test]
async fn a_kernel_that_is_none_does_not_work() {
    let ram = tempfile::tempdir_in("/dev/shm").unwrap();
    let (verdict, lpj) = fleet_vm::probe::probe_uml(Some("/bin/true".as_ref()), ram.path()).await;
    assert!(!verdict.works && verdict.detail.contains("did not come up"), "{verdict:?}");
    assert_eq!(lpj, None);
}
