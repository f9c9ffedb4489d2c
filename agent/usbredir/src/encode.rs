//! Packets to bytes. Whether a packet may be sent is for [`decode`](crate::decode) to say.

use crate::caps::Caps;
use crate::decode as kind;
use crate::error::RedirError;
use crate::packet::Packet;

/// The first packet, header and all; its id is 0 and has 32 bits, for nothing is agreed on yet.
pub(crate) fn hello(caps: Caps, version: &str) -> Vec<u8> {
    // The last byte of the version is zero.
    let mut text: Vec<u8> = version.bytes().filter(|byte| *byte != 0).take(kind::VERSION - 1).collect();
    text.resize(kind::VERSION, 0);
    let length = 68u32; // the version and one word of capabilities
    let mut bytes = Vec::new();
    for word in [kind::HELLO, length, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(text);
    bytes.extend(caps.0.to_le_bytes());
    bytes
}

/// Header and body.
pub(crate) fn frame(kind: u32, id: u64, body: &[u8], caps: Caps) -> Result<Vec<u8>, RedirError> {
    let too_long = |_| RedirError::TooLong { kind, length: body.len(), limit: crate::MAX_BODY };
    let mut bytes = Vec::with_capacity(16 + body.len());
    bytes.extend(kind.to_le_bytes());
    bytes.extend(u32::try_from(body.len()).map_err(too_long)?.to_le_bytes());
    if caps.has(Caps::IDS_64) {
        bytes.extend(id.to_le_bytes());
    } else {
        let short = u32::try_from(id).map_err(|_| RedirError::Value { kind, what: "an id of 32 bits", value: id })?;
        bytes.extend(short.to_le_bytes());
    }
    bytes.extend_from_slice(body);
    Ok(bytes)
}

/// Type and body. What there is no field for with these capabilities is left out; the caller compares.
pub(crate) fn body(packet: &Packet, caps: Caps) -> (u32, Vec<u8>) {
    match packet {
        Packet::Hello { .. } => (kind::HELLO, Vec::new()),
        Packet::DeviceConnect(device) => {
            let mut body = vec![device.speed as u8, device.class, device.subclass, device.protocol];
            body.extend(device.vendor.to_le_bytes());
            body.extend(device.product.to_le_bytes());
            if caps.has(Caps::CONNECT_DEVICE_VERSION) {
                body.extend(device.version.to_le_bytes());
            }
            (kind::DEVICE_CONNECT, body)
        }
        Packet::DeviceDisconnect => (kind::DEVICE_DISCONNECT, Vec::new()),
        Packet::Reset => (kind::RESET, Vec::new()),
        Packet::InterfaceInfo(info) => {
            let rows = &info.interfaces;
            let mut body = u32::try_from(rows.len()).unwrap_or(u32::MAX).to_le_bytes().to_vec();
            let mut column = |of: fn(&crate::InterfaceClass) -> u8| {
                body.extend(rows.iter().map(of).chain(std::iter::repeat(0)).take(32));
            };
            column(|row| row.number);
            column(|row| row.class);
            column(|row| row.subclass);
            column(|row| row.protocol);
            (kind::INTERFACE_INFO, body)
        }
        Packet::EpInfo(info) => {
            let rows = &info.endpoints;
            let mut body: Vec<u8> = rows.iter().map(|row| row.kind as u8).collect();
            body.extend(rows.iter().map(|row| row.interval));
            body.extend(rows.iter().map(|row| row.interface));
            if caps.has(Caps::EP_INFO_MAX_PACKET_SIZE) {
                body.extend(rows.iter().flat_map(|row| row.max_packet.to_le_bytes()));
            }
            (kind::EP_INFO, body)
        }
        Packet::SetConfiguration { configuration } => (kind::SET_CONFIGURATION, vec![*configuration]),
        Packet::GetConfiguration => (kind::GET_CONFIGURATION, Vec::new()),
        Packet::ConfigurationStatus { status, configuration } => {
            (kind::CONFIGURATION_STATUS, vec![*status as u8, *configuration])
        }
        Packet::SetAltSetting { interface, alt } => (kind::SET_ALT_SETTING, vec![*interface, *alt]),
        Packet::GetAltSetting { interface } => (kind::GET_ALT_SETTING, vec![*interface]),
        Packet::AltSettingStatus { status, interface, alt } => {
            (kind::ALT_SETTING_STATUS, vec![*status as u8, *interface, *alt])
        }
        Packet::StartIsoStream { endpoint, packets_per_urb, urbs } => {
            (kind::START_ISO_STREAM, vec![*endpoint, *packets_per_urb, *urbs])
        }
        Packet::StopIsoStream { endpoint } => (kind::STOP_ISO_STREAM, vec![*endpoint]),
        Packet::IsoStreamStatus { status, endpoint } => (kind::ISO_STREAM_STATUS, vec![*status as u8, *endpoint]),
        Packet::StartInterruptReceiving { endpoint } => (kind::START_INTERRUPT_RECEIVING, vec![*endpoint]),
        Packet::StopInterruptReceiving { endpoint } => (kind::STOP_INTERRUPT_RECEIVING, vec![*endpoint]),
        Packet::InterruptReceivingStatus { status, endpoint } => {
            (kind::INTERRUPT_RECEIVING_STATUS, vec![*status as u8, *endpoint])
        }
        Packet::CancelData => (kind::CANCEL_DATA, Vec::new()),
        Packet::FilterReject => (kind::FILTER_REJECT, Vec::new()),
        Packet::Filter { rules } => (kind::FILTER_FILTER, rules.bytes().chain([0]).collect()),
        Packet::DeviceDisconnectAck => (kind::DEVICE_DISCONNECT_ACK, Vec::new()),
        Packet::Control { endpoint, request, request_type, status, value, index, length, data } => {
            let mut body = vec![*endpoint, *request, *request_type, *status as u8];
            body.extend([value, index, length].into_iter().flat_map(|word| word.to_le_bytes()));
            body.extend(data);
            (kind::CONTROL, body)
        }
        Packet::Bulk { endpoint, status, stream, length, data } => {
            let [low, second, third, high] = length.to_le_bytes();
            let mut body = vec![*endpoint, *status as u8, low, second];
            body.extend(stream.to_le_bytes());
            if caps.has(Caps::BULK_LENGTH_32) {
                body.extend([third, high]);
            }
            body.extend(data);
            (kind::BULK, body)
        }
        Packet::Iso { endpoint, status, length, data } => (kind::ISO, short(*endpoint, *status as u8, *length, data)),
        Packet::Interrupt { endpoint, status, length, data } => {
            (kind::INTERRUPT, short(*endpoint, *status as u8, *length, data))
        }
    }
}

fn short(endpoint: u8, status: u8, length: u16, data: &[u8]) -> Vec<u8> {
    let mut body = vec![endpoint, status];
    body.extend(length.to_le_bytes());
    body.extend_from_slice(data);
    body
}
