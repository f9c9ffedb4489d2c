//! The cameras of a host in one list: those on its ports and those behind usbredir servers. Pure: what was seen goes in,
//! the list and what is to be told of it comes out.
//!
//! A camera is named as `fleet-usb` names it, vendor and serial number (`04b0:3001234`) or vendor and place
//! (`04b0@0000:00:14.0/1.4`, `04b0@unix:/run/cam.sock`). One behind a server keeps its name as long as it says the same
//! serial number; a name that another camera has is not given twice.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use fleet_proto::v1::{self, CameraState};
use fleet_usb::{Camera, Persona, State, VidPid};
use fleet_usbexport::Seen;

/// Where a camera is, and how it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// On a port of this host.
    Port {
        /// Its node.
        node: PathBuf,
        /// Bus and device number: every replug changes them.
        address: (u16, u16),
    },
    /// Behind the server with this number.
    Server(usize),
}

/// Why a camera that is there cannot be given out now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// What it is.
    pub state: CameraState,
    /// In words, with the mend.
    pub detail: String,
}

/// One camera.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its identity on this host.
    pub id: String,
    /// Vendor and product.
    pub usb_id: VidPid,
    /// Its serial number, if it says one.
    pub serial: Option<String>,
    /// Its maker, by its own words.
    pub manufacturer: Option<String>,
    /// Its name, by its own words.
    pub model: Option<String>,
    /// How it presents itself, or did.
    pub persona: Persona,
    /// In which ways it was seen.
    pub personas: BTreeSet<Persona>,
    /// Where it is plugged in, or the server's address.
    pub port: String,
    /// Mbit/s, as the kernel says them.
    pub speed: String,
    /// Whether it is there.
    pub present: bool,
    /// What stands in the way.
    pub obstacle: Option<Obstacle>,
    /// How it is reached.
    pub place: Place,
    /// Counts its comings: another number is another plugging in.
    pub plugged: u64,
}

impl Known {
    /// "NIKON DSC D7000 (04b0:3001234)", for messages.
    pub fn label(&self) -> String {
        match &self.model {
            Some(model) => format!("{model} ({})", self.id),
            None => self.id.clone(),
        }
    }

    /// As others are told.
    pub fn message(&self, host: &str, epoch: u64) -> v1::Camera {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let (state, detail) = match &self.obstacle {
            Some(obstacle) if self.present => (obstacle.state, obstacle.detail.clone()),
            _ if self.present => (CameraState::Available, String::new()),
            _ => (CameraState::Absent, String::new()),
        };
        v1::Camera {
            host: host.to_owned(),
            id: self.id.clone(),
            usb_id: self.usb_id.to_string(),
            serial: text(&self.serial),
            manufacturer: text(&self.manufacturer),
            model: text(&self.model),
            persona: self.persona.to_string(),
            personas: self.personas.iter().map(ToString::to_string).collect(),
            port: self.port.clone(),
            speed: self.speed.clone(),
            present: self.present,
            state: state.into(),
            detail,
            epoch,
            redirected: matches!(self.place, Place::Server(_)),
        }
    }
}

/// Something to tell of a camera.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Kind of the event.
    pub kind: &'static str,
    /// Which camera.
    pub camera: String,
    /// In words.
    pub message: String,
}

/// The list.
#[derive(Debug, Default)]
pub struct Register {
    cameras: BTreeMap<String, Known>,
    /// What was last seen behind each server, and the name that it has.
    served: Vec<Option<(Seen, String)>>,
}

impl Register {
    /// All cameras, by identity.
    pub fn cameras(&self) -> &BTreeMap<String, Known> {
        &self.cameras
    }

    /// Takes in what is seen now, and says what is to be told. `own` are processes through which the fleet holds cameras.
    pub fn take(&mut self, local: &[Camera], own: &[u32], servers: &[(String, Option<Seen>)]) -> Vec<Told> {
        let mut now: BTreeMap<String, Known> = BTreeMap::new();
        for camera in local {
            let known = on_port(camera, own);
            now.insert(known.id.clone(), known);
        }
        self.served.resize(servers.len(), None);
        for (number, (address, seen)) in servers.iter().enumerate() {
            let before = self.served.get(number).cloned().flatten();
            let Some(behind) = seen.as_ref().or(before.as_ref().map(|(behind, _)| behind)) else { continue };
            let natural = behind.serial.as_ref().map(|serial| format!("{:04x}:{serial}", behind.id.vendor));
            let by_place = format!("{:04x}@{address}", behind.id.vendor);
            let same =
                |(known, _): &&(Seen, String)| (known.id.vendor, &known.serial) == (behind.id.vendor, &behind.serial);
            let kept = before.as_ref().filter(same).map(|(_, id)| id.clone());
            // Another server's camera that is not looked at yet keeps its name, too.
            let others = self.served.iter().enumerate().filter(|(other, _)| *other != number);
            let taken = |id: &String| {
                now.contains_key(id)
                    || others.clone().any(|(_, other)| other.as_ref().is_some_and(|(_, name)| name == id))
            };
            let id = kept.or(natural).filter(|id| !taken(id)).unwrap_or(by_place);
            let known = behind_server(behind, id.clone(), address, number, seen.is_some());
            let behind = behind.clone();
            if let Some(entry) = self.served.get_mut(number) {
                *entry = Some((behind, id.clone()));
            }
            now.insert(id, known);
        }
        let mut told = Vec::new();
        for (id, known) in &mut now {
            let before = self.cameras.get(id);
            if let Some(before) = before {
                known.personas.extend(&before.personas);
                known.plugged = before.plugged;
            }
            if known.present && before.is_none_or(|before| !before.present || before.place != known.place) {
                known.plugged += 1;
            }
            told.extend(differences(before, known));
        }
        // Those that were forgotten while they were there: another camera took their place.
        let gone = self.cameras.values().filter(|camera| camera.present && !now.contains_key(&camera.id));
        told.extend(gone.map(unplugged));
        self.cameras = now;
        told
    }
}

fn on_port(camera: &Camera, own: &[u32]) -> Known {
    let device = &camera.seen.device;
    let obstacle = match State::of(camera, None, own) {
        State::Absent | State::Available => None,
        state => Some(Obstacle { state: state_of(&state), detail: state.to_string() }),
    };
    let persona = camera.persona();
    Known {
        id: camera.identity.to_string(),
        usb_id: device.id,
        serial: device.serial.clone(),
        manufacturer: device.manufacturer.clone(),
        model: device.model.clone(),
        persona,
        personas: BTreeSet::from([persona]),
        port: device.port.to_string(),
        speed: device.speed.clone(),
        present: camera.present,
        obstacle,
        place: Place::Port { node: device.node.clone(), address: (device.bus, device.number) },
        plugged: 0,
    }
}

fn behind_server(behind: &Seen, id: String, address: &str, number: usize, present: bool) -> Known {
    let malformed = |reason: &String| State::Malformed { reason: reason.clone() };
    let obstacle = behind.malformed.as_ref().map(malformed);
    Known {
        id,
        usb_id: behind.id,
        serial: behind.serial.clone(),
        manufacturer: behind.manufacturer.clone(),
        model: behind.model.clone(),
        persona: behind.persona(),
        personas: BTreeSet::from([behind.persona()]),
        port: address.to_owned(),
        speed: behind.speed.clone(),
        present,
        obstacle: obstacle.map(|state| Obstacle { state: state_of(&state), detail: state.to_string() }),
        place: Place::Server(number),
        plugged: 0,
    }
}

fn unplugged(camera: &Known) -> Told {
    let message = format!("{} is gone from {}", camera.label(), camera.port);
    Told { kind: "camera.unplugged", camera: camera.id.clone(), message }
}

fn differences(before: Option<&Known>, now: &Known) -> Vec<Told> {
    let told = |kind, message| Told { kind, camera: now.id.clone(), message };
    let was_there = before.is_some_and(|before| before.present);
    if !now.present {
        return if was_there { vec![unplugged(now)] } else { Vec::new() };
    }
    let label = now.label();
    let mut all = Vec::new();
    let plugged = before.is_none_or(|before| before.plugged != now.plugged);
    if plugged {
        let kind = if was_there { "camera.replugged" } else { "camera.plugged" };
        let message = format!("{label} is at {} as {} ({}), {} Mbit/s", now.port, now.persona, now.usb_id, now.speed);
        all.push(told(kind, message));
    }
    if let Some(before) = before.filter(|before| before.persona != now.persona || before.usb_id != now.usb_id) {
        let message =
            format!("{label} was {} ({}) and is {} ({}) now", before.persona, before.usb_id, now.persona, now.usb_id);
        all.push(told("camera.mode", message));
    }
    let was_in_the_way = before.and_then(|before| before.obstacle.as_ref()).filter(|_| was_there);
    match &now.obstacle {
        Some(obstacle) if was_in_the_way != Some(obstacle) => {
            all.push(told(obstacle_kind(obstacle.state), format!("{label}: {}", obstacle.detail)));
        }
        None if was_in_the_way.is_some() => all.push(told("camera.available", format!("{label} can be lent"))),
        _ => {}
    }
    all
}

fn obstacle_kind(state: CameraState) -> &'static str {
    match state {
        CameraState::Busy => "camera.busy",
        CameraState::Denied => "camera.denied",
        CameraState::NoNode => "camera.no-node",
        _ => "camera.malformed",
    }
}

/// A state as others are told.
fn state_of(state: &State) -> CameraState {
    match state {
        State::Absent => CameraState::Absent,
        State::Available => CameraState::Available,
        State::Leased => CameraState::Leased,
        State::Attaching => CameraState::Attaching,
        State::Attached => CameraState::Attached,
        State::Lost => CameraState::Lost,
        State::Reattaching => CameraState::Reattaching,
        State::Detaching => CameraState::Detaching,
        State::Held => CameraState::Held,
        State::Busy(_) => CameraState::Busy,
        State::Denied { .. } => CameraState::Denied,
        State::NoNode { .. } => CameraState::NoNode,
        State::Malformed { .. } => CameraState::Malformed,
        State::WrongMode { .. } => CameraState::WrongMode,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn behind(product: u16, serial: Option<&str>) -> Seen {
        let class = if product == 0x0428 { 6 } else { 8 };
        Seen {
            id: VidPid { vendor: 0x04b0, product },
            interfaces: vec![(0, fleet_usb::Class { class, subclass: 1, protocol: 1 })],
            malformed: None,
            serial: serial.map(str::to_owned),
            manufacturer: Some("NIKON".into()),
            model: Some("NIKON DSC D7000".into()),
            speed: "480".into(),
        }
    }

    fn kinds(told: &[Told]) -> Vec<&'static str> {
        told.iter().map(|told| told.kind).collect()
    }

    fn one(register: &mut Register, seen: Option<Seen>) -> Vec<&'static str> {
        kinds(&register.take(&[], &[], &[("unix:/run/a".into(), seen)]))
    }

    #[test]
    fn a_camera_behind_a_server_comes_switches_goes_and_is_the_same_when_it_comes_back() {
        let mut register = Register::default();
        assert!(one(&mut register, None).is_empty());
        assert!(register.cameras().is_empty());
        assert_eq!(one(&mut register, Some(behind(0x0428, Some("3001")))), ["camera.plugged"]);
        let known = register.cameras()["04b0:3001"].clone();
        assert_eq!((known.present, known.plugged, known.port.as_str()), (true, 1, "unix:/run/a"));
        assert!(one(&mut register, Some(behind(0x0428, Some("3001")))).is_empty());
        assert_eq!(one(&mut register, Some(behind(0x0429, Some("3001")))), ["camera.mode"]);
        assert_eq!(one(&mut register, None), ["camera.unplugged"]);
        let known = register.cameras()["04b0:3001"].clone();
        assert!(!known.present && known.persona == Persona::MassStorage);
        assert_eq!(one(&mut register, Some(behind(0x0428, Some("3001")))), ["camera.plugged", "camera.mode"]);
        let known = &register.cameras()["04b0:3001"];
        assert_eq!((known.plugged, known.personas.len()), (2, 2));
        assert_eq!(known.message("h1", 7).state(), CameraState::Available);
    }

    #[test]
    fn a_camera_without_a_number_is_known_by_its_server_and_a_twin_takes_no_name() {
        let mut register = Register::default();
        let twin = || Some(behind(0x0428, Some("1")));
        let servers = |a: Option<Seen>, b: Option<Seen>| [("a:1".to_owned(), a), ("b:1".to_owned(), b)];
        register.take(&[], &[], &servers(None, twin()));
        register.take(&[], &[], &servers(twin(), twin()));
        let at = |register: &Register, id: &str| register.cameras()[id].port.clone();
        assert_eq!(at(&register, "04b0:1"), "b:1", "who was there first keeps the name");
        assert_eq!(at(&register, "04b0@a:1"), "a:1");
        register.take(&[], &[], &servers(Some(behind(0x0428, None)), None));
        assert_eq!(at(&register, "04b0@a:1"), "a:1");
    }

    proptest! {
        #[test]
        fn names_are_given_once_and_every_coming_is_told_once(
            looks in prop::collection::vec(prop::collection::vec(prop::option::of((0u16..3, prop::option::of(0u8..3))), 3), 1..20)
        ) {
            let mut register = Register::default();
            let mut there: BTreeMap<String, bool> = BTreeMap::new();
            for look in looks {
                let servers: Vec<_> = look.iter().enumerate().map(|(number, seen)| {
                    let seen = seen.map(|(product, serial)| behind(0x0428 + product, serial.map(|s| s.to_string()).as_deref()));
                    (format!("s:{number}"), seen)
                }).collect();
                let told = register.take(&[], &[], &servers);
                let present = register.cameras().values().filter(|camera| camera.present).count();
                prop_assert_eq!(present, look.iter().flatten().count(), "each camera has a name of its own");
                for told in told {
                    match told.kind {
                        "camera.plugged" => prop_assert_ne!(there.insert(told.camera, true), Some(true)),
                        "camera.unplugged" => prop_assert_eq!(there.insert(told.camera, false), Some(true)),
                        _ => {}
                    }
                }
                for (id, camera) in register.cameras() {
                    prop_assert_eq!(there.get(id).copied().unwrap_or(false), camera.present);
                }
            }
        }
    }
}
