//! Both ends against each other, and against bytes that nobody should send.

use fleet_usbredir::{
    Caps, Codec, DeviceConnect, Endpoint, EpInfo, EpType, Filter, InterfaceClass, InterfaceInfo, MAX_BODY, Packet,
    Passed, Passing, RedirError, Side, Speed, Status,
};
use proptest::prelude::*;

/// Two ends that have said hello.
fn pair(guest_caps: Caps) -> (Codec, Codec) {
    let (mut host, from_host) = Codec::new(Side::Host, Caps::OURS, "fleet");
    let (mut guest, from_guest) = Codec::new(Side::Guest, guest_caps, "test");
    assert!(matches!(host.read(&mut from_guest.as_slice()), Ok(Some((0, Packet::Hello { .. })))));
    assert!(matches!(guest.read(&mut from_host.as_slice()), Ok(Some((0, Packet::Hello { .. })))));
    (host, guest)
}

fn camera() -> (DeviceConnect, InterfaceInfo) {
    let device = DeviceConnect {
        speed: Speed::High,
        class: 0,
        subclass: 0,
        protocol: 0,
        vendor: 0x04b0,
        product: 0x0428,
        version: 0x0100,
    };
    (device, InterfaceInfo { interfaces: vec![InterfaceClass { number: 0, class: 6, subclass: 1, protocol: 1 }] })
}

#[test]
fn the_bytes_are_those_of_the_protocol() {
    let (_, hello) = Codec::new(Side::Host, Caps::OURS, "fleet");
    assert_eq!(hello.len(), 12 + 64 + 4);
    assert_eq!(&hello[..17], b"\0\0\0\0\x44\0\0\0\0\0\0\0fleet");
    // Version, filter, acknowledged disconnects, packet sizes, 64-bit ids, 32-bit bulk lengths.
    assert_eq!(&hello[76..], [0b0111_1110, 0, 0, 0]);
    let (host, guest) = pair(Caps::OURS);
    let connect = host.write(0, &Packet::DeviceConnect(camera().0)).expect("bytes");
    assert_eq!(connect[..16], [1, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(connect[16..], [2, 0, 0, 0, 0xb0, 0x04, 0x28, 0x04, 0, 1]);
    let read = Packet::Bulk { endpoint: 0x81, status: Status::Success, stream: 0, length: 0x0001_0203, data: vec![] };
    let bulk = guest.write(9, &read).expect("bytes");
    assert_eq!(bulk[..16], [101, 0, 0, 0, 10, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bulk[16..], [0x81, 0, 3, 2, 0, 0, 0, 0, 1, 0]);
}

#[test]
fn an_end_with_fewer_capabilities_gets_the_older_layouts() {
    let (host, mut guest) = pair(Caps(0));
    let (device, _) = camera();
    let old = Packet::DeviceConnect(DeviceConnect { version: 0, ..device });
    let bytes = host.write(3, &old).expect("bytes");
    assert_eq!(bytes.len(), 12 + 8);
    assert_eq!(guest.read(&mut bytes.as_slice()), Ok(Some((3, old))));
    assert!(host.write(3, &Packet::DeviceConnect(device)).is_err(), "there is no field for the version");
    assert!(host.write(1 << 32, &Packet::DeviceDisconnect).is_err(), "an id of 64 bits");
    let long =
        Packet::Bulk { endpoint: 0x81, status: Status::Success, stream: 0, length: 65_536, data: vec![0; 65_536] };
    assert!(host.write(1, &long).is_err(), "more than 16 bits of length");
    assert!(guest.write(0, &Packet::FilterReject).is_err(), "no filters");
}

#[test]
fn nothing_is_sent_or_taken_before_hello_and_no_second_one_after() {
    let (mut host, hello) = Codec::new(Side::Host, Caps::OURS, "fleet");
    let early = host.write(0, &Packet::DeviceDisconnect);
    assert_eq!(early, Err(RedirError::Order { kind: 2, expected: "the other end's hello" }));
    let reset = [3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(host.read(&mut reset.as_slice()), Err(RedirError::Order { kind: 3, expected: "hello" }));
    let (_, mut guest) = pair(Caps::OURS);
    let mut again = hello.clone();
    again.extend([0; 16]);
    assert!(matches!(guest.read(&mut again.as_slice()), Err(RedirError::Order { kind: 0, .. })));
}

#[test]
fn a_packet_from_the_wrong_side_is_refused() {
    let (host, guest) = pair(Caps::OURS);
    assert_eq!(host.write(0, &Packet::Reset), Err(RedirError::Type { kind: 3 }));
    assert_eq!(guest.write(0, &Packet::DeviceDisconnect), Err(RedirError::Type { kind: 2 }));
}

#[test]
fn a_length_beyond_the_bound_is_refused_from_the_header_alone() {
    let (mut host, _) = pair(Caps::OURS);
    let mut header = Vec::new();
    header.extend(101u32.to_le_bytes());
    header.extend(u32::MAX.to_le_bytes());
    header.extend(0u64.to_le_bytes());
    let outcome = host.read(&mut header.as_slice());
    assert_eq!(outcome, Err(RedirError::TooLong { kind: 101, length: u32::MAX as usize, limit: MAX_BODY }));
}

#[test]
fn data_that_is_not_as_long_as_its_head_says_is_refused() {
    let (_, guest) = pair(Caps::OURS);
    let packet = Packet::Bulk { endpoint: 0x02, status: Status::Success, stream: 0, length: 3, data: vec![1, 2] };
    assert!(matches!(guest.write(1, &packet), Err(RedirError::Length { .. })));
    let unasked = Packet::Bulk { endpoint: 0x81, status: Status::Success, stream: 0, length: 2, data: vec![1, 2] };
    assert!(matches!(guest.write(1, &unasked), Err(RedirError::Length { .. })), "data against its direction");
}

#[test]
fn the_status_of_a_request_is_not_looked_at() {
    let (mut host, guest) = pair(Caps::OURS);
    let read = Packet::Bulk { endpoint: 0x81, status: Status::Success, stream: 0, length: 512, data: vec![] };
    let mut bytes = guest.write(1, &read).expect("bytes");
    bytes[17] = 196;
    assert_eq!(host.read(&mut bytes.as_slice()), Ok(Some((1, read))));
}

#[test]
fn a_filter_for_one_camera_lets_in_that_one_in_that_mode() {
    let (device, interfaces) = camera();
    let filter = Filter::only(0x04b0, 0x0428, 6);
    assert_eq!(filter.to_string(), "6:0x04b0:0x0428:-1:1|-1:-1:-1:-1:0");
    assert_eq!("6:0x04b0:1064:-1:1|-1:-1:-1:-1:0".parse(), Ok(filter.clone()));
    assert!(filter.allows(&device, &interfaces));
    let mut disk = interfaces.clone();
    disk.interfaces[0].class = 8;
    assert!(!filter.allows(&device, &disk), "after a mode switch");
    let mut both = interfaces.clone();
    both.interfaces.push(InterfaceClass { number: 1, class: 3, subclass: 0, protocol: 0 });
    assert!(!filter.allows(&device, &both), "a keyboard beside it");
    assert!(!filter.allows(&DeviceConnect { product: 0x0429, ..device }, &interfaces));
    assert!(!filter.allows(&device, &InterfaceInfo::default()), "a device that says no class");
    for bad in ["", "6:1:2:3", "256:-1:-1:-1:1", "6:-1:-1:-1:2", "-2:-1:-1:-1:1"] {
        assert!(bad.parse::<Filter>().is_err(), "{bad}");
    }
}

fn status() -> impl Strategy<Value = Status> {
    prop_oneof![Just(Status::Success), Just(Status::Stall), Just(Status::Cancelled), Just(Status::Babble)]
}

/// Packets that a host may send.
fn of_host() -> impl Strategy<Value = Packet> {
    let data = || proptest::collection::vec(any::<u8>(), 0..300);
    let endpoint = (0u8..4, any::<[u8; 2]>(), any::<u16>()).prop_map(|(kind, [interval, interface], max_packet)| {
        let kind = [EpType::Control, EpType::Iso, EpType::Bulk, EpType::Interrupt][usize::from(kind)];
        Endpoint { kind, interval, interface, max_packet }
    });
    prop_oneof![
        any::<(u8, u8, u8, u16, u16, u16)>().prop_map(|(class, subclass, protocol, vendor, product, version)| {
            Packet::DeviceConnect(DeviceConnect {
                speed: Speed::Super,
                class,
                subclass,
                protocol,
                vendor,
                product,
                version,
            })
        }),
        Just(Packet::DeviceDisconnect),
        proptest::collection::vec(any::<[u8; 4]>(), 0..=32).prop_map(|rows| {
            let row =
                |[number, class, subclass, protocol]: [u8; 4]| InterfaceClass { number, class, subclass, protocol };
            Packet::InterfaceInfo(InterfaceInfo { interfaces: rows.into_iter().map(row).collect() })
        }),
        (endpoint, 0usize..32).prop_map(|(endpoint, at)| {
            let mut endpoints = [Endpoint::NONE; 32];
            endpoints[at] = endpoint;
            Packet::EpInfo(Box::new(EpInfo { endpoints }))
        }),
        (status(), any::<u8>())
            .prop_map(|(status, configuration)| Packet::ConfigurationStatus { status, configuration }),
        (status(), any::<[u8; 2]>()).prop_map(|(status, [interface, alt])| Packet::AltSettingStatus {
            status,
            interface,
            alt
        }),
        (status(), any::<u8>()).prop_map(|(status, endpoint)| Packet::IsoStreamStatus { status, endpoint }),
        (status(), any::<u8>()).prop_map(|(status, endpoint)| Packet::InterruptReceivingStatus { status, endpoint }),
        "[ -~]{0,60}".prop_map(|rules| Packet::Filter { rules }),
        (status(), data()).prop_map(|(status, data)| Packet::Control {
            endpoint: 0x80,
            request: 6,
            request_type: 0x80,
            status,
            value: 0x0100,
            index: 0,
            length: data.len() as u16,
            data
        }),
        (status(), any::<u16>()).prop_map(|(status, length)| Packet::Control {
            endpoint: 0,
            request: 0x66,
            request_type: 0x21,
            status,
            value: 0,
            index: 0,
            length,
            data: vec![]
        }),
        (status(), any::<u32>(), data()).prop_map(|(status, stream, data)| Packet::Bulk {
            endpoint: 0x81,
            status,
            stream,
            length: data.len() as u32,
            data
        }),
        (status(), data()).prop_map(|(status, data)| Packet::Interrupt {
            endpoint: 0x83,
            status,
            length: data.len() as u16,
            data
        }),
        (status(), data()).prop_map(|(status, data)| Packet::Iso {
            endpoint: 0x84,
            status,
            length: data.len() as u16,
            data
        }),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_again_however_it_is_cut(
        packets in proptest::collection::vec((any::<u64>(), of_host()), 0..12),
        piece in 1usize..97,
    ) {
        let (host, mut guest) = pair(Caps::OURS);
        let mut stream = Vec::new();
        for (id, packet) in &packets {
            stream.extend(host.write(*id, packet).expect("bytes"));
        }
        let mut read = Vec::new();
        for mut piece in stream.chunks(piece) {
            while let Some(packet) = guest.read(&mut piece).expect("a packet") {
                read.push(packet);
            }
            prop_assert!(piece.is_empty());
        }
        prop_assert_eq!(read, packets);
    }

    #[test]
    fn no_bytes_make_it_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        kind in prop_oneof![0u32..30, 98u32..106],
        length in 0u32..300,
        greeted in any::<bool>(),
        side in prop_oneof![Just(Side::Host), Just(Side::Guest)],
        caps in any::<u32>(),
    ) {
        let (mut codec, _) = Codec::new(side, Caps::OURS, "fleet");
        if greeted {
            let (_, hello) = Codec::new(side.other(), Caps(caps), "test");
            codec.read(&mut hello.as_slice()).expect("a hello");
        }
        // A header that is taken, so that the bytes behind it are looked at too.
        let mut stream = kind.to_le_bytes().to_vec();
        stream.extend(length.to_le_bytes());
        stream.extend(&bytes);
        let mut rest = stream.as_slice();
        while let Ok(Some((id, packet))) = codec.read(&mut rest) {
            // What was taken from the other end is as it would have been written there.
            if !matches!(packet, Packet::Hello { .. }) {
                let (mut other, _) = Codec::new(side.other(), Caps::OURS, "test");
                let both = codec.caps().expect("greeted");
                let (_, hello) = Codec::new(side, both, "fleet");
                other.read(&mut hello.as_slice()).expect("a hello");
                prop_assert!(other.write(id, &packet).is_ok(), "{packet:?}");
            }
        }
    }

    #[test]
    fn a_relay_sees_what_a_device_does_in_any_pieces(
        rounds in proptest::collection::vec((any::<u16>(), 0usize..70_000), 0..6),
        piece in 1usize..5000,
        caps in any::<u32>(),
    ) {
        let (mut host, mut stream) = Codec::new(Side::Host, Caps::OURS, "test");
        let (mut guest, hello) = Codec::new(Side::Guest, Caps(caps & !1), "test");
        host.read(&mut hello.as_slice()).expect("hello");
        guest.read(&mut stream.as_slice()).expect("hello");
        let mut expected = vec![Passed::Hello(Caps::OURS)];
        let greeting = stream.len();
        let both = host.caps().expect("greeted");
        for (product, length) in rounds {
            let version = if both.has(Caps::CONNECT_DEVICE_VERSION) { product } else { 0 };
            let device = DeviceConnect { speed: Speed::High, class: 0, subclass: 0, protocol: 0, vendor: 1, product, version };
            // Without the capability a bulk packet has fewer bytes.
            let data = vec![1; length.min(if both.has(Caps::BULK_LENGTH_32) { length } else { 65_535 })];
            let bulk = Packet::Bulk { endpoint: 0x81, status: Status::Success, stream: 0, length: data.len() as u32, data };
            for packet in [Packet::DeviceConnect(device), bulk, Packet::DeviceDisconnect] {
                stream.extend(host.write(1, &packet).expect("bytes"));
            }
            expected.extend([Passed::DeviceConnect(device), Passed::DeviceDisconnect]);
        }
        let mut passing = Passing::new(Side::Host);
        passing.agreed(both);
        let (mut seen, mut out) = (Vec::new(), Vec::new());
        for mut piece in stream.chunks(piece) {
            while let Some(passed) = passing.pass(&mut piece, &mut out).expect("packets that are right") {
                seen.push(passed);
            }
            prop_assert!(piece.is_empty());
        }
        prop_assert_eq!(seen, expected);
        prop_assert_eq!(&out[greeting..], &stream[greeting..]);
    }

    #[test]
    fn a_relay_hands_on_what_the_other_end_can_read_and_nothing_else(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        kind in prop_oneof![0u32..30, 98u32..106],
        length in 0u32..300,
        caps in any::<u32>(),
    ) {
        for side in [Side::Host, Side::Guest] {
            let caps = Caps(caps & !1);
            let (mut reader, mut stream) = Codec::new(side.other(), caps, "test");
            stream.extend(kind.to_le_bytes());
            stream.extend(length.to_le_bytes());
            stream.extend(&bytes);
            let mut passing = Passing::new(side);
            passing.agreed(caps.and(Caps::OURS));
            let (mut rest, mut out) = (stream.as_slice(), Vec::new());
            while let Ok(Some(_)) = passing.pass(&mut rest, &mut out) {}
            let mut out = out.as_slice();
            while !out.is_empty() {
                prop_assert!(reader.read(&mut out).is_ok());
            }
        }
    }

    #[test]
    fn what_a_relay_hands_on_of_a_hello_can_be_checked(caps in any::<u32>()) {
        let mut hello = Codec::new(Side::Host, Caps::OURS, "test").1;
        let at = hello.len() - 4;
        hello[at..].copy_from_slice(&caps.to_le_bytes());
        let mut out = Vec::new();
        match Passing::new(Side::Host).pass(&mut hello.as_slice(), &mut out) {
            Ok(passed) => {
                let expected = Caps(caps).and(Caps::OURS);
                prop_assert_eq!(passed, Some(Passed::Hello(expected)));
                prop_assert_eq!(&out[at..], &expected.0.to_le_bytes());
            }
            Err(_) => prop_assert!(!Caps(caps).is_consistent()),
        }
    }

    #[test]
    fn any_filter_text_is_read_or_refused_and_survives_its_own_text(text in "[-0-9a-fx:|]{0,60}") {
        if let Ok(filter) = text.parse::<Filter>() {
            prop_assert_eq!(filter.to_string().parse(), Ok(filter));
        }
    }
}
