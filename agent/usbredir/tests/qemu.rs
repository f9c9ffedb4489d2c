//! The codec against QEMU's own side of the protocol: a `usb-redir` device, with no guest but the firmware.
//!
//! QEMU's device answers `hello`, takes a device that its filter lets in, and rejects another. Once the controller is set up
//! by the firmware, requests come for the device. A QEMU without `usb-redir` is told of on standard error, and nothing
//! is asserted.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};
use std::time::Duration;

use fleet_usbredir::{
    Caps, Codec, DeviceConnect, Endpoint, EpInfo, EpType, Filter, InterfaceClass, InterfaceInfo, Packet, Side, Speed,
    Status,
};

const QEMU: &str = "qemu-system-x86_64";
/// Nothing here takes a second; a busy machine may.
const DEADLINE: Duration = Duration::from_secs(120);

/// A QEMU, killed at its end.
struct Qemu(Child);

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The host's end of the connection to a QEMU.
struct Exporter {
    stream: UnixStream,
    codec: Codec,
    _qemu: Qemu,
}

impl Exporter {
    /// Starts a QEMU with this filter, and says hello; none when it has no `usb-redir`.
    fn start(filter: &Filter) -> Option<Self> {
        let devices = Command::new(QEMU).args(["-device", "help"]).output();
        let known = |output: std::process::Output| String::from_utf8_lossy(&output.stdout).contains("\"usb-redir\"");
        if !devices.is_ok_and(known) {
            eprintln!("not tested: no {QEMU} with usb-redir here");
            return None;
        }
        // A pair of sockets instead of a path: a QEMU that ends early ends the stream, and nothing is left.
        let (mut stream, theirs) = UnixStream::pair().expect("sockets");
        // A filter's text has no comma, which QEMU would take for the next property.
        let child = Command::new(QEMU)
            .args(["-machine", "q35,accel=tcg", "-m", "32", "-display", "none", "-nodefaults", "-no-user-config"])
            .args(["-device", "qemu-xhci", "-chardev", "socket,id=redir,fd=0"])
            .args(["-device", &format!("usb-redir,chardev=redir,filter={filter}")])
            .stdin(OwnedFd::from(theirs))
            .spawn()
            .expect("qemu");
        let qemu = Qemu(child);
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        let (codec, hello) = Codec::new(Side::Host, Caps::OURS, "fleet test");
        stream.write_all(&hello).expect("hello");
        let mut exporter = Self { stream, codec, _qemu: qemu };
        let Packet::Hello { version, .. } = exporter.wait(|packet| matches!(packet, Packet::Hello { .. })).1 else {
            unreachable!("the one that was waited for")
        };
        assert!(version.contains("qemu"), "{version}");
        Some(exporter)
    }

    fn send(&mut self, id: u64, packet: &Packet) {
        let bytes = self.codec.write(id, packet).expect("a packet");
        self.stream.write_all(&bytes).expect("qemu takes it");
    }

    /// A camera on its full configuration, as an exporter announces it.
    fn connect(&mut self, product: u16) {
        let mut endpoints = [Endpoint::NONE; 32];
        let control = Endpoint { kind: EpType::Control, interval: 0, interface: 0, max_packet: 64 };
        let bulk = Endpoint { kind: EpType::Bulk, interval: 0, interface: 0, max_packet: 512 };
        for (address, endpoint) in [(0, control), (0x80, control), (0x81, bulk), (0x02, bulk)] {
            endpoints[EpInfo::index(address)] = endpoint;
        }
        let interfaces = vec![InterfaceClass { number: 0, class: 6, subclass: 1, protocol: 1 }];
        self.send(0, &Packet::EpInfo(Box::new(EpInfo { endpoints })));
        self.send(0, &Packet::InterfaceInfo(InterfaceInfo { interfaces }));
        self.send(
            0,
            &Packet::DeviceConnect(DeviceConnect {
                speed: Speed::High,
                class: 0,
                subclass: 0,
                protocol: 0,
                vendor: 0x04b0,
                product,
                version: 0x0100,
            }),
        );
    }

    /// The first packet of those that are meant; others are passed over.
    fn wait(&mut self, meant: impl Fn(&Packet) -> bool) -> (u64, Packet) {
        let mut buffer = [0; 4096];
        loop {
            let length = match self.stream.read(&mut buffer) {
                Ok(0) => panic!("qemu closed the connection"),
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => panic!("qemu says nothing: {error}"),
            };
            let mut bytes = &buffer[..length];
            let mut found = None;
            while let Some((id, packet)) = self.codec.read(&mut bytes).expect("packets of the protocol") {
                if found.is_none() && meant(&packet) {
                    found = Some((id, packet));
                }
            }
            if let Some(found) = found {
                return found;
            }
        }
    }
}

#[test]
fn qemu_takes_the_camera_and_asks_for_its_descriptor() {
    let Some(mut exporter) = Exporter::start(&Filter::only(0x04b0, 0x0428, 6)) else { return };
    let caps = exporter.codec.caps().expect("agreed");
    assert!(caps.has(Caps::FILTER.or(Caps::IDS_64).or(Caps::BULK_LENGTH_32)), "{caps:?}");
    exporter.connect(0x0428);
    // GET_DESCRIPTOR of the device, from the firmware.
    let asks = |packet: &Packet| {
        matches!(packet, Packet::Control { endpoint: 0x80, request: 6, request_type: 0x80, value: 0x0100, .. })
    };
    let (id, packet) = exporter.wait(asks);
    let Packet::Control { endpoint, request, request_type, value, index, length, .. } = packet else {
        unreachable!("the one that was waited for")
    };
    let mut data = vec![18, 1, 0, 2, 0, 0, 0, 64, 0xb0, 0x04, 0x28, 0x04, 0, 1, 0, 0, 0, 1];
    data.truncate(length.into());
    let length = u16::try_from(data.len()).expect("18 at most");
    let status = Status::Success;
    exporter.send(id, &Packet::Control { endpoint, request, request_type, status, value, index, length, data });
    // It goes on with what follows from that answer: the configuration.
    exporter.wait(|packet| matches!(packet, Packet::Control { request: 6, value: 0x0200, .. }));
}

#[test]
fn qemu_rejects_what_its_filter_does_not_let_in() {
    let Some(mut exporter) = Exporter::start(&Filter::only(0x04b0, 0x0428, 6)) else { return };
    exporter.connect(0x0429);
    exporter.wait(|packet| matches!(packet, Packet::FilterReject));
}

#[test]
fn qemu_confirms_that_a_device_is_gone() {
    let Some(mut exporter) = Exporter::start(&Filter::only(0x04b0, 0x0428, 6)) else { return };
    exporter.connect(0x0428);
    exporter.send(0, &Packet::DeviceDisconnect);
    exporter.wait(|packet| matches!(packet, Packet::DeviceDisconnectAck));
    // And takes the next one.
    exporter.connect(0x0428);
    exporter.wait(|packet| matches!(packet, Packet::Control { request: 6, value: 0x0100, .. }));
}
