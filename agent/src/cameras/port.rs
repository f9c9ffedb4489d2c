//! What a lease needs of VMs, and the agent's VMs as that.

use std::sync::Weak;

use crate::agent::Agent;

/// The VMs of this host.
pub trait Vms: Send + Sync + 'static {
    /// Process ids of those that run.
    fn pids(&self) -> Vec<u32>;
}

/// The agent's.
pub struct OfAgent(pub Weak<Agent>);

impl Vms for OfAgent {
    fn pids(&self) -> Vec<u32> {
        let Some(agent) = self.0.upgrade() else { return Vec::new() };
        let experiments = agent.experiments();
        let slots = experiments.iter().map(|experiment| experiment.slots());
        let pids = slots.flat_map(|slots| slots.iter().filter_map(|slot| slot.machine()).collect::<Vec<_>>());
        pids.filter_map(|machine| u32::try_from(machine.pid()).ok()).collect()
    }
}
