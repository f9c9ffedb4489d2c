//! Who has a camera. Pure: what is asked and seen goes in, what is to be stored and done comes out.
//!
//! - [`Leases`]: the controller's side. A camera has one holder; who takes it names the epoch that it believes in
//!   (compare and swap), and gets a higher one. An epoch is never given twice.
//! - [`Keeper`]: the host's side, one a lease: the way from leased to attached, through loss and return, to its end. Whoever speaks
//!   with an older epoch is refused, so an order that was long under way harms nobody (fencing).
//!
//! Both are records: the caller stores them before it does what they say, and after a restart tells the keeper what it
//! finds ([`Event::Restarted`]); the keeper goes on from there.

mod keeper;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use keeper::{Act, Event, Keeper, Order, Phase};

/// A camera of the fleet: host and identity there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CameraId {
    /// The host's name.
    pub host: String,
    /// The camera's identity on it, as [`crate::Identity`] writes it.
    pub camera: String,
}

/// One lease, as the controller keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The VM that has it, `EXPERIMENT/VM`.
    pub holder: String,
    /// The fencing epoch; higher than any that this camera was lent with before.
    pub epoch: u64,
    /// The host that was told to bring it into its VM; empty: none yet.
    #[serde(default)]
    pub at: String,
    /// Kept out of its VM until it is attached again.
    #[serde(default)]
    pub held: bool,
}

/// Why a lease is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LeaseError {
    /// Somebody else has it.
    #[error("the camera is lent to {holder}; detach it there, or take it with --steal")]
    Taken {
        /// Who.
        holder: String,
        /// By which epoch.
        epoch: u64,
    },
    /// It is not as the caller believed.
    #[error("the lease is of epoch {found}, not {expected}: somebody was quicker; look again")]
    Changed {
        /// What the caller believed; 0 for none.
        expected: u64,
        /// What is so; 0 for none.
        found: u64,
    },
    /// An order of an older lease.
    #[error("the order is of epoch {order}, but the camera was lent anew with epoch {current}")]
    Stale {
        /// The order's.
        order: u64,
        /// What holds.
        current: u64,
    },
    /// Something that cannot be asked in this phase.
    #[error("the camera is {phase}: it cannot be {asked} now")]
    Phase {
        /// The phase.
        phase: String,
        /// What was asked.
        asked: &'static str,
    },
    /// There are no more epochs. At one a nanosecond this takes 500 years.
    #[error("no epoch is left")]
    Exhausted,
}

/// All leases of a fleet. Kept as one record, or as one a camera with `last` beside them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leases {
    last: u64,
    leases: BTreeMap<String, Lease>,
}

impl Leases {
    /// Who has a camera.
    pub fn get(&self, camera: &CameraId) -> Option<&Lease> {
        self.leases.get(&key(camera))
    }

    /// All leases, by camera.
    pub fn iter(&self) -> impl Iterator<Item = (CameraId, &Lease)> {
        self.leases.iter().map(|(key, lease)| {
            let (host, camera) = key.split_once(' ').unwrap_or((key, ""));
            (CameraId { host: host.to_owned(), camera: camera.to_owned() }, lease)
        })
    }

    /// Lends a camera. `expected` is the epoch that the caller saw, 0 when it saw none. The holder itself gets its own
    /// lease again. With `steal` another's is taken, if it is still the one that the caller saw.
    ///
    /// # Errors
    /// [`LeaseError::Taken`] and [`LeaseError::Changed`]; nothing is changed then.
    pub fn acquire(
        &mut self,
        camera: &CameraId,
        holder: &str,
        expected: u64,
        steal: bool,
    ) -> Result<Lease, LeaseError> {
        let found = self.get(camera);
        if let Some(lease) = found {
            if lease.holder == holder {
                return Ok(lease.clone());
            }
            if !steal {
                return Err(LeaseError::Taken { holder: lease.holder.clone(), epoch: lease.epoch });
            }
        }
        let found = found.map_or(0, |lease| lease.epoch);
        if found != expected {
            return Err(LeaseError::Changed { expected, found });
        }
        let lease = Lease { holder: holder.to_owned(), epoch: self.next()?, at: String::new(), held: false };
        self.leases.insert(key(camera), lease.clone());
        Ok(lease)
    }

    /// The host of its VM is about to be told of a lease, which it `keeps` already or not. One that was told before gets a
    /// higher epoch, unless it is the same host and keeps it: what is under way for a VM that has moved must not count any
    /// more, and what a host has ended it does not begin again. `None`: the lease is of another epoch.
    ///
    /// # Errors
    /// [`LeaseError::Exhausted`].
    pub fn send(&mut self, camera: &CameraId, epoch: u64, to: &str, keeps: bool) -> Result<Option<Lease>, LeaseError> {
        let Some(lease) = self.get(camera).filter(|lease| lease.epoch == epoch) else { return Ok(None) };
        let is_first = lease.at.is_empty();
        let epoch = if is_first || (keeps && lease.at == to) { epoch } else { self.next()? };
        let lease = self.leases.get_mut(&key(camera));
        Ok(lease.map(|lease| {
            (lease.epoch, lease.at) = (epoch, to.to_owned());
            lease.clone()
        }))
    }

    /// Keeps a camera out of its VM, or no longer. Whether the lease is of this epoch.
    pub fn hold(&mut self, camera: &CameraId, epoch: u64, held: bool) -> bool {
        let lease = self.leases.get_mut(&key(camera)).filter(|lease| lease.epoch == epoch);
        lease.map(|lease| lease.held = held).is_some()
    }

    /// Somebody has seen this epoch: it is not given again, nor a lower one.
    pub fn seen(&mut self, epoch: u64) {
        self.last = self.last.max(epoch);
    }

    /// Gives every lease an epoch above this one: nobody knows what was given since the record was written.
    ///
    /// # Errors
    /// [`LeaseError::Exhausted`].
    pub fn renew(&mut self, above: u64) -> Result<(), LeaseError> {
        self.seen(above);
        let cameras: Vec<String> = self.leases.keys().cloned().collect();
        for camera in cameras {
            let epoch = self.next()?;
            if let Some(lease) = self.leases.get_mut(&camera) {
                lease.epoch = epoch;
            }
        }
        Ok(())
    }

    /// An epoch that was never given.
    fn next(&mut self) -> Result<u64, LeaseError> {
        self.last = self.last.checked_add(1).ok_or(LeaseError::Exhausted)?;
        Ok(self.last)
    }

    /// Gives a camera back; that of an older epoch leaves the present lease alone. Whether a lease ended.
    pub fn release(&mut self, camera: &CameraId, epoch: u64) -> bool {
        let ends = self.get(camera).is_some_and(|lease| lease.epoch == epoch);
        if ends {
            self.leases.remove(&key(camera));
        }
        ends
    }

    /// Gives back all that a VM has, because it is gone. The cameras that are free now, as `HOST CAMERA`.
    pub fn release_all_of(&mut self, holder: &str) -> Vec<String> {
        let theirs: Vec<String> =
            self.leases.iter().filter(|(_, lease)| lease.holder == holder).map(|(camera, _)| camera.clone()).collect();
        for camera in &theirs {
            self.leases.remove(camera);
        }
        theirs
    }
}

/// A key of text, so that the record can be JSON. A host's name has no blanks.
fn key(camera: &CameraId) -> String {
    format!("{} {}", camera.host, camera.camera)
}
