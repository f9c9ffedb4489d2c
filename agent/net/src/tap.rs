//! Taps: the only device of ours that rtnetlink cannot make (`drivers/net/tun.c` has no `newlink`), so ioctls do.
//!
//! A tap is made *persistent*: it stays without a process, so that the plan's ports, addresses and guards stand before
//! the first VM starts and outlive every one. A VM gets a file descriptor that is attached to it.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
};

use nix::errno::Errno;

const TUN_DEVICE: &str = "/dev/net/tun";

mod ioctl {
    // From linux/if_tun.h.
    nix::ioctl_write_ptr_bad!(set_iff, nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()), libc::ifreq);
    nix::ioctl_write_int_bad!(set_persist, nix::request_code_write!(b'T', 203, size_of::<libc::c_int>()));
    nix::ioctl_read_bad!(get_iff, nix::request_code_read!(b'T', 210, size_of::<libc::c_uint>()), libc::ifreq);
}

/// `IFF_PERSIST` of linux/if_tun.h: the tap stays when its last descriptor is closed.
const IFF_PERSIST: libc::c_short = 0x0800;

/// Makes the persistent tap `name` in the calling thread's namespace.
pub(crate) fn make(name: &str) -> io::Result<()> {
    let file = attach_or_make(name)?;
    // SAFETY: the descriptor is an open tun file and the request takes an int by value.
    unsafe { ioctl::set_persist(file.as_raw_fd(), 1) }?;
    Ok(())
}

/// Attaches to the persistent tap `name` in the calling thread's namespace. `None` when there is no such tap.
pub(crate) fn attach(name: &str) -> io::Result<Option<OwnedFd>> {
    let file = attach_or_make(name)?;
    let mut request = request(name);
    // SAFETY: the descriptor is an open tun file and `request` is a whole ifreq that the kernel fills.
    unsafe { ioctl::get_iff(file.as_raw_fd(), &mut request) }?;
    // SAFETY: TUNGETIFF fills the flags of the union.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    // Where there was no tap, the kernel has just made a passing one; it goes when `file` is closed.
    Ok((flags & IFF_PERSIST != 0).then(|| file.into()))
}

/// Attaches to the tap `name`, which the kernel makes if it is not there.
fn attach_or_make(name: &str) -> io::Result<File> {
    // Rust opens with O_CLOEXEC; both hypervisors read without blocking.
    let file =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(TUN_DEVICE).map_err(|error| {
            match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
                    io::Error::other(format!("{TUN_DEVICE}: {error}; the kernel's tun driver is missing: modprobe tun"))
                }
                _ => error,
            }
        })?;
    let request = request(name);
    // SAFETY: the descriptor is an open tun file and `request` is a whole ifreq that lives through the call.
    unsafe { ioctl::set_iff(file.as_raw_fd(), &request) }?;
    Ok(file)
}

/// Whether an error of [`attach`] says that another process holds the tap.
pub(crate) fn is_busy(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::EBUSY as i32)
}

fn request(name: &str) -> libc::ifreq {
    // SAFETY: ifreq is plain data for which all zeroes are a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The closing zero stays: names of ours are shorter than the field.
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    request
}
