//! Reads the descriptors of a device behind a server, by requests to its endpoint 0 (USB 2.0, section 9.4.3).
//!
//! The device writes these bytes, so every length is checked, and a device that answers none of it is still told of, as
//! malformed. Only the connection can fail.

use std::time::Duration;

use fleet_usb::descriptors;
use fleet_usb::{Class, VidPid};
use fleet_usbredir::{DeviceConnect, InterfaceInfo, Packet, Status};

use super::guest::Guest;
use super::seen::{Seen, speed};
use crate::error::ExportError;

/// How long one answer may take; the standard gives a device 5 s (section 9.2.6.1).
const ANSWER: Duration = Duration::from_secs(6);
/// Types of descriptors (table 9-5).
const DEVICE: u8 = 1;
const CONFIGURATION: u8 = 2;
const STRING: u8 = 3;
/// Linux takes no more configurations.
const MAX_CONFIGURATIONS: u8 = 8;
/// English (United States), which nearly every device speaks, when the list of languages cannot be read.
const ENGLISH: u16 = 0x0409;
/// Characters of a string descriptor.
const CHARACTERS: usize = 126;

/// What one request came to.
enum Answer {
    Data(Vec<u8>),
    /// The device does not answer it.
    Refused(Status),
    /// The device went away.
    Gone,
}

/// What a device is; none when it went away meanwhile.
pub(super) async fn inspect(
    guest: &mut Guest,
    device: DeviceConnect,
    interfaces: &InterfaceInfo,
) -> Result<Option<Seen>, ExportError> {
    let rows = interfaces.interfaces.iter();
    let mut seen = Seen {
        id: VidPid { vendor: device.vendor, product: device.product },
        interfaces: rows
            .map(|row| (row.number, Class { class: row.class, subclass: row.subclass, protocol: row.protocol }))
            .collect(),
        serial: None,
        manufacturer: None,
        model: None,
        speed: speed(device.speed),
        malformed: None,
    };
    let own = match ask(guest, DEVICE, 0, 0, 18).await? {
        Answer::Gone => return Ok(None),
        Answer::Refused(status) => {
            seen.malformed = Some(format!("it does not answer what it is ({status:?})"));
            return Ok(Some(seen));
        }
        Answer::Data(own) => own,
    };
    match malformed(guest, &own, seen.id).await? {
        Outcome::Gone => return Ok(None),
        Outcome::Told(reason) => seen.malformed = reason,
    }
    if seen.malformed.is_none() {
        let language = match ask(guest, STRING, 0, 0, 255).await? {
            Answer::Gone => return Ok(None),
            Answer::Refused(_) => ENGLISH,
            Answer::Data(list) => match list[..] {
                [length, STRING, low, high, ..] if length >= 4 => u16::from_le_bytes([low, high]),
                _ => ENGLISH,
            },
        };
        for (at, word) in [(14, &mut seen.manufacturer), (15, &mut seen.model), (16, &mut seen.serial)] {
            // Index 0 is no string.
            let Some(index @ 1..) = own.get(at).copied() else { continue };
            match ask(guest, STRING, index, language, 255).await? {
                Answer::Gone => return Ok(None),
                Answer::Refused(_) => {}
                Answer::Data(bytes) => *word = string(&bytes),
            }
        }
    }
    Ok(Some(seen))
}

enum Outcome {
    Gone,
    Told(Option<String>),
}

/// Why the descriptors of the device and its configurations cannot be used.
async fn malformed(guest: &mut Guest, own: &[u8], id: VidPid) -> Result<Outcome, ExportError> {
    let mut all = own.to_vec();
    for index in 0..own.get(17).copied().unwrap_or(0).min(MAX_CONFIGURATIONS) {
        let head = match ask(guest, CONFIGURATION, index, 0, 9).await? {
            Answer::Gone => return Ok(Outcome::Gone),
            Answer::Refused(status) => {
                return Ok(Outcome::Told(Some(format!("it does not say its configuration {index} ({status:?})"))));
            }
            Answer::Data(head) => head,
        };
        let [_, _, low, high, ..] = head[..] else {
            return Ok(Outcome::Told(Some(format!("its configuration {index} has {} bytes", head.len()))));
        };
        match ask(guest, CONFIGURATION, index, 0, u16::from_le_bytes([low, high])).await? {
            Answer::Gone => return Ok(Outcome::Gone),
            Answer::Refused(status) => {
                return Ok(Outcome::Told(Some(format!("it does not say its configuration {index} ({status:?})"))));
            }
            Answer::Data(configuration) => all.extend(configuration),
        }
    }
    Ok(Outcome::Told(match descriptors::parse(&all) {
        Err(error) => Some(error.to_string()),
        Ok(found) if (found.vendor, found.product) != (id.vendor, id.product) => Some(format!(
            "its server calls it {id}, and it calls itself {}",
            VidPid { vendor: found.vendor, product: found.product }
        )),
        Ok(found) if found.configurations.is_empty() => Some("it has no configuration".to_owned()),
        Ok(_) => None,
    }))
}

/// Asks for one descriptor. Other packets that come meanwhile are of no matter here.
async fn ask(guest: &mut Guest, kind: u8, index: u8, language: u16, length: u16) -> Result<Answer, ExportError> {
    let request = Packet::Control {
        endpoint: 0x80,
        request: 6,
        request_type: 0x80,
        status: Status::Success,
        value: u16::from_be_bytes([kind, index]),
        index: language,
        length,
        data: Vec::new(),
    };
    let id = guest.send(&request).await?;
    let answer = async {
        loop {
            match guest.next().await? {
                (_, Packet::DeviceDisconnect) => return Ok(Answer::Gone),
                (answered, Packet::Control { status, mut data, .. }) if answered == id => {
                    data.truncate(length.into());
                    return Ok(if status == Status::Success { Answer::Data(data) } else { Answer::Refused(status) });
                }
                _ => {}
            }
        }
    };
    match tokio::time::timeout(ANSWER, answer).await {
        Ok(outcome) => outcome,
        Err(_) => {
            // The answer may still come; its id is given to no other request.
            guest.send(&Packet::CancelData).await?;
            Ok(Answer::Refused(Status::Timeout))
        }
    }
}

/// The text of a string descriptor (section 9.6.7), printable; none when it is empty or none.
fn string(bytes: &[u8]) -> Option<String> {
    let length = usize::from(*bytes.first()?);
    let text = bytes.get(..length).filter(|all| all.get(1) == Some(&STRING))?.get(2..)?;
    let units: Vec<u16> = text.as_chunks().0.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
    let text = String::from_utf16_lossy(&units);
    let printable = |c: char| if c.is_control() { '?' } else { c };
    // Some devices fill up with zeros.
    let text: String = text.trim_end_matches('\0').trim().chars().map(printable).take(CHARACTERS).collect();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_is_printable_and_one_that_lies_about_its_length_is_none() {
        assert_eq!(string(&[6, 3, b'D', 0, b'7', 0]).as_deref(), Some("D7"));
        assert_eq!(string(&[8, 3, b'D', 0, 27, 0, 0, 0]).as_deref(), Some("D?"));
        for wrong in [&[][..], &[2, 3], &[8, 3, b'D', 0], &[4, 2, b'D', 0], &[0, 3], &[1], &[4, 3, 0, 0]] {
            assert_eq!(string(wrong), None, "{wrong:?}");
        }
    }
}
