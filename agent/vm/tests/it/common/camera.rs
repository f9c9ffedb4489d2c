//! The device's side of usbredir, as far as QEMU asks before a guest does.
#![allow(clippy::unwrap_used, missing_docs)]

use fleet_usbredir::{
    Caps, Codec, DeviceConnect, Endpoint, EpInfo, EpType, InterfaceClass, InterfaceInfo, Packet, Side, Speed,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::PATIENCE;

/// A filter for the camera below.
pub const FILTER: &str = "6:0x04b0:0x0428:-1:1|-1:-1:-1:-1:0";

/// A camera at the other end of a stream.
pub struct Camera {
    stream: UnixStream,
    codec: Codec,
}

impl Camera {
    /// Says hello and waits for QEMU's.
    pub async fn greet(mut stream: UnixStream) -> Camera {
        let (codec, hello) = Codec::new(Side::Host, Caps::OURS, "fleet test");
        stream.write_all(&hello).await.unwrap();
        let mut camera = Camera { stream, codec };
        camera.wait(|packet| matches!(packet, Packet::Hello { .. })).await;
        camera
    }

    async fn send(&mut self, packet: &Packet) {
        let bytes = self.codec.write(0, packet).unwrap();
        self.stream.write_all(&bytes).await.unwrap();
    }

    /// A D7000 in its PTP mode, or another product of its maker.
    pub async fn connect(&mut self, product: u16) {
        for packet in introduction(product) {
            self.send(&packet).await;
        }
    }

    /// Its introduction as bytes.
    pub fn introduction(&self) -> Vec<u8> {
        introduction(0x0428).iter().flat_map(|packet| self.codec.write(0, packet).unwrap()).collect()
    }

    /// Sends bytes of any kind; QEMU may have hung up.
    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    /// The first packet that is meant.
    pub async fn wait(&mut self, meant: impl Fn(&Packet) -> bool) -> Packet {
        let mut buffer = [0; 4096];
        loop {
            let length = timeout(PATIENCE, self.stream.read(&mut buffer)).await.unwrap().unwrap();
            assert!(length > 0, "QEMU closed the stream");
            let mut bytes = &buffer[..length];
            while let Some((_, packet)) = self.codec.read(&mut bytes).unwrap() {
                if meant(&packet) {
                    return packet;
                }
            }
        }
    }

    /// Waits until QEMU has closed the stream.
    pub async fn closed(&mut self) {
        let mut buffer = [0; 4096];
        while !matches!(timeout(PATIENCE, self.stream.read(&mut buffer)).await.unwrap(), Ok(0) | Err(_)) {}
    }
}

fn introduction(product: u16) -> [Packet; 3] {
    let mut endpoints = [Endpoint::NONE; 32];
    let control = Endpoint { kind: EpType::Control, interval: 0, interface: 0, max_packet: 64 };
    let bulk = Endpoint { kind: EpType::Bulk, interval: 0, interface: 0, max_packet: 512 };
    for (address, endpoint) in [(0, control), (0x80, control), (0x81, bulk), (0x02, bulk)] {
        endpoints[EpInfo::index(address)] = endpoint;
    }
    let interfaces = vec![InterfaceClass { number: 0, class: 6, subclass: 1, protocol: 1 }];
    let device = DeviceConnect {
        speed: Speed::High,
        class: 0,
        subclass: 0,
        protocol: 0,
        vendor: 0x04b0,
        product,
        version: 0x0100,
    };
    [
        Packet::EpInfo(Box::new(EpInfo { endpoints })),
        Packet::InterfaceInfo(InterfaceInfo { interfaces }),
        Packet::DeviceConnect(device),
    ]
}
