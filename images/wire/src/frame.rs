//! Frames: `cobs(postcard(message) ‖ crc32(postcard(message)))` and a zero byte.

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
    let mut body = postcard::to_allocvec(message)?;
    if body.len() > MAX_FRAME {
        return Err(FrameError::TooLong(body.len()));
    }
    let crc = CRC.checksum(&body);
    body.extend_from_slice(&crc.to_le_bytes());
    let mut frame = cobs::encode_vec(&body);
    frame.push(0);
    Ok(frame)
}

/// Takes bytes as they come and gives messages; drops what does not check.
#[derive(Debug, Default)]
pub struct Decoder {
    pending: Vec<u8>,
    overlong: bool,
    dropped: u64,
}

impl Decoder {
    /// Frames dropped so far: half-written ones, damaged ones, ones that are too long or of an unknown kind.
    pub fn dropped(&self) -> u64 {
        self.dropped
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
                    Some(message) => messages.push(message),
                    None => self.dropped += 1,
                }
            }
            self.pending.clear();
        }
        messages
    }
}

fn decode<T: DeserializeOwned>(frame: &[u8]) -> Option<T> {
    let body = cobs::decode_vec(frame).ok()?;
    let (message, crc) = body.split_last_chunk::<4>()?;
    (CRC.checksum(message) == u32::from_le_bytes(*crc)).then(|| postcard::from_bytes(message).ok())?
}
