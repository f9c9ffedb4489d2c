//! Taps that are handed in as descriptors carry the guests' frames.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::time::Duration;

use common::{PATIENCE, Place, qemu, uml};
use fleet_vm::{NicSpec, VmSpec};
use fleet_wire::{Address, Nic, ProbeTarget, Settings};
use nix::sched::{CloneFlags, unshare};

/// `TUNSETIFF` with a name and flags, as in `linux/if_tun.h` and `linux/if.h`.
#[repr(C)]
struct TunRequest {
    name: [u8; 16],
    flags: libc::c_short,
    rest: [u8; 22],
}

nix::ioctl_write_ptr_bad!(tun_set_iff, 0x4004_54ca, TunRequest);

/// Taps t0, t1, … in a network namespace of their own, with 10.9.<index>.1/24. The namespace lives as long as they do,
/// and as the file that is given with them.
fn taps(count: u8) -> (Vec<OwnedFd>, File) {
    let make = move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let tap = |index: u8| {
            let file = File::options().read(true).write(true).open("/dev/net/tun").unwrap();
            let mut name = [0; 16];
            name[..2].copy_from_slice(&[b't', b'0' + index]);
            let flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
            let request = TunRequest { name, flags, rest: [0; 22] };
            // SAFETY: the request has the size of the kernel's structure and outlives the call.
            unsafe { tun_set_iff(file.as_raw_fd(), &raw const request) }.unwrap();
            for words in [format!("addr add 10.9.{index}.1/24 dev t{index}"), format!("link set t{index} up")] {
                assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success());
            }
            OwnedFd::from(file)
        };
        ((0..count).map(tap).collect(), File::open("/proc/thread-self/ns/net").unwrap())
    };
    std::thread::spawn(make).join().unwrap()
}

async fn carries_frames(spec: VmSpec, count: u8) {
    let place = Place::new();
    let (taps, _namespace) = taps(count);
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
