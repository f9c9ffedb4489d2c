//! The core against guests and buses that do whatever they may.

use std::collections::{BTreeMap, VecDeque};

use fleet_usb::descriptors;
use fleet_usbredir::{Caps, Codec, EpType, Packet, Side, Speed, Status};
use proptest::prelude::*;

use super::act::{Act, Change, Done, Token, Transfer};
use super::core::{BYTES, Core, DEPTH, WAITING};
use super::shape::Shape;

/// Two configurations; the first has two settings of interface 0, with endpoints of all kinds, and one endpoint with packets
/// of no bytes.
fn device() -> Vec<u8> {
    let mut bytes = vec![18, 1, 0, 2, 0, 0, 0, 64, 0xb0, 0x04, 0x28, 0x04, 0, 1, 1, 2, 3, 2];
    bytes.extend([9, 2, 87, 0, 2, 1, 0, 0xc0, 1, 9, 4, 0, 0, 4, 6, 1, 1, 0]);
    bytes.extend([7, 5, 0x81, 2, 0, 2, 0, 7, 5, 0x02, 2, 0, 2, 0, 7, 5, 0x83, 3, 8, 0, 9, 7, 5, 0x04, 3, 8, 0, 9]);
    bytes.extend([9, 4, 0, 1, 2, 6, 1, 1, 0, 7, 5, 0x81, 2, 0, 2, 0, 7, 5, 0x85, 1, 0, 2, 1]);
    bytes.extend([9, 4, 1, 0, 1, 255, 0, 0, 0, 7, 5, 0x86, 2, 0, 0, 0]);
    bytes.extend([9, 2, 25, 0, 1, 2, 0, 0xc0, 1, 9, 4, 0, 0, 1, 8, 6, 80, 0, 7, 5, 0x02, 2, 0, 2, 0]);
    bytes
}

/// The core between a guest, whose requests are counted, and a bus.
struct World {
    core: Core,
    codec: Codec,
    begun: BTreeMap<u8, VecDeque<(Token, Transfer, bool)>>,
    performing: Option<Change>,
    asked: BTreeMap<(u64, u8), i64>,
    /// Ids of bulk requests, in order, and of those that went well.
    bulk: Vec<(u8, u64)>,
    well: Vec<(u8, u64)>,
    next: u64,
}

/// Which answer is due to a packet.
fn answer_of(packet: &Packet) -> Option<u8> {
    Some(match packet {
        Packet::Control { .. } => 1,
        Packet::Bulk { .. } => 2,
        Packet::Interrupt { endpoint, .. } if endpoint & 0x80 == 0 => 3,
        Packet::SetConfiguration { .. } | Packet::GetConfiguration | Packet::ConfigurationStatus { .. } => 4,
        Packet::SetAltSetting { .. } | Packet::GetAltSetting { .. } | Packet::AltSettingStatus { .. } => 5,
        Packet::StartInterruptReceiving { .. }
        | Packet::StopInterruptReceiving { .. }
        | Packet::InterruptReceivingStatus { .. } => 6,
        Packet::StartIsoStream { .. } | Packet::StopIsoStream { .. } | Packet::IsoStreamStatus { .. } => 7,
        _ => return None,
    })
}

impl World {
    fn new() -> Self {
        let (mut codec, _) = Codec::new(Side::Host, Caps::OURS, "fleet");
        let (_, hello) = Codec::new(Side::Guest, Caps::OURS, "test");
        codec.read(&mut hello.as_slice()).expect("hello");
        let core = Core::new(Shape::new(descriptors::parse(&device()).expect("descriptors"), Speed::High, 1));
        let (begun, asked) = (BTreeMap::new(), BTreeMap::new());
        let mut world =
            Self { core, codec, begun, performing: None, asked, bulk: Vec::new(), well: Vec::new(), next: 1 };
        let acts = world.core.announce();
        world.obey(acts);
        world
    }

    fn take(&mut self, packet: Packet) -> u64 {
        if self.core.changing() {
            return 0;
        }
        let id = self.next;
        self.next += 1;
        if let Some(kind) = answer_of(&packet) {
            *self.asked.entry((id, kind)).or_default() += 1;
        }
        if let Packet::Bulk { endpoint, .. } = &packet {
            self.bulk.push((*endpoint, id));
        }
        let acts = self.core.take(id, packet);
        self.obey(acts);
        id
    }

    fn cancel(&mut self, id: u64) {
        if !self.core.changing() {
            let acts = self.core.take(id, Packet::CancelData);
            self.obey(acts);
        }
    }

    fn obey(&mut self, acts: Vec<Act>) {
        for act in acts {
            match act {
                Act::Send(id, packet) => {
                    self.codec.write(id, &packet).expect("a packet that may be sent");
                    let Some(kind) = answer_of(&packet).filter(|_| id != 0) else { continue };
                    let open = self.asked.entry((id, kind)).or_default();
                    *open -= 1;
                    assert!(*open >= 0, "answered twice, or never asked: {id} {packet:?}");
                    if let Packet::Bulk { endpoint, status: Status::Success, .. } = packet {
                        self.well.push((endpoint, id));
                    }
                }
                Act::Begin(token, transfer) => {
                    let endpoint = transfer.endpoint();
                    let lane = self.begun.entry(endpoint).or_default();
                    lane.push_back((token, transfer, false));
                    let bytes: usize = lane.iter().map(|(_, transfer, _)| transfer.bytes()).sum();
                    assert!(lane.len() <= if endpoint == 0 { 1 } else { DEPTH });
                    assert!(lane.len() == 1 || bytes <= BYTES);
                    assert!(self.performing.is_none(), "begun in the middle of a change");
                }
                Act::Cancel(token) => {
                    let mut all = self.begun.values_mut().flatten();
                    let found = all.find(|(begun, ..)| *begun == token).expect("one that was begun");
                    found.2 = true;
                }
                Act::Perform(change) => {
                    let touched = |endpoint: u8| match change {
                        Change::Reset | Change::Configuration(_) => true,
                        Change::ClearHalt { endpoint: cleared } => endpoint == cleared,
                        Change::Alternate { interface, .. } => (interface == 0) == (endpoint != 0x86) && endpoint != 0,
                    };
                    assert!(self.begun.iter().all(|(endpoint, lane)| lane.is_empty() || !touched(*endpoint)));
                    assert!(self.performing.replace(change).is_none());
                }
                Act::Rejected => unreachable!("nobody rejects"),
            }
        }
    }

    /// The first transfer of an endpoint ends.
    fn end(&mut self, endpoint: u8, status: Status) {
        let Some((token, transfer, cancelled)) = self.begun.get_mut(&endpoint).and_then(VecDeque::pop_front) else {
            return;
        };
        let status = if cancelled { Status::Cancelled } else { status };
        let success = status == Status::Success;
        let data = match transfer {
            Transfer::In { length, .. } if success => vec![0; length.min(100) as usize],
            Transfer::ControlIn { length, .. } if success => vec![0; length.into()],
            _ => Vec::new(),
        };
        let moved = if success { transfer.bytes() } else { 0 };
        let acts = self.core.done(token, Done { status, data, moved });
        self.obey(acts);
    }

    fn performed(&mut self, status: Status) {
        if self.performing.take().is_some() {
            let acts = self.core.performed(status);
            self.obey(acts);
        }
    }

    /// Ends everything.
    fn settle(&mut self) {
        let mut lanes: Vec<u8> = self.begun.keys().copied().collect();
        for endpoint in &lanes {
            while self.core.changing() && self.begun[endpoint].iter().any(|(.., cancelled)| *cancelled) {
                self.end(*endpoint, Status::Success);
            }
        }
        self.performed(Status::Success);
        for endpoint in [0x81, 0x83, 0x85] {
            self.take(Packet::StopInterruptReceiving { endpoint });
        }
        lanes = self.begun.keys().copied().collect();
        for endpoint in lanes {
            while !self.begun[&endpoint].is_empty() {
                self.end(endpoint, Status::Success);
            }
        }
        assert!(!self.core.changing());
        let open: Vec<_> = self.asked.iter().filter(|(_, open)| **open != 0).collect();
        assert!(open.is_empty(), "never answered: {open:?}");
        for endpoint in [0x81, 0x02] {
            let of = |list: &[(u8, u64)]| -> Vec<u64> {
                list.iter().filter(|(of, _)| *of == endpoint).map(|(_, id)| *id).collect()
            };
            let well = of(&self.well);
            let in_order: Vec<u64> = of(&self.bulk).into_iter().filter(|id| well.contains(id)).collect();
            assert_eq!(well, in_order, "endpoint {endpoint:#x}");
        }
    }
}

fn bulk(endpoint: u8, length: u32, stream: u32) -> Packet {
    let data = if endpoint & 0x80 == 0 { vec![1; length as usize] } else { Vec::new() };
    Packet::Bulk { endpoint, status: Status::Success, stream, length, data }
}

fn control(request_type: u8, request: u8, value: u16, index: u16, length: u16) -> Packet {
    let data = if request_type & 0x80 == 0 { vec![1; length.into()] } else { Vec::new() };
    let (endpoint, status) = (request_type & 0x80, Status::Success);
    Packet::Control { endpoint, request, request_type, status, value, index, length, data }
}

#[derive(Debug, Clone)]
enum Step {
    Take(Packet),
    /// So many requests back.
    Cancel(u64),
    End(u8, Status),
    Performed(Status),
}

fn endpoint() -> impl Strategy<Value = u8> {
    prop_oneof![Just(0x81), Just(0x02), Just(0x83), Just(0x04), Just(0x85), Just(0x86), Just(0), any::<u8>()]
}

fn status() -> impl Strategy<Value = Status> {
    prop_oneof![5 => Just(Status::Success), 1 => Just(Status::Stall), 1 => Just(Status::IoError), 1 => Just(Status::Cancelled)]
}

fn packet() -> impl Strategy<Value = Packet> {
    let number = 0u8..3;
    prop_oneof![
        8 => (endpoint(), prop_oneof![Just(0u32), 1u32..2000, Just(3 << 20)], 0u32..20)
            .prop_map(|(endpoint, length, stream)| bulk(endpoint, length, stream / 19)),
        4 => (any::<u8>(), 0u8..12, 0u16..2, endpoint(), 0u16..300)
            .prop_map(|(kind, request, value, index, length)| control(kind, request, value, index.into(), length)),
        2 => (endpoint(), 0u16..9).prop_map(|(endpoint, length)| {
            let data = if endpoint & 0x80 == 0 { vec![1; length.into()] } else { Vec::new() };
            Packet::Interrupt { endpoint, status: Status::Success, length, data }
        }),
        2 => endpoint().prop_map(|endpoint| Packet::StartInterruptReceiving { endpoint }),
        1 => endpoint().prop_map(|endpoint| Packet::StopInterruptReceiving { endpoint }),
        1 => endpoint().prop_map(|endpoint| Packet::StartIsoStream { endpoint, packets_per_urb: 1, urbs: 1 }),
        1 => Just(Packet::Reset),
        1 => number.clone().prop_map(|configuration| Packet::SetConfiguration { configuration }),
        1 => Just(Packet::GetConfiguration),
        1 => (number.clone(), number.clone()).prop_map(|(interface, alt)| Packet::SetAltSetting { interface, alt }),
        1 => number.prop_map(|interface| Packet::GetAltSetting { interface }),
        1 => Just(control(0x02, 1, 0, 0x81, 0)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => packet().prop_map(Step::Take),
        2 => (0u64..20).prop_map(Step::Cancel),
        6 => (endpoint(), status()).prop_map(|(endpoint, status)| Step::End(endpoint, status)),
        3 => status().prop_map(Step::Performed),
    ]
}

proptest! {
    #[test]
    fn every_request_is_answered_once_in_order_and_never_too_many_are_under_way(
        steps in proptest::collection::vec(step(), 0..300),
    ) {
        let mut world = World::new();
        for step in steps {
            match step {
                Step::Take(packet) => _ = world.take(packet),
                Step::Cancel(back) => world.cancel(world.next.saturating_sub(back)),
                Step::End(endpoint, status) => world.end(endpoint, status),
                Step::Performed(status) => world.performed(status),
            }
        }
        world.settle();
    }
}

#[test]
fn reads_that_wait_forever_are_bounded_and_can_still_be_cancelled() {
    let mut world = World::new();
    let ids: Vec<u64> = (0..DEPTH + WAITING + 5).map(|_| world.take(bulk(0x81, 512, 0))).collect();
    assert_eq!(world.begun[&0x81].len(), DEPTH);
    let refused = world.asked.values().filter(|open| **open == 0).count();
    assert_eq!(refused, 5);
    world.cancel(ids[DEPTH + 1]);
    assert_eq!(world.asked[&(ids[DEPTH + 1], 2)], 0, "one that waits ends at once");
    world.cancel(ids[3]);
    assert!(world.begun[&0x81][3].2);
    // The other endpoints go on.
    world.take(bulk(0x02, 512, 0));
    assert_eq!(world.begun[&0x02].len(), 1);
    world.settle();
}

#[test]
fn an_interrupt_endpoint_is_listened_on_until_it_is_stopped_or_fails() {
    let mut world = World::new();
    world.take(Packet::StartInterruptReceiving { endpoint: 0x83 });
    world.take(Packet::StartInterruptReceiving { endpoint: 0x83 });
    let listening = world.begun[&0x83].len();
    for _ in 0..10 {
        world.end(0x83, Status::Success);
        assert_eq!(world.begun[&0x83].len(), listening);
    }
    // A reset stops it for as long as it takes.
    world.take(Packet::Reset);
    while !world.begun[&0x83].is_empty() {
        world.end(0x83, Status::Success);
    }
    world.performed(Status::Success);
    assert_eq!(world.begun[&0x83].len(), listening);
    world.end(0x83, Status::Stall);
    assert!(world.begun[&0x83].iter().all(|(.., cancelled)| *cancelled));
    world.settle();
}

#[test]
fn isochronous_streams_streams_of_bulk_and_empty_endpoints_are_refused_by_the_protocols_status() {
    let mut world = World::new();
    let answers = |acts: Vec<Act>| match &acts[..] {
        [Act::Send(7, Packet::IsoStreamStatus { status, .. } | Packet::Bulk { status, .. })] => *status,
        acts => panic!("{acts:?}"),
    };
    let start = Packet::StartIsoStream { endpoint: 0x85, packets_per_urb: 8, urbs: 2 };
    assert_eq!(answers(world.core.take(7, start)), Status::Inval);
    assert_eq!(answers(world.core.take(7, bulk(0x81, 512, 1))), Status::Inval);
    assert_eq!(answers(world.core.take(7, bulk(0x86, 512, 0))), Status::Inval);
}

#[test]
fn another_setting_shows_its_endpoints() {
    let mut world = World::new();
    assert!(world.core.shape().endpoint(0x85).is_none());
    world.take(Packet::SetAltSetting { interface: 0, alt: 1 });
    world.performing = None;
    let acts = world.core.performed(Status::Success);
    let Some(Act::Send(0, Packet::EpInfo(info))) = acts.first() else { panic!("{acts:?}") };
    assert_eq!(info.endpoints[0x15].kind, EpType::Iso);
    assert_eq!(info.endpoints[2].kind, EpType::Invalid);
    assert!(world.core.shape().endpoint(0x85).is_some());
    world.obey(acts);
    world.settle();
}

#[test]
fn a_second_request_with_the_same_id_has_its_own_answer() {
    let mut core = World::new().core;
    let begun = |acts: Vec<Act>| match acts[..] {
        [Act::Begin(token, _)] => token,
        _ => panic!("{acts:?}"),
    };
    let first = begun(core.take(9, bulk(0x81, 512, 0)));
    let second = begun(core.take(9, bulk(0x81, 1024, 0)));
    assert_eq!(core.take(9, Packet::CancelData), [Act::Cancel(first)]);
    for token in [first, second] {
        let done = Done { status: Status::Success, data: vec![1], moved: 0 };
        assert!(matches!(core.done(token, done.clone())[..], [Act::Send(9, Packet::Bulk { .. })]));
        assert_eq!(core.done(token, done), [], "it has ended");
    }
}
