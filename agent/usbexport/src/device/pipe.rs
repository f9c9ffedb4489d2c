//! One endpoint that is in use: its transfers, in order.

use std::task::{Context, Poll};

use fleet_usb::descriptors::EndpointInfo;
use fleet_usbredir::Status;
use nusb::transfer::{Buffer, Bulk, Completion, In, Interrupt, Out, TransferError};
use nusb::{Endpoint, Interface};

use super::act::{Done, Token};
use super::bus::{BusError, status};
use super::flights::Flights;

/// An endpoint of nusb; kind and direction are types there.
enum Kind {
    BulkIn(Endpoint<Bulk, In>),
    BulkOut(Endpoint<Bulk, Out>),
    InterruptIn(Endpoint<Interrupt, In>),
    InterruptOut(Endpoint<Interrupt, Out>),
}

/// The same call of whichever it is.
macro_rules! of {
    ($kind:expr, $endpoint:ident => $call:expr) => {
        match $kind {
            Kind::BulkIn($endpoint) => $call,
            Kind::BulkOut($endpoint) => $call,
            Kind::InterruptIn($endpoint) => $call,
            Kind::InterruptOut($endpoint) => $call,
        }
    };
}

/// A transfer as it is submitted, and what was asked for.
struct Job {
    buffer: Buffer,
    /// Bytes that the guest asked for: a bus reads whole packets.
    wanted: usize,
}

/// An endpoint and its transfers.
pub(super) struct Pipe {
    kind: Kind,
    interface: u8,
    max_packet: usize,
    flights: Flights<Job>,
    /// What each that was submitted is to bring, in order.
    wanted: std::collections::VecDeque<usize>,
}

impl Pipe {
    /// Opens it.
    pub(super) fn open(claimed: &Interface, interface: u8, found: EndpointInfo) -> Result<Self, nusb::Error> {
        let to_host = found.address & 0x80 != 0;
        let kind = match (found.kind, to_host) {
            (2, true) => Kind::BulkIn(claimed.endpoint(found.address)?),
            (2, false) => Kind::BulkOut(claimed.endpoint(found.address)?),
            (_, true) => Kind::InterruptIn(claimed.endpoint(found.address)?),
            (_, false) => Kind::InterruptOut(claimed.endpoint(found.address)?),
        };
        // The core lets nothing through to an endpoint without a packet size, by which nusb would divide.
        let max_packet = of!(&kind, endpoint => endpoint.max_packet_size()).max(1);
        Ok(Self { kind, interface, max_packet, flights: Flights::new(), wanted: std::collections::VecDeque::new() })
    }

    pub(super) fn interface(&self) -> u8 {
        self.interface
    }

    /// Begins to read. A bus reads whole packets, so there is room for the last one; what comes beyond is babble.
    pub(super) fn begin_in(&mut self, token: Token, length: u32) {
        let wanted = usize::try_from(length).unwrap_or(usize::MAX);
        let room = wanted.max(1).checked_next_multiple_of(self.max_packet).unwrap_or(usize::MAX);
        // The codec has refused what is longer than 16 MiB.
        let room = room.min(u32::MAX as usize / 2 / self.max_packet * self.max_packet);
        self.begin(token, Job { buffer: Buffer::new(room), wanted });
    }

    /// Begins to write.
    pub(super) fn begin_out(&mut self, token: Token, data: Vec<u8>) {
        let wanted = data.len();
        self.begin(token, Job { buffer: Buffer::from(data), wanted });
    }

    fn begin(&mut self, token: Token, job: Job) {
        if let Some(job) = self.flights.begin(token, job) {
            self.submit(job);
        }
    }

    fn submit(&mut self, job: Job) {
        self.wanted.push_back(job.wanted);
        of!(&mut self.kind, endpoint => endpoint.submit(job.buffer));
    }

    /// Lets a transfer end early; gives it if it has ended at once.
    pub(super) fn cancel(&mut self, token: Token) -> Option<Token> {
        let (all, ended) = self.flights.cancel(token);
        if all {
            of!(&mut self.kind, endpoint => endpoint.cancel_all());
        }
        ended
    }

    /// The next that ends.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<(Token, Done), BusError>> {
        loop {
            if of!(&self.kind, endpoint => endpoint.pending()) == 0 {
                return Poll::Pending;
            }
            let Poll::Ready(completion) = of!(&mut self.kind, endpoint => endpoint.poll_next_complete(context)) else {
                return Poll::Pending;
            };
            let Completion { buffer, actual_len, status: outcome } = completion;
            let wanted = self.wanted.pop_front().unwrap_or(0);
            if outcome == Err(TransferError::Disconnected) {
                return Poll::Ready(Err(BusError::Gone));
            }
            let untouched = outcome == Err(TransferError::Cancelled) && actual_len == 0;
            let ended = self.flights.came_back(untouched, Job { buffer, wanted });
            for job in self.flights.resume() {
                self.submit(job);
            }
            if let Some((token, job)) = ended {
                return Poll::Ready(Ok((token, self.done(job, actual_len, outcome))));
            }
        }
    }

    fn done(&self, job: Job, moved: usize, outcome: Result<(), TransferError>) -> Done {
        let mut status = outcome.map_or_else(status, |()| Status::Success);
        if matches!(self.kind, Kind::BulkOut(_) | Kind::InterruptOut(_)) {
            return Done { status, data: Vec::new(), moved };
        }
        let mut data = job.buffer.into_vec();
        if data.len() > job.wanted {
            data.truncate(job.wanted);
            status = Status::Babble;
        }
        Done { status, data, moved: 0 }
    }

    /// Ends a halt, on the device and in the host's controller.
    pub(super) async fn clear_halt(&mut self) -> Result<(), nusb::Error> {
        of!(&mut self.kind, endpoint => endpoint.clear_halt().await)
    }
}
