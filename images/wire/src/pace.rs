//! How much the agent may send: pacing of the stream towards the guest.
//!
//! A line of user-mode Linux stops for good when its input is ever throttled (`line_throttle` in
//! arch/um/drivers/line.c takes the interrupt away, `line_unthrottle` does not give it back), which happens when more
//! than 3968 bytes wait in the terminal's buffer. So the guest keeps saying how much it has read, in notes of the
//! framing layer (see [`crate::encode_note`]), and the agent keeps no more than [`LINK_BYTES`] under way. The same
//! holds for every hypervisor: there is one protocol.

/// Most bytes that an agent may have sent and the guest not yet noted as read.
pub const LINK_BYTES: u64 = 3072;

/// The guest notes what it has read whenever so many bytes more have come, and before each `Hello`.
pub const NOTE_EVERY: u64 = 1024;

/// The agent's account of what is under way to the guest; a new one for each session.
///
/// Before the guest has answered `Attach`, only that (some 20 bytes) may be sent, so nothing is counted. The guest
/// notes what it has read right before it says `Hello`; from that note on, what it reads is this session's.
///
/// The order matters to the caller: after each piece of stream, first the note ([`crate::Decoder::take_note`]), then
/// the messages.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pacer {
    attached: bool,
    sent: u64,
    start: Option<u64>,
    last: Option<u64>,
}

impl Pacer {
    /// The guest has said `Hello` to this session. Said again, it changes nothing.
    pub fn attached(&mut self) {
        if !self.attached {
            *self = Self { attached: true, sent: 0, start: self.last, last: self.last };
        }
    }

    /// The guest has noted that it has read so many bytes since it booted.
    pub fn noted(&mut self, total: u64) {
        if self.attached && self.start.is_none_or(|start| total < start) {
            self.start = Some(total);
        }
        self.last = Some(total);
    }

    /// So many bytes were written to the stream.
    pub fn sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }

    /// How many bytes may be written now.
    pub fn room(&self) -> usize {
        if !self.attached {
            return usize::MAX;
        }
        let read = self.last.unwrap_or(0).saturating_sub(self.start.unwrap_or(0));
        let under_way = self.sent.saturating_sub(read);
        usize::try_from(LINK_BYTES.saturating_sub(under_way)).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_is_counted_before_the_session_begins() {
        let mut pacer = Pacer::default();
        pacer.sent(100_000);
        assert_eq!(pacer.room(), usize::MAX);
        pacer.attached();
        assert_eq!(pacer.room() as u64, LINK_BYTES);
    }

    proptest! {
        /// Whatever the guest has read before, and however it reads: never more than the limit is unread, and a guest
        /// that goes on reading never stops the agent.
        #[test]
        fn the_limit_holds_and_the_stream_never_stalls(
            mut read in 0..1_u64 << 40, pieces in proptest::collection::vec(1..5000_u64, 1..200)
        ) {
            let mut pacer = Pacer::default();
            pacer.noted(read / 2);
            pacer.noted(read);
            pacer.attached();
            let (mut unread, mut noted) = (0, read);
            for piece in pieces {
                let write = (pacer.room() as u64).min(piece);
                pacer.sent(write as usize);
                pacer.attached(); // a second Hello of the session
                unread += write;
                prop_assert!(unread <= LINK_BYTES);
                // The guest reads some, or all when the agent had no room.
                let take = if write == 0 { unread } else { unread.min(piece / 2) };
                unread -= take;
                read += take;
                if read - noted >= NOTE_EVERY {
                    noted = read;
                    pacer.noted(read);
                }
                prop_assert!(unread > 0 || pacer.room() > 0);
            }
        }
    }
}
