//! Bytes of TCP connections of this process, as the kernel counts them: what TLS adds is in them, headers of TCP and IP
//! are not.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::os::fd::RawFd;

use nix::sys::socket::{SockaddrStorage, getpeername};

/// Places in `struct tcp_info` of linux/tcp.h, which only ever grows: `tcpi_bytes_acked`, `tcpi_bytes_received`.
const ACKED: usize = 120;
const RECEIVED: usize = 128;

/// Bytes that went out and came in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bytes {
    pub out: u64,
    pub incoming: u64,
}

/// Descriptors of connections that this process made to one of these addresses.
pub fn to(addresses: &HashSet<SocketAddr>) -> Vec<RawFd> {
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let fds = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
    fds.filter(|fd| {
        let peer = getpeername::<SockaddrStorage>(*fd).ok();
        let peer = peer.and_then(|peer| Some(SocketAddr::from(std::net::SocketAddrV4::from(*peer.as_sockaddr_in()?))));
        peer.is_some_and(|peer| addresses.contains(&peer))
    })
    .collect()
}

/// What these have carried so far.
pub fn carried(fds: &[RawFd]) -> Bytes {
    fds.iter()
        .map(|fd| info(*fd))
        .fold(Bytes::default(), |sum, one| Bytes { out: sum.out + one.out, incoming: sum.incoming + one.incoming })
}

fn info(fd: RawFd) -> Bytes {
    let mut buffer = [0_u8; 256];
    let mut length = buffer.len() as libc::socklen_t;
    // SAFETY: the buffer lives through the call and is as long as it is told; the kernel writes no more than that.
    let result =
        unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, buffer.as_mut_ptr().cast(), &raw mut length) };
    let value =
        |at: usize| buffer.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_ne_bytes);
    if result == 0 { Bytes { out: value(ACKED), incoming: value(RECEIVED) } } else { Bytes::default() }
}
