//! A connection to a server, as a guest's side.

use std::collections::VecDeque;
use std::time::Duration;

use fleet_usbredir::{Caps, Codec, Packet, Side};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::Stream;
use crate::address::ServerAddress;
use crate::error::ExportError;

/// How long a server may take to accept.
const CONNECT: Duration = Duration::from_secs(5);
/// How long it may take to say hello. One that serves another client accepts and says nothing.
pub(super) const HELLO: Duration = Duration::from_secs(10);
/// How long it may take to read a few bytes.
const WRITE: Duration = Duration::from_secs(10);
/// Bytes that are read at once.
const BUFFER: usize = 16 << 10;

/// Connects.
pub(super) async fn connect(address: &ServerAddress) -> Result<Box<dyn Stream>, ExportError> {
    let connecting = async {
        Ok::<Box<dyn Stream>, std::io::Error>(match address {
            ServerAddress::Unix(path) => Box::new(UnixStream::connect(path).await?),
            ServerAddress::Tcp(name) => {
                let stream = TcpStream::connect(name).await?;
                // Packets of control requests are small, and each waits for the one before.
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
        })
    };
    let failed = |source| ExportError::Connect { address: address.clone(), source };
    match tokio::time::timeout(CONNECT, connecting).await {
        Ok(outcome) => outcome.map_err(failed),
        Err(_) => Err(failed(std::io::ErrorKind::TimedOut.into())),
    }
}

/// A connection that has been greeted.
pub(super) struct Guest {
    address: ServerAddress,
    stream: Box<dyn Stream>,
    codec: Codec,
    /// Packets that have come and were not asked for yet; of one buffer at most.
    come: VecDeque<(u64, Packet)>,
    last_id: u64,
}

impl Guest {
    /// Connects, and says hello.
    pub(super) async fn connect(address: &ServerAddress) -> Result<Self, ExportError> {
        let stream = connect(address).await?;
        let (codec, hello) = Codec::new(Side::Guest, Caps::OURS, concat!("fleet ", env!("CARGO_PKG_VERSION")));
        let mut guest = Self { address: address.clone(), stream, codec, come: VecDeque::new(), last_id: 0 };
        guest.write(&hello).await?;
        match tokio::time::timeout(HELLO, guest.next()).await {
            // The codec takes nothing else for the first packet.
            Ok(first) => first.map(|_| guest),
            Err(_) => Err(guest.silent("hello", HELLO)),
        }
    }

    /// That something did not come in time.
    pub(super) fn silent(&self, what: &'static str, after: Duration) -> ExportError {
        ExportError::Silent { address: self.address.clone(), what, after }
    }

    /// Capabilities of both.
    pub(super) fn caps(&self) -> Caps {
        self.codec.caps().unwrap_or_default()
    }

    /// The next packet. May be dropped at any time: nothing is lost.
    pub(super) async fn next(&mut self) -> Result<(u64, Packet), ExportError> {
        let mut buffer = [0; BUFFER];
        loop {
            if let Some(packet) = self.come.pop_front() {
                return Ok(packet);
            }
            let length = match self.stream.read(&mut buffer).await {
                Ok(0) => return Err(ExportError::Closed { address: self.address.clone() }),
                Ok(length) => length,
                Err(source) => return Err(self.failed(source)),
            };
            let mut bytes = buffer.get(..length).unwrap_or_default();
            let wrong = |source| ExportError::Protocol { from: self.address.to_string(), source };
            while let Some(packet) = self.codec.read(&mut bytes).map_err(wrong)? {
                self.come.push_back(packet);
            }
        }
    }

    /// Sends a packet with an id that is new; gives the id.
    pub(super) async fn send(&mut self, packet: &Packet) -> Result<u64, ExportError> {
        self.last_id += 1;
        let wrong = |source| ExportError::Protocol { from: "this side".to_owned(), source };
        let bytes = self.codec.write(self.last_id, packet).map_err(wrong)?;
        self.write(&bytes).await?;
        Ok(self.last_id)
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), ExportError> {
        let writing = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        match tokio::time::timeout(WRITE, writing).await {
            Ok(outcome) => outcome.map_err(|source| self.failed(source)),
            Err(_) => Err(self.failed(std::io::ErrorKind::TimedOut.into())),
        }
    }

    fn failed(&self, source: std::io::Error) -> ExportError {
        ExportError::Stream { with: format!("the usbredir server {}", self.address), source }
    }
}
