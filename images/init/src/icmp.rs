//! Echo requests and replies (RFC 792) as bytes.
//!
//! All that is needed to judge a reply is in its payload, which the other side returns unchanged: the token of the
//! probe, the target's index, and the moment of sending.

/// What a request carries, and its reply returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo {
    /// Identifier: tells this guest's probes apart.
    pub id: u16,
    /// Sequence number: which try.
    pub sequence: u16,
    /// Drawn for each probe, so that nobody's stray reply counts.
    pub token: u64,
    /// Position of the target in the request.
    pub index: u32,
    /// Moment of sending, ns of the monotonic clock.
    pub sent_ns: u64,
}

const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;
const HEADER: usize = 8;
/// Length of a message in bytes.
pub const LENGTH: usize = HEADER + 20;

impl Echo {
    /// The request, with its checksum.
    pub fn request(&self) -> [u8; LENGTH] {
        let mut message = [0; LENGTH];
        message[0] = ECHO_REQUEST;
        message[4..6].copy_from_slice(&self.id.to_be_bytes());
        message[6..8].copy_from_slice(&self.sequence.to_be_bytes());
        message[8..16].copy_from_slice(&self.token.to_be_bytes());
        message[16..20].copy_from_slice(&self.index.to_be_bytes());
        message[20..28].copy_from_slice(&self.sent_ns.to_be_bytes());
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        message
    }

    /// Reads a reply out of an IPv4 packet; `None` when it is anything else.
    pub fn from_reply(packet: &[u8]) -> Option<Self> {
        let header = usize::from(packet.first()? & 0x0f) * 4;
        let message = packet.get(header..)?;
        if message.len() != LENGTH || message[0] != ECHO_REPLY || message[1] != 0 || checksum(message) != 0 {
            return None;
        }
        Some(Self {
            id: u16::from_be_bytes(message[4..6].try_into().ok()?),
            sequence: u16::from_be_bytes(message[6..8].try_into().ok()?),
            token: u64::from_be_bytes(message[8..16].try_into().ok()?),
            index: u32::from_be_bytes(message[16..20].try_into().ok()?),
            sent_ns: u64::from_be_bytes(message[20..28].try_into().ok()?),
        })
    }
}

/// The Internet checksum (RFC 1071) of an even number of bytes; 0 over a message that holds its right checksum.
fn checksum(message: &[u8]) -> u16 {
    let sum: u32 = message.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(u16::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ECHO: Echo = Echo { id: 0xbeef, sequence: 3, token: u64::MAX - 5, index: 1023, sent_ns: 123_456_789 };

    /// What the other side makes of a request: type 0 instead of 8, and the checksum that goes with it.
    fn reply() -> Vec<u8> {
        let mut message = ECHO.request();
        message[0] = ECHO_REPLY;
        message[2..4].fill(0);
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let mut packet = vec![0x45];
        packet.resize(20, 0);
        packet.extend_from_slice(&message);
        packet
    }

    #[test]
    fn a_reply_gives_back_what_was_sent() {
        assert_eq!(Echo::from_reply(&reply()), Some(ECHO));
    }

    #[test]
    fn nothing_else_counts_as_a_reply() {
        let mut request = reply();
        request[20] = ECHO_REQUEST;
        assert_eq!(Echo::from_reply(&request), None);
        for at in 20..reply().len() {
            let mut damaged = reply();
            damaged[at] ^= 1;
            assert_eq!(Echo::from_reply(&damaged), None, "byte {at}");
        }
        for end in 0..reply().len() {
            assert_eq!(Echo::from_reply(&reply()[..end]), None, "cut at {end}");
        }
    }

    #[test]
    fn the_checksum_is_that_of_rfc_1071() {
        // The example of RFC 1071, section 3: the sum is ddf2.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }
}
