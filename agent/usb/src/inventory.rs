//! The cameras of a host: what was seen goes in, what changed comes out. Pure: no I/O, no clock.
//!
//! Level-triggered: every look at the host gives all devices, and the inventory compares them with those of the look
//! before. So a lost event, ten events in one, and a start of the agent are one case. A camera that went away stays known
//! as absent, up to a bound, so that it is the same camera when it comes back.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::device::{Device, Persona, PortPath, VidPid};
use crate::holder::{Access, Holder};
use crate::identity::{Identity, Rules};

/// Cameras that are absent and stay known; the longest absent are forgotten first.
pub const MAX_ABSENT: usize = 256;

/// One device at one look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// What it is.
    pub device: Device,
    /// Whether the agent may open it.
    pub access: Access,
    /// Who holds it.
    pub holders: Vec<Holder>,
}

/// A camera that is plugged in, or was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Camera {
    /// Which one.
    pub identity: Identity,
    /// Whether it is plugged in.
    pub present: bool,
    /// As it was seen last.
    pub seen: Sighting,
    /// Number of the look it was last present at.
    pub look: u64,
}

impl Camera {
    /// How it presents itself, or did.
    pub fn persona(&self) -> Persona {
        self.seen.device.persona()
    }

    /// Whether a user's word means this camera: its identity, serial number, vendor and product, port, kernel's name,
    /// or the name it says of itself.
    pub fn answers_to(&self, word: &str) -> bool {
        let device = &self.seen.device;
        let is = |own: &Option<String>| own.as_deref() == Some(word);
        is(&device.serial)
            || is(&device.model)
            || device.name == word
            || word.parse::<VidPid>().is_ok_and(|id| id == device.id)
            || device.port.to_string() == word
            || self.identity.to_string() == word
    }
}

/// What must survive a restart of the agent, so that an absent camera is the same one when it comes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedSerial {
    /// `idVendor`.
    pub vendor: u16,
    /// The number that more than one device says.
    pub serial: String,
}

/// What happened to a camera between two looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which.
    pub identity: Identity,
    /// What.
    pub what: ChangeKind,
}

/// Kinds of changes. Those of port, speed and persona come after `Plugged` when it came back otherwise than it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is there, for the first time or again.
    Plugged,
    /// It is gone.
    Unplugged,
    /// It was gone and is there again within one look: another device number.
    Replugged,
    /// It is on another port.
    Port {
        /// Where it was.
        from: PortPath,
        /// Where it is.
        to: PortPath,
    },
    /// Its speed, in Mbit/s.
    Speed {
        /// What it was.
        from: String,
        /// What it is.
        to: String,
    },
    /// It switched its mode.
    Persona {
        /// What it was.
        from: Persona,
        /// What it is.
        to: Persona,
    },
    /// May it be opened?
    Access,
    /// Somebody took it or let go.
    Holders,
    /// Two devices say the same serial number; from now on newcomers that say it are known by their port.
    SerialShared,
}

/// The cameras of one host.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    rules: Rules,
    cameras: BTreeMap<Identity, Camera>,
    shared: BTreeSet<(u16, String)>,
    look: u64,
}

impl Inventory {
    /// An empty one. `shared` are the serial numbers that [`Inventory::shared_serials`] gave before a restart.
    pub fn new(rules: Rules, shared: impl IntoIterator<Item = SharedSerial>) -> Self {
        let shared = shared.into_iter().map(|known| (known.vendor, known.serial)).collect();
        Self { rules, shared, ..Self::default() }
    }

    /// All cameras, absent ones too, in a stable order.
    pub fn cameras(&self) -> impl Iterator<Item = &Camera> {
        self.cameras.values()
    }

    /// One camera.
    pub fn get(&self, identity: &Identity) -> Option<&Camera> {
        self.cameras.get(identity)
    }

    /// Serial numbers that were seen on two devices at once.
    pub fn shared_serials(&self) -> Vec<SharedSerial> {
        self.shared.iter().map(|(vendor, serial)| SharedSerial { vendor: *vendor, serial: serial.clone() }).collect()
    }

    /// Whether a device is worth the look for holders.
    pub fn is_camera(&self, device: &Device) -> bool {
        self.rules.is_camera(device, || self.knows(device))
    }

    /// Takes in all USB devices of the host at one moment, and tells what changed, in order.
    pub fn observe(&mut self, sightings: Vec<Sighting>) -> Vec<Change> {
        self.look += 1;
        let sightings: Vec<Sighting> = sightings.into_iter().filter(|seen| self.is_camera(&seen.device)).collect();
        let mut changes = self.find_shared(&sightings);
        let mut now = BTreeMap::new();
        for seen in sightings {
            // Two devices cannot be on one port, but a tree that is read while it changes may say so: the later wins.
            now.insert(self.identify(&seen.device), seen);
        }
        for camera in self.cameras.values_mut().filter(|camera| camera.present && !now.contains_key(&camera.identity)) {
            camera.present = false;
            changes.push(Change { identity: camera.identity.clone(), what: ChangeKind::Unplugged });
        }
        for (identity, seen) in now {
            let kinds = match self.cameras.get(&identity) {
                Some(before) => differences(before, &seen),
                None => vec![ChangeKind::Plugged],
            };
            changes.extend(kinds.into_iter().map(|what| Change { identity: identity.clone(), what }));
            let camera = Camera { identity: identity.clone(), present: true, seen, look: self.look };
            self.cameras.insert(identity, camera);
        }
        self.forget();
        changes
    }

    /// A serial number is shared when two devices say it at once.
    fn find_shared(&mut self, sightings: &[Sighting]) -> Vec<Change> {
        let mut once = BTreeSet::new();
        let mut changes = Vec::new();
        for device in sightings.iter().map(|seen| &seen.device) {
            let Some(serial) = &device.serial else { continue };
            let key = (device.id.vendor, serial.clone());
            if !once.insert(key.clone()) && self.shared.insert(key) {
                changes.push(Change { identity: Identity::natural(device), what: ChangeKind::SerialShared });
            }
        }
        changes
    }

    /// Which camera a device is. One that has had a serial number for its own keeps it as long as it stays on its port,
    /// so that a twin takes nothing from it, neither its name nor its lease.
    fn identify(&self, device: &Device) -> Identity {
        let natural = Identity::natural(device);
        let shared =
            device.serial.as_ref().is_some_and(|serial| self.shared.contains(&(device.id.vendor, serial.clone())));
        let stays = || self.cameras.get(&natural).is_some_and(|camera| camera.seen.device.port == device.port);
        if shared && !stays() { Identity::by_port(device) } else { natural }
    }

    fn knows(&self, device: &Device) -> bool {
        self.cameras.contains_key(&Identity::natural(device)) || self.cameras.contains_key(&Identity::by_port(device))
    }

    fn forget(&mut self) {
        let mut absent: Vec<(u64, Identity)> = self
            .cameras
            .values()
            .filter(|camera| !camera.present)
            .map(|camera| (camera.look, camera.identity.clone()))
            .collect();
        absent.sort();
        let surplus = absent.len().saturating_sub(MAX_ABSENT);
        for (_, identity) in absent.into_iter().take(surplus) {
            self.cameras.remove(&identity);
        }
    }
}

/// What is otherwise than it was.
fn differences(before: &Camera, now: &Sighting) -> Vec<ChangeKind> {
    let (old, new) = (&before.seen.device, &now.device);
    let mut kinds = Vec::new();
    if !before.present {
        kinds.push(ChangeKind::Plugged);
    } else if (old.bus, old.number, &old.port) != (new.bus, new.number, &new.port) {
        kinds.push(ChangeKind::Replugged);
    }
    if old.port != new.port {
        kinds.push(ChangeKind::Port { from: old.port.clone(), to: new.port.clone() });
    }
    if old.speed != new.speed {
        kinds.push(ChangeKind::Speed { from: old.speed.clone(), to: new.speed.clone() });
    }
    if old.persona() != new.persona() {
        kinds.push(ChangeKind::Persona { from: old.persona(), to: new.persona() });
    }
    if before.seen.access != now.access {
        kinds.push(ChangeKind::Access);
    }
    if before.seen.holders != now.holders {
        kinds.push(ChangeKind::Holders);
    }
    kinds
}
