//! The kernel's device events, over netlink: a hint that something changed, no more.
//!
//! With udev the events come from its group, after it has set names and permissions; without, from the kernel's own group.
//! What an event says is not used, only that it is of USB: state is read from sysfs. So events that were lost
//! (`ENOBUFS`), merged or forged make one look more at most, and a burst of them makes one look.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket, sockopt,
};
use tokio::io::unix::AsyncFd;

use crate::error::UsbError;

/// The kernel's group.
const KERNEL: u32 = 1;
/// Udev's, with messages of its own kind.
const UDEV: u32 = 2;
/// There is a udev when it can be controlled.
const UDEV_CONTROL: &str = "/run/udev/control";
/// Bytes of one message; longer ones are cut, which does no harm here.
const MESSAGE: usize = 16 * 1024;
/// Messages that are taken at once.
const BURST: usize = 4096;
/// The kernel's buffer for a burst, in bytes: a hub with many devices makes dozens of events.
const BUFFER: usize = 1 << 20;

/// An open subscription.
#[derive(Debug)]
pub struct Events {
    socket: AsyncFd<OwnedFd>,
}

impl Events {
    /// Subscribes: to udev's events when there is a udev, else to the kernel's. To be called within a tokio runtime, and
    /// before the first look, so that nothing falls between.
    ///
    /// # Errors
    /// When the socket cannot be had.
    pub fn listen() -> Result<Self, UsbError> {
        Self::of_group(if Path::new(UDEV_CONTROL).exists() { UDEV } else { KERNEL })
    }

    fn of_group(group: u32) -> Result<Self, UsbError> {
        let failed = |source: std::io::Error| UsbError::Listen { group, source };
        let open = || -> nix::Result<OwnedFd> {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkKObjectUEvent)?;
            setsockopt(&socket, sockopt::RcvBuf, &BUFFER)?;
            bind(socket.as_raw_fd(), &NetlinkAddr::new(0, group))?;
            Ok(socket)
        };
        let socket = open().map_err(|errno| failed(errno.into()))?;
        // SAFETY: the descriptor is owned by the AsyncFd, which keeps it open until it has left the reactor.
        let socket = unsafe { AsyncFd::register(socket) };
        Ok(Self { socket: socket.map_err(|error| failed(error.into()))? })
    }

    /// Waits for the next event of USB, and takes all that came with it. Can be dropped at any time.
    ///
    /// # Errors
    /// When the socket fails; it is of no more use then.
    pub async fn changed(&mut self) -> Result<(), UsbError> {
        let failed = |source| UsbError::Listen { group: 0, source };
        loop {
            let mut ready = self.socket.readable().await.map_err(failed)?;
            let (concerned, empty) = drain(ready.get_inner()).map_err(|errno| failed(errno.into()))?;
            if empty {
                ready.clear_ready();
            }
            if concerned {
                return Ok(());
            }
        }
    }
}

/// Takes what is there: whether something of it is of USB, and whether nothing is left. Bounded, so that a storm of
/// events cannot hold the caller.
fn drain(socket: &OwnedFd) -> nix::Result<(bool, bool)> {
    let mut message = [0; MESSAGE];
    let mut concerned = false;
    for _ in 0..BURST {
        match recv(socket.as_raw_fd(), &mut message, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => concerned |= is_of_usb(message.get(..length).unwrap_or(&message)),
            Err(Errno::EAGAIN) => return Ok((concerned, true)),
            Err(Errno::ENOBUFS) => concerned = true,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok((concerned, false))
}

/// Whether a message is of a USB device or of what a driver made of one. Both kinds of messages have `KEY=value` with zero
/// bytes between; the path of all of them leads over a root hub, `…/usb1/…`.
fn is_of_usb(message: &[u8]) -> bool {
    message.split(|byte| *byte == 0).any(|field| {
        let path = field.strip_prefix(b"DEVPATH=");
        path.is_some_and(|path| path.windows(4).any(|part| part == b"/usb"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_usb_devices_and_of_their_drivers_count_and_others_do_not() {
        let plugged = b"add@/devices/pci0000:00/0000:00:14.0/usb1/1-1\0ACTION=add\0DEVPATH=/devices/pci0000:00/0000:00:14.0/usb1/1-1\0SUBSYSTEM=usb\0";
        let disk = b"libudev\0\xfe\xed\xca\xfeACTION=add\0SUBSYSTEM=block\0DEVPATH=/devices/x/usb1/1-1/1-1:1.0/host0/block/sda\0";
        let other = b"add@/devices/virtual/net/usb\0ACTION=add\0DEVPATH=/devices/virtual/net/tap0\0";
        assert!(is_of_usb(plugged));
        assert!(is_of_usb(disk));
        assert!(!is_of_usb(other));
        assert!(!is_of_usb(b""));
        assert!(!is_of_usb(b"DEVPATH="));
    }

    /// A network interface makes device events of the same kind, only in its own network namespace; its path is taken for
    /// one of USB by its name.
    #[test]
    fn a_real_event_of_the_kernel_wakes_the_one_who_waits() {
        // A namespace is a thread's own in Linux.
        if let Err(errno) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET) {
            eprintln!("not tested: no network namespace for this user ({errno})");
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut events = Events::of_group(KERNEL).expect("a socket");
            let add = ["link", "add", "usb0", "type", "veth", "peer", "name", "usb1"];
            let added = std::process::Command::new("ip").args(add).status().expect("ip");
            assert!(added.success());
            let woken = tokio::time::timeout(std::time::Duration::from_secs(60), events.changed()).await;
            woken.expect("an event").expect("a socket that works");
        });
    }
}
