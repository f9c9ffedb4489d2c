//! A camera on a USB port of this host, given out by usbredir: the side that has the device.
//!
//! - `core`, with `shape`: what is to be done, from packets and from ends of transfers. No bus, no stream.
//! - `bus`, `pipe`, `flights`: how it is done, by usbfs.
//! - here: the loop between them and the stream.
//!
//! What is to be sent goes before everything else: while the other end does not read, no packet is taken from it, and ends
//! of transfers stay with the kernel. An unplug makes the node's file hang up, also when nothing is under way.
//!
//! Isochronous transfers, which most video (UVC) needs, are refused as the protocol provides for: nusb has none. So are
//! streams of bulk endpoints. Pictures by PTP, disks, and UVC over bulk need neither.

mod act;
mod bus;
mod core;
mod flights;
mod pipe;
mod shape;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use fleet_usb::descriptors;
use fleet_usbredir::{Caps, Codec, Packet, Side, Speed};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio_util::sync::CancellationToken;

use self::act::{Act, Change};
use self::bus::{Bus, BusError, failed};
use self::core::Core;
use self::shape::Shape;
use crate::Ended;
use crate::error::ExportError;

/// Bytes of descriptors at most; the kernel's own are far fewer.
const DESCRIPTORS: usize = 1 << 20;
/// Bytes that are read at once.
const BUFFER: usize = 64 << 10;
/// How long the other end may take to read that the device is gone.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Gives out the device whose node, `/dev/bus/usb/BUS/DEVICE`, is open for reading and writing, until it is cancelled, the
/// device is unplugged, or the other end closes. Its interfaces are claimed meanwhile; at the end it is reset, and the
/// kernel's drivers have it again, also when this is dropped. Several may run, each for a device of its own.
///
/// # Errors
/// When the node is none, another program has the device, the other end breaks the protocol or refuses the device by its
/// filter, or the device hangs.
pub async fn export_device(
    node: OwnedFd,
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    cancel: CancellationToken,
) -> Result<Ended, ExportError> {
    let exporting = async {
        let (mut exporter, unplug) = Exporter::open(node, io).await?;
        let outcome = tokio::select! {
            biased;
            () = cancel.cancelled() => Ok(Ended::Cancelled),
            () = hung_up(&unplug) => Err(BusError::Gone),
            outcome = exporter.run() => outcome,
        };
        let outcome = match outcome {
            Err(BusError::Gone) => {
                exporter.say_goodbye().await;
                Ok(Ended::Unplugged)
            }
            Err(BusError::Failed(error)) => Err(error),
            Ok(ended) => Ok(ended),
        };
        let Exporter { bus, io, .. } = exporter;
        // Closed first: the other end need not wait for the reset.
        drop(io);
        bus.give_back(!matches!(outcome, Ok(Ended::Unplugged))).await;
        outcome.map_err(BusError::Failed)
    };
    match exporting.await {
        Ok(ended) => Ok(ended),
        // Before it was announced.
        Err(BusError::Gone) => Ok(Ended::Unplugged),
        Err(BusError::Failed(error)) => Err(error),
    }
}

/// Waits until the device is unplugged.
async fn hung_up(node: &AsyncFd<OwnedFd>) {
    loop {
        match node.ready(Interest::READABLE | Interest::ERROR).await {
            Ok(mut guard) => {
                if guard.ready().is_read_closed() || guard.ready().is_error() {
                    return;
                }
                guard.clear_ready();
            }
            // The runtime ends, and everything with it.
            Err(_) => return std::future::pending().await,
        }
    }
}

/// One conversation.
struct Exporter<S> {
    io: S,
    codec: Codec,
    core: Core,
    bus: Bus,
    /// What came and was not looked at yet.
    input: Vec<u8>,
    /// What is to be sent, and how much of it is.
    output: Vec<u8>,
    sent: usize,
    change: Option<Change>,
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Exporter<S> {
    async fn open(node: OwnedFd, io: S) -> Result<(Self, AsyncFd<OwnedFd>), BusError> {
        let wrong = |source| BusError::Failed(ExportError::Node { source });
        let file = File::from(node.try_clone().map_err(wrong)?);
        let unplug = node.try_clone().map_err(wrong)?;
        let interest = Interest::READABLE | Interest::ERROR;
        // SAFETY: an `OwnedFd` is the same open descriptor for as long as it lives.
        let unplug = unsafe { AsyncFd::register_with_interest(unplug, interest) };
        let unplug = unplug.map_err(|error| wrong(error.into()))?;
        let read =
            tokio::task::spawn_blocking(move || read_descriptors(&file).map(|bytes| (bytes, OwnedFd::from(file))));
        let read = read.await.map_err(|error| wrong(std::io::Error::other(error)))?;
        let (bytes, own) = read.map_err(wrong)?;
        let descriptors =
            descriptors::parse(&bytes).map_err(|source| BusError::Failed(ExportError::Descriptors { source }))?;
        let device = nusb::Device::from_fd(node).await.map_err(failed("cannot be opened"))?;
        let speed = match device.speed() {
            Some(nusb::Speed::Low) => Speed::Low,
            Some(nusb::Speed::Full) => Speed::Full,
            Some(nusb::Speed::High) => Speed::High,
            Some(nusb::Speed::Super | nusb::Speed::SuperPlus) => Speed::Super,
            _ => Speed::Unknown,
        };
        let configuration = device.active_configuration().map_or(0, |found| found.configuration_value());
        let core = Core::new(Shape::new(descriptors, speed, configuration));
        let bus = Bus::open(device, own, &core.shape().interfaces_of(configuration)).await?;
        let (codec, output) = Codec::new(Side::Host, Caps::OURS, concat!("fleet ", env!("CARGO_PKG_VERSION")));
        Ok((Self { io, codec, core, bus, input: Vec::new(), output, sent: 0, change: None }, unplug))
    }

    async fn run(&mut self) -> Result<Ended, BusError> {
        let mut buffer = vec![0; BUFFER];
        loop {
            if self.flush().await.is_err() {
                return Ok(Ended::PeerClosed);
            }
            if let Some(change) = self.change.take() {
                let configuration = match change {
                    Change::Configuration(value) => value,
                    _ => self.core.shape().configuration(),
                };
                let status = self.bus.perform(change, &self.core.shape().interfaces_of(configuration)).await?;
                let acts = self.core.performed(status);
                self.carry_out(acts)?;
                self.take_packets()?;
                continue;
            }
            let acts = tokio::select! {
                // Ends first: they make room.
                biased;
                ended = self.bus.next() => {
                    let (token, done) = ended?;
                    self.core.done(token, done)
                }
                read = self.io.read(&mut buffer), if !self.core.changing() => {
                    let length = match read {
                        Ok(0) | Err(_) => return Ok(Ended::PeerClosed),
                        Ok(length) => length,
                    };
                    self.input.extend_from_slice(buffer.get(..length).unwrap_or_default());
                    Vec::new()
                }
            };
            self.carry_out(acts)?;
            self.take_packets()?;
        }
    }

    /// Takes what has come, as far as it may be taken now.
    fn take_packets(&mut self) -> Result<(), BusError> {
        let wrong = |source| {
            BusError::Failed(ExportError::Protocol {
                from: "the other end, that of the virtual machine".to_owned(),
                source,
            })
        };
        let input = std::mem::take(&mut self.input);
        let mut rest = input.as_slice();
        while !self.core.changing() {
            let Some((id, packet)) = self.codec.read(&mut rest).map_err(wrong)? else { break };
            let acts = match packet {
                Packet::Hello { .. } => self.core.announce(),
                packet => self.core.take(id, packet),
            };
            self.carry_out(acts)?;
        }
        self.input = rest.to_vec();
        Ok(())
    }

    fn carry_out(&mut self, acts: Vec<Act>) -> Result<(), BusError> {
        for act in acts {
            match act {
                Act::Send(id, packet) => self.send(id, packet)?,
                Act::Begin(token, transfer) => {
                    let place = self.core.shape().endpoint(transfer.endpoint());
                    self.bus.begin(token, transfer, place);
                }
                Act::Cancel(token) => self.bus.cancel(token),
                Act::Perform(change) => self.change = Some(change),
                Act::Rejected => return Err(BusError::Failed(ExportError::Rejected)),
            }
        }
        Ok(())
    }

    fn send(&mut self, id: u64, packet: Packet) -> Result<(), BusError> {
        let wrong = |source| BusError::Failed(ExportError::Protocol { from: "this side".to_owned(), source });
        let packet = fit(packet, self.codec.caps().unwrap_or_default());
        self.output.extend(self.codec.write(id, &packet).map_err(wrong)?);
        Ok(())
    }

    /// Sends what there is to send. May be dropped, and goes on where it was.
    async fn flush(&mut self) -> std::io::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        while let Some(rest) = self.output.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.io.write(rest).await? {
                0 => return Err(std::io::ErrorKind::WriteZero.into()),
                written => self.sent += written,
            }
        }
        self.io.flush().await?;
        // The memory of a long packet is not kept.
        self.output = Vec::new();
        self.sent = 0;
        Ok(())
    }

    /// Tells that the device is gone, if the other end still reads.
    async fn say_goodbye(&mut self) {
        if self.codec.caps().is_some() && self.send(0, Packet::DeviceDisconnect).is_ok() {
            // If not, it sees the end of the stream.
            let _ = tokio::time::timeout(LAST_WORDS, self.flush()).await;
        }
    }
}

/// Leaves out what there is no field for with these capabilities.
fn fit(mut packet: Packet, caps: Caps) -> Packet {
    match &mut packet {
        Packet::EpInfo(info) if !caps.has(Caps::EP_INFO_MAX_PACKET_SIZE) => {
            info.endpoints.iter_mut().for_each(|endpoint| endpoint.max_packet = 0);
        }
        Packet::DeviceConnect(device) if !caps.has(Caps::CONNECT_DEVICE_VERSION) => device.version = 0,
        _ => {}
    }
    packet
}

fn read_descriptors(file: &File) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; DESCRIPTORS];
    let mut length = 0;
    while let Some(room) = bytes.get_mut(length..).filter(|room| !room.is_empty()) {
        match file.read_at(room, length as u64)? {
            0 => break,
            read => length += read,
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}
