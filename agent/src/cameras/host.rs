//! The task that keeps the list of this host's cameras: it puts the inventory of the ports and the usbredir servers
//! together at every change of either, and tells what is new by events.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use fleet_usb::{Camera, Events, Identity, Inventory, Rules, SharedSerial, UsbError, Watcher};
use tokio::sync::{broadcast, watch};
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
        AbortOnDropHandle::new(tokio::spawn(async move {
            // What came before the subscription.
            host.refresh();
            loop {
                match next(&mut changes).await {
                    Some(change) => {
                        if change.what == fleet_usb::ChangeKind::SerialShared
                            && let Identity::Serial { vendor, serial } = change.identity
                        {
                            shared(SharedSerial { vendor, serial });
                        }
                    }
                    None => {}
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

    /// Puts the list together anew, and tells what changed.
    fn refresh(&self) {
        let local: Arc<Vec<Camera>> = self.watcher.as_ref().map(Watcher::cameras).unwrap_or_default();
        let own: Vec<u32> = if local.is_empty() { Vec::new() } else { self.own() };
        // Held to the end, so that lists are published and told in their order.
        let mut register = self.register.lock().unwrap_or_else(PoisonError::into_inner);
        let told = register.take(&local, &own, &[]);
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
