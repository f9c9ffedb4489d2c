//! Frames: `cobs(body ‖ crc32(body))` and a zero byte.
//!
//! There are two kinds. A message's body is the message in postcard. A note's body is a number, eight bytes, and its
//! checksum is stored inverted, so that neither can be taken for the other; notes serve the pacing (see `pace`) and
//! never reach those who read messages.

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

/// Longest frame, in bytes, before framing. A command's output comes in pieces far smaller than this.
pub const MAX_FRAME: usize = 256 * 1024;

/// CRC-32 as in ISO-HDLC (zip, Ethernet).
const CRC: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);

/// A message that cannot be framed.
#[derive(Debug, Error)]
pub enum FrameError {
    /// The message is longer than [`MAX_FRAME`].
    #[error("message of {0} bytes is longer than a frame holds ({MAX_FRAME}): send it in pieces")]
    TooLong(usize),
    /// Postcard refused it.
    #[error("message cannot be encoded: {0}")]
    Encode(#[from] postcard::Error),
}

/// Encodes a message with its ending zero byte.
///
/// # Errors
/// When the message is longer than [`MAX_FRAME`].
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let body = postcard::to_allocvec(message)?;
    if body.len() > MAX_FRAME {
        return Err(FrameError::TooLong(body.len()));
    }
    let crc = CRC.checksum(&body);
    Ok(frame(body, crc))
}

/// Encodes the guest's note that it has read `total` bytes since it booted.
pub fn encode_note(total: u64) -> Vec<u8> {
    let body = total.to_le_bytes().to_vec();
    let crc = CRC.checksum(&body);
    frame(body, !crc)
}

fn frame(mut body: Vec<u8>, crc: u32) -> Vec<u8> {
    body.extend_from_slice(&crc.to_le_bytes());
    let mut frame = cobs::encode_vec(&body);
    frame.push(0);
    frame
}

/// Takes bytes as they come and gives messages; drops what does not check.
#[derive(Debug, Default)]
pub struct Decoder {
    pending: Vec<u8>,
    overlong: bool,
    dropped: u64,
    note: Option<u64>,
}

/// What a whole frame holds.
enum Content<T> {
    Message(T),
    Note(u64),
}

impl Decoder {
    /// Frames dropped so far: half-written ones, damaged ones, ones that are too long or of an unknown kind.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The last note that came since this was called before.
    pub fn take_note(&mut self) -> Option<u64> {
        self.note.take()
    }

    /// Takes the next bytes and gives every message that they complete.
    pub fn push<T: DeserializeOwned>(&mut self, bytes: &[u8]) -> Vec<T> {
        let mut messages = Vec::new();
        let mut pieces = bytes.split(|byte| *byte == 0).peekable();
        while let Some(piece) = pieces.next() {
            if self.pending.len() + piece.len() > MAX_FRAME + MAX_FRAME / 128 {
                self.overlong = true;
                self.pending.clear();
            }
            if !self.overlong {
                self.pending.extend_from_slice(piece);
            }
            if pieces.peek().is_none() {
                break; // no zero byte after the last piece: the frame goes on
            }
            if std::mem::take(&mut self.overlong) {
                self.dropped += 1;
            } else if !self.pending.is_empty() {
                match decode(&self.pending) {
                    Some(Content::Message(message)) => messages.push(message),
                    Some(Content::Note(total)) => self.note = Some(total),
                    None => self.dropped += 1,
                }
            }
            self.pending.clear();
        }
        messages
    }
}

fn decode<T: DeserializeOwned>(frame: &[u8]) -> Option<Content<T>> {
    let whole = cobs::decode_vec(frame).ok()?;
    let (body, stored) = whole.split_last_chunk::<4>()?;
    let (crc, stored) = (CRC.checksum(body), u32::from_le_bytes(*stored));
    if stored == crc {
        postcard::from_bytes(body).ok().map(Content::Message)
    } else if stored == !crc {
        Some(Content::Note(u64::from_le_bytes(body.try_into().ok()?)))
    } else {
        None
    }
}
