//! The task that keeps a host's inventory: waits for an event, looks, compares, tells.
//!
//! A look reads files and runs on a thread for blocking work, one at a time. Whoever is slow to take changes gets none of
//! those that it missed, but is told so (a broadcast's `Lagged`), and reads the cameras anew.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::error::UsbError;
use crate::events::Events;
use crate::holder::{Access, Holder, Procfs};
use crate::inventory::{Camera, Change, Inventory, Sighting};
use crate::sysfs::Sysfs;

/// Changes that a slow reader may be behind.
const BEHIND: usize = 256;
/// Looks that may be asked for at once; further callers wait.
const ASKED: usize = 16;

/// Where a host's devices are looked up.
#[derive(Debug, Clone, Default)]
pub struct Look {
    /// Devices.
    pub sysfs: Sysfs,
    /// Processes and mounts.
    pub procfs: Procfs,
}

impl Look {
    /// All devices that `inventory` takes for cameras, with access and holders; blocking.
    ///
    /// # Errors
    /// When devices or processes cannot be listed.
    pub fn sightings(&self, inventory: &Inventory) -> Result<Vec<Sighting>, UsbError> {
        let devices: Vec<_> = self.sysfs.devices()?.into_iter().filter(|device| inventory.is_camera(device)).collect();
        let nodes: BTreeSet<PathBuf> =
            devices.iter().flat_map(|device| device.driver_nodes.iter().chain([&device.node]).cloned()).collect();
        let mut by_node: BTreeMap<PathBuf, Vec<Holder>> = BTreeMap::new();
        for holder in self.procfs.holders(&nodes)? {
            let (Holder::Process { node, .. } | Holder::Mount { node, .. }) = &holder;
            by_node.entry(node.clone()).or_default().push(holder);
        }
        let held = |node: &PathBuf| by_node.get(node).cloned().unwrap_or_default();
        Ok(devices
            .into_iter()
            .map(|device| Sighting {
                access: Access::of(&device),
                holders: device.driver_nodes.iter().chain([&device.node]).flat_map(held).collect(),
                device,
            })
            .collect())
    }
}

/// A running inventory. Its task ends with it.
#[derive(Debug)]
pub struct Watcher {
    cameras: watch::Receiver<Arc<Vec<Camera>>>,
    changes: broadcast::Sender<Change>,
    ask: mpsc::Sender<oneshot::Sender<Result<(), UsbError>>>,
    task: JoinHandle<()>,
}

impl Watcher {
    /// Starts. Without `events` it looks only when it is asked to. The first look is over when this returns.
    ///
    /// # Errors
    /// When the first look fails.
    pub async fn start(look: Look, mut inventory: Inventory, events: Option<Events>) -> Result<Self, UsbError> {
        let mut first = Vec::new();
        inventory = observe(&look, inventory, &mut first).await?;
        let (publish, cameras) = watch::channel(snapshot(&inventory));
        let (changes, _) = broadcast::channel(BEHIND);
        let (ask, asked) = mpsc::channel(ASKED);
        let keeper = Keep { look, inventory, events, asked, publish, changes: changes.clone() };
        Ok(Self { cameras, changes, ask, task: tokio::spawn(keeper.run()) })
    }

    /// The cameras as of the last look.
    pub fn cameras(&self) -> Arc<Vec<Camera>> {
        Arc::clone(&self.cameras.borrow())
    }

    /// Changes from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// Looks now, for what makes no events, as who holds a camera; returns when [`Watcher::cameras`] has the outcome.
    ///
    /// # Errors
    /// When the look fails. The cameras stay those of the look before.
    pub async fn look(&self) -> Result<(), UsbError> {
        let (answer, outcome) = oneshot::channel();
        // Either fails only when the task is gone, which takes this watcher with it.
        if self.ask.send(answer).await.is_err() {
            return Ok(());
        }
        outcome.await.unwrap_or(Ok(()))
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the task owns.
struct Keep {
    look: Look,
    inventory: Inventory,
    events: Option<Events>,
    asked: mpsc::Receiver<oneshot::Sender<Result<(), UsbError>>>,
    publish: watch::Sender<Arc<Vec<Camera>>>,
    changes: broadcast::Sender<Change>,
}

impl Keep {
    async fn run(mut self) {
        loop {
            let answer = tokio::select! {
                asked = self.asked.recv() => match asked {
                    Some(answer) => Some(answer),
                    None => return,
                },
                event = changed(&mut self.events) => {
                    if let Err(error) = event {
                        tracing::error!(%error, "no more device events: cameras are looked at only when asked for");
                        self.events = None;
                        continue;
                    }
                    None
                }
            };
            let outcome = self.look_once().await;
            match (answer, outcome) {
                (Some(answer), outcome) => drop(answer.send(outcome)),
                (None, Err(error)) => {
                    tracing::warn!(%error, "cannot look at the USB devices; the next event tries again")
                }
                (None, Ok(())) => {}
            }
        }
    }

    async fn look_once(&mut self) -> Result<(), UsbError> {
        let mut changes = Vec::new();
        self.inventory = observe(&self.look, self.inventory.clone(), &mut changes).await?;
        self.publish.send_replace(snapshot(&self.inventory));
        for change in changes {
            // Nobody listens: no loss, the cameras say the same.
            let _ = self.changes.send(change);
        }
        Ok(())
    }
}

/// The next event; never, without a subscription.
async fn changed(events: &mut Option<Events>) -> Result<(), UsbError> {
    match events {
        Some(events) => events.changed().await,
        None => std::future::pending().await,
    }
}

/// One look, on a thread of its own.
async fn observe(look: &Look, inventory: Inventory, changes: &mut Vec<Change>) -> Result<Inventory, UsbError> {
    let look = look.clone();
    let work = move || {
        let mut inventory = inventory;
        let found = inventory.observe(look.sightings(&inventory)?);
        Ok((inventory, found))
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => {
            let (inventory, found) = outcome?;
            *changes = found;
            Ok(inventory)
        }
        Err(error) => Err(UsbError::Read { path: "/sys/bus/usb/devices".into(), source: std::io::Error::other(error) }),
    }
}

fn snapshot(inventory: &Inventory) -> Arc<Vec<Camera>> {
    Arc::new(inventory.cameras().cloned().collect())
}
