//! What must hold for every byte that a camera, an exporter or a usbredir server may send.
//!
//! An input is a byte that says which reader gets it, a byte for the sizes of pieces, two bytes of capabilities, and what is
//! read. [`check`] panics when a promise is broken. The fuzzer calls it with what it makes up, and
//! `tests/regressions.rs` with every input that once broke a promise.

use fleet_usb::descriptors::{self, MAX_ENDPOINTS, MAX_INTERFACES};
use fleet_usbredir::{Caps, Codec, Filter, Packet, Passed, Passing, RedirError, Side};

#[cfg(not(fuzzing))]
pub mod seeds;

/// Bytes before what is read.
pub const HEAD: usize = 4;

/// Which reader gets an input: its first byte.
pub const READERS: [fn(&Input<'_>); 6] = [
    |input| check_codec(input, Side::Host),
    |input| check_codec(input, Side::Guest),
    |input| check_passing(input, Side::Host),
    |input| check_passing(input, Side::Guest),
    |input| check_descriptors(input.bytes),
    |input| check_filter(input.bytes),
];

/// An input, taken apart.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// Bytes of a piece.
    piece: usize,
    /// What the other end can.
    caps: Caps,
    bytes: &'a [u8],
}

/// Checks all promises for an input.
///
/// # Panics
/// When a promise is broken: that is what the fuzzer looks for.
pub fn check(data: &[u8]) {
    let Some(([reader, piece, low, high], bytes)) = data.split_first_chunk::<HEAD>() else { return };
    // Streams without packet sizes are refused in a hello, which is not what is looked for.
    let caps = Caps(u32::from(u16::from_le_bytes([*low, *high]))).and(Caps(!1));
    READERS[usize::from(*reader) % READERS.len()](&Input { piece: usize::from(*piece) + 1, caps, bytes });
}

/// A codec that has read the other end's hello.
fn greeted(side: Side, caps: Caps) -> Codec {
    let (mut codec, _) = Codec::new(side, Caps::OURS, "fuzz");
    let (_, hello) = Codec::new(side.other(), caps, "other");
    assert!(codec.read(&mut hello.as_slice()).is_ok_and(|packet| packet.is_some()), "a hello is read");
    codec
}

/// Reads all; the packets and how it ended.
fn read(side: Side, caps: Caps, bytes: &[u8], piece: usize) -> (Vec<(u64, Packet)>, Option<RedirError>) {
    let mut codec = greeted(side, caps);
    let mut packets = Vec::new();
    for mut piece in bytes.chunks(piece) {
        loop {
            match codec.read(&mut piece) {
                Ok(Some(packet)) => packets.push(packet),
                Ok(None) => break,
                Err(error) => return (packets, Some(error)),
            }
        }
        assert!(piece.is_empty(), "a codec that wants more has taken all");
    }
    (packets, None)
}

/// What `sender` sends: the same in any pieces; what is taken is written again as it came.
fn check_codec(input: &Input<'_>, sender: Side) {
    let side = sender.other();
    let whole = read(side, input.caps, input.bytes, usize::MAX);
    let pieces = read(side, input.caps, input.bytes, input.piece);
    assert_eq!(whole, pieces, "the pieces that bytes come in change what they say");
    let (reader, writer) = (greeted(side, input.caps), greeted(sender, input.caps));
    assert_eq!(reader.caps(), writer.caps());
    for (id, packet) in &whole.0 {
        let bytes =
            writer.write(*id, packet).unwrap_or_else(|error| panic!("{packet:?} was read and is not written: {error}"));
        let again = reader.clone().read(&mut bytes.as_slice());
        assert_eq!(again, Ok(Some((*id, packet.clone()))), "a packet does not survive its own bytes");
    }
}

/// What a relay hands on is what the end behind it reads without an error, in any pieces.
fn check_passing(input: &Input<'_>, sender: Side) {
    let pass = |piece: usize| {
        let mut passing = Passing::new(sender);
        passing.agreed(input.caps.and(Caps::OURS));
        let (mut out, mut told) = (Vec::new(), Vec::new());
        let (_, hello) = Codec::new(sender, input.caps, "other");
        for mut piece in [hello.as_slice()].into_iter().chain(input.bytes.chunks(piece)) {
            loop {
                match passing.pass(&mut piece, &mut out) {
                    Ok(Some(passed)) => told.push(passed),
                    Ok(None) => break,
                    Err(error) => return (out, told, Some(error)),
                }
            }
        }
        (out, told, None)
    };
    let (out, told, error) = pass(usize::MAX);
    let (other_out, other_told, other_error) = pass(input.piece);
    assert_eq!((&out, &told, &error), (&other_out, &other_told, &other_error), "pieces change what is handed on");
    assert_eq!(told.first(), Some(&Passed::Hello(input.caps.and(Caps::OURS))));
    let (mut codec, _) = Codec::new(sender.other(), input.caps, "fuzz");
    let mut rest = out.as_slice();
    while !rest.is_empty() {
        let read = codec.read(&mut rest);
        assert!(read.is_ok(), "what was handed on is refused behind: {read:?}");
    }
}

/// Descriptors are read or refused; what is read is bounded.
fn check_descriptors(bytes: &[u8]) {
    let Ok(found) = descriptors::parse(bytes) else { return };
    let settings = || found.configurations.iter().flat_map(|configuration| &configuration.interfaces);
    assert!(found.configurations.len() <= 255 && settings().count() <= MAX_INTERFACES);
    assert!(settings().map(|setting| setting.endpoints.len()).sum::<usize>() <= MAX_ENDPOINTS);
    assert!(found.configurations.len() * 9 + settings().count() * 9 + 18 <= bytes.len(), "more than the bytes say");
}

/// A filter that is read survives its own text.
fn check_filter(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(filter) = text.parse::<Filter>() {
        assert_eq!(filter.to_string().parse(), Ok(filter));
    }
}
