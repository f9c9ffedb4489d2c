//! What looking after cameras needs of the fleet: where VMs are, which of them need a camera, and waves to their hosts.

use std::time::Duration;

use fleet_core::{Phase, host_ends_of};
use fleet_proto::v1::{
    AttachCamera, CamerasReply, CamerasRequest, DetachCamera, Member, Outcome, Task, WaveEnd, reply, task,
};
use fleet_tree::{NameSet, Style};
use netlang::{HypervisorKind, Plan};
use tokio::sync::watch;

use super::waves::Order;
use super::{Fleet, locked};

/// How long a host may take to say which cameras it has.
const LOOK: Duration = Duration::from_secs(10);

/// Where a VM is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nobody wants it.
    Gone,
    /// It has no host.
    Nowhere,
    /// On a host.
    On {
        /// Its name.
        host: String,
        /// Whether that has brought its part of the experiment up.
        up: bool,
    },
}

/// A VM that needs a camera.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Its experiment.
    pub experiment: String,
    /// Of what is wanted of that.
    pub generation: u64,
    /// Its name.
    pub vm: String,
    /// Its host, if that has brought its part of the experiment up.
    pub up_on: Option<String>,
}

/// How an order to one host ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// How.
    pub outcome: Outcome,
    /// Why, in the host's words.
    pub reason: String,
}

impl Ended {
    /// Whether it is as was asked.
    pub fn is_ok(&self) -> bool {
        matches!(self.outcome, Outcome::Ok | Outcome::AlreadySo)
    }
}

impl Fleet {
    /// Tells of every change of what is wanted, and of where it is.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Where a VM is to be.
    pub fn place(&self, experiment: &str, vm: &str) -> Place {
        let core = locked(&self.core);
        let wanted = core.experiment(experiment).filter(|experiment| experiment.phase != Phase::Removing);
        let Some((group, index)) = wanted.and_then(|wanted| find(wanted.plan, vm)) else { return Place::Gone };
        match core.host_of(experiment, &group, index) {
            Some(host) => Place::On { host: host.name.clone(), up: core.has(experiment, &host.name) },
            None => Place::Nowhere,
        }
    }

    /// Whether a VM's file, or what was said at `up`, has it run without USB.
    pub fn is_without_usb(&self, experiment: &str, vm: &str) -> bool {
        let Some((spec, plan)) = self.spec(experiment) else { return false };
        let group = find(&plan, vm).and_then(|(path, _)| plan.group(plan.find_group(&path)?));
        let preferred = spec.options.is_some_and(|options| options.hypervisor == "uml");
        group.is_some_and(|group| group.class.hypervisor.map_or(preferred, |kind| kind == HypervisorKind::Uml))
    }

    /// All VMs that need a camera, in the order of their plans.
    pub fn wishes(&self) -> Vec<Wish> {
        let core = locked(&self.core);
        let mut wishes = Vec::new();
        for wanted in core.experiments().filter(|experiment| experiment.phase != Phase::Removing) {
            for group in wanted.plan.groups().filter(|group| group.class.needs_camera) {
                for index in group.first..group.first.saturating_add(group.count) {
                    let host = core.host_of(wanted.name, &group.path, index).map(|host| host.name.clone());
                    wishes.extend(wanted.plan.vm_name(group.id, index).map(|vm| Wish {
                        experiment: wanted.name.to_owned(),
                        generation: wanted.generation,
                        vm,
                        up_on: host.filter(|host| core.has(wanted.name, host)),
                    }));
                }
            }
        }
        wishes
    }

    /// Asks hosts for their cameras and leases; `take` gets the answer of each.
    pub async fn look_at_cameras(&self, members: Vec<Member>, mut take: impl FnMut(&str, CamerasReply)) -> WaveEnd {
        let task = Task { task: Some(task::Task::Cameras(CamerasRequest {})) };
        self.gather(members, task, LOOK, |said| {
            if let Some(reply::Reply::Cameras(cameras)) = said.reply {
                // Hosts that have none answer alike.
                NameSet::parse(Style::Hosts, &said.hosts).iter().for_each(|host| take(&host, cameras.clone()));
            }
        })
        .await
    }

    /// Has the host of a VM bring a camera into it.
    pub async fn attach_camera(&self, op_id: &str, member: Member, mut order: AttachCamera, within: Duration) -> Ended {
        order.op = Some(self.header(op_id));
        self.order_camera(op_id, member, task::Task::AttachCamera(order), within).await
    }

    /// Has the host of a VM take a camera out of it.
    pub async fn detach_camera(&self, op_id: &str, member: Member, mut order: DetachCamera, within: Duration) -> Ended {
        order.op = Some(self.header(op_id));
        self.order_camera(op_id, member, task::Task::DetachCamera(order), within).await
    }

    async fn order_camera(&self, op_id: &str, member: Member, task: task::Task, within: Duration) -> Ended {
        let name = member.name.clone();
        let order = Order {
            op: self.header(op_id),
            members: vec![member],
            task: Task { task: Some(task) },
            content: Vec::new(),
            within,
            again: false,
        };
        let mut sent = self.waves.send(order);
        while sent.next().await.is_some() {}
        let ends = host_ends_of([name.as_str()], &sent.end());
        let ended = ends.into_iter().find(|end| end.hosts.contains(&name));
        ended.map_or_else(
            || Ended { outcome: Outcome::Unknown, reason: format!("{name} gave no answer") },
            |end| Ended { outcome: end.outcome, reason: end.reason },
        )
    }
}

/// The group and the index of a VM of this name.
fn find(plan: &Plan, vm: &str) -> Option<(String, u32)> {
    let ranges = plan.resolve(vm).ok()?;
    let mut all = ranges.iter().flat_map(|range| range.indices().map(move |index| (range.group, index)));
    let (group, index) = all.find(|(group, index)| plan.vm_name(*group, *index).as_deref() == Some(vm))?;
    Some((plan.group(group)?.path, index))
}
