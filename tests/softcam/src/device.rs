//! The camera as a USB device: requests of endpoint 0, and two bulk endpoints with its function behind them.
//!
//! It is the device side of usbredir, packet by packet and without I/O. A read waits until there is something to read; a
//! container of PTP is one transfer, ended by a short packet, which is an empty one when its length is a multiple of
//! the packets'.

use std::collections::VecDeque;

use fleet_usbredir::{DeviceConnect, InterfaceInfo, Packet, Speed, Status};

use crate::container::Container;
use crate::descriptors::{self, BULK_IN, BULK_OUT, INTERRUPT_IN, Persona, RELEASE, VENDOR, max_packet};
use crate::responder::Responder;
use crate::storage::Storage;

/// Bulk transfers that may wait; a guest's controller has fewer.
const MAX_WAITING: usize = 512;

/// How its descriptors are wrong, or the packets that it is announced with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hostile {
    /// Descriptors with lengths that cannot be.
    Lengths,
    /// Strings that do not end where they say, nor within what was asked for.
    Strings,
    /// No packets of usbredir at all: [`Softcam`](crate::Softcam) sends them in the middle of what it says, or instead of an
    /// announcement.
    Packets,
}

/// What goes wrong in a camera that is otherwise right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// Its bulk endpoints are halted, whatever the host does about it.
    pub stall: bool,
    /// It does not answer on its bulk endpoints, until it does again.
    pub hang: bool,
    /// Its descriptors, or its packets, are wrong.
    pub hostile: Option<Hostile>,
}

/// What is behind the bulk endpoints.
#[derive(Debug)]
enum Function {
    Ptp(Responder),
    Storage(Storage),
}

/// A USB device with the function of its persona.
#[derive(Debug)]
pub struct Device {
    function: Function,
    serial: String,
    speed: Speed,
    faults: Faults,
    configuration: u8,
    /// Containers on their way to the host, and how much of the first was read.
    output: VecDeque<Container>,
    offset: usize,
    /// Reads that wait: id and length.
    reads: VecDeque<(u64, u32)>,
    /// Bulk transfers that came while it hangs.
    held: VecDeque<(u64, Packet)>,
    /// Whether the bulk endpoints are halted, after bytes that its function does not understand.
    halted: bool,
}

impl Device {
    /// A camera by PTP that was just plugged in, at 480 Mbit/s.
    pub fn new(serial: &str, responder: Responder) -> Self {
        Self::with(serial, Function::Ptp(responder), Speed::High)
    }

    /// A camera by PTP that was just plugged in.
    pub fn ptp(serial: &str, responder: Responder, speed: Speed) -> Self {
        Self::with(serial, Function::Ptp(responder), speed)
    }

    /// A camera as a disk that was just plugged in.
    pub fn mass_storage(serial: &str, speed: Speed) -> Self {
        Self::with(serial, Function::Storage(Storage::new()), speed)
    }

    fn with(serial: &str, function: Function, speed: Speed) -> Self {
        Self {
            function,
            serial: serial.to_owned(),
            speed,
            faults: Faults::default(),
            configuration: 1,
            output: VecDeque::new(),
            offset: 0,
            reads: VecDeque::new(),
            held: VecDeque::new(),
            halted: false,
        }
    }

    /// What it is.
    pub fn persona(&self) -> Persona {
        match self.function {
            Function::Ptp(_) => Persona::Ptp,
            Function::Storage(_) => Persona::MassStorage,
        }
    }

    /// How often it has answered Access Denied by PTP.
    pub fn denied(&self) -> u64 {
        match &self.function {
            Function::Ptp(responder) => responder.denied(),
            Function::Storage(_) => 0,
        }
    }

    /// Breaks it, or mends it; gives the answers that were held back.
    pub fn set_faults(&mut self, faults: Faults) -> Vec<(u64, Packet)> {
        self.faults = faults;
        if faults.hang {
            return Vec::new();
        }
        let held = std::mem::take(&mut self.held);
        let mut answers: Vec<_> = held.into_iter().flat_map(|(id, packet)| self.handle(id, packet)).collect();
        if faults.stall {
            answers.extend(self.reads.drain(..).map(|(id, _)| (id, read(Status::Stall, Vec::new()))));
        }
        answers
    }

    /// The packets by which the host's side announces it, after hello.
    pub fn announce(&self) -> Vec<Packet> {
        let persona = self.persona();
        vec![
            Packet::EpInfo(Box::new(persona.ep_info(self.speed))),
            Packet::InterfaceInfo(InterfaceInfo { interfaces: vec![persona.interface()] }),
            Packet::DeviceConnect(DeviceConnect {
                speed: self.speed,
                class: 0,
                subclass: 0,
                protocol: 0,
                vendor: VENDOR,
                product: persona.product(),
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
            Packet::CancelData => self.cancel(id),
            Packet::Control { endpoint, request, request_type, value, index, length, .. } => {
                let answer = self.control(request_type, request, value, index);
                let (status, mut data) = answer.map_or((Status::Stall, Vec::new()), |data| (Status::Success, data));
                if self.faults.hostile != Some(Hostile::Strings) {
                    data.truncate(length.into());
                }
                let moved = if request_type & 0x80 == 0 { length } else { u16::try_from(data.len()).unwrap_or(0) };
                let (status, length) = (status, if status == Status::Success { moved } else { 0 });
                vec![(id, Packet::Control { endpoint, request, request_type, status, value, index, length, data })]
            }
            Packet::Bulk { endpoint: BULK_IN | BULK_OUT, .. } if self.faults.hang && self.held.len() < MAX_WAITING => {
                self.held.push_back((id, packet));
                Vec::new()
            }
            Packet::Bulk { endpoint: BULK_OUT, length, data, .. } => self.write(id, length, &data),
            Packet::Bulk { endpoint: BULK_IN, length, .. } => {
                if self.is_halted() || self.reads.len() >= MAX_WAITING {
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

    fn is_halted(&self) -> bool {
        self.halted || self.faults.stall
    }

    fn reset(&mut self) {
        match &mut self.function {
            Function::Ptp(responder) => responder.reset(),
            Function::Storage(storage) => storage.reset(),
        }
        self.output.clear();
        (self.offset, self.halted) = (0, false);
    }

    fn cancel(&mut self, id: u64) -> Vec<(u64, Packet)> {
        if let Some(at) = self.held.iter().position(|(held, _)| *held == id)
            && let Some((_, Packet::Bulk { endpoint, stream, .. })) = self.held.remove(at)
        {
            let status = Status::Cancelled;
            return vec![(id, Packet::Bulk { endpoint, status, stream, length: 0, data: Vec::new() })];
        }
        let waiting = self.reads.iter().position(|(read, _)| *read == id).and_then(|at| self.reads.remove(at));
        waiting.map(|(id, _)| (id, read(Status::Cancelled, Vec::new()))).into_iter().collect()
    }

    fn cancel_all(&mut self) -> Vec<(u64, Packet)> {
        let ids: Vec<u64> = self.held.iter().map(|(id, _)| *id).chain(self.reads.iter().map(|(id, _)| *id)).collect();
        ids.into_iter().flat_map(|id| self.cancel(id)).collect()
    }

    fn write(&mut self, id: u64, length: u32, data: &[u8]) -> Vec<(u64, Packet)> {
        let answer =
            |status, length| (id, Packet::Bulk { endpoint: BULK_OUT, status, stream: 0, length, data: Vec::new() });
        if self.is_halted() {
            return vec![answer(Status::Stall, 0)];
        }
        let containers = match &mut self.function {
            Function::Ptp(responder) => responder.take(data).ok(),
            Function::Storage(storage) => storage.take(data).ok(),
        };
        let Some(containers) = containers else {
            self.halted = true;
            let waiting = self.reads.drain(..).map(|(id, _)| (id, read(Status::Stall, Vec::new())));
            return [answer(Status::Stall, 0)].into_iter().chain(waiting).collect();
        };
        self.output.extend(containers);
        let mut answers = vec![answer(Status::Success, length)];
        answers.extend(self.deliver());
        answers
    }

    /// Gives what is there to the reads that wait.
    fn deliver(&mut self) -> Vec<(u64, Packet)> {
        let mut answers = Vec::new();
        while let (Some(container), Some((id, wanted))) = (self.output.front(), self.reads.front().copied()) {
            let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
            let data = container.part(self.offset, wanted);
            self.offset += data.len();
            if container.ends(wanted, data.len(), self.offset, max_packet(self.speed).into()) {
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
        let is_ptp = self.persona() == Persona::Ptp;
        match (request_type, request) {
            (0x80, 6) => descriptors::answer(kind, low, self.persona(), self.speed, &self.serial, self.faults.hostile),
            (0x80 | 0x82, 0) => Some(vec![u8::from(request_type == 0x82 && self.is_halted() && index != 0), 0]),
            // Clears the halt of an endpoint.
            (0x02, 1) => {
                if self.halted {
                    self.reset();
                }
                Some(Vec::new())
            }
            // What a device of 5 Gbit/s is told when a host has set it up: how long links take to wake, and its delay.
            (0, 0x30 | 0x31) if self.speed == Speed::Super => Some(Vec::new()),
            // PTP's own: reset, and status, which is OK.
            (0x21, 0x66) if is_ptp => {
                self.reset();
                Some(Vec::new())
            }
            (0xa1, 0x67) if is_ptp => Some(vec![4, 0, 1, 0x20]),
            // That of mass storage: reset, and the highest number of a disk.
            (0x21, 0xff) if !is_ptp => {
                self.reset();
                Some(Vec::new())
            }
            (0xa1, 0xfe) if !is_ptp => Some(vec![0]),
            _ => None,
        }
    }
}

fn read(status: Status, data: Vec<u8>) -> Packet {
    let length = u32::try_from(data.len()).unwrap_or(0);
    Packet::Bulk { endpoint: BULK_IN, status, stream: 0, length, data }
}
