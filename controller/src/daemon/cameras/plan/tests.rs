//! Random lives of a fleet with cameras: whatever happened, the steps lead to where everything is wanted, and no further.

use std::collections::{BTreeMap, BTreeSet};

use fleet_proto::v1::{Camera, CameraLease, CameraState, CamerasReply};
use fleet_usb::lease::CameraId;
use proptest::prelude::*;

use super::super::ledger::Ledger;
use super::super::picture::{Around, Picture, holder, joint, parts};
use super::{Step, World, steps};
use crate::daemon::fleet::{Place, Wish};

const HOSTS: [&str; 3] = ["h1", "h2", "h3"];
const VMS: [&str; 3] = ["a", "b", "c"];

/// What a host keeps.
#[derive(Clone, Debug, Default)]
struct Host {
    silent: bool,
    plugged: BTreeMap<String, bool>,
    leases: BTreeMap<CameraId, (String, u64, CameraState)>,
    /// The highest epoch by which each of its cameras was given out.
    fence: BTreeMap<String, u64>,
    /// The highest epoch of a lease that has ended here.
    over: BTreeMap<CameraId, u64>,
}

impl Host {
    fn end(&mut self, camera: &CameraId) {
        if let Some((_, epoch, _)) = self.leases.remove(camera) {
            self.over.insert(camera.clone(), epoch);
        }
    }
}

/// A fleet whose hosts do what they are told.
#[derive(Clone, Debug)]
struct Fleet {
    hosts: BTreeMap<String, Host>,
    /// Where VMs are; not there: gone.
    vms: BTreeMap<String, String>,
    needs: BTreeSet<String>,
    ledger: Ledger,
}

impl Fleet {
    fn new() -> Self {
        let mut hosts: BTreeMap<String, Host> = HOSTS.iter().map(|host| (host.to_string(), Host::default())).collect();
        for (number, host) in HOSTS.iter().enumerate() {
            for camera in 0..number {
                let kept = hosts.entry(host.to_string()).or_default();
                kept.plugged.insert(format!("04b0:{host}{camera}"), true);
            }
        }
        let vms = VMS.iter().zip(HOSTS).map(|(vm, host)| (vm.to_string(), host.to_owned())).collect();
        Self { hosts, vms, needs: BTreeSet::new(), ledger: Ledger::default() }
    }

    fn camera(&self, number: usize) -> CameraId {
        let all: Vec<CameraId> = self
            .hosts
            .iter()
            .flat_map(|(host, kept)| {
                kept.plugged.keys().map(|camera| CameraId { host: host.clone(), camera: camera.clone() })
            })
            .collect();
        all[number % all.len()].clone()
    }

    fn picture(&self) -> Picture {
        let mut picture = Picture::default();
        for (name, host) in &self.hosts {
            let cameras = host.plugged.iter().map(|(id, present)| Camera {
                id: id.clone(),
                present: *present,
                state: if *present { CameraState::Available } else { CameraState::Absent }.into(),
                epoch: host.fence.get(id).copied().unwrap_or(0),
                ..Camera::default()
            });
            let leases = host.leases.iter().map(|(camera, (holder, epoch, state))| {
                let (experiment, vm) = parts(holder);
                CameraLease {
                    host: camera.host.clone(),
                    camera: camera.camera.clone(),
                    experiment: experiment.into(),
                    vm: vm.into(),
                    epoch: *epoch,
                    state: (*state).into(),
                    ..CameraLease::default()
                }
            });
            picture.told(name, CamerasReply { cameras: cameras.collect(), leases: leases.collect() });
            if host.silent {
                picture.silent(name);
            }
        }
        picture
    }

    fn place(&self, vm: &str) -> Place {
        self.vms.get(vm).map_or(Place::Gone, |host| Place::On { host: host.clone(), up: true })
    }

    fn wishes(&self) -> Vec<Wish> {
        let wanted = self.needs.iter().filter_map(|vm| Some((vm, self.vms.get(vm)?)));
        wanted
            .map(|(vm, host)| Wish { experiment: "x".into(), generation: 1, vm: vm.clone(), up_on: Some(host.clone()) })
            .collect()
    }

    fn steps(&self) -> BTreeMap<CameraId, Step> {
        let picture = self.picture();
        let wishes = self.wishes();
        steps(&World {
            ledger: &self.ledger,
            picture: &picture,
            place: &|_, vm| self.place(vm),
            wishes: &wishes,
            reaches: &|_, _| true,
            rests: &|_, _| false,
        })
    }

    /// As [`super::super::act`] does them.
    fn carry_out(&mut self, camera: &CameraId, step: Step) {
        match step {
            Step::Release { epoch } => assert!(self.ledger.leases.release(camera, epoch), "of the lease that is"),
            Step::Detach { at, epoch } => self.detach(camera, &at, epoch, false),
            Step::Hold { at, lease } => self.detach(camera, &at, lease.epoch, true),
            Step::Attach { at, lease } => {
                let keeps = self.hosts[&at].leases.get(camera).is_some_and(|kept| kept.1 == lease.epoch);
                let told = self.ledger.leases.send(camera, lease.epoch, &at, keeps);
                let lease = told.expect("epochs").expect("its own");
                self.attach(camera, &at, &lease.holder, lease.epoch);
            }
            Step::Give { at, holder } => {
                let lease = self.ledger.leases.acquire(camera, &holder, 0, false).expect("it is free");
                let told = self.ledger.leases.send(camera, lease.epoch, &at, false);
                let lease = told.expect("epochs").expect("its own");
                self.attach(camera, &at, &holder, lease.epoch);
            }
        }
    }

    fn attach(&mut self, camera: &CameraId, at: &str, holder: &str, epoch: u64) {
        let own = self.hosts.get_mut(&camera.host).expect("a host");
        assert!(!own.silent && own.plugged[&camera.camera], "what cannot be had is not tried");
        let fence = own.fence.entry(camera.camera.clone()).or_default();
        assert!(epoch >= *fence, "an older epoch than was given out");
        *fence = epoch;
        let host = self.hosts.get_mut(at).expect("a host");
        assert!(!host.silent, "a silent host is told nothing");
        assert!(host.over.get(camera).is_none_or(|over| *over < epoch), "a lease that has ended here");
        assert_eq!(self.vms.get(parts(holder).1).map(String::as_str), Some(at), "where the VM is");
        host.leases.insert(camera.clone(), (holder.to_owned(), epoch, CameraState::Attached));
    }

    fn detach(&mut self, camera: &CameraId, at: &str, epoch: u64, hold: bool) {
        let host = self.hosts.get_mut(at).expect("a host");
        assert!(!host.silent, "a silent host is told nothing");
        let kept = host.leases.get_mut(camera).expect("it has it");
        assert_eq!(kept.1, epoch);
        if hold { kept.2 = CameraState::Held } else { host.end(camera) }
    }

    /// Does all that is to be done. Bounded: each round must bring it nearer.
    fn settle(&mut self) {
        for _ in 0..8 {
            let steps = self.steps();
            if steps.is_empty() {
                return;
            }
            for (camera, step) in steps {
                self.carry_out(&camera, step);
            }
        }
        panic!("it does not come to rest: {:?}", self.steps());
    }

    fn check(&self) {
        let served: BTreeSet<&str> = self.ledger.leases.iter().map(|(_, lease)| parts(&lease.holder).1).collect();
        for (camera, lease) in self.ledger.leases.iter() {
            let vm = parts(&lease.holder).1;
            let at = self.vms.get(vm).expect("a lease of a VM that is gone has ended");
            let own = &self.hosts[&camera.host];
            if self.hosts[at].silent || own.silent || !own.plugged[&camera.camera] {
                continue;
            }
            let kept = self.hosts[at].leases.get(&camera);
            let state = kept.filter(|kept| kept.0 == lease.holder && kept.1 == lease.epoch).map(|kept| kept.2);
            let wanted = if lease.held { [None, Some(CameraState::Held)] } else { [Some(CameraState::Attached); 2] };
            assert!(wanted.contains(&state), "{camera:?} {lease:?}: {kept:?}");
        }
        for (name, host) in self.hosts.iter().filter(|(_, host)| !host.silent) {
            for (camera, (holder, epoch, _)) in &host.leases {
                let lease = self.ledger.leases.get(camera).unwrap_or_else(|| panic!("{name} keeps {camera:?}"));
                assert_eq!((&lease.holder, lease.epoch), (holder, *epoch), "{name} keeps {camera:?}");
            }
        }
        let waits = self.wishes().iter().any(|wish| {
            let at = wish.up_on.as_deref().unwrap_or_default();
            !served.contains(wish.vm.as_str())
                && !self.hosts[at].silent
                && self.ledger.waived.get(&holder("x", &wish.vm)) != Some(&1)
        });
        let picture = self.picture();
        assert!(!waits || super::free(&self.ledger, &picture).next().is_none(), "a camera is free and a VM waits");
        // Whoever looks sees every lease once, and an honest state.
        let around = Around { place: &|_, vm| self.place(vm), trouble: &|_| None };
        let seen = joint(&picture, &self.ledger.leases, &around);
        for view in seen.cameras.iter().filter(|view| view.state() == CameraState::Attached) {
            let lease = view.lease.as_ref().expect("attached to somebody");
            assert!(!self.hosts[&lease.vm_host].silent && !self.hosts[&lease.host].silent);
        }
    }
}

#[derive(Clone, Debug)]
enum Happens {
    Silent(usize, bool),
    Plug(usize, bool),
    Move(usize, usize),
    Gone(usize),
    Need(usize),
    Attach(usize, usize, bool),
    Detach(usize, bool),
    /// A host ends all its leases, as when its VMs are made anew.
    End(usize),
    /// The controller comes back with the ledger of another time.
    Restore,
    Settle,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        (0..3usize, any::<bool>()).prop_map(|(host, on)| Happens::Silent(host, on)),
        (0..9usize, any::<bool>()).prop_map(|(camera, on)| Happens::Plug(camera, on)),
        (0..3usize, 0..3usize).prop_map(|(vm, host)| Happens::Move(vm, host)),
        (0..3usize).prop_map(Happens::Gone),
        (0..3usize).prop_map(Happens::Need),
        (0..9usize, 0..3usize, any::<bool>()).prop_map(|(camera, vm, steal)| Happens::Attach(camera, vm, steal)),
        (0..9usize, any::<bool>()).prop_map(|(camera, hold)| Happens::Detach(camera, hold)),
        (0..3usize).prop_map(Happens::End),
        Just(Happens::Restore),
        Just(Happens::Settle),
    ]
}

impl Fleet {
    fn happen(&mut self, happens: &Happens, old: &mut Ledger) {
        match happens {
            Happens::Silent(host, on) => self.hosts.get_mut(HOSTS[*host]).expect("a host").silent = *on,
            Happens::Plug(camera, on) => {
                let id = self.camera(*camera);
                self.hosts.get_mut(&id.host).expect("a host").plugged.insert(id.camera, *on);
            }
            Happens::Move(vm, host) => drop(self.vms.insert(VMS[*vm].into(), HOSTS[*host].into())),
            Happens::Gone(vm) => drop(self.vms.remove(VMS[*vm])),
            Happens::Need(vm) => drop(self.needs.insert(VMS[*vm].into())),
            Happens::Attach(camera, vm, steal) => {
                let id = self.camera(*camera);
                let expected = self.ledger.leases.get(&id).map_or(0, |lease| lease.epoch);
                // Only the lease: the controller died before it told anybody.
                drop(self.ledger.leases.acquire(&id, &holder("x", VMS[*vm]), expected, *steal));
            }
            Happens::Detach(camera, hold) => {
                let id = self.camera(*camera);
                let Some(lease) = self.ledger.leases.get(&id).cloned() else { return };
                if *hold {
                    self.ledger.leases.hold(&id, lease.epoch, true);
                } else {
                    self.ledger.leases.release(&id, lease.epoch);
                    self.ledger.waived.insert(lease.holder, 1);
                }
            }
            Happens::End(host) => {
                let host = self.hosts.get_mut(HOSTS[*host]).expect("a host");
                let cameras: Vec<CameraId> = host.leases.keys().cloned().collect();
                cameras.iter().for_each(|camera| host.end(camera));
            }
            Happens::Restore => {
                std::mem::swap(&mut self.ledger, old);
                old.clone_from(&self.ledger);
                let highest = self.hosts.values().flat_map(|host| host.fence.values()).max().copied().unwrap_or(0);
                self.ledger.leases.renew(highest).expect("epochs");
            }
            Happens::Settle => self.settle(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn everything_comes_to_where_it_is_wanted(life in proptest::collection::vec(happens(), 0..30)) {
        let mut fleet = Fleet::new();
        let mut old = Ledger::default();
        for happens in &life {
            fleet.happen(happens, &mut old);
        }
        fleet.settle();
        fleet.check();
        // Once all hosts answer again, nothing is left that nobody wants.
        fleet.hosts.values_mut().for_each(|host| host.silent = false);
        fleet.settle();
        fleet.check();
    }
}

#[test]
fn a_vm_that_needs_a_camera_takes_one_of_its_own_host_before_another_does() {
    let mut fleet = Fleet::new();
    fleet.needs.extend(["a".into(), "b".into()]);
    let steps: Vec<_> = fleet.steps().into_iter().collect();
    let give = |at: &str, vm: &str| Step::Give { at: at.into(), holder: holder("x", vm) };
    let id = |host: &str, camera: &str| CameraId { host: host.into(), camera: camera.into() };
    // h1 has none: `a` comes first and takes one of h3, for the only one of h2 is for `b`.
    assert_eq!(steps, [(id("h2", "04b0:h20"), give("h2", "b")), (id("h3", "04b0:h30"), give("h1", "a"))]);
    fleet.settle();
    fleet.check();
}

#[test]
fn what_was_detached_on_purpose_is_not_given_again_until_it_is_brought_up_anew() {
    let mut fleet = Fleet::new();
    fleet.needs.insert("b".into());
    fleet.settle();
    let (camera, lease) = fleet.ledger.leases.iter().map(|(id, lease)| (id, lease.clone())).next().expect("a lease");
    assert!(fleet.ledger.leases.release(&camera, lease.epoch));
    fleet.ledger.waived.insert(lease.holder, 1);
    let left: Vec<Step> = fleet.steps().into_values().collect();
    assert_eq!(left, [Step::Detach { at: "h2".into(), epoch: lease.epoch }]);
    fleet.settle();
    assert!(fleet.ledger.leases.iter().next().is_none());
    // Another generation of the experiment.
    fleet.ledger.waived.values_mut().for_each(|generation| *generation = 0);
    fleet.settle();
    assert!(fleet.ledger.leases.iter().next().is_some());
}
