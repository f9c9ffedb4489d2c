//! What a function of the device has to send: one transfer, whose body is shared with the file that it is of, not copied.

use bytes::Bytes;

/// One transfer to the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    head: Vec<u8>,
    body: Bytes,
    /// Whether an empty packet ends it when its last one is full. PTP does so; in mass storage both ends know the length.
    closed: bool,
}

impl Container {
    /// A transfer that a short packet ends, be it an empty one.
    pub(crate) fn closed(head: Vec<u8>, body: Bytes) -> Self {
        Self { head, body, closed: true }
    }

    /// A transfer of a length that the host knows.
    pub(crate) fn open(body: Bytes) -> Self {
        Self { head: Vec::new(), body, closed: false }
    }

    /// Its bytes.
    pub fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of it in one piece.
    pub fn to_vec(&self) -> Vec<u8> {
        self.part(0, self.len())
    }

    /// At most so many bytes from a place on.
    pub(crate) fn part(&self, from: usize, most: usize) -> Vec<u8> {
        let head = self.head.get(from..).unwrap_or_default();
        let body = self.body.get(from.saturating_sub(self.head.len())..).unwrap_or_default();
        let head = &head[..head.len().min(most)];
        let body = &body[..body.len().min(most - head.len())];
        [head, body].concat()
    }

    /// Whether a read ends it: of so many bytes wanted it got so many, after which this place is reached.
    pub(crate) fn ends(&self, wanted: usize, got: usize, at: usize, max_packet: usize) -> bool {
        let short = got < wanted || !at.is_multiple_of(max_packet);
        at == self.len() && (short || !self.closed)
    }
}
