//! VMs of a test: their ports take redirected cameras as QEMU does, with a guest's side of usbredir and its filter.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use fleet_proto::v1::VmState;
use fleet_usbredir::{Caps, Codec, Filter, InterfaceInfo, Packet, Side};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::super::port::{Port, Vm, Vms};

struct Device {
    attached: Arc<AtomicBool>,
    _task: AbortOnDropHandle<()>,
}

type Devices = Arc<Mutex<HashMap<String, Device>>>;

struct Qemu {
    pid: u32,
    devices: Devices,
}

#[async_trait]
impl Port for Qemu {
    fn pid(&self) -> u32 {
        self.pid
    }

    async fn plug_host(&self, _: &str, _: OwnedFd) -> Result<(), String> {
        Err("a test has no such device".to_owned())
    }

    async fn plug_redir(&self, id: &str, filter: &str) -> Result<UnixStream, String> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let attached = Arc::new(AtomicBool::new(false));
        let filter: Filter = filter.parse().unwrap();
        let task = AbortOnDropHandle::new(tokio::spawn(guest(theirs, filter, Arc::clone(&attached))));
        self.devices.lock().unwrap().insert(id.to_owned(), Device { attached, _task: task });
        Ok(ours)
    }

    async fn attached(&self, id: &str) -> Result<bool, String> {
        Ok(self.devices.lock().unwrap().get(id).is_some_and(|device| device.attached.load(Ordering::SeqCst)))
    }

    async fn unplug(&self, id: &str) -> Result<(), String> {
        self.devices.lock().unwrap().remove(id);
        Ok(())
    }

    async fn devices(&self) -> Result<Vec<String>, String> {
        Ok(self.devices.lock().unwrap().keys().cloned().collect())
    }
}

/// The side of a guest, as far as QEMU plays it before the guest asks anything.
async fn guest(mut stream: UnixStream, filter: Filter, attached: Arc<AtomicBool>) {
    let (mut codec, hello) = Codec::new(Side::Guest, Caps::OURS, "test");
    let mut interfaces = InterfaceInfo::default();
    let mut buffer = vec![0; 4096];
    if stream.write_all(&hello).await.is_err() {
        return;
    }
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        let mut bytes = &buffer[..length];
        while let Some((id, packet)) = codec.read(&mut bytes).unwrap() {
            match packet {
                Packet::InterfaceInfo(info) => interfaces = info,
                Packet::DeviceConnect(device) if filter.allows(&device, &interfaces) => {
                    attached.store(true, Ordering::SeqCst);
                }
                Packet::DeviceConnect(_) => {
                    let rejected = codec.write(id, &Packet::FilterReject).unwrap();
                    drop(stream.write_all(&rejected).await);
                }
                Packet::DeviceDisconnect => attached.store(false, Ordering::SeqCst),
                _ => {}
            }
        }
    }
    attached.store(false, Ordering::SeqCst);
}

struct Slot {
    state: VmState,
    pid: u32,
    devices: Devices,
    refusal: Option<String>,
}

/// The VMs of one host, all of the experiment `cams`.
pub struct Guests {
    vms: Mutex<HashMap<String, Slot>>,
    moved: watch::Sender<u64>,
    pids: Mutex<u32>,
}

impl Guests {
    pub fn new(names: &[&str]) -> Arc<Self> {
        let guests = Self { vms: Mutex::default(), moved: watch::Sender::new(0), pids: Mutex::new(1 << 30) };
        for name in names {
            guests.boot(name);
        }
        Arc::new(guests)
    }

    /// A process of its own, with no devices.
    pub fn boot(&self, name: &str) {
        let mut pid = self.pids.lock().unwrap();
        *pid += 1;
        let slot = Slot { state: VmState::Running, pid: *pid, devices: Arc::default(), refusal: None };
        self.vms.lock().unwrap().insert(name.to_owned(), slot);
        self.moved.send_modify(|count| *count += 1);
    }

    pub fn refuse(&self, name: &str, refusal: &str) {
        self.vms.lock().unwrap().get_mut(name).unwrap().refusal = Some(refusal.to_owned());
    }

    pub fn stop(&self, name: &str) {
        self.vms.lock().unwrap().get_mut(name).unwrap().state = VmState::Stopped;
        self.moved.send_modify(|count| *count += 1);
    }

    pub fn remove(&self, name: &str) {
        self.vms.lock().unwrap().remove(name);
        self.moved.send_modify(|count| *count += 1);
    }

    /// How many cameras its bus has.
    pub fn has(&self, name: &str) -> usize {
        let vms = self.vms.lock().unwrap();
        let devices = vms[name].devices.lock().unwrap();
        devices.values().filter(|device| device.attached.load(Ordering::SeqCst)).count()
    }

    /// How many devices were given to it, whether they came up or not.
    pub fn given(&self, name: &str) -> usize {
        self.vms.lock().unwrap()[name].devices.lock().unwrap().len()
    }
}

impl Vms for Guests {
    fn vm(&self, experiment: &str, vm: &str) -> Option<Vm> {
        let vms = self.vms.lock().unwrap();
        let slot = vms.get(vm).filter(|_| experiment == "cams")?;
        let port = Qemu { pid: slot.pid, devices: Arc::clone(&slot.devices) };
        let runs = slot.state == VmState::Running;
        Some(Vm {
            state: slot.state,
            port: runs.then(|| Arc::new(port) as Arc<dyn Port>),
            refusal: slot.refusal.clone(),
        })
    }

    fn pids(&self) -> Vec<u32> {
        Vec::new()
    }

    fn moved(&self) -> watch::Receiver<u64> {
        self.moved.subscribe()
    }
}
