//! Images down the tree. First all hosts say what they lack; then each piece goes, as a wave of its own, to those that lack
//! it; last they put the image together. An agent hands a piece on while it takes the next one, so a long chain of hosts
//! is as fast as its slowest link. A transfer that broke off goes on with what came.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fleet_core::host_ends_of;
use fleet_images::{ImageStore, PIECE, Parcel};
use fleet_proto::v1 as proto;
use fleet_proto::v1::up_event::Event;
use fleet_proto::v1::{
    ImageTask, Member, OperationSummary, Outcome, OutcomeFold, PieceTask, Progress, Reply, Task, WaveEnd, reply, task,
};
use fleet_tree::fold_names;
use futures::StreamExt;
use tokio::sync::{Semaphore, SemaphorePermit};
use tonic::Status;

use super::waves::{LOCAL, Order, Word};
use super::{Fleet, refused};
use crate::daemon::operation::{self, Teller};

/// Pieces under way: twice as many as the longest chain has links, so that most have one to carry at any time. The first
/// host holds them all in memory.
const WINDOW: usize = 64;
/// Of these, pieces that the first host has not got yet. All at once they would share its link, and it would have none whole
/// to hand on until it had them all.
const FIRST_LINK: usize = 3;
/// Hosts that stand in one chain; more are a tree of two branches each.
const CHAIN: usize = 32;
/// How long hosts may take to look at what they have, or to put an image together.
const LOOK: Duration = Duration::from_secs(300);
/// How long a piece may be under way.
const CARRY: Duration = Duration::from_secs(300);

/// How hosts end, by name.
type Ends = BTreeMap<String, (Outcome, String)>;

impl Fleet {
    /// Sends images that hosts of a wave lack and this one has. What it has not itself is for the hosts to say.
    ///
    /// # Errors
    /// When a host cannot take one: with the reason of each.
    pub(super) async fn push_missing(
        &self,
        images: &BTreeSet<String>,
        members: &[Member],
        teller: &Teller,
    ) -> Result<(), Status> {
        let others: Vec<Member> = members.iter().filter(|member| !member.address.starts_with(LOCAL)).cloned().collect();
        if others.is_empty() {
            return Ok(());
        }
        for image in images {
            let Ok(parcel) = self.parcel(image).await else { continue };
            let ends = self.push(&parcel, others.clone(), 0, teller).await;
            let failed: Vec<OutcomeFold> =
                folds(&ends).into_iter().filter(|fold| fold.outcome() == Outcome::Failed).collect();
            if !failed.is_empty() {
                let texts = failed.iter().map(|fold| format!("{}: image {image}: {}", fold.targets, fold.reason));
                return Err(refused(&texts.collect::<Vec<_>>().join("\n")));
            }
        }
        Ok(())
    }

    /// Sends an image to hosts.
    ///
    /// # Errors
    /// When it is not here.
    pub async fn push_image(
        &self,
        image: &str,
        members: Vec<Member>,
        rate: u64,
        teller: &Teller,
    ) -> Result<OperationSummary, Status> {
        let since = Instant::now();
        let parcel = self.parcel(image).await?;
        let targets = u32::try_from(members.len()).unwrap_or(u32::MAX);
        let ends = self.push(&parcel, members, rate, teller).await;
        let elapsed_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(OperationSummary { targets, folds: folds(&ends), elapsed_ms })
    }

    async fn parcel(&self, image: &str) -> Result<Arc<Parcel>, Status> {
        let (folder, image) = (self.sizes.store().to_owned(), image.to_owned());
        let read = tokio::task::spawn_blocking(move || ImageStore::open(folder)?.parcel(&image)).await;
        let parcel = read.map_err(|error| Status::internal(error.to_string()))?;
        parcel.map(Arc::new).map_err(|error| Status::not_found(error.to_string()))
    }

    /// `rate`: bytes a second, 0 for no bound.
    async fn push(&self, parcel: &Arc<Parcel>, members: Vec<Member>, rate: u64, teller: &Teller) -> Ends {
        let wire = on_the_wire(parcel);
        let mut ends = Ends::new();
        let image = |install| Task { task: Some(task::Task::Image(ImageTask { parcel: Some(wire.clone()), install })) };
        let mut lacks: HashMap<String, Vec<u32>> = HashMap::new();
        let end = self
            .gather(members.clone(), image(false), LOOK, |Reply { hosts, reply, .. }| {
                if let Some(reply::Reply::Lacks(said)) = reply {
                    if said.has {
                        ends.insert(hosts, (Outcome::AlreadySo, String::new()));
                    } else {
                        lacks.insert(hosts, said.missing);
                    }
                }
            })
            .await;
        note_ends(&mut ends, &members, &end);
        let takers: Vec<Member> = members.into_iter().filter(|member| lacks.contains_key(&member.name)).collect();
        if takers.is_empty() {
            return ends;
        }
        let told =
            format!("image {} goes to {}", parcel.name, fold_names(takers.iter().map(|member| member.name.as_str())));
        drop(teller.send(operation::event(Event::Note(told))).await);
        self.carry(parcel, &takers, &lacks, rate, teller).await;
        let end = self.gather(takers.clone(), image(true), LOOK, |_| {}).await;
        takers.iter().for_each(|member| drop(ends.remove(&member.name)));
        note_ends(&mut ends, &takers, &end);
        ends
    }

    /// Sends the pieces, many at a time. A host that misses one says so at the end.
    async fn carry(
        &self,
        parcel: &Arc<Parcel>,
        takers: &[Member],
        lacks: &HashMap<String, Vec<u32>>,
        rate: u64,
        teller: &Teller,
    ) {
        let lacks: HashMap<&str, BTreeSet<u32>> =
            lacks.iter().map(|(host, runs)| (host.as_str(), numbers(runs))).collect();
        let pieces: Vec<(usize, usize)> = parcel.pieces().collect();
        let all: BTreeSet<u32> = lacks.values().flatten().copied().collect();
        let targets = u32::try_from(all.len()).unwrap_or(u32::MAX);
        let began = tokio::time::Instant::now();
        let first_link = &Semaphore::new(FIRST_LINK);
        let sends = futures::stream::iter(all.into_iter().enumerate()).then(|(at, number)| async move {
            if rate > 0 {
                let due = Duration::from_secs_f64(at as f64 * PIECE as f64 / rate as f64);
                tokio::time::sleep_until(began + due).await;
            }
            number
        });
        let sends = sends.map(|number| {
            let members: Vec<Member> = takers
                .iter()
                .filter(|m| lacks.get(m.name.as_str()).is_some_and(|l| l.contains(&number)))
                .cloned()
                .collect();
            let at = pieces.get(number as usize).copied();
            async move {
                // The semaphore is never closed.
                let turn = first_link.acquire().await.ok();
                if let Some((file, piece)) = at {
                    self.carry_one(parcel, file, piece, members, turn).await;
                }
            }
        });
        let mut sends = std::pin::pin!(sends.buffer_unordered(WINDOW));
        let mut done = 0;
        while sends.next().await.is_some() {
            done += 1;
            let step = Progress { targets, done, ..Progress::default() };
            // A slow caller misses some.
            drop(teller.try_send(operation::event(Event::Progress(step))));
        }
    }

    /// Carries one piece to all of these. Its turn on the first link is over when one has it.
    async fn carry_one(
        &self,
        parcel: &Arc<Parcel>,
        file: usize,
        piece: usize,
        members: Vec<Member>,
        mut turn: Option<SemaphorePermit<'_>>,
    ) {
        let (folder, of) = (self.sizes.store().to_owned(), Arc::clone(parcel));
        let read = tokio::task::spawn_blocking(move || {
            let file = of.files.get(file)?;
            ImageStore::open(folder).and_then(|store| store.piece(file, piece)).ok()
        });
        // What cannot be read here is missing there, and told then.
        let Ok(Some(content)) = read.await else { return };
        let content = Bytes::from(content);
        let task = task::Task::Piece(PieceTask { hash: fleet_tree::hash_of(&content).to_vec() });
        let order = Order {
            op: self.reading(),
            members,
            task: Task { task: Some(task) },
            content: vec![content],
            within: CARRY,
            again: false,
        };
        let k = if order.members.len() <= CHAIN { 1 } else { 2 };
        let mut sent = self.waves.send_by(order, Some(k));
        while let Some(word) = sent.next().await {
            if let Word::Progress(_, progress) = word
                && progress.ended > 0
            {
                turn = None;
            }
        }
        drop(turn);
    }
}

/// Takes in how members of a wave ended; who has an end already keeps it.
fn note_ends(ends: &mut Ends, members: &[Member], end: &WaveEnd) {
    for said in host_ends_of(members.iter().map(|member| member.name.as_str()), end) {
        for host in said.hosts {
            ends.entry(host).or_insert_with(|| (said.outcome, said.reason.clone()));
        }
    }
    for member in members {
        ends.entry(member.name.clone()).or_insert_with(|| (Outcome::Unknown, "nothing was heard of it".to_owned()));
    }
}

fn folds(ends: &Ends) -> Vec<OutcomeFold> {
    let mut alike: BTreeMap<(i32, &str), Vec<&str>> = BTreeMap::new();
    for (host, (outcome, reason)) in ends {
        alike.entry(((*outcome).into(), reason)).or_default().push(host);
    }
    let fold = |((outcome, reason), hosts): ((i32, &str), Vec<&str>)| OutcomeFold {
        outcome,
        reason: reason.to_owned(),
        count: u32::try_from(hosts.len()).unwrap_or(u32::MAX),
        targets: fold_names(hosts),
    };
    alike.into_iter().map(fold).collect()
}

/// The numbers of runs: first, count, first, count, …
fn numbers(runs: &[u32]) -> BTreeSet<u32> {
    runs.chunks_exact(2).flat_map(|run| run[0]..run[0].saturating_add(run[1])).collect()
}

fn on_the_wire(parcel: &Parcel) -> proto::Parcel {
    let file = |file: &fleet_images::ParcelFile| proto::ParcelFile {
        hash: unhex(&file.sha256),
        bytes: file.bytes,
        executable: file.executable,
        pieces: file.pieces.iter().map(|piece| unhex(piece)).collect(),
    };
    proto::Parcel {
        name: parcel.name.clone(),
        manifest: parcel.manifest.clone(),
        files: parcel.files.iter().map(file).collect(),
    }
}

/// Bytes of hexadecimal digits; those of a hash are even in number.
fn unhex(text: &str) -> Vec<u8> {
    let pair = |at: usize| text.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    (0..text.len()).step_by(2).filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_and_hashes_are_read_as_they_were_written() {
        assert_eq!(numbers(&[0, 3, 7, 1]).into_iter().collect::<Vec<_>>(), [0, 1, 2, 7]);
        assert!(numbers(&[4]).is_empty(), "half a run is none");
        assert_eq!(unhex("00ff1a"), [0, 255, 26]);
    }

    #[test]
    fn every_member_has_one_end() {
        let member = |name: &str| Member { name: name.into(), ..Member::default() };
        let members = [member("h1"), member("h2"), member("h3")];
        let mut ends = Ends::from([("h1".to_owned(), (Outcome::AlreadySo, String::new()))]);
        let failed =
            OutcomeFold { outcome: Outcome::Failed.into(), reason: "disk full".into(), count: 1, targets: "h2".into() };
        note_ends(&mut ends, &members, &WaveEnd { hosts: vec![failed], ..WaveEnd::default() });
        let counts: Vec<_> = folds(&ends).iter().map(|fold| (fold.outcome(), fold.targets.clone())).collect();
        let one = |outcome, host: &str| (outcome, host.to_owned());
        assert_eq!(counts, [one(Outcome::AlreadySo, "h1"), one(Outcome::Failed, "h2"), one(Outcome::Unknown, "h3")]);
    }
}
