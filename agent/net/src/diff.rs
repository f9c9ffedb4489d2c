//! The difference between what a namespace should hold and what it holds. Pure: it reads two pictures and says what to
//! do, so that a dry run and a real one cannot differ.
//!
//! It comes in two halves. [`structure`] compares which devices exist. Once they all do, and have their indices,
//! [`settings`] compares everything about them.

use std::{
    collections::{BTreeMap, HashMap},
    mem::discriminant,
    net::IpAddr,
};

use crate::{
    conn::Request,
    messages::{self, LinkChange, Table},
    spec::{Mac, mac_text},
    state::{End, Kind, Place, SeenDevice, SeenPlace, WantedDevice, WantedPlace},
};

/// Which devices must go and which must be made.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Structure {
    /// By namespace: the index, and what the device is called.
    pub doomed: BTreeMap<Place, Vec<(u32, String)>>,
    /// Devices to make. Of a cable only the end that makes it, which is the smaller one.
    pub lacking: Vec<End>,
}

impl Structure {
    pub fn is_empty(&self) -> bool {
        self.doomed.is_empty() && self.lacking.is_empty()
    }
}

/// Compares which devices exist. A namespace that does not exist yet has no entry in `seen`.
pub(crate) fn structure(wanted: &BTreeMap<Place, WantedPlace>, seen: &BTreeMap<Place, SeenPlace>) -> Structure {
    let mut result = Structure::default();
    for (place, seen_place) in seen {
        for (name, device) in &seen_place.devices {
            let end = End { place: place.clone(), device: name.clone() };
            let doomed = match find_wanted(wanted, &end) {
                Some(device_wanted) => !is_right(wanted, seen, &end, device_wanted),
                None => device.kind.is_some(),
            };
            if doomed {
                let label = find_wanted(wanted, &end).map_or_else(|| label_of(name, device), |w| w.label.clone());
                result.doomed.entry(place.clone()).or_default().push((device.index, label));
            }
        }
    }
    for (place, wanted_place) in wanted {
        for (name, device) in &wanted_place.devices {
            let end = End { place: place.clone(), device: name.clone() };
            let makes = device.peer.as_ref().is_none_or(|peer| end < *peer);
            if makes && !is_right(wanted, seen, &end, device) {
                result.lacking.push(end);
            }
        }
    }
    result
}

/// What to call a device that nobody wants.
pub(crate) fn label_of(name: &str, device: &SeenDevice) -> String {
    let human = if device.alias.is_empty() { name } else { &device.alias };
    match device.kind {
        Some(Kind::Bridge) => format!("lan {human}"),
        Some(Kind::Tap) => format!("port {human}"),
        // That of a segment's tunnel is "tunnel lan0", a router's has one as a cable's end.
        Some(Kind::Vxlan) if !human.contains(" -> ") => human.to_owned(),
        // The alias of a cable's end is "core/eth0 -> lan lan0".
        _ => format!("interface {}", human.split(" -> ").next().unwrap_or(human)),
    }
}

fn find_wanted<'a>(wanted: &'a BTreeMap<Place, WantedPlace>, end: &End) -> Option<&'a WantedDevice> {
    wanted.get(&end.place)?.devices.get(&end.device)
}

fn find_seen<'a>(seen: &'a BTreeMap<Place, SeenPlace>, end: &End) -> Option<&'a SeenDevice> {
    seen.get(&end.place)?.devices.get(&end.device)
}

/// Whether the device is there, of the right kind and settings, and, for a cable, joined to the right other end. The
/// ends' aliases say what a cable joins: indices alone repeat from namespace to namespace.
fn is_right(
    wanted: &BTreeMap<Place, WantedPlace>,
    seen: &BTreeMap<Place, SeenPlace>,
    end: &End,
    device: &WantedDevice,
) -> bool {
    let Some(here) = find_seen(seen, end).filter(|here| here.kind == Some(device.kind)) else { return false };
    if device.kind == Kind::Vxlan && here.tunnel != device.tunnel {
        return false;
    }
    let Some(peer) = &device.peer else { return true };
    let (Some(there), Some(peer_device)) = (find_seen(seen, peer), find_wanted(wanted, peer)) else { return false };
    there.kind == Some(Kind::Veth)
        && here.alias == device.alias
        && there.alias == peer_device.alias
        && here.peer_index == there.index
        && there.peer_index == here.index
}

/// One thing to set, and whom a report tells it of.
#[derive(Debug)]
pub(crate) struct Setting {
    /// `None` for the removal of an entry whose owner is gone.
    pub label: Option<String>,
    pub request: Request,
}

/// Compares everything about the devices that exist, in the order in which it must be done.
pub(crate) fn settings(place: &Place, wanted: &WantedPlace, seen: &SeenPlace) -> Vec<Setting> {
    let mut diff = SettingsDiff { wanted, seen, settings: Vec::new() };
    let names: HashMap<u32, &String> = seen.devices.iter().map(|(name, device)| (device.index, name)).collect();
    let is_router = matches!(place, Place::Router(_));
    diff.removals(&names, is_router);
    diff.devices();
    diff.additions(is_router);
    diff.settings
}

struct SettingsDiff<'a> {
    wanted: &'a WantedPlace,
    seen: &'a SeenPlace,
    settings: Vec<Setting>,
}

impl SettingsDiff<'_> {
    fn push(&mut self, label: Option<&str>, request: Request) {
        self.settings.push(Setting { label: label.map(str::to_owned), request });
    }

    /// A wanted device that exists.
    fn device(&self, name: &str) -> Option<(&SeenDevice, &WantedDevice)> {
        Some((self.seen.devices.get(name)?, self.wanted.devices.get(name)?))
    }

    fn removals(&mut self, names: &HashMap<u32, &String>, is_router: bool) {
        let ours = |index: u32| names.get(&index).filter(|name| self.wanted.devices.contains_key(**name)).copied();
        let mut removals = Vec::new();
        for (index, mac) in &self.seen.fdb {
            if let Some(name) = ours(*index)
                && !self.wanted.fdb.contains_key(&(name.clone(), *mac))
            {
                let doing = format!("remove the FDB entry {} of {}", mac_text(mac), self.wanted.devices[name].label);
                removals.push((None, messages::remove_fdb(*index, mac, Table::Bridge, doing)));
            }
        }
        // What leads to other hosts changes with their stations, so the tunnel is told as changed.
        for ((index, mac), host) in &self.seen.far {
            if let Some(name) = ours(*index)
                && !self.wanted.fdb.contains_key(&(name.clone(), *mac))
            {
                let label = self.wanted.devices[name].label.clone();
                let doing = format!("remove the entry {} behind {host} of {label}", mac_text(mac));
                removals.push((Some(label), messages::remove_fdb(*index, mac, Table::Tunnel(*host), doing)));
            }
        }
        for (index, host) in &self.seen.copies {
            if let Some(name) = ours(*index)
                && !self.wanted.copies.contains(&(name.clone(), *host))
            {
                let label = self.wanted.devices[name].label.clone();
                let doing = format!("end the copies to {host} of {label}");
                removals.push((Some(label), messages::remove_copy(*index, *host, doing)));
            }
        }
        for (index, ip) in self.seen.neighbours.keys() {
            if let Some(name) = ours(*index)
                && !self.wanted.neighbours.contains_key(&(name.clone(), *ip))
            {
                let doing = format!("remove the neighbour {ip} of {}", self.wanted.devices[name].label);
                removals.push((None, messages::remove_neighbour(*index, *ip, doing)));
            }
        }
        // Addresses and routes of the switch are not ours: a person may look at a lan from there.
        if is_router {
            for (index, prefix) in &self.seen.addresses {
                if let Some(name) = ours(*index)
                    && !self.wanted.addresses.contains(&(name.clone(), *prefix))
                {
                    let label = self.wanted.devices[name].label.clone();
                    let doing = format!("remove the address {}/{} of {label}", prefix.0, prefix.1);
                    removals.push((Some(label), messages::remove_address(*index, *prefix, doing)));
                }
            }
            for (to, via) in &self.seen.routes {
                if !self.wanted.routes.contains_key(to) {
                    let doing = format!("remove the route to {}/{} via {via}", to.0, to.1);
                    removals.push((None, messages::remove_route(*to, *via, doing)));
                }
            }
        }
        for (label, request) in removals {
            self.push(label.as_deref(), request);
        }
    }

    fn devices(&mut self) {
        // Bridges first: ports are plugged into bridges that are up.
        for wants_bridge in [true, false] {
            for (name, device) in &self.wanted.devices {
                if (device.kind == Kind::Bridge) == wants_bridge {
                    self.device_settings(name, device);
                }
            }
        }
    }

    fn device_settings(&mut self, name: &str, wanted: &WantedDevice) {
        let seen = self.seen;
        let Some(device) = seen.devices.get(name) else { return };
        let bridge = wanted.port_of.as_ref().map(|(bridge, _)| bridge);
        let master = match bridge {
            Some(bridge) => match seen.devices.get(bridge) {
                Some(bridge) => bridge.index,
                // A dry run in which the bridge is yet to be made.
                None => return,
            },
            None => 0,
        };
        let change = LinkChange {
            alias: (device.alias != wanted.alias).then(|| wanted.alias.clone()),
            mtu: (device.mtu != wanted.mtu).then_some(wanted.mtu),
            mac: wanted.mac.filter(|mac| device.mac != mac),
            master: (device.master != master).then_some(master),
        };
        let replugged = change.master.is_some();
        if !change.is_empty() {
            let doing = match (&wanted.port_of, replugged) {
                (Some((bridge, _)), true) => {
                    let lan = self.wanted.devices.get(bridge).map_or(bridge.as_str(), |bridge| &bridge.label);
                    format!("plug {} into {lan}", wanted.label)
                }
                _ => format!("set up {}", wanted.label),
            };
            self.push(Some(&wanted.label), messages::set_link(device.index, change, doing));
        }
        let differing = differing(&wanted.bridge, &device.bridge);
        if !differing.is_empty() {
            let doing = format!("set up {}", wanted.label);
            self.push(Some(&wanted.label), messages::set_bridge(device.index, &differing, doing));
        }
        let guards = match &wanted.port_of {
            // A port that has just been plugged has the kernel's defaults.
            Some((_, guards)) if replugged => guards.clone(),
            Some((_, guards)) => self::differing(guards, &device.port),
            None => Vec::new(),
        };
        if !guards.is_empty() {
            let doing = format!("set the guards of {}", wanted.label);
            self.push(Some(&wanted.label), messages::set_port_and_up(device.index, &guards, doing));
        } else if !device.up {
            self.push(Some(&wanted.label), messages::set_up(device.index, format!("bring up {}", wanted.label)));
        }
    }

    /// The tables that lack the entry of an address, or have it with another host.
    fn lacking_in(&self, device: &SeenDevice, wanted: &WantedDevice, mac: &Mac, host: Option<IpAddr>) -> Option<Table> {
        let key = (device.index, *mac);
        let lacks_port = wanted.port_of.is_some() && !self.seen.fdb.contains(&key);
        match host.filter(|host| self.seen.far.get(&key) != Some(host)) {
            Some(host) if lacks_port => Some(Table::Both(host)),
            Some(host) => Some(Table::Tunnel(host)),
            None => lacks_port.then_some(Table::Bridge),
        }
    }

    fn additions(&mut self, is_router: bool) {
        let mut additions = Vec::new();
        for (name, prefix) in &self.wanted.addresses {
            if let Some((device, wanted)) = self.device(name)
                && !self.seen.addresses.contains(&(device.index, *prefix))
            {
                let doing = format!("add the address {}/{} to {}", prefix.0, prefix.1, wanted.label);
                additions.push((Some(wanted.label.clone()), messages::add_address(device.index, *prefix, doing)));
            }
        }
        for ((name, mac), host) in &self.wanted.fdb {
            if let Some((device, wanted)) = self.device(name)
                && let Some(table) = self.lacking_in(device, wanted, mac, *host)
            {
                let doing = format!("add the FDB entry {} of {}", mac_text(mac), wanted.label);
                additions.push((Some(wanted.label.clone()), messages::add_fdb(device.index, mac, table, doing)));
            }
        }
        for (name, host) in &self.wanted.copies {
            if let Some((device, wanted)) = self.device(name)
                && !self.seen.copies.contains(&(device.index, *host))
            {
                let doing = format!("send copies of {} to {host}", wanted.label);
                additions.push((Some(wanted.label.clone()), messages::add_copy(device.index, *host, doing)));
            }
        }
        for ((name, ip), neighbour) in &self.wanted.neighbours {
            if let Some((device, wanted)) = self.device(name)
                && self.seen.neighbours.get(&(device.index, *ip)) != Some(&neighbour.mac)
            {
                let doing = format!("add the neighbour {ip} ({}) to {}", neighbour.label, wanted.label);
                let request = messages::add_neighbour(device.index, *ip, &neighbour.mac, doing);
                additions.push((Some(neighbour.label.clone()), request));
            }
        }
        if is_router {
            for (to, via) in &self.wanted.routes {
                if self.seen.routes.get(to) != Some(via) {
                    let doing = format!("add the route to {}/{} via {via}", to.0, to.1);
                    additions.push((None, messages::add_route(*to, *via, doing)));
                }
            }
        }
        for (label, request) in additions {
            self.push(label.as_deref(), request);
        }
    }
}

/// The wanted settings that the kernel shows with another value. One that it does not show it does not have.
fn differing<T: Clone + PartialEq>(wanted: &[T], seen: &[T]) -> Vec<T> {
    let other = |want: &&T| seen.iter().any(|have| discriminant(have) == discriminant(*want) && have != *want);
    wanted.iter().filter(other).cloned().collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
