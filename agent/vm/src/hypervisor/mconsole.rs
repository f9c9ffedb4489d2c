//! UML's management console: a datagram socket that takes one command in a packet and answers in packets.
//!
//! Layout as in `arch/um/drivers/mconsole.h` of Linux, in the host's byte order: a request is magic, version, length
//! and text; a reply is an error flag, a flag that more packets follow, length and text.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram as StdDatagram;
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, socket};
use tokio::net::UnixDatagram;
use tokio::time::timeout;

use crate::error::VmError;

const MAGIC: u32 = 0xcafe_babe;
const VERSION: u32 = 2;
/// Room for the text of a packet.
const MAX_DATA: usize = 512;
const REPLY_HEADER: usize = 12;

/// Sends one command and gives the text of its answer.
///
/// # Errors
/// When nobody answers within the deadline, or the answer is an error.
pub(super) async fn request(path: &Path, command: &str, deadline: Duration) -> Result<String, VmError> {
    let refused =
        |problem: String| VmError::Monitor { vm: path.display().to_string(), command: command.to_owned(), problem };
    timeout(deadline, exchange(path, command))
        .await
        .map_err(|_| VmError::Deadline { doing: format!("\"{command}\" to {}", path.display()), deadline })?
        .map_err(|error| refused(error.to_string()))?
        .map_err(refused)
}

async fn exchange(path: &Path, command: &str) -> io::Result<Result<String, String>> {
    let socket = open()?;
    socket.send_to(&encode(command), path).await?;
    let mut text = Vec::new();
    let mut packet = [0; REPLY_HEADER + MAX_DATA];
    loop {
        let length = socket.recv(&mut packet).await?;
        let Some(reply) = Reply::decode(packet.get(..length).unwrap_or_default()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is no mconsole packet"));
        };
        text.extend_from_slice(reply.data);
        if !reply.more {
            let text = String::from_utf8_lossy(&text).trim_end_matches(['\0', '\n']).to_owned();
            return Ok(if reply.error { Err(text) } else { Ok(text) });
        }
    }
}

/// A socket with an abstract name that the kernel chose: UML answers to the sender's name.
fn open() -> io::Result<UnixDatagram> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd: OwnedFd = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
    bind(fd.as_raw_fd(), &UnixAddr::new_unnamed())?;
    UnixDatagram::from_std(StdDatagram::from(fd))
}

fn encode(command: &str) -> Vec<u8> {
    let text = &command.as_bytes()[..command.len().min(MAX_DATA - 1)];
    let mut packet = Vec::with_capacity(12 + MAX_DATA);
    packet.extend_from_slice(&MAGIC.to_ne_bytes());
    packet.extend_from_slice(&VERSION.to_ne_bytes());
    packet.extend_from_slice(&u32::try_from(text.len()).unwrap_or(0).to_ne_bytes());
    packet.extend_from_slice(text);
    packet.push(0);
    packet
}

struct Reply<'a> {
    error: bool,
    more: bool,
    data: &'a [u8],
}

impl Reply<'_> {
    fn decode(packet: &[u8]) -> Option<Reply<'_>> {
        let word = |index: usize| {
            let bytes = packet.get(index * 4..index * 4 + 4)?;
            Some(u32::from_ne_bytes(bytes.try_into().ok()?))
        };
        let length = usize::try_from(word(2)?).ok()?;
        let data = packet.get(REPLY_HEADER..)?;
        Some(Reply { error: word(0)? != 0, more: word(1)? != 0, data: data.get(..length.min(data.len()))? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(error: u32, more: u32, text: &[u8]) -> Vec<u8> {
        let length = u32::try_from(text.len()).unwrap_or(0);
        [&error.to_ne_bytes()[..], &more.to_ne_bytes(), &length.to_ne_bytes(), text].concat()
    }

    #[tokio::test]
    #[allow(clippy::unwrap_used)]
    async fn an_answer_in_several_packets_is_put_together() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mconsole");
        let server = UnixDatagram::bind(&path).unwrap();
        let answering = async {
            let mut packet = [0; 600];
            let (length, from) = server.recv_from(&mut packet).await.unwrap();
            assert_eq!(packet[..length], encode("version")[..]);
            let StdAddr(name) = StdAddr::from(&from);
            for part in [reply(0, 1, b"Linux "), reply(0, 0, b"6.1\n\0")] {
                nix::sys::socket::sendto(
                    server.as_raw_fd(),
                    &part,
                    &UnixAddr::new_abstract(&name).unwrap(),
                    nix::sys::socket::MsgFlags::empty(),
                )
                .unwrap();
            }
        };
        let (answer, ()) = tokio::join!(request(&path, "version", Duration::from_secs(5)), answering);
        assert_eq!(answer.unwrap(), "Linux 6.1");
    }

    struct StdAddr(Vec<u8>);

    impl From<&tokio::net::unix::SocketAddr> for StdAddr {
        fn from(address: &tokio::net::unix::SocketAddr) -> Self {
            use std::os::linux::net::SocketAddrExt;
            let address: std::os::unix::net::SocketAddr = address.clone().into();
            StdAddr(address.as_abstract_name().unwrap_or_default().to_vec())
        }
    }

    #[test]
    fn a_packet_that_is_cut_off_is_no_reply() {
        assert!(Reply::decode(&[0; 11]).is_none());
        assert!(Reply::decode(&reply(0, 0, b"")).is_some());
    }
}
