//! Taps that are handed in as descriptors carry the guests' frames.
#![allow(clippy::unwrap_used, missing_docs)]

use std::time::Duration;

use crate::common::taps::taps;
use crate::common::{PATIENCE, Place, qemu, uml};
use fleet_vm::{NicSpec, VmSpec};
use fleet_wire::{Address, Nic, ProbeTarget, Settings};

async fn carries_frames(spec: VmSpec, count: u8) {
    let place = Place::new();
    let (taps, _namespace) = taps(count.into());
    let mac = |index| [2, 0, 10, 9, index, 2];
    let nics = (0..count).map(|index| NicSpec { name: format!("eth{index}"), mac: mac(index), mtu: 1500 }).collect();
    let machine = place.host().launch(VmSpec { nics, ..spec }, taps).await.unwrap();
    let nic = |index| Nic {
        name: format!("eth{index}"),
        mac: mac(index),
        mtu: 1500,
        addresses: vec![Address { ip: [10, 9, index, 2].into(), prefix_len: 24 }],
    };
    let settings = Settings { nics: (0..count).map(nic).collect(), ..Settings::default() };
    assert_eq!(machine.control().configure(&settings, PATIENCE).await.unwrap(), Vec::<String>::new());
    let targets: Vec<_> = (0..count).map(|index| ProbeTarget { ip: [10, 9, index, 1].into() }).collect();
    let answers = machine.control().probe(&targets, Duration::from_secs(5), 10, PATIENCE).await.unwrap();
    assert!(answers.iter().all(Option::is_some), "{answers:?}");
    machine.remove().await.unwrap();
}

#[tokio::test]
async fn a_tap_carries_the_frames_of_a_uml_vm() {
    carries_frames(uml("n"), 2).await;
}

#[tokio::test]
async fn a_qemu_vm_takes_as_many_interfaces_as_it_says() {
    carries_frames(qemu("n"), 7).await;
}

#[tokio::test]
async fn taps_and_interfaces_must_be_as_many() {
    let place = Place::new();
    let (taps, _namespace) = taps(1);
    let error = place.host().launch(uml("n"), taps).await.map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("1 taps for 0 interfaces"), "{error}");
}
