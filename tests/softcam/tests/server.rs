//! The camera behind its socket, as a client sees it.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use fleet_softcam::{Address, Faults, Hostile, Options, Persona, Softcam, Speed, pictures};
use fleet_usbredir::{Caps, Codec, Packet, Side, Status};

/// Nothing here takes a second; a busy machine may.
const DEADLINE: Duration = Duration::from_secs(60);
/// What is looked for in vain is looked for so long.
const SILENCE: Duration = Duration::from_millis(200);

/// A client.
struct Client {
    stream: UnixStream,
    codec: Codec,
    unread: Vec<u8>,
}

impl Client {
    fn connect(camera: &Softcam) -> Self {
        let Address::Unix(path) = camera.address() else { panic!("a socket of this machine") };
        let mut stream = UnixStream::connect(path).unwrap();
        let (codec, hello) = Codec::new(Side::Guest, Caps::OURS, "test");
        stream.write_all(&hello).unwrap();
        Self { stream, codec, unread: Vec::new() }
    }

    /// The next packet; none when there is none within the time, or the connection was closed.
    fn within(&mut self, time: Duration) -> Option<(u64, Packet)> {
        self.stream.set_read_timeout(Some(time)).unwrap();
        loop {
            let mut rest = self.unread.as_slice();
            let packet = self.codec.read(&mut rest).expect("packets of usbredir");
            self.unread = rest.to_vec();
            if packet.is_some() {
                return packet;
            }
            let mut buffer = [0; 65536];
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(length) => self.unread = buffer[..length].to_vec(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return None,
                Err(_) => return None,
            }
        }
    }

    fn next(&mut self) -> (u64, Packet) {
        self.within(DEADLINE).expect("a packet")
    }

    /// Reads on until it is no usbredir any more; some of that may have come with the packet before.
    fn garbage(&mut self) {
        self.stream.set_read_timeout(Some(DEADLINE)).unwrap();
        loop {
            match self.codec.read(&mut self.unread.as_slice()) {
                Err(_) => return,
                Ok(packet) => assert_eq!(packet, None, "that is usbredir"),
            }
            let mut buffer = [0; 100];
            let length = self.stream.read(&mut buffer).unwrap();
            assert_ne!(length, 0, "the connection was closed");
            self.unread = buffer[..length].to_vec();
        }
    }

    fn send(&mut self, id: u64, packet: &Packet) {
        let bytes = self.codec.write(id, packet).unwrap();
        self.stream.write_all(&bytes).unwrap();
    }

    /// Product and speed of the device that is announced.
    fn announced(&mut self) -> (u16, Speed) {
        loop {
            if let Packet::DeviceConnect(device) = self.next().1 {
                return (device.product, device.speed);
            }
        }
    }

    fn bulk(&mut self, id: u64, endpoint: u8, length: u32, data: Vec<u8>) {
        self.send(id, &Packet::Bulk { endpoint, status: Status::Success, stream: 0, length, data });
    }

    /// The code of the response to a command of PTP without data.
    fn ptp(&mut self, code: u16, parameter: u32) -> u16 {
        let mut command = 16u32.to_le_bytes().to_vec();
        command.extend([1u16, code].iter().flat_map(|word| word.to_le_bytes()));
        command.extend([1, parameter].iter().flat_map(|word: &u32| word.to_le_bytes()));
        self.bulk(1, 0x02, 16, command);
        self.bulk(2, 0x81, 512, Vec::new());
        loop {
            if let (2, Packet::Bulk { data, .. }) = self.next() {
                return u16::from_le_bytes([data[6], data[7]]);
            }
        }
    }
}

fn camera(folder: &tempfile::TempDir) -> Softcam {
    let listen = Address::Unix(folder.path().join("camera"));
    let control = Some(folder.path().join("control"));
    Softcam::start(Options { control, files: pictures(2, 5000), ..Options::new(listen, "6011") }).unwrap()
}

fn until(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !so() {
        assert!(Instant::now() < end, "in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_camera_that_is_pulled_out_is_told_of_and_then_nothing_is_announced() {
    let folder = tempfile::tempdir().unwrap();
    let camera = camera(&folder);
    let mut client = Client::connect(&camera);
    assert_eq!(client.announced(), (0x0428, Speed::High));
    camera.unplug();
    assert_eq!(client.next().1, Packet::DeviceDisconnect);
    camera.plug(Speed::Super);
    assert_eq!(client.within(SILENCE), None, "not before the client knows that the other one is gone");
    client.send(0, &Packet::DeviceDisconnectAck);
    assert_eq!(client.announced(), (0x0428, Speed::Super));
    camera.unplug();
    drop(client);
    let mut client = Client::connect(&camera);
    assert!(matches!(client.next().1, Packet::Hello { .. }));
    assert_eq!(client.within(SILENCE), None, "hello and no device");
    camera.plug(Speed::Full);
    assert_eq!(client.announced(), (0x0428, Speed::Full));
}

#[test]
fn a_second_client_waits_until_the_first_has_gone_and_finds_nothing_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let camera = camera(&folder);
    let mut first = Client::connect(&camera);
    first.announced();
    assert_eq!(first.ptp(0x1002, 1), 0x2001, "a session");
    assert_eq!(first.ptp(0x1002, 1), 0x201e, "which is open");
    let mut second = Client::connect(&camera);
    assert_eq!(second.within(SILENCE), None);
    drop(first);
    second.announced();
    assert_eq!(second.ptp(0x1002, 1), 0x2001, "a session of its own");
    assert_eq!(camera.seen().clients, 2);
}

#[test]
fn a_switch_is_another_device_and_a_filter_that_refuses_it_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let camera = camera(&folder);
    let mut client = Client::connect(&camera);
    client.announced();
    camera.switch(Persona::MassStorage);
    assert_eq!(client.next().1, Packet::DeviceDisconnect);
    client.send(0, &Packet::DeviceDisconnectAck);
    assert_eq!(client.announced().0, 0x0427);
    client.send(0, &Packet::FilterReject);
    until("the refusal", || camera.seen().rejected == 1);
    camera.switch(Persona::Ptp);
    assert_eq!(client.announced().0, 0x0428);
}

#[test]
fn it_stalls_hangs_slows_down_and_recovers() {
    let folder = tempfile::tempdir().unwrap();
    let camera = camera(&folder);
    let mut client = Client::connect(&camera);
    client.announced();
    let faults = |change: fn(&mut Faults)| {
        let mut faults = Faults::default();
        change(&mut faults);
        camera.set_faults(faults);
    };
    faults(|faults| faults.hang = true);
    client.bulk(5, 0x81, 512, Vec::new());
    assert_eq!(client.within(SILENCE), None);
    client.send(5, &Packet::CancelData);
    assert!(matches!(client.next(), (5, Packet::Bulk { status: Status::Cancelled, .. })));
    faults(|faults| faults.stall = true);
    client.bulk(6, 0x81, 512, Vec::new());
    assert!(matches!(client.next(), (6, Packet::Bulk { status: Status::Stall, .. })));
    faults(|_| {});
    assert_eq!(client.ptp(0x1002, 1), 0x2001);
    // So slow that a device's information does not come in this test's life; and then at once.
    camera.set_rate(Some(1));
    client.bulk(8, 0x02, 12, [12u32.to_le_bytes(), [1, 0, 1, 0x10], 9u32.to_le_bytes()].concat());
    client.bulk(9, 0x81, 512, Vec::new());
    assert_eq!(client.within(SILENCE), None);
    camera.set_rate(None);
    while !matches!(client.next(), (9, Packet::Bulk { .. })) {}
    camera.cut();
    assert_eq!(client.within(DEADLINE), None, "closed");
    Client::connect(&camera).announced();
}

#[test]
fn hostile_packets_are_no_usbredir_and_hostile_strings_do_not_end() {
    let folder = tempfile::tempdir().unwrap();
    let camera = camera(&folder);
    camera.set_hostile(Some(Hostile::Strings));
    let mut client = Client::connect(&camera);
    client.announced();
    let asked = Packet::Control {
        endpoint: 0x80,
        request: 6,
        request_type: 0x80,
        status: Status::Success,
        value: 0x0301,
        index: 0x0409,
        length: 255,
        data: Vec::new(),
    };
    client.send(3, &asked);
    assert!(matches!(client.next(), (3, Packet::Control { data, .. }) if data.len() == 4096));
    camera.set_hostile(Some(Hostile::Packets));
    client.garbage();
    drop(client);
    let mut client = Client::connect(&camera);
    client.next();
    client.garbage();
}

#[test]
fn its_control_socket_does_what_a_line_says() {
    let folder = tempfile::tempdir().unwrap();
    let camera = camera(&folder);
    let stream = UnixStream::connect(folder.path().join("control")).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut lines = BufReader::new(stream);
    let mut ask = |line: &str| {
        lines.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        lines.read_line(&mut answer).unwrap();
        answer.trim_end().to_owned()
    };
    let mut client = Client::connect(&camera);
    client.announced();
    assert_eq!(ask("unplug"), "ok");
    assert_eq!(client.next().1, Packet::DeviceDisconnect);
    client.send(0, &Packet::DeviceDisconnectAck);
    assert_eq!((ask("persona mass-storage"), ask("plug full")), ("ok".to_owned(), "ok".to_owned()));
    assert_eq!(client.announced(), (0x0427, Speed::Full));
    assert!(ask("status").starts_with("plugged=true speed=full persona=mass-storage connected=true clients=1"));
    for wrong in ["", "fly", "plug warp", "rate 0", "rate -1", "stall", "persona nikon"] {
        assert!(ask(wrong).contains("there are: unplug"), "{wrong}");
    }
    for line in [
        "stall on",
        "stall off",
        "hang on",
        "hang off",
        "rate 1000",
        "rate off",
        "hostile lengths",
        "hostile off",
        "cut",
    ] {
        assert_eq!(ask(line), "ok", "{line}");
    }
    assert_eq!(client.next().1, Packet::DeviceDisconnect, "plugged in anew");
    assert_eq!(camera.command("plug"), Ok("ok".to_owned()));
}

#[test]
fn nothing_is_left_of_it_and_a_socket_that_was_left_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("camera");
    // A program that was killed leaves this.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let first = camera(&folder);
    let taken = Softcam::start(Options::new(Address::Unix(path.clone()), "1"));
    assert_eq!(taken.map(drop).unwrap_err().kind(), ErrorKind::AddrInUse);
    let mut client = Client::connect(&first);
    client.announced();
    drop(first);
    assert_eq!(client.within(DEADLINE), None);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    let tcp = Softcam::start(Options::new("127.0.0.1:0".parse().unwrap(), "1")).unwrap();
    let mut stream = TcpStream::connect(tcp.address().to_string()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.read_exact(&mut [0; 80]).unwrap();
}
