//! Cameras of the fleet: who has which, and that they are where they are wanted.
//!
//! ```text
//!  events of agents (feed.rs) ─► looks (looks.rs) ─► Picture: what hosts say ──┐
//!  `fleet usb …` (asks.rs) ────► Book: leases, stored before anything acts ────┼─► joint view ─► `fleet usb ls`, `watch`
//!  what is wanted (the fleet) ─► where VMs are, which need a camera ───────────┘
//!                                                                              └─► steps (plan.rs) ─► orders (act.rs)
//! ```
//!
//! A lease is the controller's; bringing a camera into its VM and keeping it there is the business of the VM's host. Both
//! meet in the epoch: a host obeys no older one, and the host of a camera gives it to no older one. Nothing is polled: a host
//! is looked at when it comes, when it says that something of a camera changed, after an order, and when a user asks.
//!
//! | task | ends with |
//! |---|---|
//! | one that looks, publishes and decides | the stop token |
//! | one stream of events a host that answers | the host, the stop token |
//! | one a look, one an order or a request of a user | its end, by its deadline |
//!
//! One camera has one order at a time: [`locks::Locks`].

mod act;
mod asks;
mod error;
mod feed;
mod ledger;
mod locks;
mod looks;
mod picture;
mod plan;
#[cfg(test)]
mod tests;
mod tries;
mod word;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fleet_proto::v1::{CameraView, ControllerCameras, HostState, Member};
use fleet_usb::lease::CameraId;
use futures::Stream;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;

use self::ledger::Book;
pub use self::ledger::{LedgerError, renew};
use self::locks::Locks;
use self::looks::Looks;
use self::picture::{Around, Picture, parts};
use self::plan::World;
use self::tries::Tries;
use super::agents::Agents;
use super::fleet::Fleet;
use super::hosts::Hosts;
use super::store::Store;

pub use self::picture::word as state_word;
pub use self::word::short_port;

/// Changes within this time are looked at together.
const GATHER: Duration = Duration::from_millis(50);
/// Addresses that only this host has.
const LOCAL: &str = "unix:";

/// What cameras are looked after with.
pub struct Parts {
    /// What is wanted, and where it is.
    pub fleet: Arc<Fleet>,
    /// The registry of hosts.
    pub hosts: Arc<Hosts>,
    /// The way to the agents.
    pub agents: Agents,
    /// Where leases are kept.
    pub store: Arc<Store>,
    /// Whether other hosts reach the cameras of the controller's own, and its agent theirs: that is in this process, and
    /// hosts are listened for.
    pub own_host_is_reached: bool,
    /// Ends the tasks.
    pub stop: CancellationToken,
}

/// Cameras and their leases.
pub struct Cameras {
    fleet: Arc<Fleet>,
    hosts: Arc<Hosts>,
    own_host_is_reached: bool,
    book: Book,
    picture: Mutex<Picture>,
    looks: Mutex<Looks>,
    /// Counts looks that ended.
    looked: watch::Sender<u64>,
    tries: Mutex<Tries>,
    locks: Locks,
    view: watch::Sender<Arc<ControllerCameras>>,
    woken: Notify,
    tasks: TaskTracker,
    stop: CancellationToken,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that can panic runs between two changes that belong together.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cameras {
    /// Goes on where the controller before ended.
    ///
    /// # Errors
    /// When the leases cannot be read.
    pub fn start(parts: Parts) -> Result<Arc<Self>, LedgerError> {
        let Parts { fleet, hosts, agents, store, own_host_is_reached, stop } = parts;
        let cameras = Arc::new(Self {
            fleet,
            hosts,
            own_host_is_reached,
            book: Book::open(store)?,
            picture: Mutex::default(),
            looks: Mutex::default(),
            looked: watch::Sender::new(0),
            tries: Mutex::default(),
            locks: Locks::default(),
            view: watch::Sender::new(Arc::default()),
            woken: Notify::new(),
            tasks: TaskTracker::new(),
            stop,
        });
        cameras.tasks.spawn(Arc::clone(&cameras).run());
        cameras.tasks.spawn(feed::of_all(Arc::clone(&cameras), agents));
        Ok(cameras)
    }

    /// Waits until its tasks ended, which they do soon after their token was cancelled. What hosts were told goes on there.
    pub async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    async fn run(self: Arc<Self>) {
        let mut hosts = self.hosts.changes();
        let mut fleet = self.fleet.changes();
        loop {
            hosts.mark_unchanged();
            fleet.mark_unchanged();
            self.note_hosts();
            self.begin_looks();
            self.publish();
            self.begin_steps();
            let again = [locked(&self.tries).next(), locked(&self.looks).next()].into_iter().flatten().min();
            let later = async {
                match again {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.woken.notified() => {}
                () = later => {}
                changed = hosts.changed() => if changed.is_err() { return },
                changed = fleet.changed() => if changed.is_err() { return },
            }
            tokio::time::sleep(GATHER).await;
        }
    }

    /// Who answers, by the registry: a host that comes is looked at, one that goes is silent.
    fn note_hosts(&self) {
        let hosts = self.hosts.list();
        let known: BTreeSet<String> = hosts.iter().map(|host| host.name.clone()).collect();
        let mut picture = locked(&self.picture);
        let mut looks = locked(&self.looks);
        picture.keep(&known);
        looks.keep(&known);
        for host in hosts {
            if !matches!(host.state(), HostState::Ready | HostState::Draining) {
                picture.silent(&host.name);
                // Nobody waits for it.
                looks.forget(&host.name);
                self.looked.send_modify(|count| *count += 1);
            } else if !picture.answers(&host.name) {
                looks.ask_if_new(&host.name);
            }
        }
    }

    /// The hosts of these names that answer, as members of a wave; of all without names.
    fn members(&self, names: Option<&BTreeSet<String>>) -> Vec<Member> {
        let heard = |host: &fleet_proto::v1::Host| matches!(host.state(), HostState::Ready | HostState::Draining);
        let mut hosts: Vec<_> = self.hosts.list().into_iter().filter(heard).collect();
        hosts.retain(|host| names.is_none_or(|names| names.contains(&host.name)));
        // Those of one rack stand together.
        hosts.sort_by(|a, b| (&a.rack, &a.name).cmp(&(&b.rack, &b.name)));
        hosts.into_iter().map(|host| Member { name: host.name, address: host.address, rack: host.rack }).collect()
    }

    fn member(&self, name: &str) -> Option<Member> {
        self.members(Some(&BTreeSet::from([name.to_owned()]))).pop()
    }

    /// Whether a host can be lent the cameras of another. Where the agent of the controller's own host is another process,
    /// that is reached by its local socket only, and has no key to reach others with.
    fn reaches(&self, at: &str, of: &str) -> bool {
        let is_member = |host| {
            self.hosts.address(host).is_some_and(|address| self.own_host_is_reached || !address.starts_with(LOCAL))
        };
        at == of || (is_member(at) && is_member(of))
    }

    /// All cameras, as they are known now.
    fn joint(&self) -> ControllerCameras {
        let picture = locked(&self.picture).clone();
        let place = |experiment: &str, vm: &str| self.fleet.place(experiment, vm);
        let trouble = |camera: &CameraId| locked(&self.tries).trouble(camera);
        let around = Around { place: &place, trouble: &trouble };
        picture::joint(&picture, &self.book.now().leases, &around)
    }

    /// Some cameras, as they are known now.
    fn views(&self, ids: &[CameraId]) -> Vec<CameraView> {
        let is_one = |view: &CameraView| {
            let camera = view.camera.as_ref();
            camera.is_some_and(|camera| ids.iter().any(|id| id.host == camera.host && id.camera == camera.id))
        };
        self.joint().cameras.into_iter().filter(is_one).collect()
    }

    /// Tells whoever watches, if there is something new.
    fn publish(&self) {
        let now = Arc::new(self.joint());
        self.view.send_if_modified(|before| {
            let changed = still(before) != still(&now);
            // Counts of bytes are taken along in silence.
            *before = now;
            changed
        });
    }

    /// Begins what is to be done and is not under way.
    fn begin_steps(self: &Arc<Self>) {
        let wishes = self.fleet.wishes();
        self.drop_waivers(&wishes);
        let picture = locked(&self.picture).clone();
        let ledger = self.book.now();
        let world = World {
            ledger: &ledger,
            picture: &picture,
            place: &|experiment, vm| self.fleet.place(experiment, vm),
            wishes: &wishes,
            reaches: &|at, of| self.reaches(at, of),
            rests: &|camera, who| locked(&self.tries).rests(camera, who),
        };
        let steps: BTreeMap<_, _> = plan::steps(&world);
        for (camera, step) in steps {
            // Somebody is at it, or enough is under way: the end of that wakes this.
            if let Some(held) = self.locks.try_for_step(&camera) {
                self.tasks.spawn(Arc::clone(self).step(camera, step, held));
            }
        }
    }

    /// Forgets waivers of VMs that need no camera any more, or whose experiment was brought up anew.
    fn drop_waivers(&self, wishes: &[super::fleet::Wish]) {
        let holds = |holder: &String, generation: &u64| {
            let (experiment, vm) = parts(holder);
            wishes.iter().any(|wish| wish.experiment == experiment && wish.vm == vm && wish.generation == *generation)
        };
        if self.book.now().waived.iter().all(|(holder, generation)| holds(holder, generation)) {
            return;
        }
        let dropped = self.book.change(|ledger| {
            ledger.waived.retain(|holder, generation| holds(holder, generation));
            Ok(())
        });
        if let Err(error) = dropped {
            tracing::warn!(%error, "what is known of cameras could not be noted");
        }
    }

    /// All cameras of all hosts, asked just now.
    pub async fn all(&self) -> ControllerCameras {
        self.look_at(None).await;
        self.joint()
    }

    /// The same, and again at each change.
    pub fn watch(self: &Arc<Self>) -> impl Stream<Item = Result<ControllerCameras, Status>> + Send + use<> {
        let cameras = Arc::clone(self);
        let changes = self.view.subscribe();
        futures::stream::unfold((changes, true), move |(mut changes, first)| {
            let cameras = Arc::clone(&cameras);
            async move {
                if first {
                    cameras.look_at(None).await;
                    cameras.publish();
                    changes.mark_unchanged();
                } else {
                    tokio::select! {
                        () = cameras.stop.cancelled() => return None,
                        changed = changes.changed() => changed.ok()?,
                    }
                }
                let now = ControllerCameras::clone(&changes.borrow_and_update());
                Some((Ok(now), (changes, false)))
            }
        })
    }
}

/// Without what changes all the time.
fn still(all: &ControllerCameras) -> ControllerCameras {
    let mut all = all.clone();
    for lease in all.cameras.iter_mut().filter_map(|view| view.lease.as_mut()) {
        (lease.to_guest_bytes, lease.from_guest_bytes, lease.since_ms) = (0, 0, 0);
    }
    all
}
