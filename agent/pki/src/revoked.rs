//! Certificates that are not to be accepted any more, although their time has not come. They are few: one leaves the
//! list when its time has come.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use tokio::sync::watch;

use crate::key::Serial;

/// The list, as this process knows it.
#[derive(Debug)]
pub struct Revoked {
    /// With the end of their validity, ms since 1970.
    serials: RwLock<HashMap<Serial, u64>>,
    changed: watch::Sender<u64>,
}

impl Default for Revoked {
    fn default() -> Self {
        Self { serials: RwLock::default(), changed: watch::Sender::new(0) }
    }
}

impl Revoked {
    /// Replaces the list. Connections of those that are new in it end.
    pub fn set(&self, serials: impl IntoIterator<Item = (Serial, u64)>) {
        *self.serials.write().unwrap_or_else(PoisonError::into_inner) = serials.into_iter().collect();
        self.changed.send_modify(|version| *version = version.wrapping_add(1));
    }

    /// The list: serial numbers, and the ends of their validity in ms since 1970.
    pub fn list(&self) -> Vec<(Serial, u64)> {
        let serials = self.serials.read().unwrap_or_else(PoisonError::into_inner);
        serials.iter().map(|(serial, until)| (serial.clone(), *until)).collect()
    }

    /// Whether a certificate is in it.
    pub fn contains(&self, serial: &Serial) -> bool {
        self.serials.read().unwrap_or_else(PoisonError::into_inner).contains_key(serial)
    }

    /// Tells of every change.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}
