//! Taps in network namespaces of their own, as descriptors.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;

use nix::sched::{CloneFlags, unshare};

/// `TUNSETIFF` with a name and flags, as in `linux/if_tun.h` and `linux/if.h`.
#[repr(C)]
struct TunRequest {
    name: [u8; 16],
    flags: libc::c_short,
    rest: [u8; 22],
}

nix::ioctl_write_ptr_bad!(tun_set_iff, 0x4004_54ca, TunRequest);

fn ip(words: &str) {
    assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success(), "ip {words}");
}

fn tap(index: usize) -> OwnedFd {
    let file = File::options().read(true).write(true).open("/dev/net/tun").unwrap();
    let mut name = [0; 16];
    let text = format!("t{index}");
    name[..text.len()].copy_from_slice(text.as_bytes());
    let flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    let request = TunRequest { name, flags, rest: [0; 22] };
    // SAFETY: the request has the size of the kernel's structure and outlives the call.
    unsafe { tun_set_iff(file.as_raw_fd(), &raw const request) }.unwrap();
    OwnedFd::from(file)
}

/// Runs in a namespace of its own, which lives as long as what was made in it, and as the file that is given with it.
fn in_namespace(make: impl FnOnce() -> Vec<OwnedFd> + Send + 'static) -> (Vec<OwnedFd>, File) {
    let inside = move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        (make(), File::open("/proc/thread-self/ns/net").unwrap())
    };
    std::thread::spawn(inside).join().unwrap()
}

/// Taps t0, t1, … with 10.9.<index>.1/24.
pub fn taps(count: usize) -> (Vec<OwnedFd>, File) {
    in_namespace(move || {
        let make = |index| {
            let fd = tap(index);
            ip(&format!("addr add 10.9.{index}.1/24 dev t{index}"));
            ip(&format!("link set t{index} up"));
            fd
        };
        (0..count).map(make).collect()
    })
}

/// Taps on one bridge, which has 10.9.0.1/24. Frames of `mtu` bytes pass.
pub fn bridge(count: usize, mtu: u16) -> (Vec<OwnedFd>, File) {
    in_namespace(move || {
        ip("link add br0 type bridge");
        let make = |index| {
            let fd = tap(index);
            ip(&format!("link set t{index} mtu {mtu} master br0 up"));
            fd
        };
        let taps = (0..count).map(make).collect();
        ip("addr add 10.9.0.1/24 dev br0");
        ip("link set br0 up");
        taps
    })
}
