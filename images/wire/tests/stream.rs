//! Promises of the framing, over streams that are cut, damaged and joined in any way.

use fleet_wire::{Decoder, MAX_FRAME, ToAgent, ToGuest, encode, encode_note};
use proptest::prelude::*;

fn frame(message: &ToGuest) -> Vec<u8> {
    encode(message).unwrap_or_default()
}

fn message() -> impl Strategy<Value = ToGuest> {
    prop_oneof![
        any::<u64>().prop_map(|session| ToGuest::Attach { session }),
        any::<u64>().prop_map(|nonce| ToGuest::Ping { nonce }),
        (any::<u32>(), proptest::collection::vec(any::<u8>(), 0..600))
            .prop_map(|(id, data)| ToGuest::Stdin { id, data }),
        (any::<u32>(), proptest::collection::vec(".{0,9}", 0..5)).prop_map(|(id, argv)| ToGuest::Exec {
            id,
            argv,
            env: Vec::new(),
            tty: Some((24, 80))
        }),
    ]
}

/// Gives a stream to a decoder in pieces of these lengths, taken in turn.
fn feed(decoder: &mut Decoder, mut stream: &[u8], pieces: &[usize]) -> Vec<ToGuest> {
    let mut messages = Vec::new();
    let mut lengths = pieces.iter().copied().cycle();
    while !stream.is_empty() {
        let (now, later) = stream.split_at(lengths.next().unwrap_or(1).clamp(1, stream.len()));
        messages.extend(decoder.push::<ToGuest>(now));
        stream = later;
    }
    messages
}

proptest! {
    #[test]
    fn any_split_of_the_bytes_gives_the_same_messages(
        messages in proptest::collection::vec(message(), 0..8), pieces in proptest::collection::vec(1..300_usize, 1..20)
    ) {
        let stream: Vec<u8> = messages.iter().flat_map(frame).collect();
        let mut decoder = Decoder::default();
        prop_assert_eq!(feed(&mut decoder, &stream, &pieces), messages);
        prop_assert_eq!(decoder.dropped(), 0);
    }

    #[test]
    fn half_a_frame_and_a_zero_byte_heal(first in message(), cut in any::<prop::sample::Index>(), second in message()) {
        let whole = frame(&first);
        let mut stream = whole[..cut.index(whole.len() - 1)].to_vec(); // without its end
        stream.push(0);
        stream.extend(frame(&second));
        prop_assert_eq!(feed(&mut Decoder::default(), &stream, &[7]), vec![second]);
    }

    #[test]
    fn noise_between_frames_heals(noise in proptest::collection::vec(any::<u8>(), 0..2000), after in message()) {
        let mut stream = noise;
        stream.push(0);
        stream.extend(frame(&after));
        let messages = feed(&mut Decoder::default(), &stream, &[64]);
        prop_assert_eq!(messages.last(), Some(&after));
    }

    #[test]
    fn a_damaged_frame_is_dropped_alone(
        damaged in message(), at in any::<prop::sample::Index>(), bit in 0..8_u32, after in message()
    ) {
        let mut stream = frame(&damaged);
        let at = at.index(stream.len() - 1);
        stream[at] ^= 1 << bit;
        stream.extend(frame(&after));
        let mut decoder = Decoder::default();
        prop_assert_eq!(feed(&mut decoder, &stream, &[11]), vec![after]);
        prop_assert!(decoder.dropped() > 0);
    }

    #[test]
    fn notes_pass_between_messages_unseen(
        messages in proptest::collection::vec(message(), 1..5), total in any::<u64>(), piece in 1..50_usize
    ) {
        let stream: Vec<u8> = messages.iter().flat_map(|message| [encode_note(total), frame(message)].concat()).collect();
        let mut decoder = Decoder::default();
        prop_assert_eq!(feed(&mut decoder, &stream, &[piece]), messages);
        prop_assert_eq!(decoder.take_note(), Some(total));
        prop_assert_eq!(decoder.take_note(), None);
    }
}

#[test]
fn a_frame_without_end_takes_no_more_memory_than_the_longest() {
    let mut decoder = Decoder::default();
    for _ in 0..100 {
        assert!(decoder.push::<ToGuest>(&[7; 64 * 1024]).is_empty());
    }
    let mut end = vec![0];
    end.extend(frame(&ToGuest::Ping { nonce: 1 }));
    assert_eq!(decoder.push::<ToGuest>(&end), [ToGuest::Ping { nonce: 1 }]);
    assert_eq!(decoder.dropped(), 1);
}

#[test]
fn the_longest_message_passes_and_a_longer_one_is_refused() {
    let message = |length: usize| ToAgent::Stdout { id: 1, data: vec![0xff; length] };
    let longest = message(MAX_FRAME - 16);
    let frame = encode(&longest).unwrap_or_default();
    assert_eq!(Decoder::default().push::<ToAgent>(&frame), [longest]);
    assert!(encode(&message(MAX_FRAME)).is_err());
}
