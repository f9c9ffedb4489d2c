//! The task that keeps the list of this host's cameras: it puts the inventory of the ports and the usbredir servers
//! together at every change of either, and tells what is new by events.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use fleet_usb::{
    Camera, ChangeKind, Events, Holder, Identity, Inventory, Procfs, Rules, SharedSerial, UsbError, Watcher,
};
use fleet_usbexport::{Seen, Server};
use futures::StreamExt;
use futures::stream::SelectAll;
use tokio::sync::{broadcast, watch};
use tokio_stream::wrappers::WatchStream;
use tokio_util::task::AbortOnDropHandle;

use super::config::CamerasConfig;
use super::port::Vms;
use super::register::{Known, Register};
use crate::hub::Hub;

/// All cameras of a host, by identity.
pub type Cameras = Arc<BTreeMap<String, Known>>;

/// The cameras of this host.
pub struct Host {
    watcher: Option<Watcher>,
    procfs: Procfs,
    servers: Vec<Arc<Server>>,
    register: Mutex<Register>,
    list: watch::Sender<Cameras>,
    hub: Arc<Hub>,
    vms: Arc<dyn Vms>,
}

impl Host {
    /// Looks for the first time. `shared` are serial numbers that were seen on two devices at once.
    pub async fn open(
        config: &CamerasConfig,
        shared: Vec<SharedSerial>,
        hub: Arc<Hub>,
        vms: Arc<dyn Vms>,
    ) -> Arc<Self> {
        let rules = Rules { cameras: config.include.clone(), ignore: config.exclude.clone() };
        let inventory = Inventory::new(rules, config.shared_serials.iter().cloned().chain(shared));
        // Before the first look, so that nothing falls between.
        let events = Events::listen();
        if let Err(error) = &events {
            tracing::error!(%error, "cameras that come and go are noticed only when cameras are listed");
        }
        let watcher = Watcher::start(config.look.clone(), inventory, events.ok()).await;
        if let Err(error) = &watcher {
            tracing::error!(%error, "the cameras on this host's ports are not known");
        }
        let host = Arc::new(Self {
            watcher: watcher.ok(),
            procfs: config.look.procfs.clone(),
            servers: config.servers.iter().cloned().map(Server::start).collect(),
            register: Mutex::default(),
            list: watch::Sender::default(),
            hub,
            vms,
        });
        host.refresh();
        host
    }

    /// Starts the task, which ends with its handle. `shared` is told of each serial number that two devices say.
    pub fn follow(self: &Arc<Self>, shared: impl Fn(SharedSerial) + Send + 'static) -> AbortOnDropHandle<()> {
        let host = Arc::clone(self);
        let mut changes = self.watcher.as_ref().map(Watcher::subscribe);
        let served = self.servers.iter().map(|server| WatchStream::from_changes(server.seen()));
        let mut served: SelectAll<_> = served.collect();
        AbortOnDropHandle::new(tokio::spawn(async move {
            // What came before the subscription.
            host.refresh();
            loop {
                tokio::select! {
                    change = next(&mut changes) => {
                        if let Some(change) = change
                            && change.what == ChangeKind::SerialShared
                            && let Identity::Serial { vendor, serial } = change.identity
                        {
                            shared(SharedSerial { vendor, serial });
                        }
                    }
                    Some(_) = served.next(), if !served.is_empty() => {}
                }
                host.refresh();
            }
        }))
    }

    /// All cameras as they were seen last, and each change.
    pub fn watch(&self) -> watch::Receiver<Cameras> {
        self.list.subscribe()
    }

    /// All cameras as they were seen last.
    pub fn cameras(&self) -> Cameras {
        Arc::clone(&self.list.borrow())
    }

    /// Looks now, for what makes no event: who holds a camera.
    ///
    /// # Errors
    /// When the devices cannot be listed; the cameras are those of the look before.
    pub async fn look(&self) -> Result<Cameras, UsbError> {
        if let Some(watcher) = &self.watcher {
            watcher.look().await?;
        }
        self.refresh();
        Ok(self.cameras())
    }

    /// The usbredir server with this number.
    pub fn server(&self, number: usize) -> Option<Arc<Server>> {
        self.servers.get(number).cloned()
    }

    /// Who but `pid` held a camera on a port at the last look, with the command that frees it.
    pub fn held_by_other(&self, id: &str, pid: u32) -> Option<String> {
        let cameras = self.watcher.as_ref()?.cameras();
        let camera = cameras.iter().find(|camera| camera.identity.to_string() == id)?;
        let other = |holder: &&Holder| !matches!(holder, Holder::Process { pid: of, .. } if *of == pid);
        let holder = camera.seen.holders.iter().find(other)?;
        Some(format!("busy: {holder}; free it with `{}`", holder.frees()))
    }

    /// Whether a process has a node open.
    pub async fn holds(&self, pid: u32, node: &Path) -> bool {
        let (procfs, nodes): (_, BTreeSet<PathBuf>) = (self.procfs.clone(), [node.to_owned()].into());
        let holders = tokio::task::spawn_blocking(move || procfs.holders(&nodes)).await;
        let is_it = |holder: &Holder| matches!(holder, Holder::Process { pid: of, .. } if *of == pid);
        matches!(holders, Ok(Ok(holders)) if holders.iter().any(is_it))
    }

    /// Ends the conversations with servers.
    pub async fn stop(&self) {
        futures::future::join_all(self.servers.iter().map(|server| server.stop())).await;
    }

    /// Puts the list together anew, and tells what changed.
    fn refresh(&self) {
        let local: Arc<Vec<Camera>> = self.watcher.as_ref().map(Watcher::cameras).unwrap_or_default();
        let own: Vec<u32> = if local.is_empty() { Vec::new() } else { self.own() };
        // Held to the end, so that lists are published and told in their order.
        let mut register = self.register.lock().unwrap_or_else(PoisonError::into_inner);
        let servers: Vec<(String, Option<Seen>)> =
            self.servers.iter().map(|server| (server.address().to_string(), server.seen().borrow().clone())).collect();
        let told = register.take(&local, &own, &servers);
        let list = register.cameras();
        self.list.send_if_modified(|known| {
            let changed = **known != *list;
            if changed {
                *known = Arc::new(list.clone());
            }
            changed
        });
        for told in told {
            self.hub.event(told.kind, "", "", &told.message);
        }
    }

    /// Processes through which the fleet holds cameras: this one and the VMs.
    fn own(&self) -> Vec<u32> {
        let mut own = self.vms.pids();
        own.push(std::process::id());
        own
    }
}

/// The next change, `None` when some were missed; never, when nobody looks.
async fn next(changes: &mut Option<broadcast::Receiver<fleet_usb::Change>>) -> Option<fleet_usb::Change> {
    match changes {
        Some(receiver) => match receiver.recv().await {
            Ok(change) => Some(change),
            Err(broadcast::error::RecvError::Lagged(_)) => None,
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}
