//! What an exporter does, without the bus and without a stream: packets in, acts out.
//!
//! ```text
//!   packet of the guest ──► take ──┐                       ┌──► Send: packets to the guest
//!                                  ├──► state, queues ─────┼──► Begin, Cancel: transfers
//!   end of a transfer ────► done ──┤                       └──► Perform: reset, configuration, setting, halt
//!   end of a change ──► performed ─┘
//! ```
//!
//! - Every request is answered exactly once, whatever its id, and in order for one endpoint.
//! - Of each endpoint, at most [`DEPTH`] transfers are under way, of at most [`BYTES`] bytes unless it is a single one. Others
//!   wait, at most [`WAITING`] of them, and [`WAITING_BYTES`] of all endpoints; what comes beyond is refused at once. It is not that the guest is
//!   read no more: then nothing could cancel the reads that fill the queue.
//! - A change waits until what it touches has ended, and is alone: [`Core::changing`] says that no packet is to be taken.

use std::collections::{BTreeMap, VecDeque};

use fleet_usbredir::{Packet, Status};

use super::act::{Act, Change, Done, Token, Transfer};
use super::shape::Shape;

/// Transfers under way, an endpoint.
pub(crate) const DEPTH: usize = 16;
/// Their bytes.
pub(crate) const BYTES: usize = 4 << 20;
/// Transfers that wait, an endpoint.
pub(crate) const WAITING: usize = 256;
/// Bytes to the device that wait, of all endpoints.
pub(crate) const WAITING_BYTES: usize = 32 << 20;
/// Transfers that listen on an interrupt endpoint.
const LISTENING: usize = 4;

/// The exporter's state.
#[derive(Debug)]
pub(crate) struct Core {
    shape: Shape,
    lanes: BTreeMap<u8, Lane>,
    /// Transfers that were begun and have not ended.
    begun: BTreeMap<Token, Job>,
    /// Interrupt endpoints that are listened on, with the id of the next packet.
    listening: BTreeMap<u8, u64>,
    change: Option<Pending>,
    last: Token,
}

/// One endpoint's transfers.
#[derive(Debug, Default)]
struct Lane {
    begun: usize,
    bytes: usize,
    waiting: VecDeque<(Job, Transfer)>,
    waiting_bytes: usize,
}

/// A transfer, and what it is to the guest.
#[derive(Debug, Clone, Copy)]
struct Job {
    id: u64,
    endpoint: u8,
    bytes: usize,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Control { request: u8, request_type: u8, value: u16, index: u16, length: u16 },
    Bulk,
    InterruptOut,
    Listening,
}

#[derive(Debug)]
struct Pending {
    change: Change,
    id: u64,
    /// The request of endpoint 0 that it is the answer to, if it is one.
    control: Option<Kind>,
    performing: bool,
}

impl Core {
    /// For a device that was just opened.
    pub(crate) fn new(shape: Shape) -> Self {
        Self {
            shape,
            lanes: BTreeMap::new(),
            begun: BTreeMap::new(),
            listening: BTreeMap::new(),
            change: None,
            last: 0,
        }
    }

    /// What the device looks like now.
    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The packets that announce the device.
    pub(crate) fn announce(&self) -> Vec<Act> {
        let shape = &self.shape;
        [shape.ep_info(), shape.interface_info(), shape.device_connect()].map(|packet| Act::Send(0, packet)).into()
    }

    /// Whether a change is under way: until it is done, no packet is to be taken.
    pub(crate) fn changing(&self) -> bool {
        self.change.is_some()
    }

    /// Takes a packet of the guest.
    pub(crate) fn take(&mut self, id: u64, packet: Packet) -> Vec<Act> {
        match packet {
            Packet::Control { request, request_type, value, index, length, data, .. } => {
                self.control(id, Kind::Control { request, request_type, value, index, length }, data)
            }
            Packet::Bulk { endpoint, stream, length, data, .. } => self.bulk(id, endpoint, stream, length, data),
            Packet::Interrupt { endpoint, data, .. } => {
                let job = Job { id, endpoint, bytes: data.len(), kind: Kind::InterruptOut };
                if endpoint & 0x80 != 0 || !self.shape.is(endpoint, 3) {
                    return vec![answer(job, Status::Inval, Vec::new(), 0)];
                }
                self.enqueue(job, Transfer::Out { endpoint, data })
            }
            Packet::StartInterruptReceiving { endpoint } => self.listen(id, endpoint),
            Packet::StopInterruptReceiving { endpoint } => {
                let mut acts = self.deafen(endpoint);
                acts.push(Act::Send(id, Packet::InterruptReceivingStatus { status: Status::Success, endpoint }));
                acts
            }
            // Isochronous transfers are not done; nusb has none.
            Packet::StartIsoStream { endpoint, .. } | Packet::StopIsoStream { endpoint } => {
                vec![Act::Send(id, Packet::IsoStreamStatus { status: Status::Inval, endpoint })]
            }
            Packet::CancelData => self.cancel(id),
            Packet::Reset => self.change(id, Change::Reset, None),
            Packet::SetConfiguration { configuration } if configuration == self.shape.configuration() => {
                // As a host does: the one in use is not set anew.
                vec![Act::Send(id, Packet::ConfigurationStatus { status: Status::Success, configuration })]
            }
            Packet::SetConfiguration { configuration } => {
                if self.shape.has(configuration) {
                    return self.change(id, Change::Configuration(configuration), None);
                }
                vec![self.configuration_status(id, Status::Inval)]
            }
            Packet::GetConfiguration => vec![self.configuration_status(id, Status::Success)],
            Packet::SetAltSetting { interface, alt } => {
                if self.shape.settings().any(|setting| (setting.number, setting.alternate) == (interface, alt)) {
                    return self.change(id, Change::Alternate { interface, alt }, None);
                }
                vec![self.alt_status(id, Status::Inval, interface)]
            }
            Packet::GetAltSetting { interface } => {
                let known = self.shape.settings().any(|setting| setting.number == interface);
                vec![self.alt_status(id, if known { Status::Success } else { Status::Inval }, interface)]
            }
            Packet::FilterReject => vec![Act::Rejected],
            // Of no matter here; and packets of streams of data have no answers.
            _ => Vec::new(),
        }
    }

    fn configuration_status(&self, id: u64, status: Status) -> Act {
        Act::Send(id, Packet::ConfigurationStatus { status, configuration: self.shape.configuration() })
    }

    fn alt_status(&self, id: u64, status: Status, interface: u8) -> Act {
        Act::Send(id, Packet::AltSettingStatus { status, interface, alt: self.shape.alternate(interface) })
    }

    fn control(&mut self, id: u64, kind: Kind, data: Vec<u8>) -> Vec<Act> {
        let Kind::Control { request, request_type, value, index, length } = kind else { return Vec::new() };
        let job = Job { id, endpoint: 0, bytes: length.into(), kind };
        let [address, _] = index.to_le_bytes();
        match (request_type, request) {
            // CLEAR_FEATURE(ENDPOINT_HALT): the host's controller has a part in it.
            (0x02, 1) if value == 0 && self.shape.endpoint(address).is_some() => {
                return self.change(id, Change::ClearHalt { endpoint: address }, Some(kind));
            }
            // SET_ADDRESS, SET_CONFIGURATION, SET_INTERFACE: the last two have packets of their own, and the first is for
            // the host alone.
            (0x00, 5 | 9) | (0x01, 11) => return vec![answer(job, Status::Stall, Vec::new(), 0)],
            // Reserved kinds of requests and recipients.
            _ if request_type & 0x60 == 0x60 || request_type & 0x1f > 3 => {
                return vec![answer(job, Status::Inval, Vec::new(), 0)];
            }
            _ => {}
        }
        let transfer = if request_type & 0x80 == 0 {
            Transfer::ControlOut { request_type, request, value, index, data }
        } else {
            Transfer::ControlIn { request_type, request, value, index, length }
        };
        self.enqueue(job, transfer)
    }

    fn bulk(&mut self, id: u64, endpoint: u8, stream: u32, length: u32, data: Vec<u8>) -> Vec<Act> {
        let transfer =
            if endpoint & 0x80 == 0 { Transfer::Out { endpoint, data } } else { Transfer::In { endpoint, length } };
        let job = Job { id, endpoint, bytes: transfer.bytes(), kind: Kind::Bulk };
        if stream != 0 || !self.shape.is(endpoint, 2) {
            return vec![answer(job, Status::Inval, Vec::new(), 0)];
        }
        self.enqueue(job, transfer)
    }

    fn listen(&mut self, id: u64, endpoint: u8) -> Vec<Act> {
        let status = |status| Act::Send(id, Packet::InterruptReceivingStatus { status, endpoint });
        if endpoint & 0x80 == 0 || !self.shape.is(endpoint, 3) {
            return vec![status(Status::Inval)];
        }
        self.listening.entry(endpoint).or_insert(0);
        let mut acts = vec![status(Status::Success)];
        acts.extend(self.keep_listening(endpoint));
        acts
    }

    /// Begins the transfers that listen and are missing. Those of before a stop may still be on their way.
    fn keep_listening(&mut self, endpoint: u8) -> Vec<Act> {
        let mut acts = Vec::new();
        let Some((_, found)) = self.shape.endpoint(endpoint) else { return acts };
        if self.change.is_some() || !self.listening.contains_key(&endpoint) {
            return acts;
        }
        let listens = |job: &Job| job.endpoint == endpoint && job.kind == Kind::Listening;
        let begun = self.begun.values().filter(|job| listens(job)).count();
        let waiting =
            self.lanes.get(&endpoint).map_or(0, |lane| lane.waiting.iter().filter(|(job, _)| listens(job)).count());
        for _ in begun + waiting..LISTENING {
            let job = Job { id: 0, endpoint, bytes: found.max_packet.into(), kind: Kind::Listening };
            acts.extend(self.enqueue(job, Transfer::In { endpoint, length: found.max_packet.into() }));
        }
        acts
    }

    fn deafen(&mut self, endpoint: u8) -> Vec<Act> {
        self.listening.remove(&endpoint);
        self.end_of(|job| job.endpoint == endpoint && job.kind == Kind::Listening)
    }

    /// Begins a transfer, or lets it wait, or refuses it.
    fn enqueue(&mut self, job: Job, transfer: Transfer) -> Vec<Act> {
        let waiting_bytes: usize = self.lanes.values().map(|lane| lane.waiting_bytes).sum();
        let lane = self.lanes.entry(job.endpoint).or_default();
        let held = if matches!(transfer, Transfer::In { .. } | Transfer::ControlIn { .. }) { 0 } else { job.bytes };
        if lane.waiting.len() >= WAITING || waiting_bytes.saturating_add(held) > WAITING_BYTES {
            return silent_or(answer(job, Status::IoError, Vec::new(), 0), job);
        }
        lane.waiting_bytes += held;
        lane.waiting.push_back((job, transfer));
        self.advance(job.endpoint)
    }

    /// Begins what waits, as far as there is room.
    fn advance(&mut self, endpoint: u8) -> Vec<Act> {
        let mut acts = Vec::new();
        // What a change waits for gets no successors.
        if self.change.is_some() {
            return acts;
        }
        let Some(lane) = self.lanes.get_mut(&endpoint) else { return acts };
        // Requests of endpoint 0 are done one by one.
        let depth = if endpoint == 0 { 1 } else { DEPTH };
        while let Some((job, _)) = lane.waiting.front() {
            if lane.begun >= depth || (lane.begun > 0 && lane.bytes.saturating_add(job.bytes) > BYTES) {
                break;
            }
            let Some((job, transfer)) = lane.waiting.pop_front() else { break };
            lane.forget_waiting(&transfer);
            lane.begun += 1;
            lane.bytes += job.bytes;
            self.last += 1;
            self.begun.insert(self.last, job);
            acts.push(Act::Begin(self.last, transfer));
        }
        acts
    }

    /// Takes the end of a transfer.
    pub(crate) fn done(&mut self, token: Token, done: Done) -> Vec<Act> {
        let Some(job) = self.begun.remove(&token) else { return Vec::new() };
        if let Some(lane) = self.lanes.get_mut(&job.endpoint) {
            lane.begun = lane.begun.saturating_sub(1);
            lane.bytes = lane.bytes.saturating_sub(job.bytes);
        }
        let mut acts = match job.kind {
            Kind::Listening => self.heard(job.endpoint, done),
            _ => vec![answer(job, done.status, done.data, done.moved)],
        };
        acts.extend(self.advance(job.endpoint));
        acts.extend(self.perform());
        acts
    }

    /// What came over an interrupt endpoint.
    fn heard(&mut self, endpoint: u8, done: Done) -> Vec<Act> {
        let Some(next) = self.listening.get_mut(&endpoint) else { return Vec::new() };
        let mut acts = Vec::new();
        match done.status {
            Status::Success => {
                let (id, status) = (*next, Status::Success);
                *next += 1;
                let length = u16::try_from(done.data.len()).unwrap_or(u16::MAX);
                acts.push(Act::Send(id, Packet::Interrupt { endpoint, status, length, data: done.data }));
            }
            // Of before a stop, or for a change.
            Status::Cancelled => {}
            status => {
                acts.extend(self.deafen(endpoint));
                acts.push(Act::Send(0, Packet::InterruptReceivingStatus { status, endpoint }));
            }
        }
        acts.extend(self.keep_listening(endpoint));
        acts
    }

    /// The guest does not want the answer of this packet any more: it gets one all the same.
    fn cancel(&mut self, id: u64) -> Vec<Act> {
        // The one that came first, should there be two.
        let begun = self.begun.iter().find(|(_, job)| job.id == id && job.kind != Kind::Listening);
        if let Some((token, _)) = begun {
            return vec![Act::Cancel(*token)];
        }
        let mut once = true;
        self.end_of(|job| job.id == id && job.kind != Kind::Listening && std::mem::take(&mut once))
    }

    /// Ends transfers: those that wait at once, those under way by and by.
    fn end_of(&mut self, mut which: impl FnMut(&Job) -> bool) -> Vec<Act> {
        let mut acts = Vec::new();
        for lane in self.lanes.values_mut() {
            let mut kept = VecDeque::new();
            for (job, transfer) in std::mem::take(&mut lane.waiting) {
                if which(&job) {
                    lane.forget_waiting(&transfer);
                    acts.extend(silent_or(answer(job, Status::Cancelled, Vec::new(), 0), job));
                } else {
                    kept.push_back((job, transfer));
                }
            }
            lane.waiting = kept;
        }
        acts.extend(self.begun.iter().filter(|(_, job)| which(job)).map(|(token, _)| Act::Cancel(*token)));
        acts
    }

    fn change(&mut self, id: u64, change: Change, control: Option<Kind>) -> Vec<Act> {
        if self.change.is_some() {
            // It was taken though nothing was to be.
            return Vec::new();
        }
        let touched = self.touched(change);
        // A guest goes on listening after a reset; for another configuration or setting it begins anew.
        if matches!(change, Change::Configuration(_) | Change::Alternate { .. }) {
            self.listening.retain(|endpoint, _| !touched(*endpoint));
        }
        let mut acts = self.end_of(|job| touched(job.endpoint));
        self.change = Some(Pending { change, id, control, performing: false });
        acts.extend(self.perform());
        acts
    }

    /// Which endpoints a change touches.
    fn touched(&self, change: Change) -> impl Fn(u8) -> bool + use<> {
        let of_interface: Vec<u8> = match change {
            Change::Reset | Change::Configuration(_) => Vec::new(),
            Change::ClearHalt { endpoint } => vec![endpoint],
            Change::Alternate { interface, .. } => self
                .shape
                .settings()
                .filter(|setting| setting.number == interface)
                .flat_map(|setting| setting.endpoints.iter().map(|endpoint| endpoint.address))
                .collect(),
        };
        let all = matches!(change, Change::Reset | Change::Configuration(_));
        move |endpoint| all || of_interface.contains(&endpoint)
    }

    /// Performs the change, once nothing that it touches is under way.
    fn perform(&mut self) -> Vec<Act> {
        let Some(pending) = self.change.as_ref().filter(|pending| !pending.performing) else { return Vec::new() };
        let change = pending.change;
        let touched = self.touched(change);
        if self.begun.values().any(|job| touched(job.endpoint)) {
            return Vec::new();
        }
        if let Some(pending) = &mut self.change {
            pending.performing = true;
        }
        vec![Act::Perform(change)]
    }

    /// Takes the end of a change.
    pub(crate) fn performed(&mut self, status: Status) -> Vec<Act> {
        let Some(Pending { change, id, control, .. }) = self.change.take() else { return Vec::new() };
        let done = status == Status::Success;
        let mut acts = Vec::new();
        match change {
            Change::Reset => {
                // Its interfaces were let go meanwhile, which puts them back to their first settings.
                if self.shape.reset() {
                    acts.push(Act::Send(0, self.shape.ep_info()));
                }
            }
            Change::Configuration(value) => {
                if done {
                    self.shape.configure(value);
                }
                acts.extend([self.shape.ep_info(), self.shape.interface_info()].map(|packet| Act::Send(0, packet)));
                acts.push(self.configuration_status(id, status));
            }
            Change::Alternate { interface, alt } => {
                if done {
                    self.shape.set_alternate(interface, alt);
                    acts.extend([self.shape.ep_info(), self.shape.interface_info()].map(|packet| Act::Send(0, packet)));
                }
                acts.push(self.alt_status(id, status, interface));
            }
            Change::ClearHalt { .. } => {
                let kind = control.unwrap_or(Kind::Bulk);
                acts.push(answer(Job { id, endpoint: 0, bytes: 0, kind }, status, Vec::new(), 0));
            }
        }
        let lanes: Vec<u8> = self.lanes.keys().copied().collect();
        for endpoint in lanes {
            acts.extend(self.keep_listening(endpoint));
            acts.extend(self.advance(endpoint));
        }
        acts
    }
}

impl Lane {
    fn forget_waiting(&mut self, transfer: &Transfer) {
        if let Transfer::Out { data, .. } | Transfer::ControlOut { data, .. } = transfer {
            self.waiting_bytes = self.waiting_bytes.saturating_sub(data.len());
        }
    }
}

/// The answer to a request.
fn answer(job: Job, status: Status, data: Vec<u8>, moved: usize) -> Act {
    let Job { id, endpoint, .. } = job;
    let short = |length: usize| u16::try_from(length).unwrap_or(u16::MAX);
    let packet = match job.kind {
        Kind::Control { request, request_type, value, index, length } => {
            let (endpoint, to_host) = (request_type & 0x80, request_type & 0x80 != 0);
            let length = if to_host { short(data.len()) } else { length.min(short(moved)) };
            Packet::Control { endpoint, request, request_type, status, value, index, length, data }
        }
        Kind::Bulk => {
            let length = if endpoint & 0x80 == 0 { moved } else { data.len() };
            let length = u32::try_from(length).unwrap_or(u32::MAX);
            Packet::Bulk { endpoint, status, stream: 0, length, data }
        }
        Kind::InterruptOut | Kind::Listening => {
            let length = if endpoint & 0x80 == 0 { short(moved) } else { short(data.len()) };
            Packet::Interrupt { endpoint, status, length, data }
        }
    };
    Act::Send(id, packet)
}

/// Nobody has asked for a transfer that listens, so nobody gets an answer.
fn silent_or(answer: Act, job: Job) -> Vec<Act> {
    if job.kind == Kind::Listening { Vec::new() } else { vec![answer] }
}
