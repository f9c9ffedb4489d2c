//! Watches what is plugged in at a server, over a connection of our own, for as long as nobody has the camera.

use std::convert::Infallible;
use std::time::Duration;

use fleet_usbredir::{Caps, InterfaceInfo, Packet};
use tokio::sync::watch;
use tokio::time::Instant;

use super::backoff::Backoff;
use super::guest::Guest;
use super::inspect::inspect;
use super::seen::Seen;
use crate::address::ServerAddress;
use crate::error::ExportError;

/// A server that has a device says so right after hello. A camera that was there before this connection, as before one
/// that was lent, stays seen for so long.
const ANNOUNCED: Duration = Duration::from_secs(2);
/// A connection that has lasted so long was a good one.
const STEADY: Duration = Duration::from_secs(5);

/// Watches; never ends by itself.
pub(super) async fn watch(address: &ServerAddress, publish: &watch::Sender<Option<Seen>>) -> Infallible {
    let mut backoff = Backoff::default();
    let mut told = String::new();
    loop {
        let began = Instant::now();
        let Err(error) = converse(address, publish).await;
        publish_if_new(publish, None);
        // The same words are said once.
        let words = error.to_string();
        if told != words {
            tracing::info!(%address, error = words, "no camera there; it is tried again");
            told = words;
        }
        if began.elapsed() > STEADY {
            backoff.reset();
        }
        let useless = matches!(error, ExportError::Protocol { .. } | ExportError::Silent { .. });
        tokio::time::sleep(backoff.next(useless)).await;
    }
}

/// One connection; ends with what was wrong with it.
async fn converse(address: &ServerAddress, publish: &watch::Sender<Option<Seen>>) -> Result<Infallible, ExportError> {
    let mut guest = Guest::connect(address).await?;
    let mut interfaces = InterfaceInfo::default();
    // Whether what is published was seen over this connection.
    let mut fresh = publish.borrow().is_none();
    let until = Instant::now() + ANNOUNCED;
    loop {
        let packet = tokio::select! {
            biased;
            packet = guest.next() => packet?.1,
            () = tokio::time::sleep_until(until), if !fresh => {
                publish_if_new(publish, None);
                fresh = true;
                continue;
            }
        };
        let gone = match packet {
            Packet::InterfaceInfo(info) => {
                interfaces = info;
                false
            }
            Packet::DeviceConnect(device) => match inspect(&mut guest, device, &interfaces).await? {
                Some(seen) => {
                    publish_if_new(publish, Some(seen));
                    fresh = true;
                    false
                }
                None => true,
            },
            Packet::DeviceDisconnect => true,
            _ => false,
        };
        if gone {
            publish_if_new(publish, None);
            fresh = true;
            if guest.caps().has(Caps::DISCONNECT_ACK) {
                guest.send(&Packet::DeviceDisconnectAck).await?;
            }
        }
    }
}

/// Whoever waits for changes is woken by changes only.
pub(super) fn publish_if_new(publish: &watch::Sender<Option<Seen>>, seen: Option<Seen>) {
    publish.send_if_modified(|now| {
        let new = *now != seen;
        *now = seen;
        new
    });
}
