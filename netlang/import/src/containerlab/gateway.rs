//! The gateway of a lan with VMs and several routers: the next hop that its VMs know, else the first router.

use super::network::Network;
use super::read::Topology;
use crate::note::{NoteKind, Notes};

/// Chooses gateways where the language wants one named.
pub(super) fn choose(topology: &Topology, network: &mut Network, notes: &mut Notes) {
    for (lan, members) in network.members().iter().enumerate() {
        let is_router = |host: usize| network.hosts[host].router.is_some();
        let routers: Vec<(usize, usize)> = members.iter().copied().filter(|(host, _)| is_router(*host)).collect();
        if routers.len() < 2 || routers.len() == members.len() {
            continue;
        }
        let vms = members.iter().filter(|(host, _)| !is_router(*host));
        let mut hops = vms.flat_map(|(host, _)| &topology.nodes[network.hosts[*host].node].setup.hops);
        let known = hops.find_map(|hop| {
            let has =
                |(host, port): &&(usize, usize)| network.hosts[*host].ports[*port].address.map(|a| a.ip) == Some(*hop);
            routers.iter().find(has)
        });
        let gateway = known.or(routers.first()).map(|(host, _)| *host);
        if known.is_none()
            && let Some(host) = gateway
        {
            let row = &network.lans[lan];
            let why = format!("several routers are on it; `{}` is taken, the first", network.hosts[host].name);
            notes.fold(row.line, NoteKind::Changed, "the gateway", &row.name, &why);
        }
        network.lans[lan].gateway = gateway;
    }
}
