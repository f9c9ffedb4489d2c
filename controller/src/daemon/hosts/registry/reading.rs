//! What readers ask of the registry, from memory.

use fleet_proto::v1::Host;

use super::{Hosts, Member, locked};

impl Hosts {
    /// All hosts that were not removed, by name.
    pub fn list(&self) -> Vec<Host> {
        locked(&self.members).values().filter(|member| !member.removed()).map(Member::host).collect()
    }

    /// All hosts, also removed ones, by name.
    pub fn all(&self) -> Vec<Host> {
        locked(&self.members).values().map(Member::host).collect()
    }

    /// Where the agent of a host is reached.
    pub fn address(&self, name: &str) -> Option<String> {
        let members = locked(&self.members);
        let member = members.get(name).filter(|member| !member.removed())?;
        Some(member.record.host.as_ref()?.address.clone())
    }

    /// How many VMs a host says it runs.
    pub fn vms(&self, name: &str) -> u32 {
        let members = locked(&self.members);
        let host = members.get(name).filter(|member| !member.removed()).and_then(|member| member.record.host.as_ref());
        host.and_then(|host| host.info.as_ref()).map_or(0, |info| info.vms)
    }

    /// Names of the experiments that hosts say they have something of.
    pub fn held(&self) -> Vec<String> {
        let members = locked(&self.members);
        let infos = members.values().filter(|m| !m.removed()).filter_map(|m| m.record.host.as_ref()?.info.as_ref());
        infos.flat_map(|info| &info.experiments).map(|held| held.experiment.clone()).collect()
    }

    /// Names of the hosts that say they have something of an experiment.
    pub fn holders(&self, experiment: &str) -> Vec<String> {
        let members = locked(&self.members);
        let hosts = members.values().filter(|m| !m.removed()).filter_map(|m| m.record.host.as_ref());
        let holds = |host: &&Host| {
            host.info.as_ref().is_some_and(|info| info.experiments.iter().any(|held| held.experiment == experiment))
        };
        hosts.filter(holds).map(|host| host.name.clone()).collect()
    }
}
