//! What only reads: proofs, merging of memory, snapshots. Each is a wave to whoever can be asked.

use std::collections::HashSet;
use std::time::Duration;

use fleet_proto::v1::{
    KsmReply, KsmRequest, ListRequest, Member, Outcome, ProbeResult, ProveReply, ProveRequest, Reply, SnapshotsReply,
    SnapshotsRequest, Task, WaveEnd, reply, task,
};
use tonic::Status;

use super::waves::{Order, Sent, Word};
use super::{Fleet, locked, refused};

/// How long an answer from memory may take.
const ANSWER: Duration = Duration::from_secs(20);
/// How long a host may take to remove snapshots, or to list very many.
const SNAPSHOTS: Duration = Duration::from_secs(120);
/// What a proof may take beside the time of its probes.
const PROOF: Duration = Duration::from_secs(60);

impl Fleet {
    /// Sends probes from guests; those that could not be sent are in the answer as such.
    pub async fn prove(&self, request: ProveRequest) -> ProveReply {
        let asked: Vec<(String, String)> = request
            .probes
            .iter()
            .flat_map(|probe| probe.to.iter().map(|to| (probe.from.clone(), to.clone())))
            .collect();
        let attempts = u64::from(request.timeout_ms) * u64::from(request.attempts);
        let longest = request.probes.iter().map(|probe| probe.to.len() as u64).max().unwrap_or(0);
        let within = PROOF + Duration::from_millis(attempts.saturating_mul(longest));
        let members = self.members_of(&request.experiment);
        let mut all = ProveReply::default();
        let task = Task { task: Some(task::Task::Prove(request)) };
        self.gather(members, task, within, |said| {
            if let Some(reply::Reply::Prove(part)) = said.reply {
                all.results.extend(part.results);
            }
        })
        .await;
        let answered: HashSet<(String, String)> =
            all.results.iter().map(|result| (result.from.clone(), result.to.clone())).collect();
        let missing = asked.into_iter().filter(|pair| !answered.contains(pair));
        let missing: Vec<ProbeResult> = missing
            .map(|(from, to)| ProbeResult {
                from,
                to,
                error: "its host did not answer".to_owned(),
                ..Default::default()
            })
            .collect();
        all.results.extend(missing);
        all
    }

    /// What hosts say of the merging of memory.
    pub async fn ksm(&self, request: KsmRequest) -> KsmReply {
        let members = locked(&self.core).reachable();
        let mut all = KsmReply::default();
        let task = Task { task: Some(task::Task::Ksm(request)) };
        self.gather(members, task, ANSWER, |said| {
            if let Some(reply::Reply::Ksm(part)) = said.reply {
                all.hosts.extend(part.hosts);
            }
        })
        .await;
        all.hosts.sort_by(|a, b| a.host.cmp(&b.host));
        all
    }

    /// Lists snapshots, or removes some.
    ///
    /// # Errors
    /// When a host could not do it.
    pub async fn snapshots(&self, request: SnapshotsRequest) -> Result<SnapshotsReply, Status> {
        let members = locked(&self.core).reachable();
        let mut all = SnapshotsReply::default();
        let task = Task { task: Some(task::Task::Snapshots(request)) };
        let end = self
            .gather(members, task, SNAPSHOTS, |said| {
                if let Some(reply::Reply::Snapshots(part)) = said.reply {
                    all.snapshots.extend(part.snapshots);
                    all.removed += part.removed;
                }
            })
            .await;
        let failed: Vec<_> = end.hosts.iter().filter(|fold| fold.outcome() != Outcome::Ok).collect();
        if let Some(fold) = failed.first() {
            return Err(refused(&format!("{}: {}", fold.targets, fold.reason)));
        }
        all.snapshots.sort_by(|a, b| (&a.experiment, &a.name, &a.vm).cmp(&(&b.experiment, &b.name, &b.vm)));
        Ok(all)
    }

    /// Asks hosts for what they list; it comes as replies.
    pub(super) fn list_wave(&self, members: Vec<Member>, request: ListRequest) -> Sent {
        self.waves.send(Order {
            op: self.reading(),
            members,
            task: Task { task: Some(task::Task::List(request)) },
            content: Vec::new(),
            within: ANSWER,
            again: false,
        })
    }

    /// The hosts that an experiment is on, as far as they can be asked.
    fn members_of(&self, experiment: &str) -> Vec<Member> {
        let core = locked(&self.core);
        let spec = core.experiment(experiment).map(|experiment| experiment.spec);
        let on: HashSet<&str> = spec.iter().flat_map(|spec| &spec.hosts).map(|place| place.host.as_str()).collect();
        core.reachable().into_iter().filter(|member| on.contains(member.name.as_str())).collect()
    }

    /// Sends a task without content to hosts, and takes what they reply.
    pub(super) async fn gather(
        &self,
        members: Vec<Member>,
        task: Task,
        within: Duration,
        mut take: impl FnMut(Reply),
    ) -> WaveEnd {
        let order = Order { op: self.reading(), members, task, content: Vec::new(), within, again: false };
        let mut sent = self.waves.send(order);
        while let Some(word) = sent.next().await {
            if let Word::Reply(said) = word {
                take(said);
            }
        }
        sent.end()
    }
}
