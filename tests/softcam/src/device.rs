//! The camera as a USB device: descriptors, requests of endpoint 0, and two bulk endpoints with PTP behind them.
//!
//! It is the device side of usbredir, packet by packet and without I/O. A read waits until there is something to read; a
//! container of PTP is one transfer, ended by a short packet, which is an empty one when its length is a multiple of 512.

use std::collections::VecDeque;

use fleet_usbredir::{DeviceConnect, Endpoint, EpInfo, EpType, InterfaceClass, InterfaceInfo, Packet, Speed, Status};

use crate::responder::Responder;

/// Vendor and product of a D7000 in PTP mode.
const VENDOR: u16 = 0x04b0;
const PRODUCT: u16 = 0x0428;
const RELEASE: u16 = 0x0100;
const BULK_IN: u8 = 0x81;
const BULK_OUT: u8 = 0x02;
const INTERRUPT_IN: u8 = 0x83;
const MAX_PACKET: usize = 512;
/// Reads that may wait; a guest's controller has fewer.
const MAX_READS: usize = 64;

/// A USB device with a PTP responder.
#[derive(Debug)]
pub struct Device {
    responder: Responder,
    serial: String,
    configuration: u8,
    /// Containers on their way to the host, and how much of the first was read.
    output: VecDeque<Vec<u8>>,
    offset: usize,
    /// Reads that wait: id and length.
    reads: VecDeque<(u64, u32)>,
    /// Whether the bulk endpoints are halted, after bytes that are no PTP.
    halted: bool,
}

impl Device {
    /// A camera that was just plugged in.
    pub fn new(serial: &str, responder: Responder) -> Self {
        Self {
            responder,
            serial: serial.to_owned(),
            configuration: 1,
            output: VecDeque::new(),
            offset: 0,
            reads: VecDeque::new(),
            halted: false,
        }
    }

    /// The packets by which the host's side announces it, after hello.
    pub fn announce(&self) -> Vec<Packet> {
        let mut endpoints = [Endpoint::NONE; 32];
        let endpoint = |kind, interval, max_packet| Endpoint { kind, interval, interface: 0, max_packet };
        let all = [
            (0, endpoint(EpType::Control, 0, 64)),
            (0x80, endpoint(EpType::Control, 0, 64)),
            (BULK_IN, endpoint(EpType::Bulk, 0, 512)),
            (BULK_OUT, endpoint(EpType::Bulk, 0, 512)),
            (INTERRUPT_IN, endpoint(EpType::Interrupt, 9, 8)),
        ];
        for (address, endpoint) in all {
            endpoints[EpInfo::index(address)] = endpoint;
        }
        let interface = InterfaceClass { number: 0, class: 6, subclass: 1, protocol: 1 };
        vec![
            Packet::EpInfo(Box::new(EpInfo { endpoints })),
            Packet::InterfaceInfo(InterfaceInfo { interfaces: vec![interface] }),
            Packet::DeviceConnect(DeviceConnect {
                speed: Speed::High,
                class: 0,
                subclass: 0,
                protocol: 0,
                vendor: VENDOR,
                product: PRODUCT,
                version: RELEASE,
            }),
        ]
    }

    /// Answers one packet of the guest; some answers are of earlier reads.
    pub fn handle(&mut self, id: u64, packet: Packet) -> Vec<(u64, Packet)> {
        match packet {
            Packet::Reset => {
                self.reset();
                self.cancel_all()
            }
            Packet::SetConfiguration { configuration } => {
                let status = if configuration <= 1 { Status::Success } else { Status::Stall };
                if status == Status::Success {
                    self.configuration = configuration;
                    self.reset();
                }
                vec![(id, Packet::ConfigurationStatus { status, configuration: self.configuration })]
            }
            Packet::GetConfiguration => {
                vec![(id, Packet::ConfigurationStatus { status: Status::Success, configuration: self.configuration })]
            }
            Packet::SetAltSetting { interface, alt } => {
                let status = if (interface, alt) == (0, 0) { Status::Success } else { Status::Stall };
                vec![(id, Packet::AltSettingStatus { status, interface, alt: 0 })]
            }
            Packet::GetAltSetting { interface } => {
                vec![(id, Packet::AltSettingStatus { status: Status::Success, interface, alt: 0 })]
            }
            // The interrupt endpoint is there and says nothing.
            Packet::StartInterruptReceiving { endpoint } | Packet::StopInterruptReceiving { endpoint } => {
                let status = if endpoint == INTERRUPT_IN { Status::Success } else { Status::Inval };
                vec![(id, Packet::InterruptReceivingStatus { status, endpoint })]
            }
            Packet::CancelData => {
                let cancelled =
                    self.reads.iter().position(|(read, _)| *read == id).and_then(|at| self.reads.remove(at));
                cancelled.map(|(id, _)| (id, read(Status::Cancelled, Vec::new()))).into_iter().collect()
            }
            Packet::Control { endpoint, request, request_type, value, index, length, .. } => {
                let answer = self.control(request_type, request, value, index);
                let (status, mut data) = answer.map_or((Status::Stall, Vec::new()), |data| (Status::Success, data));
                data.truncate(length.into());
                let moved = if request_type & 0x80 == 0 { length } else { u16::try_from(data.len()).unwrap_or(0) };
                let (status, length) = (status, if status == Status::Success { moved } else { 0 });
                vec![(id, Packet::Control { endpoint, request, request_type, status, value, index, length, data })]
            }
            Packet::Bulk { endpoint: BULK_OUT, length, data, .. } => self.write(id, length, &data),
            Packet::Bulk { endpoint: BULK_IN, length, .. } => {
                if self.halted || self.reads.len() >= MAX_READS {
                    return vec![(id, read(Status::Stall, Vec::new()))];
                }
                self.reads.push_back((id, length));
                self.deliver()
            }
            Packet::Bulk { endpoint, stream, .. } => {
                let status = Status::Inval;
                vec![(id, Packet::Bulk { endpoint, status, stream, length: 0, data: Vec::new() })]
            }
            _ => Vec::new(),
        }
    }

    fn reset(&mut self) {
        self.responder.reset();
        self.output.clear();
        (self.offset, self.halted) = (0, false);
    }

    fn cancel_all(&mut self) -> Vec<(u64, Packet)> {
        self.reads.drain(..).map(|(id, _)| (id, read(Status::Cancelled, Vec::new()))).collect()
    }

    fn write(&mut self, id: u64, length: u32, data: &[u8]) -> Vec<(u64, Packet)> {
        let answer =
            |status, length| (id, Packet::Bulk { endpoint: BULK_OUT, status, stream: 0, length, data: Vec::new() });
        if self.halted {
            return vec![answer(Status::Stall, 0)];
        }
        match self.responder.take(data) {
            Ok(containers) => self.output.extend(containers),
            Err(_) => {
                self.halted = true;
                let waiting = self.reads.drain(..).map(|(id, _)| (id, read(Status::Stall, Vec::new())));
                return [answer(Status::Stall, 0)].into_iter().chain(waiting).collect();
            }
        }
        let mut answers = vec![answer(Status::Success, length)];
        answers.extend(self.deliver());
        answers
    }

    /// Gives what is there to the reads that wait.
    fn deliver(&mut self) -> Vec<(u64, Packet)> {
        let mut answers = Vec::new();
        while let (Some(container), Some((id, wanted))) = (self.output.front(), self.reads.front().copied()) {
            let rest = container.get(self.offset..).unwrap_or_default();
            let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
            let data = rest.get(..wanted.min(rest.len())).unwrap_or_default().to_vec();
            self.offset += data.len();
            // A read that is not filled has seen the short packet; a filled one only if that was its last.
            let ends =
                data.len() < wanted || (self.offset == container.len() && !self.offset.is_multiple_of(MAX_PACKET));
            if ends {
                self.output.pop_front();
                self.offset = 0;
            }
            self.reads.pop_front();
            answers.push((id, read(Status::Success, data)));
        }
        answers
    }

    /// Data of a request of endpoint 0; none when it is not known, which halts it.
    fn control(&mut self, request_type: u8, request: u8, value: u16, index: u16) -> Option<Vec<u8>> {
        let [low, kind] = value.to_le_bytes();
        match (request_type, request) {
            (0x80, 6) => match (kind, low) {
                (1, 0) => Some(device_descriptor()),
                (2, 0) => Some(configuration()),
                (3, 0) => Some(vec![4, 3, 9, 4]),
                (3, 1) => Some(string("NIKON")),
                (3, 2) => Some(string("NIKON DSC D7000")),
                (3, 3) => Some(string(&self.serial)),
                _ => None,
            },
            (0x80 | 0x82, 0) => Some(vec![u8::from(request_type == 0x82 && self.halted && index != 0), 0]),
            // Clears the halt of an endpoint. PTP's own: reset, and status, which is OK.
            (0x02, 1) | (0x21, 0x66) => {
                if self.halted || request == 0x66 {
                    self.reset();
                }
                Some(Vec::new())
            }
            (0xa1, 0x67) => Some(vec![4, 0, 1, 0x20]),
            _ => None,
        }
    }
}

fn read(status: Status, data: Vec<u8>) -> Packet {
    let length = u32::try_from(data.len()).unwrap_or(0);
    Packet::Bulk { endpoint: BULK_IN, status, stream: 0, length, data }
}

fn device_descriptor() -> Vec<u8> {
    let mut bytes = vec![18, 1, 0, 2, 0, 0, 0, 64];
    bytes.extend([VENDOR, PRODUCT, RELEASE].iter().flat_map(|word| word.to_le_bytes()));
    bytes.extend([1, 2, 3, 1]);
    bytes
}

fn configuration() -> Vec<u8> {
    let mut bytes = vec![9, 2, 39, 0, 1, 1, 0, 0xc0, 1];
    bytes.extend([9, 4, 0, 0, 3, 6, 1, 1, 0]);
    bytes.extend([7, 5, BULK_IN, 2, 0, 2, 0, 7, 5, BULK_OUT, 2, 0, 2, 0, 7, 5, INTERRUPT_IN, 3, 8, 0, 9]);
    bytes
}

fn string(text: &str) -> Vec<u8> {
    let units: Vec<u16> = text.encode_utf16().take(126).collect();
    let mut bytes = vec![u8::try_from(2 + 2 * units.len()).unwrap_or(u8::MAX), 3];
    bytes.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
    bytes
}
