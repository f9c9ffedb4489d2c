//! The camera in software through usbredir, as a guest sees it.

use fleet_softcam::{Device, File, Policy, Responder};
use fleet_usbredir::{Caps, Codec, Packet, Side, Status};

/// A guest, the camera, and two codecs between them.
struct Guest {
    device: Device,
    host: Codec,
    guest: Codec,
    next: u64,
}

impl Guest {
    fn new(files: Vec<File>) -> Self {
        let (mut host, from_host) = Codec::new(Side::Host, Caps::OURS, "softcam");
        let (mut guest, from_guest) = Codec::new(Side::Guest, Caps::OURS, "test");
        host.read(&mut from_guest.as_slice()).expect("hello");
        guest.read(&mut from_host.as_slice()).expect("hello");
        let device = Device::new("3012345", Responder::new("3012345", files, Policy::default()));
        for packet in device.announce() {
            host.write(0, &packet).expect("an announcement");
        }
        Self { device, host, guest, next: 1 }
    }

    /// Sends a packet; the answers, each over the wire.
    fn send(&mut self, id: u64, packet: &Packet) -> Vec<(u64, Packet)> {
        let bytes = self.guest.write(id, packet).expect("a request");
        let (id, packet) = self.host.read(&mut bytes.as_slice()).expect("a packet").expect("a whole one");
        let answers = self.device.handle(id, packet);
        let over = |(id, packet): (u64, Packet)| {
            let bytes = self.host.write(id, &packet).expect("an answer");
            self.guest.read(&mut bytes.as_slice()).expect("a packet").expect("a whole one")
        };
        answers.into_iter().map(over).collect()
    }

    fn out(&mut self, data: Vec<u8>) -> Vec<(u64, Packet)> {
        self.next += 1;
        let (length, status) = (data.len() as u32, Status::Success);
        self.send(self.next, &Packet::Bulk { endpoint: 0x02, status, stream: 0, length, data })
    }

    fn read(&mut self, length: u32) -> Vec<(u64, Packet)> {
        self.next += 1;
        let status = Status::Success;
        self.send(self.next, &Packet::Bulk { endpoint: 0x81, status, stream: 0, length, data: vec![] })
    }

    /// Reads one transfer, in pieces.
    fn transfer(&mut self, piece: u32) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let answers = self.read(piece);
            let [(_, Packet::Bulk { status: Status::Success, data, .. })] = &answers[..] else { panic!("{answers:?}") };
            all.extend(data);
            if data.len() < piece as usize {
                return all;
            }
        }
    }
}

fn command(code: u16, parameters: &[u32]) -> Vec<u8> {
    let mut bytes = (12 + 4 * parameters.len() as u32).to_le_bytes().to_vec();
    bytes.extend([1u16, code].iter().flat_map(|word| word.to_le_bytes()));
    bytes.extend([7].iter().chain(parameters).flat_map(|word: &u32| word.to_le_bytes()));
    bytes
}

fn picture(length: usize) -> File {
    File { name: "DSC_0001.JPG".into(), bytes: (0..length).map(|at| at as u8).collect::<Vec<_>>().into() }
}

#[test]
fn a_picture_comes_over_whole_whatever_its_length_is_to_a_packet() {
    for length in [1, 499, 500, 501, 1012, 4096 - 12, 100_000] {
        let mut guest = Guest::new(vec![picture(length)]);
        guest.out(command(0x1002, &[1]));
        assert_eq!(guest.transfer(512).len(), 12, "the response to the opening");
        guest.out(command(0x1009, &[2]));
        assert_eq!(guest.transfer(4096)[12..], picture(length).bytes, "{length}");
        assert_eq!(guest.transfer(512)[6..8], [0x01, 0x20]);
    }
}

#[test]
fn a_read_waits_for_the_answer_and_can_be_cancelled() {
    let mut guest = Guest::new(vec![]);
    assert_eq!(guest.read(512), [], "nothing is there yet");
    let waiting = guest.next;
    let answers = guest.out(command(0x1002, &[1]));
    assert_eq!(answers.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [waiting + 1, waiting]);
    assert_eq!(guest.read(512), []);
    let waiting = guest.next;
    let answers = guest.send(waiting, &Packet::CancelData);
    assert!(matches!(answers[..], [(id, Packet::Bulk { status: Status::Cancelled, .. })] if id == waiting));
}

#[test]
fn bytes_that_are_no_ptp_halt_it_until_the_halt_is_cleared() {
    let mut guest = Guest::new(vec![]);
    let stalls = |answers: &[(u64, Packet)]| matches!(answers, [(_, Packet::Bulk { status: Status::Stall, .. })]);
    assert!(stalls(&guest.out(vec![0xff; 12])));
    assert!(stalls(&guest.read(512)));
    let clear = Packet::Control {
        endpoint: 0,
        request: 1,
        request_type: 2,
        status: Status::Success,
        value: 0,
        index: 0x81,
        length: 0,
        data: vec![],
    };
    assert!(matches!(guest.send(1, &clear)[..], [(1, Packet::Control { status: Status::Success, .. })]));
    guest.out(command(0x1001, &[]));
    assert!(guest.transfer(512).len() > 12);
}
