//! What a lease needs of VMs, and the agent's VMs as that.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use fleet_proto::v1::VmState;
use fleet_vm::Machine;
use tokio::net::UnixStream;
use tokio::sync::watch;

use crate::agent::Agent;

/// The USB ports of a VM that has a process. Errors are in words, with what to do.
#[async_trait]
pub trait Port: Send + Sync {
    /// Its process.
    fn pid(&self) -> u32;
    /// Gives it a device of the host by its open node; it is in the VM when this returns. What has this id is replaced.
    async fn plug_host(&self, id: &str, node: OwnedFd) -> Result<(), String>;
    /// Makes room for a redirected device, and gives the stream for it. What has this id is replaced.
    async fn plug_redir(&self, id: &str, filter: &str) -> Result<UnixStream, String>;
    /// Whether the VM has the device; false when there is none of this id.
    async fn attached(&self, id: &str) -> Result<bool, String>;
    /// Takes the device away, if there is one of this id.
    async fn unplug(&self, id: &str) -> Result<(), String>;
    /// Ids of the devices that were given.
    async fn devices(&self) -> Result<Vec<String>, String>;
}

/// A VM as a lease sees it.
#[derive(Clone)]
pub struct Vm {
    /// Where it is in its life.
    pub state: VmState,
    /// Its ports, while it has a process.
    pub port: Option<Arc<dyn Port>>,
    /// Why no camera can ever go into it as it is.
    pub refusal: Option<String>,
}

/// The VMs of this host.
pub trait Vms: Send + Sync + 'static {
    /// One of them.
    fn vm(&self, experiment: &str, vm: &str) -> Option<Vm>;
    /// Process ids of those that run.
    fn pids(&self) -> Vec<u32>;
    /// Counts changes of their states.
    fn moved(&self) -> watch::Receiver<u64>;
}

/// The agent's.
pub struct OfAgent {
    agent: Weak<Agent>,
    moved: watch::Receiver<u64>,
}

impl OfAgent {
    /// The VMs of this agent.
    pub fn new(agent: &Arc<Agent>) -> Self {
        Self { agent: Arc::downgrade(agent), moved: agent.hub.moved() }
    }
}

impl Vms for OfAgent {
    fn vm(&self, experiment: &str, vm: &str) -> Option<Vm> {
        let slots = self.agent.upgrade()?.experiment(experiment)?.slots();
        let slot = slots.get(vm)?;
        let machine = slot.machine();
        let refusal = match &machine {
            Some(machine) => fleet_vm::usb_refusal(machine.spec()),
            None => fleet_vm::usb_refusal(&slot.wanted().spec),
        };
        Some(Vm {
            state: slot.state(),
            port: machine.map(|machine| Arc::new(machine) as Arc<dyn Port>),
            refusal: refusal.map(|refusal| refusal.to_string()),
        })
    }

    fn pids(&self) -> Vec<u32> {
        let Some(agent) = self.agent.upgrade() else { return Vec::new() };
        let experiments = agent.experiments();
        let slots = experiments.iter().map(|experiment| experiment.slots());
        let machines = slots.flat_map(|slots| slots.iter().filter_map(|slot| slot.machine()).collect::<Vec<_>>());
        machines.filter_map(|machine| u32::try_from(machine.pid()).ok()).collect()
    }

    fn moved(&self) -> watch::Receiver<u64> {
        self.moved.clone()
    }
}

#[async_trait]
impl Port for Machine {
    fn pid(&self) -> u32 {
        u32::try_from(Machine::pid(self)).unwrap_or(0)
    }

    async fn plug_host(&self, id: &str, node: OwnedFd) -> Result<(), String> {
        self.plug_usb_host(id, node).await.map_err(|error| error.to_string())
    }

    async fn plug_redir(&self, id: &str, filter: &str) -> Result<UnixStream, String> {
        self.plug_usb_redir(id, filter).await.map_err(|error| error.to_string())
    }

    async fn attached(&self, id: &str) -> Result<bool, String> {
        self.usb_attached(id).await.map_err(|error| error.to_string())
    }

    async fn unplug(&self, id: &str) -> Result<(), String> {
        self.unplug_usb(id).await.map_err(|error| error.to_string())
    }

    async fn devices(&self) -> Result<Vec<String>, String> {
        self.usb_devices().await.map_err(|error| error.to_string())
    }
}
