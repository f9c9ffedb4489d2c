//! Probes: echo requests to many targets at once, without ever blocking the event loop.
//!
//! One raw socket serves all probes; it is open only while one runs, for it would get a copy of every ICMP message.
//! A probe goes in rounds: in each, whoever has not answered gets a request, and the round lasts as long as one answer
//! may take. An answer to an earlier round counts too.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use fleet_wire::{ProbeTarget, ToAgent};
use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recvfrom, sendto, setsockopt,
            socket,
            sockopt::{RcvBufForce, SndBufForce},
        },
        time::TimeSpec,
    },
    time::{ClockId, clock_gettime},
};

use crate::{
    events::{Events, Source},
    icmp::Echo,
    settings::random_u64,
};

/// Most targets of one probe, as the protocol promises.
const MAX_TARGETS: usize = 1024;
/// Most probes at once.
const MAX_PROBES: usize = 16;
/// Most tries for a target.
const MAX_ATTEMPTS: u32 = 1000;
/// Longest wait for one answer, ms.
const MAX_TIMEOUT_MS: u32 = 600_000;
/// Room for requests to targets that do not answer ARP: each waits in the socket's buffer, some 768 bytes; bytes.
const SOCKET_BUFFER: usize = 2 << 20;
/// Option of raw ICMP sockets: a mask of message types to leave out (linux/icmp.h).
const ICMP_FILTER: i32 = 1;

/// All probes that run.
#[derive(Default)]
pub struct Prober {
    socket: Option<OwnedFd>,
    probes: Vec<Probe>,
}

struct Probe {
    nonce: u64,
    token: u64,
    targets: Vec<Ipv4Addr>,
    rtt_us: Vec<Option<u32>>,
    open: usize,
    round: u32,
    attempts: u32,
    timeout_ns: u64,
    /// Target whose request of this round is next; `targets.len()` when all are sent.
    next: usize,
    round_ends_ns: u64,
    any_sent: bool,
    send_error: Option<Errno>,
}

impl Prober {
    /// Starts a probe.
    ///
    /// # Errors
    /// The answer, when it cannot even start.
    pub fn start(
        &mut self,
        events: &Events,
        nonce: u64,
        targets: Vec<ProbeTarget>,
        timeout_ms: u32,
        attempts: u32,
    ) -> Result<(), ToAgent> {
        let failed =
            |error: String| ToAgent::Probed { nonce, rtt_us: vec![None; targets.len().min(MAX_TARGETS)], error };
        if targets.len() > MAX_TARGETS {
            return Err(failed(format!("more than {MAX_TARGETS} targets in one probe")));
        }
        if self.probes.len() >= MAX_PROBES {
            return Err(failed(format!("more than {MAX_PROBES} probes at once in this guest")));
        }
        if self.socket.is_none() {
            let opened = open_socket().and_then(|socket| events.watch(&socket, Source::Probe).map(|()| socket));
            self.socket = Some(opened.map_err(|errno| failed(format!("opening an ICMP socket: {errno}")))?);
        }
        let targets: Vec<Ipv4Addr> = targets.iter().map(|target| target.ip).collect();
        let mut probe = Probe {
            nonce,
            token: random_u64(),
            rtt_us: vec![None; targets.len()],
            open: targets.len(),
            targets,
            round: 0,
            attempts: attempts.clamp(1, MAX_ATTEMPTS),
            timeout_ns: u64::from(timeout_ms.clamp(1, MAX_TIMEOUT_MS)) * 1_000_000,
            next: 0,
            round_ends_ns: 0,
            any_sent: false,
            send_error: None,
        };
        probe.start_round();
        self.probes.push(probe);
        Ok(())
    }

    /// Ends all probes without answers.
    pub fn clear(&mut self) {
        self.probes.clear();
        self.socket = None;
    }

    /// The socket has replies, or room for requests.
    pub fn on_socket(&mut self) {
        let Some(socket) = &self.socket else { return };
        let mut buffer = [0; 256];
        loop {
            match recvfrom::<SockaddrIn>(socket.as_raw_fd(), &mut buffer) {
                Ok((length, Some(sender))) => {
                    if let Some(echo) = Echo::from_reply(&buffer[..length]) {
                        self.probes.iter_mut().for_each(|probe| probe.take(sender.ip(), echo));
                    }
                }
                Ok((_, None)) | Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }

    /// Sends what is due; gives the answers of the probes that are done.
    pub fn advance(&mut self) -> Vec<ToAgent> {
        let mut answers = Vec::new();
        let Some(socket) = &self.socket else { return answers };
        self.probes.retain_mut(|probe| {
            probe.advance(socket);
            let done = probe.is_done();
            if done {
                answers.push(probe.answer());
            }
            !done
        });
        if self.probes.is_empty() {
            self.socket = None;
        }
        answers
    }

    /// When [`Self::advance`] is to be called at the latest, in ms from now.
    pub fn timeout_ms(&self) -> Option<u32> {
        let end = self.probes.iter().map(|probe| probe.round_ends_ns).min()?;
        let left_ms = end.saturating_sub(now_ns()).div_ceil(1_000_000);
        Some(u32::try_from(left_ms).unwrap_or(u32::MAX))
    }
}

impl Probe {
    fn start_round(&mut self) {
        self.next = 0;
        self.round += 1;
        self.round_ends_ns = now_ns() + self.timeout_ns;
    }

    fn advance(&mut self, socket: &OwnedFd) {
        if self.open > 0 && self.round < self.attempts && now_ns() >= self.round_ends_ns {
            self.start_round();
        }
        while let Some(ip) = self.targets.get(self.next) {
            if self.rtt_us[self.next].is_none() {
                let echo = Echo {
                    id: (self.token >> 48) as u16,
                    sequence: (self.round - 1) as u16,
                    token: self.token,
                    index: self.next as u32,
                    sent_ns: now_ns(),
                };
                let address = SockaddrIn::from(SocketAddrV4::new(*ip, 0));
                match sendto(socket.as_raw_fd(), &echo.request(), &address, MsgFlags::empty()) {
                    Ok(_) => self.any_sent = true,
                    Err(Errno::EINTR) => continue,
                    Err(Errno::EAGAIN) => return, // an event says when there is room
                    // No way there is an answer about the target, not a failure to ask.
                    Err(Errno::ENETUNREACH | Errno::EHOSTUNREACH) => self.any_sent = true,
                    Err(errno) => self.send_error = Some(errno), // this try failed; another may not
                }
            }
            self.next += 1;
        }
    }

    fn take(&mut self, sender: Ipv4Addr, echo: Echo) {
        let index = echo.index as usize;
        if echo.token == self.token && self.targets.get(index) == Some(&sender) && self.rtt_us[index].is_none() {
            let rtt = now_ns().saturating_sub(echo.sent_ns) / 1000;
            self.rtt_us[index] = Some(u32::try_from(rtt).unwrap_or(u32::MAX));
            self.open -= 1;
        }
    }

    fn is_done(&self) -> bool {
        self.open == 0 || (self.round >= self.attempts && now_ns() >= self.round_ends_ns)
    }

    fn answer(&mut self) -> ToAgent {
        let error = match self.send_error {
            Some(errno) if !self.any_sent => format!("no echo request could be sent: {errno}"),
            _ => String::new(),
        };
        ToAgent::Probed { nonce: self.nonce, rtt_us: std::mem::take(&mut self.rtt_us), error }
    }
}

fn open_socket() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Icmp)?;
    let others: u32 = !1; // all types but 0, echo reply
    // SAFETY: the option takes a u32, which lives until the call returns.
    let result = unsafe {
        let length = size_of::<u32>() as libc::socklen_t;
        libc::setsockopt(socket.as_fd().as_raw_fd(), libc::SOL_RAW, ICMP_FILTER, (&raw const others).cast(), length)
    };
    Errno::result(result)?;
    setsockopt(&socket, SndBufForce, &SOCKET_BUFFER)?;
    setsockopt(&socket, RcvBufForce, &SOCKET_BUFFER)?;
    Ok(socket)
}

/// The monotonic clock in ns; 0 if there were none.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap_or(TimeSpec::new(0, 0));
    u64::try_from(now.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec()).unwrap_or(0)
}
