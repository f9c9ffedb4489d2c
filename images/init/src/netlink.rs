//! The little of rtnetlink that the init needs (linux/netlink.h, linux/rtnetlink.h).
//!
//! The crates for netlink understand every attribute of every kind of link; that is more code than the rest of this
//! program, and it would be in the memory of every guest.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        socket::{
            AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
            socket, sockopt::ReceiveTimeout,
        },
        time::TimeVal,
    },
};

const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x001;
const NLM_F_ACK: u16 = 0x004;
const NLM_F_DUMP: u16 = 0x300;
/// Create, and fail if it is there.
pub const CREATE: u16 = 0x600;
/// Kernel's answers fit: it makes them as long as the receiver's buffer, 32 KiB at most.
const BUFFER: usize = 32 * 1024;
/// The kernel answers at once; more is a fault.
const DEADLINE_S: i64 = 5;

/// A request: message type, flags, the type's fixed part, attributes.
pub struct Request(Vec<u8>);

impl Request {
    /// Starts one.
    pub fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        bytes.extend_from_slice(fixed);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        Self(bytes)
    }

    /// Adds an attribute.
    #[must_use]
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX); // names, addresses, numbers: short
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn finish(mut self, sequence: u32, flags: u16) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        let flags = flags | u16::from_ne_bytes([self.0[6], self.0[7]]);
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

/// A socket to the kernel's routing tables.
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// Opens it.
    pub fn open() -> Result<Self, Errno> {
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::new(DEADLINE_S, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Changes something.
    pub fn change(&mut self, request: Request) -> Result<(), Errno> {
        self.talk(request, NLM_F_ACK, &mut |_| {})
    }

    /// Asks for all objects of a kind; gives each one's fixed part and attributes.
    pub fn dump(&mut self, request: Request, each: &mut dyn FnMut(&[u8])) -> Result<(), Errno> {
        self.talk(request, NLM_F_DUMP, each)
    }

    fn talk(&mut self, request: Request, flags: u16, each: &mut dyn FnMut(&[u8])) -> Result<(), Errno> {
        self.sequence += 1;
        send(self.socket.as_raw_fd(), &request.finish(self.sequence, flags), MsgFlags::empty())?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => return Err(Errno::ETIMEDOUT),
                length => length?,
            };
            for message in messages(&buffer[..length]).filter(|message| message.sequence == self.sequence) {
                match message.kind {
                    NLMSG_ERROR => {
                        let code = message.body.first_chunk::<4>().map_or(0, |code| i32::from_ne_bytes(*code));
                        return if code == 0 { Ok(()) } else { Err(Errno::from_raw(-code)) };
                    }
                    NLMSG_DONE => return Ok(()),
                    _ => each(message.body),
                }
            }
        }
    }
}

struct Message<'a> {
    kind: u16,
    sequence: u32,
    body: &'a [u8],
}

/// The messages in what one receive gave.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let (header, body) = bytes.get(..length)?.split_at_checked(HEADER)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message {
            kind: u16::from_ne_bytes(header[4..6].try_into().ok()?),
            sequence: u32::from_ne_bytes(header[8..12].try_into().ok()?),
            body,
        })
    })
}

/// The attributes behind a fixed part: kind and value.
pub fn attributes(body: &[u8], fixed: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut bytes = body.get(fixed.next_multiple_of(4)..).unwrap_or_default();
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let (header, value) = bytes.get(..length)?.split_at_checked(4)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([header[2], header[3]]) & 0x3fff, value)) // without the flags "nested", "byte order"
    })
}

/// The kernel's news about devices.
pub struct Uevents(OwnedFd);

impl Uevents {
    /// Listens from now on.
    pub fn open() -> Result<Self, Errno> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Netlink, SockType::Datagram, flags, SockProtocol::NetlinkKObjectUEvent)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 1))?;
        Ok(Self(socket))
    }

    /// Waits for news, and takes all there is.
    pub fn wait(&self, timeout: PollTimeout) {
        let _timed_out = poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], timeout);
        while recv(self.0.as_raw_fd(), &mut [0; 4096], MsgFlags::empty()).is_ok() {}
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let request = Request::new(16, CREATE, &[1, 2, 3]).attribute(3, b"eth0\0").attribute(0x8004, &[9; 4]);
        let bytes = request.finish(7, NLM_F_ACK);
        let message = messages(&bytes).next().unwrap();
        assert_eq!((message.kind, message.sequence), (16, 7));
        let found: Vec<_> = attributes(message.body, 3).collect();
        assert_eq!(found, vec![(3, b"eth0\0".as_slice()), (4, [9; 4].as_slice())]);
    }

    #[test]
    fn damaged_messages_end_the_reading() {
        let whole = Request::new(16, 0, &[0; 16]).attribute(3, b"eth0").finish(1, 0);
        for end in 0..whole.len() {
            assert_eq!(messages(&whole[..end]).count(), 0, "cut at {end}");
        }
        for length in 0_u16..4 {
            assert_eq!(attributes(&length.to_ne_bytes(), 0).count(), 0);
        }
        assert_eq!(attributes(&[0, 0, 0, 0], 0).count(), 0);
    }

    #[test]
    fn the_kernel_gives_its_links() {
        let mut names = Vec::new();
        let request = Request::new(18, 0, &[0; 16]); // RTM_GETLINK
        Netlink::open()
            .unwrap()
            .dump(request, &mut |body| {
                names.extend(attributes(body, 16).filter(|(kind, _)| *kind == 3).map(|(_, value)| value.to_vec()))
            })
            .unwrap();
        assert!(names.contains(&b"lo\0".to_vec()), "{names:?}");
    }

    #[test]
    fn a_refusal_of_the_kernel_is_its_errno() {
        let no_link = Request::new(19, 0, &[0; 16]).attribute(3, b"no-such-link\0"); // RTM_SETLINK
        assert_eq!(Netlink::open().unwrap().change(no_link), Err(Errno::ENODEV));
    }
}
