//! Up, down, and what they would change.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fleet_core::{Answer, Input, Preview};
use fleet_proto::v1::up_event::Event;
use fleet_proto::v1::{
    ApplyTask, Difference, Member, OperationSummary, Outcome, Progress, RemoveRequest, Spec, Task, WaveEnd, reply, task,
};
use fleet_tree::{NameSet, Style};
use prost::Message;
use sha2::{Digest, Sha256};
use tonic::Status;

use super::waves::{Order, Word};
use super::{Fleet, in_words, locked, refused};
use crate::daemon::operation::{self, Sum, Teller};

/// How long hosts may take to say what a spec would change.
const PREVIEW: Duration = Duration::from_secs(60);
/// Bytes of folded names in an answer.
const NAMES: usize = 16 * 1024;
/// Hosts whose networks are told one by one.
const TOLD_HOSTS: usize = 4;
/// How long hosts may take to remove what nobody asked for.
const REMOVAL: Duration = Duration::from_secs(300);

impl Fleet {
    /// Brings an experiment up, or makes it as a new spec says. What does not fit, or what a host refuses, is refused
    /// before anything is touched.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn up(self: &Arc<Self>, op_id: &str, spec: Spec, teller: &Teller) -> Result<OperationSummary, Status> {
        let preview = self.preview(&spec)?;
        let images = preview.plan.groups().map(|group| group.class.image.to_string()).collect();
        self.push_missing(&images, &preview.members, teller).await?;
        let difference = self.difference_of(preview).await?;
        let first = Progress { difference: Some(difference), ..Progress::default() };
        drop(teller.send(operation::event(Event::Progress(first))).await);
        let rollback = spec.options.as_ref().is_some_and(|options| options.rollback);
        let experiment = spec.experiment.clone();
        let input = Input::Up { op_id: op_id.to_owned(), spec: Box::new(spec) };
        self.ask(op_id, &experiment, rollback, teller, input).await
    }

    /// Takes experiments down, all at once.
    pub async fn down(self: &Arc<Self>, op_id: &str, names: Vec<String>, teller: &Teller) -> OperationSummary {
        let since = Instant::now();
        let parts = names.into_iter().map(|name| async move {
            let of_one = format!("{op_id}/{name}");
            let known = locked(&self.core).experiment(&name).is_some();
            let input = Input::Down { op_id: of_one.clone(), experiment: name.clone() };
            let answer = match known {
                true => self.ask(&of_one, &name, false, teller, input).await,
                false => self.remove_unknown(&name).await,
            };
            (name, answer)
        });
        let mut sum = Sum::default();
        for (name, answer) in futures::future::join_all(parts).await {
            match answer {
                Ok(summary) => sum.add(summary.targets, &summary.folds),
                Err(status) => sum.add_failed(&name, status.message()),
            }
        }
        sum.summary(since)
    }

    /// Asks the core for something that is done in waves, and waits for its answer.
    async fn ask(
        self: &Arc<Self>,
        op_id: &str,
        experiment: &str,
        rollback: bool,
        teller: &Teller,
        input: Input,
    ) -> Result<OperationSummary, Status> {
        let answer = locked(&self.follows).follow(op_id, experiment, rollback, teller.clone());
        self.input(input);
        match answer.await {
            Ok(Answer::Summary(summary)) => Ok(summary),
            Ok(Answer::Done(_)) => Ok(OperationSummary::default()),
            Ok(Answer::Refused(text)) => Err(refused(&text)),
            Err(_) => Err(Status::unavailable("the controller ends; what was begun is gone on with when it is back")),
        }
    }

    /// Changes hosts: drain, undrain, remove.
    ///
    /// # Errors
    /// When what is on them finds no other place.
    pub fn change(self: &Arc<Self>, input: impl FnOnce(String) -> Input) -> Result<String, Status> {
        let op_id = uuid::Uuid::new_v4().to_string();
        // Nobody watches it: its answer is there at once.
        let (teller, _follow) = operation::follow();
        let mut answer = locked(&self.follows).follow(&op_id, "", false, teller);
        self.input(input(op_id));
        answer.try_recv().map_err(|_| Status::internal("the core gave no answer")).and_then(in_words)
    }

    /// What an `up` of a spec would change, from all hosts that it concerns.
    ///
    /// # Errors
    /// When it does not fit, or a host refuses it: with the reason of each.
    pub async fn difference(&self, spec: &Spec) -> Result<Difference, Status> {
        self.difference_of(self.preview(spec)?).await
    }

    fn preview(&self, spec: &Spec) -> Result<Preview, Status> {
        self.sizes.refresh();
        locked(&self.core).preview(spec).map_err(|text| refused(&text))
    }

    async fn difference_of(&self, preview: Preview) -> Result<Difference, Status> {
        let Preview { spec, members, .. } = preview;
        let bytes = spec.encode_to_vec();
        let apply = ApplyTask { spec: Sha256::digest(&bytes).to_vec(), dry_run: true };
        let order = Order {
            op: self.reading(),
            members: members.clone(),
            task: Task { task: Some(task::Task::Apply(apply)) },
            content: vec![Bytes::from(bytes)],
            within: PREVIEW,
            again: false,
        };
        let mut sent = self.waves.send(order);
        let mut all = Merged::default();
        while let Some(word) = sent.next().await {
            if let Word::Reply(said) = word
                && let Some(reply::Reply::Difference(part)) = said.reply
            {
                all.add(&said.hosts, part);
            }
        }
        match refusals(&members, &sent.end()) {
            Some(text) => Err(refused(&text)),
            None => Ok(all.whole()),
        }
    }

    /// Removes what hosts have and no controller asked for.
    async fn remove_unknown(&self, name: &str) -> Result<OperationSummary, Status> {
        let since = Instant::now();
        let holders = self.hosts.holders(name);
        let mut members = locked(&self.core).reachable();
        members.retain(|member| holders.contains(&member.name));
        let op = self.header(&uuid::Uuid::new_v4().to_string());
        let remove = RemoveRequest { op: Some(op.clone()), experiment: name.to_owned() };
        let order = Order {
            op,
            members,
            task: Task { task: Some(task::Task::Remove(remove)) },
            content: Vec::new(),
            within: REMOVAL,
            again: false,
        };
        let mut sent = self.waves.send(order);
        while sent.next().await.is_some() {}
        let end = sent.end();
        let mut sum = Sum::default();
        let told = |fold: &&fleet_proto::v1::OutcomeFold| fold.outcome() != Outcome::Ok;
        let unheard: Vec<_> = end.hosts.iter().filter(told).cloned().collect();
        for folds in [&end.targets, &unheard] {
            sum.add(folds.iter().map(|fold| fold.count).sum(), folds);
        }
        Ok(sum.summary(since))
    }
}

/// What changes on all hosts.
#[derive(Default)]
struct Merged {
    start: Names,
    restart: Names,
    stop: Names,
    /// By host.
    network: BTreeMap<String, Vec<String>>,
    unchanged: u32,
    notes: Vec<String>,
}

struct Names(NameSet);

impl Default for Names {
    fn default() -> Self {
        Self(NameSet::new(Style::Guests))
    }
}

impl Names {
    fn add(&mut self, folded: &[String]) {
        folded.iter().for_each(|names| self.0.union(&NameSet::parse(Style::Guests, names)));
    }

    fn text(&self) -> Vec<String> {
        if self.0.is_empty() { Vec::new() } else { vec![self.0.to_text(NAMES)] }
    }
}

impl Merged {
    fn add(&mut self, host: &str, part: Difference) {
        self.start.add(&part.start);
        self.restart.add(&part.restart);
        self.stop.add(&part.stop);
        self.unchanged += part.unchanged;
        if !part.network.is_empty() {
            self.network.insert(host.to_owned(), part.network);
        }
        for note in part.notes {
            if !self.notes.contains(&note) {
                self.notes.push(note);
            }
        }
    }

    fn whole(self) -> Difference {
        let hosts = self.network.len();
        let told = if hosts > TOLD_HOSTS { TOLD_HOSTS - 1 } else { hosts };
        let line = |(host, lines): (&String, &Vec<String>)| match hosts {
            // The one host that there is need not be named.
            1 => lines.clone(),
            _ => vec![format!("{host}: {}", lines.join(", "))],
        };
        let mut network: Vec<String> = self.network.iter().take(told).flat_map(line).collect();
        if hosts > told {
            network.push(format!("the like on {} other hosts", hosts - told));
        }
        Difference {
            start: self.start.text(),
            restart: self.restart.text(),
            stop: self.stop.text(),
            network,
            unchanged: self.unchanged,
            notes: self.notes,
        }
    }
}

/// Why hosts cannot have a spec. Who does not answer is no reason: it is told when it comes back.
fn refusals(members: &[Member], end: &WaveEnd) -> Option<String> {
    let failed: Vec<_> = end.hosts.iter().filter(|fold| fold.outcome() == Outcome::Failed).collect();
    let texts = failed.iter().map(|fold| match members.len() {
        // The one host that there is need not be named.
        1 => fold.reason.clone(),
        _ => format!("{}: {}", fold.targets, fold.reason),
    });
    let texts: Vec<String> = texts.collect();
    (!texts.is_empty()).then(|| texts.join("\n"))
}
