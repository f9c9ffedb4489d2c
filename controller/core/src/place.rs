//! From hosts to a placement: what there is left on each for one experiment, and the placement as a spec has it.
//!
//! Hosts that are drained or removed are left out, so what is on them moves. Hosts that are not in contact are closed:
//! they keep what they have and get nothing new.

use fleet_proto::v1 as proto;
use netlang::{Host, HostPlacement, PlaceError, PlacedRange, Placement, Plan};

use crate::Sizes;
use crate::experiment::Experiment;
use crate::host::Hosts;

/// A placement of one experiment.
#[derive(Debug)]
pub struct Placed {
    /// What falls on which host; hosts without anything are left out.
    pub hosts: Vec<proto::HostPlacement>,
    /// Bytes that each may come to use.
    pub memory: Vec<u64>,
}

/// Finds hosts for all VMs and routers of a plan. Whatever may stay where the experiment has it stays.
///
/// # Errors
/// When they do not fit, with the sums.
pub fn place(
    plan: &Plan,
    options: &proto::Options,
    before: Option<&Experiment>,
    hosts: &Hosts,
    sizes: &dyn Sizes,
) -> Result<Placed, PlaceError> {
    let own = |id: u32| -> u64 {
        let at = before.and_then(|before| before.places.get(&id).copied());
        at.and_then(|at| before?.record.memory.get(at).copied()).unwrap_or(0)
    };
    let usable = hosts.iter().filter(|(_, host)| host.is_used());
    let usable: Vec<Host> = usable
        .map(|(id, host)| {
            let others = host.committed.saturating_sub(own(id));
            let record = &host.record;
            Host {
                name: record.name.clone(),
                rack: (!record.rack.is_empty()).then(|| record.rack.clone()),
                tags: record.tags.clone(),
                memory: record.memory_bytes.saturating_sub(others),
                cores: record.cores,
                closed: !record.contact,
            }
        })
        .collect();
    let previous = before.map(|before| previous(&before.spec.hosts));
    let placement = plan.place(&usable, &|vm| sizes.bytes(options, vm), previous.as_ref())?;
    let used = placement.hosts.into_iter().filter(|on| on.vms > 0 || !on.routers.is_empty());
    let (hosts, memory) = used
        .map(|on| {
            let underlay = hosts.find(&on.host).and_then(|id| hosts.get(id)).map(|host| host.record.underlay.clone());
            let ranges = on.ranges.into_iter();
            let ranges = ranges.map(|r| proto::Range { group: r.group, first: r.first, count: r.count }).collect();
            let underlay = underlay.unwrap_or_default();
            (proto::HostPlacement { host: on.host, underlay, ranges, routers: on.routers }, on.memory)
        })
        .unzip();
    Ok(Placed { hosts, memory })
}

/// A placement in the language's words.
fn previous(hosts: &[proto::HostPlacement]) -> Placement {
    let hosts = hosts.iter().map(|on| HostPlacement {
        host: on.host.clone(),
        ranges: on
            .ranges
            .iter()
            .map(|r| PlacedRange { group: r.group.clone(), first: r.first, count: r.count })
            .collect(),
        routers: on.routers.clone(),
        vms: 0,
        cpus: 0,
        memory: 0,
    });
    Placement { hosts: hosts.collect(), crossing_segments: 0 }
}
