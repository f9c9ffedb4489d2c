//! The hosts that a core knows, by number and by name.

use std::collections::BTreeMap;

use fleet_proto::v1::{HostEntry, HostIntent, Member};

/// Number of a host: given once, and to no other.
pub type HostId = u32;

/// Where a host stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostState {
    /// In contact and in use.
    Ready,
    /// Not in contact: it keeps what it has, and nobody can say how that is.
    Unknown,
    /// Its VMs move to others.
    Draining,
    /// No part of the fleet any more.
    Removed,
}

/// One host.
#[derive(Clone, Debug)]
pub struct Host {
    /// What is stored of it.
    pub record: HostEntry,
    /// Bytes that VMs of all experiments placed on it may come to use.
    pub committed: u64,
}

impl Host {
    /// Where it stands.
    pub fn state(&self) -> HostState {
        match self.record.intent() {
            HostIntent::Removed => HostState::Removed,
            HostIntent::Draining => HostState::Draining,
            _ if self.record.contact => HostState::Ready,
            _ => HostState::Unknown,
        }
    }

    /// Whether VMs may be placed on it, or stay.
    pub fn is_used(&self) -> bool {
        !matches!(self.record.intent(), HostIntent::Removed | HostIntent::Draining)
    }

    /// As a member of a wave.
    pub fn member(&self) -> Member {
        let record = &self.record;
        Member { name: record.name.clone(), address: record.address.clone(), rack: record.rack.clone() }
    }
}

/// All hosts.
#[derive(Clone, Debug, Default)]
pub struct Hosts {
    by_id: BTreeMap<HostId, Host>,
    by_name: BTreeMap<String, HostId>,
}

impl Hosts {
    /// The host of a number.
    pub fn get(&self, id: HostId) -> Option<&Host> {
        self.by_id.get(&id)
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, id: HostId) -> Option<&mut Host> {
        self.by_id.get_mut(&id)
    }

    /// The number of a name.
    pub fn find(&self, name: &str) -> Option<HostId> {
        self.by_name.get(name).copied()
    }

    /// Adds a host.
    pub fn insert(&mut self, record: HostEntry) {
        self.by_name.insert(record.name.clone(), record.id);
        self.by_id.insert(record.id, Host { record, committed: 0 });
    }

    /// Forgets a host.
    pub fn remove(&mut self, id: HostId) {
        if let Some(host) = self.by_id.remove(&id) {
            self.by_name.remove(&host.record.name);
        }
    }

    /// All of them, by number.
    pub fn iter(&self) -> impl Iterator<Item = (HostId, &Host)> {
        self.by_id.iter().map(|(id, host)| (*id, host))
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether a host can be told something.
    pub fn in_contact(&self, id: HostId) -> bool {
        self.get(id).is_some_and(|host| host.record.contact)
    }
}
