//! Echo requests to all VMs from the host's side of their network: from within a network namespace.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recvfrom, sendto, setsockopt, socket,
    sockopt,
};

/// Between the first two requests to a guest that has not answered. It doubles each time: a thousand emulated guests that
/// are asked faster than they can answer never would.
const AGAIN: Duration = Duration::from_millis(500);

/// After this a guest is one that does not answer.
const PATIENCE: Duration = Duration::from_secs(120);

/// ICMP types (RFC 792).
const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;

/// How the guests answered.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answers {
    /// Seconds until the first answer.
    pub first: f64,
    /// Seconds until the last one.
    pub last: f64,
    /// Guests that did not answer at all.
    pub missing: usize,
}

/// Asks all of them, from a thread of its own in this namespace, until each has answered once.
///
/// # Errors
/// When the namespace cannot be entered or no request can be sent.
pub fn all(namespace: &Path, guests: &[Ipv4Addr]) -> Result<Answers> {
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let file = File::open(namespace).with_context(|| format!("no namespace {}", namespace.display()))?;
            setns(file, CloneFlags::CLONE_NEWNET)?;
            ask(guests)
        });
        asking.join().unwrap_or_else(|_| anyhow::bail!("the thread that asks the guests panicked"))
    })
}

fn ask(guests: &[Ipv4Addr]) -> Result<Answers> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket: OwnedFd = socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Icmp)?;
    setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20))?;
    let begin = Instant::now();
    let mut left: HashSet<Ipv4Addr> = guests.iter().copied().collect();
    let mut answers = Answers::default();
    let (mut next, mut again) = (begin, AGAIN);
    while !left.is_empty() && begin.elapsed() < PATIENCE {
        if Instant::now() >= next {
            for guest in &left {
                request(&socket, *guest)?;
            }
            next = Instant::now() + again;
            again *= 2;
        }
        let wait = PollTimeout::try_from(next.saturating_duration_since(Instant::now())).unwrap_or(PollTimeout::ZERO);
        poll(&mut [PollFd::new(std::os::fd::AsFd::as_fd(&socket), PollFlags::POLLIN)], wait)?;
        while let Some(guest) = answer(&socket)? {
            if left.remove(&guest) {
                answers.last = begin.elapsed().as_secs_f64();
                if left.len() + 1 == guests.len() {
                    answers.first = answers.last;
                }
            }
        }
    }
    ensure!(left.len() < guests.len() || guests.is_empty(), "no guest answered");
    answers.missing = left.len();
    Ok(answers)
}

fn request(socket: &OwnedFd, guest: Ipv4Addr) -> Result<()> {
    // Type, code, checksum, identifier 7, sequence 1: the checksum is the complement of the sum of the other words.
    let sum = !(u16::from(ECHO_REQUEST) * 256 + 7 + 1);
    let mut packet = [ECHO_REQUEST, 0, 0, 0, 0, 7, 0, 1];
    packet[2..4].copy_from_slice(&sum.to_be_bytes());
    let [a, b, c, d] = guest.octets();
    match sendto(socket.as_raw_fd(), &packet, &SockaddrIn::new(a, b, c, d, 0), MsgFlags::empty()) {
        // The buffer is full, or the neighbour is not known yet: it is asked again.
        Ok(_) | Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::ENOBUFS | nix::errno::Errno::EHOSTUNREACH) => Ok(()),
        Err(errno) => Err(io::Error::from(errno)).context("cannot send an echo request"),
    }
}

/// Who sent the next answer that waits.
fn answer(socket: &OwnedFd) -> Result<Option<Ipv4Addr>> {
    let mut packet = [0; 256];
    loop {
        let (length, from) = match recvfrom::<SockaddrIn>(socket.as_raw_fd(), &mut packet) {
            Ok(received) => received,
            Err(nix::errno::Errno::EAGAIN) => return Ok(None),
            Err(errno) => return Err(io::Error::from(errno)).context("cannot receive"),
        };
        // A raw socket gives the IP header too; its length is in its first byte (RFC 791).
        let header = usize::from(packet[0] & 0x0f) * 4;
        if header < length && packet.get(header) == Some(&ECHO_REPLY) {
            return Ok(from.map(|from| from.ip()));
        }
    }
}
