//! What is to be done so that cameras are where they are wanted. Pure: leases, what hosts say and where VMs are go in,
//! steps come out. Level-triggered: whatever went wrong before, the next look finds what is still to do.
//!
//! | found | step |
//! |---|---|
//! | the VM is gone | the lease ends |
//! | a host has a camera for a VM that has no such lease, or has moved | it is taken out there |
//! | the VM's host does not have the lease, or still holds the camera out | it is told to attach it |
//! | it is to be held and is not | it is told to hold it |
//! | a VM needs a camera and has none | a free one, of its own host before others, is lent to it |
//!
//! A host that does not answer is told nothing: what it has is fenced by the epoch, and it is looked at when it answers.

use std::collections::{BTreeMap, BTreeSet};

use fleet_proto::v1::CameraState;
use fleet_usb::lease::{CameraId, Lease};

use super::ledger::Ledger;
use super::picture::{Picture, holder, parts, stands_in_the_way};
use crate::daemon::fleet::{Place, Wish};

/// One thing to do about one camera.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// End the lease of a VM that is gone.
    Release {
        /// Of this epoch.
        epoch: u64,
    },
    /// Take the camera out at a host that has it by this epoch.
    Detach {
        /// The host.
        at: String,
        /// The epoch there.
        epoch: u64,
    },
    /// Keep it out, as its lease says.
    Hold {
        /// The host.
        at: String,
        /// The lease.
        lease: Lease,
    },
    /// Bring it into its VM.
    Attach {
        /// The VM's host.
        at: String,
        /// The lease.
        lease: Lease,
    },
    /// Lend it to a VM that needs one, and bring it there.
    Give {
        /// The VM's host.
        at: String,
        /// The VM.
        holder: String,
    },
}

/// What there is to decide by.
pub struct World<'a> {
    /// What is wanted.
    pub ledger: &'a Ledger,
    /// What is.
    pub picture: &'a Picture,
    /// Where a VM is.
    pub place: &'a dyn Fn(&str, &str) -> Place,
    /// VMs that need a camera.
    pub wishes: &'a [Wish],
    /// Whether a host reaches the cameras of another.
    pub reaches: &'a dyn Fn(&str, &str) -> bool,
    /// Whether a camera is not to be tried for a VM now.
    pub rests: &'a dyn Fn(&CameraId, &str) -> bool,
}

/// What is to be done now, one step a camera.
pub fn steps(world: &World<'_>) -> BTreeMap<CameraId, Step> {
    let mut steps = BTreeMap::new();
    for (camera, lease) in world.ledger.leases.iter() {
        if let Some(step) = of_lease(world, &camera, lease) {
            steps.insert(camera, step);
        }
    }
    let reports = world.picture.hosts.values().filter(|report| report.answers).flat_map(|report| &report.leases);
    for report in reports {
        let camera = CameraId { host: report.host.clone(), camera: report.camera.clone() };
        if world.ledger.leases.get(&camera).is_none() && !(world.rests)(&camera, &report.vm_host) {
            let step = Step::Detach { at: report.vm_host.clone(), epoch: report.epoch };
            steps.entry(camera).or_insert(step);
        }
    }
    give(world, &mut steps);
    steps
}

fn of_lease(world: &World<'_>, camera: &CameraId, lease: &Lease) -> Option<Step> {
    let (experiment, vm) = parts(&lease.holder);
    let (at, up) = match (world.place)(experiment, vm) {
        Place::Gone => return Some(Step::Release { epoch: lease.epoch }),
        Place::Nowhere => (None, false),
        Place::On { host, up } => (Some(host), up),
    };
    // Elsewhere, for another VM, or by an epoch that is not on record: out, before it comes into this one.
    let stray = world.picture.reports(camera).find(|report| {
        at.as_ref() != Some(&report.vm_host)
            || holder(&report.experiment, &report.vm) != lease.holder
            || report.epoch != lease.epoch
    });
    if let Some(stray) = stray {
        let step = Step::Detach { at: stray.vm_host.clone(), epoch: stray.epoch };
        return (!(world.rests)(camera, &stray.vm_host)).then_some(step);
    }
    let at = at.filter(|at| up && world.picture.answers(at))?;
    if (world.rests)(camera, &lease.holder) {
        return None;
    }
    let report = world.picture.reports(camera).next();
    if lease.held {
        let held = |state| matches!(state, CameraState::Held | CameraState::Detaching);
        // A host that knows nothing of it keeps it out as well.
        return report.filter(|report| !held(report.state())).map(|_| Step::Hold { at, lease: lease.clone() });
    }
    // A host that has the lease goes on by itself, unless it was told to hold the camera.
    if report.is_some_and(|report| report.state() != CameraState::Held) || !can_be_had(world, camera, &at) {
        return None;
    }
    Some(Step::Attach { at, lease: lease.clone() })
}

/// Whether a camera can be brought to a host: its own host answers, and nothing stands in the way there.
fn can_be_had(world: &World<'_>, camera: &CameraId, at: &str) -> bool {
    let seen = world.picture.camera(camera).filter(|seen| seen.present);
    world.picture.answers(&camera.host)
        && (world.reaches)(at, &camera.host)
        && seen.is_some_and(|seen| !stands_in_the_way(seen.state()))
}

/// Cameras for the VMs that need one and have none. First all that find one on their own host: a camera that goes over
/// the network is one that nobody there could use.
fn give(world: &World<'_>, steps: &mut BTreeMap<CameraId, Step>) {
    let served: BTreeSet<&str> = world.ledger.leases.iter().map(|(_, lease)| lease.holder.as_str()).collect();
    let mut waiting: Vec<(String, String)> = world
        .wishes
        .iter()
        .filter_map(|wish| Some((wish, holder(&wish.experiment, &wish.vm), wish.up_on.clone()?)))
        .filter(|(_, holder, at)| !served.contains(holder.as_str()) && world.picture.answers(at))
        .filter(|(wish, holder, _)| world.ledger.waived.get(holder) != Some(&wish.generation))
        .map(|(_, holder, at)| (holder, at))
        .collect();
    if waiting.is_empty() {
        return;
    }
    let mut free: Vec<CameraId> = free(world.ledger, world.picture).filter(|id| !steps.contains_key(id)).collect();
    for of_own_host in [true, false] {
        waiting.retain(|(holder, at)| {
            let fits = |camera: &CameraId| {
                (!of_own_host || camera.host == *at)
                    && (world.reaches)(at, &camera.host)
                    && !(world.rests)(camera, holder)
            };
            let Some(found) = free.iter().position(fits) else { return true };
            steps.insert(free.remove(found), Step::Give { at: at.clone(), holder: holder.clone() });
            false
        });
    }
}

/// The cameras that can be lent, in a stable order.
pub fn free(ledger: &Ledger, picture: &Picture) -> impl Iterator<Item = CameraId> {
    let can = |(id, camera): &(CameraId, &fleet_proto::v1::Camera)| {
        camera.present
            && camera.state() == CameraState::Available
            && picture.answers(&id.host)
            && ledger.leases.get(id).is_none()
            // Nobody has a lease, and somebody still has the camera.
            && picture.reports(id).next().is_none()
    };
    picture.cameras().filter(can).map(|(id, _)| id).collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests;
