//! A guest without a VM: it holds the descriptor of a port and speaks ARP and ICMP echo in raw Ethernet frames.

use std::{
    fs::File,
    io::{ErrorKind, Read, Write},
    net::Ipv4Addr,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use fleet_net::{Mac, Network};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{ip, mac, port_id};

/// Longest wait for something that must come. Far more than it takes; a test that waits it out has failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// A request is sent again after this time: the kernel brings a port up some time after its descriptor was opened.
const AGAIN: Duration = Duration::from_millis(100);

pub const BROADCAST: Mac = [0xff; 6];
const IPV4: [u8; 2] = [0x08, 0x00];
const ARP: [u8; 2] = [0x08, 0x06];
/// An EtherType for experiments (IEEE 802): nobody answers it.
const EXPERIMENT: [u8; 2] = [0x88, 0xb5];
const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;

pub struct Guest {
    port: File,
    pub mac: Mac,
    pub ip: Ipv4Addr,
}

impl Guest {
    /// Plugs host `host` of `lan<lan>` in and waits until its port carries frames.
    pub async fn plug(network: &Network, lan: u8, host: u16) -> Self {
        let port = network.open_tap(&port_id(lan, host)).await.unwrap();
        let mut guest = Self { port: port.into(), mac: mac(lan, host), ip: ip(lan, host) };
        // The bridge answers for every address that it knows, the guest's own included.
        assert_eq!(guest.resolve(guest.ip), Some(guest.mac));
        guest
    }

    pub fn send(&mut self, frame: &[u8]) {
        self.port.write_all(frame).unwrap();
    }

    /// The next frame, or `None` when none comes in time.
    pub fn receive(&mut self, wait: Duration) -> Option<Vec<u8>> {
        let end = Instant::now() + wait;
        let mut frame = vec![0; 2048];
        loop {
            match self.port.read(&mut frame) {
                Ok(length) => {
                    frame.truncate(length);
                    return Some(frame);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("cannot read the port: {error}"),
            }
            let left = end.checked_duration_since(Instant::now())?;
            let mut ready = [PollFd::new(self.port.as_fd(), PollFlags::POLLIN)];
            poll(&mut ready, PollTimeout::try_from(left).unwrap()).unwrap();
        }
    }

    /// Frames until one satisfies `wanted`.
    fn receive_until<T>(&mut self, wait: Duration, mut wanted: impl FnMut(&[u8]) -> Option<T>) -> Option<T> {
        let end = Instant::now() + wait;
        loop {
            let frame = self.receive(end.checked_duration_since(Instant::now())?)?;
            if let Some(found) = wanted(&frame) {
                return Some(found);
            }
        }
    }

    /// Asks who has `target` until somebody answers.
    pub fn resolve(&mut self, target: Ipv4Addr) -> Option<Mac> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            self.send(&self.arp_request(target));
            let answer = self.receive_until(AGAIN, |frame| {
                let is_answer = frame.len() >= 42 && frame[12..14] == ARP && frame[21] == 2;
                (is_answer && frame[28..32] == target.octets()).then(|| frame[22..28].try_into().unwrap())
            });
            if answer.is_some() {
                return answer;
            }
        }
        None
    }

    pub fn arp_request(&self, target: Ipv4Addr) -> Vec<u8> {
        let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
        arp.extend(self.mac);
        arp.extend(self.ip.octets());
        arp.extend([0; 6]);
        arp.extend(target.octets());
        ethernet(BROADCAST, self.mac, ARP, &arp)
    }

    /// An echo request to `to` through the station `next_hop`.
    pub fn echo_request(&self, next_hop: Mac, to: Ipv4Addr, sequence: u16) -> Vec<u8> {
        ethernet(next_hop, self.mac, IPV4, &icmp(self.ip, to, ECHO_REQUEST, sequence))
    }

    /// Waits for an echo request to this guest and answers it.
    pub fn answer_echo(&mut self) {
        let own = self.ip;
        let request = self.receive_until(PATIENCE, |frame| Echo::parse(frame, ECHO_REQUEST).filter(|e| e.to == own));
        let request = request.expect("no echo request came");
        let reply = icmp(self.ip, request.from, ECHO_REPLY, request.sequence);
        self.send(&ethernet(request.sender, self.mac, IPV4, &reply));
    }

    /// Waits for the answer to an echo request; gives its time to live.
    pub fn await_echo(&mut self, from: Ipv4Addr, sequence: u16) -> u8 {
        let own = self.ip;
        let matching = |e: &Echo| e.to == own && e.from == from && e.sequence == sequence;
        let reply = self.receive_until(PATIENCE, |frame| Echo::parse(frame, ECHO_REPLY).filter(matching));
        reply.expect("no echo reply came").ttl
    }

    /// A frame to everybody that nobody answers; it tells the end of what a bystander has to look through.
    pub fn marker(&self, number: u8) -> Vec<u8> {
        ethernet(BROADCAST, self.mac, EXPERIMENT, &[number; 46])
    }

    /// All frames up to the marker of the guest `from`. Frames of one sender arrive in their order, so that what comes
    /// before its marker is all that its earlier frames have brought here.
    pub fn frames_until_marker(&mut self, from: &Guest, number: u8) -> Vec<Vec<u8>> {
        let marker = from.marker(number);
        let mut frames = Vec::new();
        let found = self.receive_until(PATIENCE, |frame| {
            if frame == marker {
                return Some(());
            }
            frames.push(frame.to_vec());
            None
        });
        found.expect("the marker did not come");
        frames
    }
}

/// A ping from `a` to `b`, through `next_hop`; gives the reply's time to live.
pub fn ping(a: &mut Guest, b: &mut Guest, next_hop: Ipv4Addr, sequence: u16) -> u8 {
    let next_hop = a.resolve(next_hop).expect("the next hop was not found");
    a.send(&a.echo_request(next_hop, b.ip, sequence));
    b.answer_echo();
    a.await_echo(b.ip, sequence)
}

pub fn ethernet(to: Mac, from: Mac, kind: [u8; 2], payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(14 + payload.len());
    frame.extend(to);
    frame.extend(from);
    frame.extend(kind);
    frame.extend(payload);
    frame
}

/// A frame of no protocol, as long as the shortest that a cable carries.
pub fn experiment_frame(to: Mac, from: Mac) -> Vec<u8> {
    ethernet(to, from, EXPERIMENT, &[0; 46])
}

struct Echo {
    sender: Mac,
    from: Ipv4Addr,
    to: Ipv4Addr,
    ttl: u8,
    sequence: u16,
}

impl Echo {
    fn parse(frame: &[u8], kind: u8) -> Option<Self> {
        let is_echo = frame.len() >= 42 && frame[12..14] == IPV4 && frame[23] == 1 && frame[34] == kind;
        let address = |at: usize| Ipv4Addr::new(frame[at], frame[at + 1], frame[at + 2], frame[at + 3]);
        is_echo.then(|| Self {
            sender: frame[6..12].try_into().unwrap(),
            from: address(26),
            to: address(30),
            ttl: frame[22],
            sequence: u16::from_be_bytes([frame[40], frame[41]]),
        })
    }
}

fn icmp(from: Ipv4Addr, to: Ipv4Addr, kind: u8, sequence: u16) -> Vec<u8> {
    let [high, low] = sequence.to_be_bytes();
    let mut echo = vec![kind, 0, 0, 0, 0, 1, high, low];
    set_checksum(&mut echo, 2);
    let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 1, 0, 0];
    packet.extend(from.octets());
    packet.extend(to.octets());
    set_checksum(&mut packet, 10);
    packet.extend(echo);
    packet
}

/// The Internet checksum (RFC 1071) of `data`, written at `at`.
fn set_checksum(data: &mut [u8], at: usize) {
    let mut sum: u32 = data.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    data[at..at + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}
