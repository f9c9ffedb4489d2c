//! Bytes to packets. Who may send what, and with which capabilities, is said here and nowhere else.

use crate::caps::Caps;
use crate::codec::Side;
use crate::error::RedirError;
use crate::packet::{DeviceConnect, Endpoint, EpInfo, EpType, InterfaceClass, InterfaceInfo, Packet, Speed, Status};
use crate::wire::Reader;

/// Types of packets.
pub(crate) const HELLO: u32 = 0;
pub(crate) const DEVICE_CONNECT: u32 = 1;
pub(crate) const DEVICE_DISCONNECT: u32 = 2;
pub(crate) const RESET: u32 = 3;
pub(crate) const INTERFACE_INFO: u32 = 4;
pub(crate) const EP_INFO: u32 = 5;
pub(crate) const SET_CONFIGURATION: u32 = 6;
pub(crate) const GET_CONFIGURATION: u32 = 7;
pub(crate) const CONFIGURATION_STATUS: u32 = 8;
pub(crate) const SET_ALT_SETTING: u32 = 9;
pub(crate) const GET_ALT_SETTING: u32 = 10;
pub(crate) const ALT_SETTING_STATUS: u32 = 11;
pub(crate) const START_ISO_STREAM: u32 = 12;
pub(crate) const STOP_ISO_STREAM: u32 = 13;
pub(crate) const ISO_STREAM_STATUS: u32 = 14;
pub(crate) const START_INTERRUPT_RECEIVING: u32 = 15;
pub(crate) const STOP_INTERRUPT_RECEIVING: u32 = 16;
pub(crate) const INTERRUPT_RECEIVING_STATUS: u32 = 17;
pub(crate) const CANCEL_DATA: u32 = 21;
pub(crate) const FILTER_REJECT: u32 = 22;
pub(crate) const FILTER_FILTER: u32 = 23;
pub(crate) const DEVICE_DISCONNECT_ACK: u32 = 24;
pub(crate) const CONTROL: u32 = 100;
pub(crate) const BULK: u32 = 101;
pub(crate) const ISO: u32 = 102;
pub(crate) const INTERRUPT: u32 = 103;

/// Bytes of the version in a `hello`.
pub(crate) const VERSION: usize = 64;
/// Interfaces and endpoints that there is room for.
const ROOM: usize = 32;
/// The bit of a request or endpoint whose data goes to the host.
const TO_HOST: u8 = 0x80;

/// The first packet of the other end.
pub(crate) fn hello(body: &[u8]) -> Result<Packet, RedirError> {
    let wrong = || RedirError::Length { kind: HELLO, length: body.len() };
    let mut reader = Reader(body);
    let version = reader.take(VERSION).ok_or_else(wrong)?;
    let version = version.split(|byte| *byte == 0).next().unwrap_or_default();
    if reader.0.len() % 4 != 0 {
        return Err(wrong());
    }
    // Words behind the first are of capabilities that nobody here knows.
    let caps = Caps(reader.u32().unwrap_or(0));
    if !caps.is_consistent() {
        return Err(RedirError::Value { kind: HELLO, what: "capabilities", value: caps.0.into() });
    }
    Ok(Packet::Hello { version: String::from_utf8_lossy(version).into_owned(), caps })
}

/// A later packet, from `sender`.
pub(crate) fn packet(kind: u32, body: &[u8], sender: Side, caps: Caps) -> Result<Packet, RedirError> {
    if !may_send(kind, sender, caps) {
        return Err(RedirError::Type { kind });
    }
    let mut fields = Fields { kind, length: body.len(), reader: Reader(body) };
    let packet = fields.packet(sender, caps)?;
    if !fields.reader.0.is_empty() {
        return Err(fields.wrong());
    }
    Ok(packet)
}

/// Bytes of a bulk packet's head.
pub(crate) fn bulk_head(caps: Caps) -> usize {
    if caps.has(Caps::BULK_LENGTH_32) { 10 } else { 8 }
}

/// Checks a bulk packet of `length` bytes, of which the head at least is there.
pub(crate) fn bulk(body: &[u8], length: usize, sender: Side, caps: Caps) -> Result<(), RedirError> {
    let mut fields = Fields { kind: BULK, length, reader: Reader(body) };
    let head = fields.bulk_head(sender, caps)?;
    let data = length.checked_sub(bulk_head(caps)).ok_or_else(|| fields.wrong())?;
    fields.fits(data, head.length, head.endpoint & TO_HOST != 0, sender)
}

fn may_send(kind: u32, sender: Side, caps: Caps) -> bool {
    match kind {
        DEVICE_CONNECT
        | DEVICE_DISCONNECT
        | INTERFACE_INFO
        | EP_INFO
        | CONFIGURATION_STATUS
        | ALT_SETTING_STATUS
        | ISO_STREAM_STATUS
        | INTERRUPT_RECEIVING_STATUS => sender == Side::Host,
        RESET
        | SET_CONFIGURATION
        | GET_CONFIGURATION
        | SET_ALT_SETTING
        | GET_ALT_SETTING
        | START_ISO_STREAM
        | STOP_ISO_STREAM
        | START_INTERRUPT_RECEIVING
        | STOP_INTERRUPT_RECEIVING
        | CANCEL_DATA => sender == Side::Guest,
        FILTER_REJECT => sender == Side::Guest && caps.has(Caps::FILTER),
        FILTER_FILTER => caps.has(Caps::FILTER),
        DEVICE_DISCONNECT_ACK => sender == Side::Guest && caps.has(Caps::DISCONNECT_ACK),
        CONTROL | BULK | ISO | INTERRUPT => true,
        _ => false,
    }
}

/// What a bulk packet says before its data.
struct BulkHead {
    endpoint: u8,
    status: Status,
    stream: u32,
    length: u32,
}

/// The fields of one packet, in their order.
struct Fields<'a> {
    kind: u32,
    length: usize,
    reader: Reader<'a>,
}

impl Fields<'_> {
    fn wrong(&self) -> RedirError {
        RedirError::Length { kind: self.kind, length: self.length }
    }

    fn u8(&mut self) -> Result<u8, RedirError> {
        self.reader.u8().ok_or_else(|| self.wrong())
    }

    fn u16(&mut self) -> Result<u16, RedirError> {
        self.reader.u16().ok_or_else(|| self.wrong())
    }

    fn u32(&mut self) -> Result<u32, RedirError> {
        self.reader.u32().ok_or_else(|| self.wrong())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RedirError> {
        self.reader.array().ok_or_else(|| self.wrong())
    }

    fn value(&self, what: &'static str, value: impl Into<u64>) -> RedirError {
        RedirError::Value { kind: self.kind, what, value: value.into() }
    }

    fn status(&mut self) -> Result<Status, RedirError> {
        let byte = self.u8()?;
        Status::from_wire(byte).ok_or_else(|| self.value("status", byte))
    }

    /// The status of a packet of data. A guest's says nothing, and QEMU 7.2 leaves there what was in its memory.
    fn status_of(&mut self, sender: Side) -> Result<Status, RedirError> {
        match sender {
            Side::Host => self.status(),
            Side::Guest => self.u8().map(|_| Status::Success),
        }
    }

    /// The data that a head with this length has: all of it in the direction of the transfer, none the other way.
    fn data(&mut self, length: u32, to_host: bool, sender: Side) -> Result<Vec<u8>, RedirError> {
        let data = self.reader.rest();
        self.fits(data.len(), length, to_host, sender)?;
        Ok(data.to_vec())
    }

    /// Whether there is as much data as a head with this length has.
    fn fits(&self, data: usize, length: u32, to_host: bool, sender: Side) -> Result<(), RedirError> {
        let expected = if to_host == (sender == Side::Host) { usize::try_from(length).ok() } else { Some(0) };
        if expected == Some(data) { Ok(()) } else { Err(self.wrong()) }
    }

    fn packet(&mut self, sender: Side, caps: Caps) -> Result<Packet, RedirError> {
        Ok(match self.kind {
            DEVICE_CONNECT => Packet::DeviceConnect(self.device_connect(caps)?),
            DEVICE_DISCONNECT => Packet::DeviceDisconnect,
            RESET => Packet::Reset,
            INTERFACE_INFO => Packet::InterfaceInfo(self.interface_info()?),
            EP_INFO => Packet::EpInfo(Box::new(self.ep_info(caps)?)),
            SET_CONFIGURATION => Packet::SetConfiguration { configuration: self.u8()? },
            GET_CONFIGURATION => Packet::GetConfiguration,
            CONFIGURATION_STATUS => Packet::ConfigurationStatus { status: self.status()?, configuration: self.u8()? },
            SET_ALT_SETTING => Packet::SetAltSetting { interface: self.u8()?, alt: self.u8()? },
            GET_ALT_SETTING => Packet::GetAltSetting { interface: self.u8()? },
            ALT_SETTING_STATUS => {
                Packet::AltSettingStatus { status: self.status()?, interface: self.u8()?, alt: self.u8()? }
            }
            START_ISO_STREAM => {
                Packet::StartIsoStream { endpoint: self.u8()?, packets_per_urb: self.u8()?, urbs: self.u8()? }
            }
            STOP_ISO_STREAM => Packet::StopIsoStream { endpoint: self.u8()? },
            ISO_STREAM_STATUS => Packet::IsoStreamStatus { status: self.status()?, endpoint: self.u8()? },
            START_INTERRUPT_RECEIVING => Packet::StartInterruptReceiving { endpoint: self.u8()? },
            STOP_INTERRUPT_RECEIVING => Packet::StopInterruptReceiving { endpoint: self.u8()? },
            INTERRUPT_RECEIVING_STATUS => {
                Packet::InterruptReceivingStatus { status: self.status()?, endpoint: self.u8()? }
            }
            CANCEL_DATA => Packet::CancelData,
            FILTER_REJECT => Packet::FilterReject,
            FILTER_FILTER => Packet::Filter { rules: self.rules()? },
            DEVICE_DISCONNECT_ACK => Packet::DeviceDisconnectAck,
            CONTROL => self.control(sender)?,
            BULK => self.bulk(sender, caps)?,
            ISO => {
                let (endpoint, status, length, data) = self.short(sender)?;
                Packet::Iso { endpoint, status, length, data }
            }
            INTERRUPT => {
                let (endpoint, status, length, data) = self.short(sender)?;
                Packet::Interrupt { endpoint, status, length, data }
            }
            kind => return Err(RedirError::Type { kind }),
        })
    }

    fn device_connect(&mut self, caps: Caps) -> Result<DeviceConnect, RedirError> {
        let speed = self.u8()?;
        Ok(DeviceConnect {
            speed: Speed::from_wire(speed).ok_or_else(|| self.value("speed", speed))?,
            class: self.u8()?,
            subclass: self.u8()?,
            protocol: self.u8()?,
            vendor: self.u16()?,
            product: self.u16()?,
            version: if caps.has(Caps::CONNECT_DEVICE_VERSION) { self.u16()? } else { 0 },
        })
    }

    fn interface_info(&mut self) -> Result<InterfaceInfo, RedirError> {
        let count = self.u32()?;
        let columns = [self.array::<ROOM>()?, self.array()?, self.array()?, self.array()?];
        let [numbers, classes, subclasses, protocols] = columns;
        let wanted = usize::try_from(count).ok().filter(|count| *count <= ROOM);
        let wanted = wanted.ok_or_else(|| self.value("a number of interfaces", count))?;
        let rows = numbers.into_iter().zip(classes).zip(subclasses.into_iter().zip(protocols)).take(wanted);
        let interface = |((number, class), (subclass, protocol))| InterfaceClass { number, class, subclass, protocol };
        Ok(InterfaceInfo { interfaces: rows.map(interface).collect() })
    }

    fn ep_info(&mut self, caps: Caps) -> Result<EpInfo, RedirError> {
        let [kinds, intervals, interfaces] = [self.array::<ROOM>()?, self.array()?, self.array()?];
        let mut endpoints = [Endpoint::NONE; ROOM];
        let rows = kinds.into_iter().zip(intervals).zip(interfaces);
        for (endpoint, ((kind, interval), interface)) in endpoints.iter_mut().zip(rows) {
            let kind = EpType::from_wire(kind).ok_or_else(|| self.value("a kind of endpoint", kind))?;
            *endpoint = Endpoint { kind, interval, interface, max_packet: 0 };
        }
        if caps.has(Caps::EP_INFO_MAX_PACKET_SIZE) {
            for endpoint in &mut endpoints {
                endpoint.max_packet = self.u16()?;
            }
        }
        Ok(EpInfo { endpoints })
    }

    /// Text with a zero byte at its end, and none within.
    fn rules(&mut self) -> Result<String, RedirError> {
        let Some((0, text)) = self.reader.rest().split_last() else { return Err(self.wrong()) };
        if text.contains(&0) {
            return Err(self.wrong());
        }
        String::from_utf8(text.to_vec()).map_err(|_| self.wrong())
    }

    fn control(&mut self, sender: Side) -> Result<Packet, RedirError> {
        let (endpoint, request, request_type) = (self.u8()?, self.u8()?, self.u8()?);
        let (status, value, index, length) = (self.status_of(sender)?, self.u16()?, self.u16()?, self.u16()?);
        // The direction is said twice, and has to be the same: data is looked for by it.
        if (endpoint ^ request_type) & TO_HOST != 0 {
            return Err(self.value("a request type", request_type));
        }
        let data = self.data(length.into(), request_type & TO_HOST != 0, sender)?;
        Ok(Packet::Control { endpoint, request, request_type, status, value, index, length, data })
    }

    fn bulk(&mut self, sender: Side, caps: Caps) -> Result<Packet, RedirError> {
        let BulkHead { endpoint, status, stream, length } = self.bulk_head(sender, caps)?;
        let data = self.data(length, endpoint & TO_HOST != 0, sender)?;
        Ok(Packet::Bulk { endpoint, status, stream, length, data })
    }

    fn bulk_head(&mut self, sender: Side, caps: Caps) -> Result<BulkHead, RedirError> {
        let (endpoint, status, low, stream) = (self.u8()?, self.status_of(sender)?, self.u16()?, self.u32()?);
        let high = if caps.has(Caps::BULK_LENGTH_32) { self.u16()? } else { 0 };
        let length = u32::from(high) << 16 | u32::from(low);
        // A request that asks for more than a packet can bring is as wrong as one that brings it.
        if usize::try_from(length).map_or(true, |length| length > crate::MAX_BODY - 64) {
            return Err(self.value("a length of", length));
        }
        Ok(BulkHead { endpoint, status, stream, length })
    }

    fn short(&mut self, sender: Side) -> Result<(u8, Status, u16, Vec<u8>), RedirError> {
        let (endpoint, status, length) = (self.u8()?, self.status_of(sender)?, self.u16()?);
        let data = self.data(length.into(), endpoint & TO_HOST != 0, sender)?;
        Ok((endpoint, status, length, data))
    }
}
