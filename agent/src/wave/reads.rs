//! What waves only ask: lists, proofs, merging of memory, snapshots.

use std::sync::Arc;

use fleet_proto::v1::{
    KsmReply, KsmRequest, ListChunk, ListRequest, ProveRequest, Snapshot, SnapshotsReply, SnapshotsRequest, VmState,
    reply,
};
use fleet_tree::{LocalEnd, Sink};

use crate::agent::Agent;
use crate::slot::Slot;
use crate::{merging, prove as probes};

/// VMs or routers in one message of a listing.
const LISTED: usize = 500;

/// What is here of experiments, piece by piece as the way up takes them: a million VMs are never in memory at once.
pub async fn list(agent: &Agent, request: &ListRequest, sink: &Sink) -> LocalEnd {
    let only = request.only();
    let host = &agent.config.host;
    let wanted = |name: &str| request.experiment.is_empty() || name == request.experiment;
    for experiment in agent.experiments().into_iter().filter(|experiment| wanted(experiment.name())) {
        let slots = experiment.slots();
        let head = ListChunk { experiments: vec![experiment.status()], ..ListChunk::default() };
        sink.reply(reply::Reply::List(head)).await;
        let routers = if request.summary { Vec::new() } else { experiment.routers() };
        for piece in routers.chunks(LISTED) {
            sink.reply(reply::Reply::List(ListChunk { routers: piece.to_vec(), ..ListChunk::default() })).await;
        }
        let asked = |slot: &&Arc<Slot>| !request.summary && (only == VmState::Unspecified || slot.state() == only);
        let all: Vec<_> = slots.iter().filter(asked).collect();
        for piece in all.chunks(LISTED) {
            let vms = piece.iter().map(|slot| slot.status(experiment.name(), host)).collect();
            sink.reply(reply::Reply::List(ListChunk { vms, ..ListChunk::default() })).await;
        }
    }
    LocalEnd::ok(Vec::new())
}

/// Probes of those guests that are here.
pub async fn prove(agent: &Agent, mut request: ProveRequest, sink: &Sink) -> LocalEnd {
    let Some(experiment) = agent.experiment(&request.experiment) else {
        return LocalEnd::failed("nothing of the experiment is here", Vec::new());
    };
    let slots = experiment.slots();
    request.probes.retain(|probe| slots.get(&probe.from).is_some());
    let answer = probes::prove(&experiment, request).await;
    sink.reply(reply::Reply::Prove(answer)).await;
    LocalEnd::ok(Vec::new())
}

/// What the merging of memory does here.
pub async fn ksm(agent: &Arc<Agent>, request: KsmRequest, sink: &Sink) -> LocalEnd {
    let of = Arc::clone(agent);
    let host = tokio::task::spawn_blocking(move || merging::host(&of, request.dry_run)).await;
    match host {
        Ok(host) => sink.reply(reply::Reply::Ksm(KsmReply { hosts: vec![host] })).await,
        Err(error) => return LocalEnd::failed(error.to_string(), Vec::new()),
    }
    LocalEnd::ok(Vec::new())
}

/// Lists the host's snapshots, or removes some.
pub async fn snapshots(agent: &Agent, request: SnapshotsRequest, sink: &Sink) -> LocalEnd {
    let SnapshotsRequest { experiment, remove } = request;
    let only = Some(experiment).filter(|name| !name.is_empty());
    let store = agent.snapshots();
    let mut removed = 0;
    if let Some(experiment) = only.as_ref().filter(|_| !remove.is_empty()) {
        match store.remove(experiment, &remove).await {
            Ok(count) => removed = count,
            Err(error) => return LocalEnd::failed(error.to_string(), Vec::new()),
        }
    }
    let listing = Arc::clone(store);
    let listed = tokio::task::spawn_blocking(move || listing.list(only.as_deref())).await;
    let listed = match listed {
        Ok(Ok(listed)) => listed,
        Ok(Err(error)) => return LocalEnd::failed(error.to_string(), Vec::new()),
        Err(error) => return LocalEnd::failed(error.to_string(), Vec::new()),
    };
    let snapshots = listed.into_iter().map(|snapshot| Snapshot {
        experiment: snapshot.experiment,
        vm: snapshot.vm,
        name: snapshot.name,
        id: snapshot.id,
        host: agent.config.host.clone(),
        taken_ms: snapshot.taken_ms,
        bytes: snapshot.bytes,
        shared_bytes: snapshot.shared_bytes,
    });
    sink.reply(reply::Reply::Snapshots(SnapshotsReply { snapshots: snapshots.collect(), removed })).await;
    LocalEnd::ok(Vec::new())
}
