//! `ps` over all hosts: what they list, and what is known of VMs whose host has not listed them: that it does not answer,
//! or that it was not told of them yet.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use fleet_core::Phase;
use fleet_proto::v1::{
    ExperimentStatus, ListChunk, ListRequest, Range, Reply, Spec, StateCount, VmState, VmStatus, reply,
};
use netlang::Plan;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::waves::Word;
use super::{Fleet, locked};

/// VMs in one message.
const LISTED: usize = 500;
/// Messages that wait for a slow reader; the hosts wait with them.
const QUEUE: usize = 16;

/// A listing under way.
pub type Listing = ReceiverStream<Result<ListChunk, Status>>;

/// VMs of an experiment that a host is to have.
struct Placed {
    experiment: String,
    /// Its name; `None`: they have none yet.
    host: Option<String>,
    ranges: Vec<Range>,
    plan: Arc<Plan>,
    /// In contact.
    answers: bool,
}

/// Sums of what hosts say of experiments.
#[derive(Default)]
struct Sums {
    experiments: BTreeMap<String, (ExperimentStatus, BTreeMap<i32, u32>)>,
    /// Who listed what.
    seen: HashSet<(String, String)>,
}

impl Sums {
    fn add(&mut self, host: &str, said: ExperimentStatus) {
        self.seen.insert((host.to_owned(), said.experiment.clone()));
        let (sum, counts) = self.experiments.entry(said.experiment.clone()).or_default();
        sum.experiment = said.experiment;
        sum.vms += said.vms;
        sum.routers += said.routers;
        // A segment over several hosts counts on each: the plan says better, where there is one.
        sum.segments = sum.segments.max(said.segments);
        sum.busy |= said.busy;
        if sum.source_name.is_empty() {
            sum.source_name = said.source_name;
        }
        for StateCount { state, count } in said.counts {
            *counts.entry(state).or_default() += count;
        }
    }

    /// VMs that no host listed.
    fn add_unlisted(&mut self, experiment: &str, state: VmState, count: u32) {
        let (sum, counts) = self.experiments.entry(experiment.to_owned()).or_default();
        sum.experiment = experiment.to_owned();
        sum.vms += count;
        *counts.entry(state.into()).or_default() += count;
    }
}

/// What is listed of an experiment while VMs move off a host. Such a VM counts where it goes; until that host has been
/// told of it, where it is.
#[derive(Default)]
struct Moving {
    /// Where it is to be.
    hosts: HashSet<String>,
    /// Names of VMs that were listed there.
    listed: HashSet<String>,
    /// What other hosts listed.
    leaving: Vec<VmStatus>,
}

impl Moving {
    fn stays_on(&self, host: &str) -> bool {
        self.hosts.contains(host)
    }

    /// Whether a VM is to be told now. One that leaves its host may be told at last.
    fn take(&mut self, host: &str, vm: &VmStatus) -> bool {
        let stays = self.stays_on(host);
        if stays {
            self.listed.insert(vm.name.clone());
        } else {
            self.leaving.push(vm.clone());
        }
        stays
    }

    /// What nobody but the hosts that it leaves has listed.
    fn left(self) -> Vec<VmStatus> {
        self.leaving.into_iter().filter(|vm| !self.listed.contains(&vm.name)).collect()
    }
}

impl Fleet {
    /// Lists what runs, or is to run.
    pub fn list(self: &Arc<Self>, request: ListRequest) -> Listing {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let fleet = Arc::clone(self);
        self.tasks.spawn(async move {
            tokio::select! {
                () = fleet.stop.cancelled() => {}
                () = sender.closed() => {}
                () = fleet.list_into(request, &sender) => {}
            }
        });
        ReceiverStream::new(receiver)
    }

    async fn list_into(&self, request: ListRequest, sender: &mpsc::Sender<Result<ListChunk, Status>>) {
        let members = locked(&self.core).reachable();
        let mut moving = self.moving();
        let mut sums = Sums::default();
        let mut sent = self.list_wave(members, request.clone());
        while let Some(word) = sent.next().await {
            let Word::Reply(Reply { hosts, reply: Some(reply::Reply::List(chunk)), .. }) = word else { continue };
            let ListChunk { mut vms, mut routers, mut experiments, .. } = chunk;
            if !moving.is_empty() {
                routers.retain(|router| moving.get(&router.experiment).is_none_or(|moving| moving.stays_on(&hosts)));
                experiments.retain(|said| moving.get(&said.experiment).is_none_or(|moving| moving.stays_on(&hosts)));
                vms.retain(|vm| moving.get_mut(&vm.experiment).is_none_or(|moving| moving.take(&hosts, vm)));
            }
            experiments.into_iter().for_each(|said| sums.add(&hosts, said));
            if !vms.is_empty() || !routers.is_empty() {
                drop(sender.send(Ok(ListChunk { vms, routers, ..ListChunk::default() })).await);
            }
        }
        for placed in self.placed(&request.experiment) {
            let listed = placed.host.as_ref().map(|host| (host.clone(), placed.experiment.clone()));
            if listed.is_some_and(|listed| sums.seen.contains(&listed)) {
                continue;
            }
            let (state, reason) = match (&placed.host, placed.answers) {
                (None, _) => (VmState::Pending, "no host has room for it; `fleet host ls` shows them".to_owned()),
                (Some(host), true) => (VmState::Pending, format!("its host {host} was not told of it yet")),
                (Some(host), false) => (VmState::Unknown, format!("its host {host} does not answer")),
            };
            let count = placed.ranges.iter().map(|range| range.count).sum();
            sums.add_unlisted(&placed.experiment, state, count);
            if !request.summary && (request.only() == VmState::Unspecified || request.only() == state) {
                self.tell_unlisted(&placed, state, &reason, sender).await;
            }
        }
        for (experiment, moving) in moving {
            let vms = moving.left();
            vms.iter().for_each(|vm| sums.add_unlisted(&experiment, vm.state(), 1));
            for vms in vms.chunks(LISTED) {
                drop(sender.send(Ok(ListChunk { vms: vms.to_vec(), ..ListChunk::default() })).await);
            }
        }
        let chunk = self.summed(sums, &request);
        drop(sender.send(Ok(chunk)).await);
    }

    /// The experiments of which some host has something that is to be elsewhere.
    fn moving(&self) -> HashMap<String, Moving> {
        let core = locked(&self.core);
        let moving = core.experiments().filter(|experiment| experiment.moving && experiment.phase != Phase::Removing);
        let hosts = |spec: &Spec| spec.hosts.iter().map(|place| place.host.clone()).collect();
        moving.map(|it| (it.name.to_owned(), Moving { hosts: hosts(it.spec), ..Moving::default() })).collect()
    }

    async fn tell_unlisted(
        &self,
        placed: &Placed,
        state: VmState,
        reason: &str,
        sender: &mpsc::Sender<Result<ListChunk, Status>>,
    ) {
        let mut vms = Vec::new();
        let plan = &placed.plan;
        let all = placed.ranges.iter().filter_map(|range| plan.find_group(&range.group).map(|group| (group, range)));
        for vm in all.flat_map(|(group, range)| {
            (range.first..range.first.saturating_add(range.count)).filter_map(move |index| plan.vm(group, index))
        }) {
            vms.push(VmStatus {
                experiment: placed.experiment.clone(),
                name: vm.name,
                host: placed.host.clone().unwrap_or_default(),
                state: state.into(),
                image: vm.class.image.to_string(),
                addresses: vm.nics.iter().map(|nic| format!("{}/{}", nic.ip, nic.prefix_len)).collect(),
                memory_bytes: vm.class.memory.unwrap_or(0),
                reason: reason.to_owned(),
                ..VmStatus::default()
            });
            if vms.len() == LISTED {
                let chunk = ListChunk { vms: std::mem::take(&mut vms), ..ListChunk::default() };
                drop(sender.send(Ok(chunk)).await);
            }
        }
        if !vms.is_empty() {
            drop(sender.send(Ok(ListChunk { vms, ..ListChunk::default() })).await);
        }
    }

    /// Everything that is to be somewhere.
    fn placed(&self, only: &str) -> Vec<Placed> {
        let core = locked(&self.core);
        let reachable: HashSet<String> = core.reachable().into_iter().map(|member| member.name).collect();
        let mut all = Vec::new();
        let wanted = core.experiments().filter(|experiment| only.is_empty() || experiment.name == only);
        for experiment in wanted.filter(|experiment| experiment.phase != Phase::Removing) {
            let of = |host: Option<String>, ranges: Vec<Range>| Placed {
                experiment: experiment.name.to_owned(),
                answers: host.as_ref().is_some_and(|host| reachable.contains(host)),
                host,
                ranges,
                plan: Arc::clone(experiment.plan),
            };
            all.extend(experiment.spec.hosts.iter().map(|place| of(Some(place.host.clone()), place.ranges.clone())));
            if !experiment.homeless.is_empty() {
                all.push(of(None, core.homeless_of(experiment.name)));
            }
        }
        all
    }

    /// The last message: the experiments.
    fn summed(&self, sums: Sums, request: &ListRequest) -> ListChunk {
        let core = locked(&self.core);
        let follows = locked(&self.follows);
        let experiments = sums.experiments.into_iter().map(|(name, (mut sum, counts))| {
            sum.counts = counts.into_iter().map(|(state, count)| StateCount { state, count }).collect();
            if let Some(wanted) = core.experiment(&name) {
                sum.source_name.clone_from(&wanted.spec.source_name);
                sum.busy |= matches!(wanted.phase, Phase::Applying | Phase::Removing);
                if wanted.spec.hosts.len() > 1 {
                    sum.segments = u32::try_from(wanted.plan.summary().totals.segments).unwrap_or(u32::MAX);
                }
            }
            sum.busy |= follows.is_followed(&name);
            sum
        });
        let wanted = |sum: &ExperimentStatus| request.experiment.is_empty() || sum.experiment == request.experiment;
        ListChunk { experiments: experiments.filter(wanted).collect(), ..ListChunk::default() }
    }
}
