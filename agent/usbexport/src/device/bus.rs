//! The bus side of an exporter: a device opened by its node, its interfaces claimed, transfers by nusb.
//!
//! Kernel drivers that had interfaces are put out, and get them back at the end, however it ends. An interface that another
//! program holds is not taken from it. Before a reset and another configuration the interfaces are let go, for the kernel
//! would take them anyway, and would give them to its drivers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::{Future, poll_fn};
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use fleet_usb::descriptors::EndpointInfo;
use fleet_usbredir::Status;
use nusb::transfer::{ControlIn, ControlOut, ControlType, Recipient, TransferError};
use nusb::{Device, ErrorKind, Interface, MaybeFuture as _};

use super::act::{Change, Done, Token, Transfer};
use super::pipe::Pipe;
use crate::error::ExportError;

/// How long a request of endpoint 0 may take (USB 2.0, section 9.2.6.1).
const CONTROL: Duration = Duration::from_secs(5);
/// How long a reset or another change may take.
const CHANGE: Duration = Duration::from_secs(15);

/// Why the bus is of no more use.
#[derive(Debug)]
pub(super) enum BusError {
    /// The device is gone.
    Gone,
    /// Anything else.
    Failed(ExportError),
}

/// A request of endpoint 0 under way.
type Control = Pin<Box<dyn Future<Output = Result<Vec<u8>, TransferError>> + Send>>;

/// A device that is ours.
pub(super) struct Bus {
    device: Device,
    /// The same open file, for what nusb does not do.
    node: OwnedFd,
    interfaces: BTreeMap<u8, Interface>,
    /// Interfaces whose kernel drivers were put out.
    detached: BTreeSet<u8>,
    pipes: BTreeMap<u8, Pipe>,
    control: Option<(Token, Control, usize)>,
    /// Ends that need not be waited for.
    ended: VecDeque<(Token, Done)>,
}

impl Bus {
    /// Opens a device and claims these interfaces.
    pub(super) async fn open(device: Device, node: OwnedFd, interfaces: &[u8]) -> Result<Self, BusError> {
        let mut bus = Self {
            device,
            node,
            interfaces: BTreeMap::new(),
            detached: BTreeSet::new(),
            pipes: BTreeMap::new(),
            control: None,
            ended: VecDeque::new(),
        };
        bus.claim(interfaces).await?;
        Ok(bus)
    }

    async fn claim(&mut self, interfaces: &[u8]) -> Result<(), BusError> {
        for &interface in interfaces {
            match driver(&self.node, interface).as_deref() {
                Some("usbfs") => return Err(BusError::Failed(ExportError::Busy { interface })),
                Some(name) => {
                    tracing::debug!(interface, driver = name, "puts out the kernel's driver of a camera");
                    let device = self.device.clone();
                    let detached = tokio::task::spawn_blocking(move || device.detach_kernel_driver(interface)).await;
                    // Noted before it is known how it went: to give one back that was not taken does no harm.
                    self.detached.insert(interface);
                    if let Ok(outcome) = detached {
                        outcome.map_err(failed("does not let go of its driver"))?;
                    }
                }
                None => {}
            }
            let claimed = self.device.claim_interface(interface).await.map_err(|error| match error.kind() {
                ErrorKind::Busy => BusError::Failed(ExportError::Busy { interface }),
                _ => failed("cannot be claimed")(error),
            })?;
            self.interfaces.insert(interface, claimed);
        }
        Ok(())
    }

    /// Begins a transfer, over this endpoint and interface.
    pub(super) fn begin(&mut self, token: Token, transfer: Transfer, place: Option<(u8, EndpointInfo)>) {
        let endpoint = transfer.endpoint();
        match transfer {
            Transfer::ControlIn { request_type, request, value, index, length } => {
                let (control_type, recipient) = kinds(request_type);
                let data = ControlIn { control_type, recipient, request, value, index, length };
                let transfer = self.device.control_in(data, CONTROL);
                self.control = Some((token, Box::pin(transfer.into_future()), 0));
            }
            Transfer::ControlOut { request_type, request, value, index, data } => {
                let (control_type, recipient) = kinds(request_type);
                let moved = data.len();
                let data = ControlOut { control_type, recipient, request, value, index, data: &data };
                let transfer = self.device.control_out(data, CONTROL).map(|outcome| outcome.map(|()| Vec::new()));
                self.control = Some((token, Box::pin(transfer.into_future()), moved));
            }
            Transfer::In { length, .. } => match self.pipe(endpoint, place) {
                Some(pipe) => pipe.begin_in(token, length),
                None => self.ended.push_back((token, refused())),
            },
            Transfer::Out { data, .. } => match self.pipe(endpoint, place) {
                Some(pipe) => pipe.begin_out(token, data),
                None => self.ended.push_back((token, refused())),
            },
        }
    }

    /// An endpoint, opened when it is first used.
    fn pipe(&mut self, endpoint: u8, place: Option<(u8, EndpointInfo)>) -> Option<&mut Pipe> {
        if !self.pipes.contains_key(&endpoint) {
            let (interface, found) = place?;
            let pipe = Pipe::open(self.interfaces.get(&interface)?, interface, found);
            let pipe = pipe.inspect_err(|error| tracing::warn!(endpoint, %error, "an endpoint of a camera")).ok()?;
            self.pipes.insert(endpoint, pipe);
        }
        self.pipes.get_mut(&endpoint)
    }

    /// Lets a transfer end early.
    pub(super) fn cancel(&mut self, token: Token) {
        // A request of endpoint 0 that is dropped is cancelled by nusb.
        if self.control.take_if(|(under_way, ..)| *under_way == token).is_some() {
            self.ended.push_back((token, cancelled()));
            return;
        }
        let ended: Vec<Token> = self.pipes.values_mut().filter_map(|pipe| pipe.cancel(token)).collect();
        self.ended.extend(ended.into_iter().map(|token| (token, cancelled())));
    }

    /// The next transfer that ends. May be dropped: nothing is lost.
    pub(super) async fn next(&mut self) -> Result<(Token, Done), BusError> {
        poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<(Token, Done), BusError>> {
        if let Some(ended) = self.ended.pop_front() {
            return Poll::Ready(Ok(ended));
        }
        if let Some((token, transfer, moved)) = &mut self.control
            && let Poll::Ready(outcome) = transfer.as_mut().poll(context)
        {
            let (token, moved) = (*token, *moved);
            self.control = None;
            return Poll::Ready(match outcome {
                Ok(data) => Ok((token, Done { status: Status::Success, data, moved })),
                Err(TransferError::Disconnected) => Err(BusError::Gone),
                // Nobody has cancelled it: it was late.
                Err(TransferError::Cancelled) => {
                    Ok((token, Done { status: Status::Timeout, data: Vec::new(), moved: 0 }))
                }
                Err(error) => Ok((token, Done { status: status(error), data: Vec::new(), moved: 0 })),
            });
        }
        for pipe in self.pipes.values_mut() {
            if let Poll::Ready(outcome) = pipe.poll_next(context) {
                return Poll::Ready(outcome);
            }
        }
        Poll::Pending
    }

    /// Changes the device; `interfaces` are those that it has afterwards. Nothing that it touches is under way.
    pub(super) async fn perform(&mut self, change: Change, interfaces: &[u8]) -> Result<Status, BusError> {
        let hangs = |_| BusError::Failed(ExportError::Hangs { after: CHANGE });
        tokio::time::timeout(CHANGE, self.perform_in_time(change, interfaces)).await.map_err(hangs)?
    }

    async fn perform_in_time(&mut self, change: Change, interfaces: &[u8]) -> Result<Status, BusError> {
        let outcome = match change {
            Change::Reset => {
                self.release().await;
                let outcome = self.device.reset().await;
                self.claim(interfaces).await?;
                outcome
            }
            Change::Configuration(value) => {
                let before: Vec<u8> = self.interfaces.keys().copied().collect();
                self.release().await;
                let outcome = self.device.set_configuration(value).await;
                self.claim(if outcome.is_ok() { interfaces } else { &before }).await?;
                outcome
            }
            Change::Alternate { interface, alt } => {
                self.pipes.retain(|_, pipe| pipe.interface() != interface);
                match self.interfaces.get(&interface) {
                    Some(claimed) => claimed.set_alt_setting(alt).await,
                    None => return Ok(Status::Inval),
                }
            }
            Change::ClearHalt { endpoint } => match self.pipes.get_mut(&endpoint) {
                Some(pipe) => pipe.clear_halt().await,
                // Never used, so nothing here is halted; the device may think otherwise, and is asked directly.
                None => return clear_halt_unopened(&self.device, endpoint).await,
            },
        };
        match outcome {
            Ok(()) => Ok(Status::Success),
            Err(error) if error.kind() == ErrorKind::Disconnected => Err(BusError::Gone),
            Err(error) => {
                tracing::warn!(?change, %error, "a camera refuses a change");
                Ok(if error.kind() == ErrorKind::NotFound { Status::Inval } else { Status::IoError })
            }
        }
    }

    async fn release(&mut self) {
        self.pipes.clear();
        let interfaces = std::mem::take(&mut self.interfaces);
        // A thread that panics has let go as well.
        let _ = tokio::task::spawn_blocking(move || drop(interfaces)).await;
    }

    /// Leaves the device as its next user wants it: reset, if it is there, and with its drivers.
    pub(super) async fn give_back(mut self, reset: bool) {
        self.control = None;
        self.release().await;
        if reset {
            match tokio::time::timeout(CHANGE, self.device.reset().into_future()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "a camera was not reset at the end"),
                Err(_) => tracing::warn!("a camera does not come back from its reset; unplug it and plug it in again"),
            }
        }
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        // In this order: an interface that is claimed gets no driver.
        self.control = None;
        self.pipes.clear();
        self.interfaces.clear();
        for interface in std::mem::take(&mut self.detached) {
            if let Err(error) = self.device.attach_kernel_driver(interface) {
                tracing::debug!(interface, %error, "the kernel's driver of a camera is not back");
            }
        }
    }
}

/// How the kernel calls a driver: `struct usbdevfs_getdriver` of `linux/usbdevice_fs.h`.
#[repr(C)]
struct GetDriver {
    interface: std::ffi::c_uint,
    driver: [u8; 256],
}

nix::ioctl_write_ptr!(get_driver, b'U', 8, GetDriver);

/// The driver that has an interface; none when it is free.
fn driver(node: &OwnedFd, interface: u8) -> Option<String> {
    let mut asked = GetDriver { interface: interface.into(), driver: [0; 256] };
    let pointer = std::ptr::from_mut(&mut asked).cast_const();
    // SAFETY: the kernel reads the number and writes the name into this structure, which is its own and lives on. It fails,
    // and writes nothing, when the descriptor is none of usbfs.
    unsafe { get_driver(node.as_raw_fd(), pointer) }.ok()?;
    let name = asked.driver.split(|byte| *byte == 0).next().unwrap_or_default();
    Some(String::from_utf8_lossy(name).into_owned())
}

async fn clear_halt_unopened(device: &Device, endpoint: u8) -> Result<Status, BusError> {
    let (control_type, recipient) = (ControlType::Standard, Recipient::Endpoint);
    let data = ControlOut { control_type, recipient, request: 1, value: 0, index: endpoint.into(), data: &[] };
    match device.control_out(data, CONTROL).await {
        Ok(()) => Ok(Status::Success),
        Err(TransferError::Disconnected) => Err(BusError::Gone),
        Err(error) => Ok(status(error)),
    }
}

/// An error of nusb that is about the whole device.
pub(super) fn failed(what: &'static str) -> impl Fn(nusb::Error) -> BusError {
    move |source| match source.kind() {
        ErrorKind::Disconnected => BusError::Gone,
        _ => BusError::Failed(ExportError::Device { what, source }),
    }
}

fn kinds(request_type: u8) -> (ControlType, Recipient) {
    let control_type = match request_type >> 5 & 3 {
        0 => ControlType::Standard,
        1 => ControlType::Class,
        _ => ControlType::Vendor,
    };
    let recipient = match request_type & 0x1f {
        0 => Recipient::Device,
        1 => Recipient::Interface,
        2 => Recipient::Endpoint,
        _ => Recipient::Other,
    };
    (control_type, recipient)
}

/// As the protocol says it.
pub(super) fn status(error: TransferError) -> Status {
    match error {
        TransferError::Cancelled => Status::Cancelled,
        TransferError::Stall => Status::Stall,
        TransferError::InvalidArgument => Status::Inval,
        TransferError::Disconnected | TransferError::Fault | TransferError::Unknown(_) => Status::IoError,
    }
}

fn refused() -> Done {
    Done { status: Status::Inval, data: Vec::new(), moved: 0 }
}

fn cancelled() -> Done {
    Done { status: Status::Cancelled, data: Vec::new(), moved: 0 }
}
