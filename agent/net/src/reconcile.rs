//! Makes the present network the wanted one. Level-triggered: it looks at what is there, does what is lacking, and
//! looks again, until nothing is lacking. So it does not matter whether it starts on nothing, on a half-made network,
//! or on one that somebody has tampered with.
//!
//! A round does the first of these that is needed: namespaces, devices (unwanted ones removed, lacking ones made),
//! settings. Later things need earlier ones: a setting needs the index of its device. The last round finds nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    os::fd::AsFd,
    path::PathBuf,
};

use crate::{
    conn::{Conn, Request},
    diff::{self, Structure},
    error::NetError,
    messages::{self, NewTunnel, VethEnd},
    netns,
    paths::Paths,
    report::{NetReport, Progress, Step, Tally},
    seen,
    spec::NetworkSpec,
    state::{End, Kind, Place, SeenPlace, WantedDevice, WantedPlace},
    sysctl, tap, underlay, wanted,
    worker::Cancel,
};

/// Three rounds do all the work and the fourth finds nothing; more are needed only when a change undoes another, as the
/// change of an address drops the routes over it.
const ROUNDS: usize = 8;
/// Cables made in one go; each keeps the far namespace's file open meanwhile.
const VETH_CHUNK: usize = 64;
/// How many taps are made between two reports of progress and looks at the caller.
const TAP_CHUNK: usize = 32;

/// One reconcile. It must run on a thread of the crate's own, whose namespace it changes.
pub(crate) struct Reconcile<'a> {
    paths: &'a Paths,
    wanted: BTreeMap<Place, WantedPlace>,
    /// Into the namespace of the underlay, where tunnels are made; `None` when there are none to make.
    underlay: Option<Conn>,
    seen: BTreeMap<Place, SeenPlace>,
    tally: Tally,
    cancel: &'a Cancel,
    progress: &'a dyn Fn(Progress),
}

impl<'a> Reconcile<'a> {
    /// Prepares the reconcile of a checked network. The thread must be in the namespace of the underlay.
    pub fn new(
        paths: &'a Paths,
        spec: &NetworkSpec,
        cancel: &'a Cancel,
        progress: &'a dyn Fn(Progress),
    ) -> Result<Self, NetError> {
        let (seen, tally) = Default::default();
        let wanted = wanted::places(spec, paths.config().vxlan_port);
        let mut devices = wanted.values().flat_map(|place| place.devices.values());
        let has_tunnels = devices.any(|device| device.kind == Kind::Vxlan);
        let underlay = if has_tunnels { Some(Conn::open(paths.experiment())?) } else { None };
        Ok(Self { paths, wanted, underlay, seen, tally, cancel, progress })
    }

    /// Says what [`Self::run`] would do.
    pub async fn plan(mut self) -> Result<NetReport, NetError> {
        for place in self.wanted.keys().cloned().collect::<Vec<_>>() {
            if netns::is_live(&self.paths.namespace(&place))? {
                self.look(&place).await?;
                let lo_differs = self.lo_request(&place).is_some();
                if lo_differs || !sysctl::differing(&place)?.is_empty() {
                    self.tally.changed.extend(place.label());
                }
            } else {
                self.tally.made.extend(place.label());
            }
        }
        self.tally.removed.extend(self.unwanted().await?.into_iter().flat_map(|(labels, _)| labels));
        let structure = diff::structure(&self.wanted, &self.seen);
        self.tally_structure(&structure);
        for (place, seen) in &self.seen {
            for setting in diff::settings(place, &self.wanted[place], seen) {
                self.tally.changed.extend(setting.label.or_else(|| place.label()));
            }
        }
        self.tally.changed.extend(self.ports_to_replug(&structure));
        Ok(self.report())
    }

    /// Ports of bridges that are lacking. Their settings cannot be compared before the bridge has an index.
    fn ports_to_replug(&self, structure: &Structure) -> Vec<String> {
        let lacking: BTreeSet<&str> = structure.lacking.iter().map(|end| end.device.as_str()).collect();
        let devices = self.wanted.get(&Place::Switch).into_iter().flat_map(|switch| switch.devices.values());
        let on_lacking = |d: &&WantedDevice| d.port_of.as_ref().is_some_and(|(bridge, _)| lacking.contains(&**bridge));
        devices.filter(on_lacking).map(|device| device.label.clone()).collect()
    }

    /// Makes the network what it should be.
    pub async fn run(mut self) -> Result<NetReport, NetError> {
        self.namespaces()?;
        let mut stale: BTreeSet<Place> = self.wanted.keys().cloned().collect();
        let mut left = String::new();
        for _ in 0..ROUNDS {
            for place in std::mem::take(&mut stale) {
                self.look(&place).await?;
            }
            let structure = diff::structure(&self.wanted, &self.seen);
            let unwanted = self.unwanted().await?;
            if !structure.is_empty() || !unwanted.is_empty() {
                left = structure.lacking.first().map_or_else(|| "a removal".into(), |end| self.label(end));
                self.tally_structure(&structure);
                self.remove_devices(&structure).await?;
                // After the devices: with a router its ends of cables go, and the other ends some time later.
                for (labels, path) in unwanted {
                    if netns::is_live(&path)? {
                        underlay::remove_tunnels(&path, self.paths.experiment(), self.cancel).await?;
                    }
                    netns::remove(&path)?;
                    self.tally.removed.extend(labels);
                }
                self.make_devices(&structure.lacking).await?;
                stale = self.wanted.keys().cloned().collect();
                continue;
            }
            let requests = self.settings();
            let Some(first) = requests.values().flatten().next() else { return Ok(self.report()) };
            left = first.doing.clone();
            stale = self.configure(requests).await?;
        }
        Err(NetError::Unsettled { experiment: self.paths.experiment().to_owned(), what: left, rounds: ROUNDS })
    }

    fn report(self) -> NetReport {
        let devices = self.wanted.values().flat_map(|place| place.devices.values().map(|device| device.label.clone()));
        let routers = self.wanted.keys().filter_map(Place::label);
        self.tally.report(&devices.chain(routers).collect())
    }

    fn label(&self, end: &End) -> String {
        self.device(end).label.clone()
    }

    /// A device that the structure's comparison took from `wanted`.
    fn device(&self, end: &End) -> &WantedDevice {
        &self.wanted[&end.place].devices[&end.device]
    }

    fn tally_structure(&mut self, structure: &Structure) {
        for end in &structure.lacking {
            let device = self.device(end);
            let far = device.peer.as_ref().map(|peer| self.label(peer));
            let near = device.label.clone();
            self.tally.made.extend([near].into_iter().chain(far));
        }
        self.tally.removed.extend(structure.doomed.values().flatten().map(|(_, label)| label.clone()));
    }

    /// Makes the lacking namespaces and finishes half-made ones.
    fn namespaces(&mut self) -> Result<(), NetError> {
        let total = self.wanted.len();
        for (done, place) in self.wanted.keys().enumerate() {
            self.cancel.check(self.paths.experiment())?;
            let path = self.paths.namespace(place);
            if netns::is_live(&path)? {
                netns::enter(&path)?;
                if sysctl::apply(place)? {
                    self.tally.changed.extend(place.label());
                }
            } else {
                netns::make(&path)?;
                sysctl::apply(place)?;
                self.tally.made.extend(place.label());
                (self.progress)(Progress { step: Step::Namespaces, done: done + 1, total });
            }
        }
        Ok(())
    }

    /// The namespaces that nobody wants, with what goes with them: a router, or all that the switch has.
    async fn unwanted(&self) -> Result<Vec<(Vec<String>, PathBuf)>, NetError> {
        let wanted: BTreeSet<PathBuf> = self.wanted.keys().map(|place| self.paths.namespace(place)).collect();
        let mut unwanted = Vec::new();
        for file in self.paths.own_files()?.into_iter().filter(|file| !wanted.contains(&file.path)) {
            let labels = match &file.router {
                Some(name) => vec![wanted::router_label(name)],
                None if netns::is_live(&file.path)? => {
                    let devices = seen::devices(&self.connect(&Place::Switch)?).await?.into_iter();
                    devices.filter_map(|(name, device)| device.kind.map(|_| diff::label_of(&name, &device))).collect()
                }
                None => Vec::new(),
            };
            unwanted.push((labels, file.path));
        }
        Ok(unwanted)
    }

    fn connect(&self, place: &Place) -> Result<Conn, NetError> {
        netns::enter(&self.paths.namespace(place))?;
        Conn::open(self.paths.experiment())
    }

    async fn look(&mut self, place: &Place) -> Result<(), NetError> {
        self.cancel.check(self.paths.experiment())?;
        let conn = self.connect(place)?;
        self.seen.insert(place.clone(), seen::place(&conn).await?);
        Ok(())
    }

    async fn remove_devices(&self, structure: &Structure) -> Result<(), NetError> {
        let total = structure.doomed.values().map(Vec::len).sum();
        let mut done = 0;
        for (place, devices) in &structure.doomed {
            let conn = self.connect(place)?;
            let mark = devices.iter().map(|(index, label)| messages::doom(*index, format!("remove {label}")));
            let remove = messages::remove_doomed(format!("remove {} devices", devices.len()));
            conn.run(mark.chain([remove]).collect(), self.cancel, |_| ()).await?;
            done += devices.len();
            (self.progress)(Progress { step: Step::Remove, done, total });
        }
        Ok(())
    }

    async fn make_devices(&self, lacking: &[End]) -> Result<(), NetError> {
        let mut made = Counter { step: Step::Create, done: 0, total: lacking.len(), progress: self.progress };
        for place in self.wanted.keys() {
            let here: Vec<&End> = lacking.iter().filter(|end| end.place == *place).collect();
            if here.is_empty() {
                continue;
            }
            let of_kind = |kind| here.iter().copied().filter(move |end| self.device(end).kind == kind);
            let conn = self.connect(place)?;
            let bridges = of_kind(Kind::Bridge).map(|end| self.bridge_request(end)).collect();
            conn.run(bridges, self.cancel, |n| made.add(n)).await?;
            self.make_taps(&of_kind(Kind::Tap).collect::<Vec<_>>(), &mut made)?;
            for chunk in of_kind(Kind::Veth).collect::<Vec<_>>().chunks(VETH_CHUNK) {
                self.make_veths(&conn, chunk).await?;
                made.add(chunk.len());
            }
            let tunnels: Vec<&End> = of_kind(Kind::Vxlan).collect();
            self.make_tunnels(place, &tunnels).await?;
            made.add(tunnels.len());
        }
        self.name_far_ends(lacking).await
    }

    fn bridge_request(&self, end: &End) -> Request {
        let device = self.device(end);
        let mac = device.mac.unwrap_or_default();
        messages::make_bridge(&end.device, mac, device.mtu, &device.bridge, format!("make {}", device.label))
    }

    /// Makes taps in the namespace that the thread is in.
    fn make_taps(&self, ends: &[&End], made: &mut Counter<'_>) -> Result<(), NetError> {
        for chunk in ends.chunks(TAP_CHUNK) {
            self.cancel.check(self.paths.experiment())?;
            for end in chunk {
                tap::make(&end.device).map_err(|source| NetError::Kernel {
                    experiment: self.paths.experiment().to_owned(),
                    doing: format!("make {}", self.label(end)),
                    source,
                })?;
            }
            made.add(chunk.len());
        }
        Ok(())
    }

    /// Makes tunnels in a namespace from that of the underlay.
    async fn make_tunnels(&self, place: &Place, ends: &[&End]) -> Result<(), NetError> {
        let Some(underlay) = self.underlay.as_ref().filter(|_| !ends.is_empty()) else { return Ok(()) };
        let path = self.paths.namespace(place);
        // Open until the kernel has answered.
        let namespace = File::open(&path).map_err(NetError::path("open namespace", path))?;
        let requests = ends.iter().filter_map(|end| {
            let device = self.device(end);
            let tunnel = device.tunnel?;
            let doing = format!("make {} with VNI {} on UDP port {}", device.label, tunnel.vni, tunnel.port);
            let new = NewTunnel { name: &end.device, mac: device.mac, mtu: device.mtu, tunnel };
            Some(messages::make_tunnel(new, namespace.as_fd(), doing))
        });
        underlay.run(requests.collect(), self.cancel, |_| ()).await
    }

    async fn make_veths(&self, conn: &Conn, ends: &[&End]) -> Result<(), NetError> {
        // The files must be open until the kernel has answered.
        let mut namespaces = Vec::with_capacity(ends.len());
        let mut requests = Vec::with_capacity(2 * ends.len());
        for end in ends {
            let near = self.device(end);
            let Some(peer) = &near.peer else { continue };
            let far = self.device(peer);
            let path = self.paths.namespace(&peer.place);
            let namespace = File::open(&path).map_err(NetError::path("open namespace", path))?;
            requests.push(messages::make_veth(
                veth_end(end, near),
                veth_end(peer, far),
                namespace.as_fd(),
                format!("make {}", near.label),
            ));
            requests.push(messages::set_alias_by_name(&end.device, &near.alias, false, format!("name {}", near.label)));
            namespaces.push(namespace);
        }
        conn.run(requests, self.cancel, |_| ()).await
    }

    /// A cable without the names of both ends counts as half made, so the far ends are named at once, too.
    async fn name_far_ends(&self, lacking: &[End]) -> Result<(), NetError> {
        let mut far: BTreeMap<&Place, Vec<Request>> = BTreeMap::new();
        for peer in lacking.iter().filter_map(|end| self.device(end).peer.as_ref()) {
            let device = self.device(peer);
            let doing = format!("name {}", device.label);
            let request = messages::set_alias_by_name(&peer.device, &device.alias, false, doing);
            far.entry(&peer.place).or_default().push(request);
        }
        for (place, requests) in far {
            self.connect(place)?.run(requests, self.cancel, |_| ()).await?;
        }
        Ok(())
    }

    /// What is to be set in each namespace.
    fn settings(&mut self) -> BTreeMap<Place, Vec<Request>> {
        let mut requests: BTreeMap<Place, Vec<Request>> = BTreeMap::new();
        for (place, seen) in &self.seen {
            let mut here: Vec<Request> = self.lo_request(place).into_iter().collect();
            if !here.is_empty() {
                self.tally.changed.extend(place.label());
            }
            for setting in diff::settings(place, &self.wanted[place], seen) {
                self.tally.changed.extend(setting.label.or_else(|| place.label()));
                here.push(setting.request);
            }
            if !here.is_empty() {
                requests.insert(place.clone(), here);
            }
        }
        requests
    }

    /// `lo` carries the namespace's full name and is up, so that a router can reach itself.
    fn lo_request(&self, place: &Place) -> Option<Request> {
        let alias = match place {
            Place::Switch => self.paths.experiment(),
            Place::Router(name) => name,
        };
        let right = self.seen.get(place)?.devices.get("lo").is_some_and(|lo| lo.up && lo.alias == alias);
        (!right).then(|| messages::set_alias_by_name("lo", alias, true, format!("name the namespace of {alias}")))
    }

    /// Carries the settings out; returns the namespaces that were touched.
    async fn configure(&self, requests: BTreeMap<Place, Vec<Request>>) -> Result<BTreeSet<Place>, NetError> {
        let total = requests.values().map(Vec::len).sum();
        let mut set = Counter { step: Step::Configure, done: 0, total, progress: self.progress };
        let touched = requests.keys().cloned().collect();
        for (place, requests) in requests {
            self.connect(&place)?.run(requests, self.cancel, |n| set.add(n)).await?;
        }
        Ok(touched)
    }
}

/// Counts a step's progress and tells it.
struct Counter<'a> {
    step: Step,
    done: usize,
    total: usize,
    progress: &'a dyn Fn(Progress),
}

impl Counter<'_> {
    fn add(&mut self, count: usize) {
        self.done += count;
        (self.progress)(Progress { step: self.step, done: self.done, total: self.total });
    }
}

fn veth_end<'a>(end: &'a End, device: &WantedDevice) -> VethEnd<'a> {
    VethEnd { name: &end.device, mac: device.mac, mtu: device.mtu }
}
