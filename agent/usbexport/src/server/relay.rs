//! Relays a fresh connection to a borrower: whole packets that are right, and nothing else ([`Passing`]).
//!
//! Each direction has one buffer, and reads no further before all of it was written: whoever is slow slows down the other,
//! and nothing piles up here. A direction that waits does not hold up the other one.

use std::sync::OnceLock;
use std::time::Duration;

use fleet_usbredir::{Caps, DeviceConnect, Passed, Passing, Side};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::guest::{HELLO, connect};
use super::seen::Seen;
use super::watch::publish_if_new;
use crate::address::ServerAddress;
use crate::error::ExportError;
use crate::{Ended, Stream};

/// Bytes on their way, each direction.
const BUFFER: usize = 128 << 10;
/// How long a server may take to say that its device is there, once both ends have said hello.
const ANNOUNCED: Duration = Duration::from_secs(10);
/// How long the borrower may take to read that the device is gone.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What was said of either end, for both directions.
#[derive(Default)]
struct Said {
    host: OnceLock<Caps>,
    guest: OnceLock<Caps>,
}

impl Said {
    /// Capabilities of both, when both are known.
    fn agreed(&self) -> Option<Caps> {
        Some(self.host.get()?.and(*self.guest.get()?))
    }
}

/// Relays until something ends it.
pub(super) async fn relay(
    address: &ServerAddress,
    io: &mut Box<dyn Stream>,
    cancel: &CancellationToken,
    publish: &watch::Sender<Option<Seen>>,
) -> Result<Ended, ExportError> {
    let relaying = async {
        let server = connect(address).await.inspect_err(|_| publish_if_new(publish, None))?;
        let (from_server, to_server) = tokio::io::split(server);
        let (from_borrower, to_borrower) = tokio::io::split(io);
        let said = Said::default();
        let down = Down { address, said: &said, publish };
        // Server first: an unplug is told as such even if the borrower closes because of it.
        tokio::select! {
            biased;
            ended = down.run(from_server, to_borrower) => ended,
            ended = up(address, &said, from_borrower, to_server) => ended,
        }
    };
    let outcome = tokio::select! {
        biased;
        () = cancel.cancelled() => return Ok(Ended::Cancelled),
        outcome = relaying => outcome,
    };
    let servers = |from: &String| *from == address.to_string();
    let gone = match &outcome {
        Ok(ended) => *ended == Ended::Unplugged,
        Err(ExportError::Protocol { from, .. }) => servers(from),
        Err(ExportError::Stream { with, .. }) => servers(with),
        Err(error) => matches!(error, ExportError::Silent { .. }),
    };
    if gone {
        publish_if_new(publish, None);
    }
    outcome
}

/// From the borrower to the server.
async fn up(
    address: &ServerAddress,
    said: &Said,
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
) -> Result<Ended, ExportError> {
    let mut passing = Passing::new(Side::Guest);
    let (mut buffer, mut out) = (vec![0; BUFFER], Vec::with_capacity(BUFFER));
    loop {
        let length = match from.read(&mut buffer).await {
            Ok(0) => return Ok(Ended::PeerClosed),
            Ok(length) => length,
            Err(source) if broken(&source) => return Ok(Ended::PeerClosed),
            Err(source) => return Err(ExportError::Stream { with: "the borrower".to_owned(), source }),
        };
        let mut rejected = false;
        let mut rest = buffer.get(..length).unwrap_or_default();
        out.clear();
        loop {
            said.agreed().into_iter().for_each(|both| passing.agreed(both));
            let wrong = |source| ExportError::Protocol { from: "the borrower".to_owned(), source };
            match passing.pass(&mut rest, &mut out).map_err(wrong)? {
                None => break,
                Some(Passed::Hello(caps)) => _ = said.guest.set(caps),
                Some(Passed::FilterReject) => rejected = true,
                Some(_) => {}
            }
        }
        let written = async {
            to.write_all(&out).await?;
            to.flush().await
        };
        match written.await {
            Ok(()) => {}
            Err(source) if broken(&source) => return Ok(Ended::Unplugged),
            Err(source) => return Err(ExportError::Stream { with: address.to_string(), source }),
        }
        if rejected {
            return Err(ExportError::Rejected);
        }
    }
}

/// From the server to the borrower.
struct Down<'a> {
    address: &'a ServerAddress,
    said: &'a Said,
    publish: &'a watch::Sender<Option<Seen>>,
}

impl Down<'_> {
    async fn run(
        &self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
    ) -> Result<Ended, ExportError> {
        let mut passing = Passing::new(Side::Host);
        let (mut buffer, mut out) = (vec![0; BUFFER], Vec::with_capacity(BUFFER));
        let mut due = Due::Hello(Instant::now() + HELLO);
        loop {
            let length = tokio::select! {
                read = from.read(&mut buffer) => match read {
                    Ok(0) => return Ok(Ended::Unplugged),
                    Ok(length) => length,
                    Err(source) if broken(&source) => return Ok(Ended::Unplugged),
                    Err(source) => return Err(ExportError::Stream { with: self.address.to_string(), source }),
                },
                late = due.late(self.said) => return match late {
                    // It is there, and has no device any more.
                    "device_connect" => Ok(Ended::Unplugged),
                    what => Err(ExportError::Silent { address: self.address.clone(), what, after: HELLO }),
                },
            };
            let mut rest = buffer.get(..length).unwrap_or_default();
            out.clear();
            // What follows its going is of the next device.
            let gone = match self.look(&mut passing, &mut rest, &mut out, &mut due)? {
                Sight::Another => return Ok(Ended::Unplugged),
                sight => sight == Sight::Gone,
            };
            let written = async {
                to.write_all(&out).await?;
                to.flush().await
            };
            let written = if gone {
                // The borrower may be the reason why it does not read.
                tokio::time::timeout(LAST_WORDS, written).await.unwrap_or(Ok(()))
            } else {
                written.await
            };
            match written {
                _ if gone => return Ok(Ended::Unplugged),
                Ok(()) => {}
                Err(source) if broken(&source) => return Ok(Ended::PeerClosed),
                Err(source) => return Err(ExportError::Stream { with: "the borrower".to_owned(), source }),
            }
        }
    }

    /// Looks at what goes by.
    fn look(
        &self,
        passing: &mut Passing,
        bytes: &mut &[u8],
        out: &mut Vec<u8>,
        due: &mut Due,
    ) -> Result<Sight, ExportError> {
        let mut sight = Sight::Same;
        loop {
            self.said.agreed().into_iter().for_each(|both| passing.agreed(both));
            let wrong = |source| ExportError::Protocol { from: self.address.to_string(), source };
            match passing.pass(bytes, out).map_err(wrong)? {
                None => return Ok(sight),
                Some(Passed::Hello(caps)) => {
                    _ = self.said.host.set(caps);
                    *due = Due::Device(None);
                }
                Some(Passed::DeviceConnect(device)) => {
                    *due = Due::Nothing;
                    if !self.is_the_one(&device) {
                        sight = Sight::Another;
                    }
                }
                Some(Passed::DeviceDisconnect) => sight = Sight::Gone,
                Some(_) => {}
            }
            if sight != Sight::Same {
                // Told before the borrower has read it: whoever asks why it ended finds it so.
                publish_if_new(self.publish, None);
                return Ok(sight);
            }
        }
    }

    /// Whether it is the camera that was seen: another one, or another mode, is looked at before it is lent.
    fn is_the_one(&self, device: &DeviceConnect) -> bool {
        let seen = self.publish.borrow();
        seen.as_ref().is_some_and(|seen| (seen.id.vendor, seen.id.product) == (device.vendor, device.product))
    }
}

/// How the camera is after a look.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sight {
    /// As it was seen.
    Same,
    /// Gone; the borrower reads so.
    Gone,
    /// Another one is there, of which the borrower gets nothing.
    Another,
}

/// What the server is to say next, and by when.
enum Due {
    Hello(Instant),
    /// Not before both have said hello.
    Device(Option<Instant>),
    Nothing,
}

impl Due {
    /// What did not come in time.
    async fn late(&mut self, said: &Said) -> &'static str {
        match self {
            Self::Nothing => std::future::pending().await,
            Self::Hello(until) => {
                tokio::time::sleep_until(*until).await;
                "hello"
            }
            Self::Device(until) => {
                loop {
                    let greeted = said.guest.get().is_some();
                    tokio::time::sleep_until(*until.get_or_insert_with(|| Instant::now() + ANNOUNCED)).await;
                    if greeted {
                        return "device_connect";
                    }
                    // Before the borrower's hello there is nothing to wait for from the server.
                    *until = None;
                }
            }
        }
    }
}

/// The other end is gone.
fn broken(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}
