//! Latency, and deaths of what is told: a message may be the last thing that its receiver sees.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use fleet_tree::memory::{Hooks, Net, Sent};
use tokio::time::Duration;

use crate::fleet::Fleet;
use crate::log::Fnv;

/// Address of controllers.
pub const ROOT: &str = "controller";

/// Numbers of messages whose receivers die of them.
#[derive(Clone, Debug, Default)]
pub struct Fatal(Arc<Mutex<BTreeSet<u64>>>);

impl Fatal {
    /// The receivers of these messages, counted from the first of the run, die.
    pub fn add(&self, numbers: impl IntoIterator<Item = u64>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(numbers);
    }

    /// Nobody dies any more.
    pub fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn strikes(&self, number: u64) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&number)
    }
}

/// The rules of the network.
pub struct Rules {
    /// Latency at least.
    pub latency: Duration,
    /// Who dies.
    pub fatal: Fatal,
    /// The hosts; they hold the network.
    pub fleet: Arc<Mutex<Weak<Fleet>>>,
}

impl Hooks for Rules {
    fn latency(&self, from: &str, to: &str) -> Duration {
        let mut hasher = Fnv::default();
        (from, to).hash(&mut hasher);
        // Below 512, so it fits.
        self.latency + self.latency * (hasher.finish() % 512) as u32 / 1024
    }

    fn sent(&self, _: &Net, sent: &Sent<'_>) {
        if !self.fatal.strikes(sent.number) {
            return;
        }
        let fleet = self.fleet.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        if let Some(fleet) = fleet {
            fleet.dies_soon(sent.to);
        }
    }
}
