//! A model: agents in memory under a virtual clock, with one millisecond a hop, and the root alone.
//!
//! Messages, bytes and the time of a wave come from agents in memory; a sender's own time for its messages is not in the
//! model. The root's processor time is measured alone, against members that answer for their whole branch at once,
//! messages encoded and decoded, without a transport.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fleet_proto::v1::{ApplyTask, Member, OpHeader, Outcome, OutcomeFold, Task, WaveEnd, task};
use fleet_tree::memory::{Counts, Hooks, Net};
use fleet_tree::{
    Call, ClockWatch, Config, Job, Local, LocalEnd, Members, MemoryLog, Node, Parts, Root, Sink, hash_of, plan,
    recommended_k,
};
use nix::time::{ClockId, clock_gettime};

use crate::instant;

/// Bytes of a spec: source, lock and placement of a middling experiment.
const SPEC: usize = 10_000;

struct Hop;

impl Hooks for Hop {
    fn latency(&self, _: &str, _: &str) -> Duration {
        Duration::from_millis(1)
    }
}

/// Does nothing, for a hundred VMs.
pub struct Work(pub String);

#[async_trait]
impl Local for Work {
    fn admit_epoch(&self, _: u64) -> Result<(), String> {
        Ok(())
    }

    async fn run(&self, _: Job, _: Sink) -> LocalEnd {
        let targets = format!("web{}[0-99]", self.0);
        LocalEnd::ok(vec![OutcomeFold { outcome: Outcome::Ok.into(), count: 100, targets, ..OutcomeFold::default() }])
    }
}

pub fn members(hosts: usize) -> Members {
    let member = |index: usize| Member {
        name: format!("h{index}"),
        address: format!("10.{}.{}.{}:7118", index >> 16, (index >> 8) & 255, index & 255),
        rack: format!("r{}", index / 40),
    };
    Members::new((0..hosts).map(member).collect()).unwrap()
}

pub fn call(op: &str, members: &Members, k: u32) -> Call {
    let spec = vec![7_u8; SPEC];
    let apply = ApplyTask { spec: hash_of(&spec).to_vec(), dry_run: false };
    Call {
        op: OpHeader { op_id: op.to_owned(), epoch: 1, generation: 0 },
        members: members.clone(),
        k,
        dead: Vec::new(),
        task: Task { task: Some(task::Task::Apply(apply)) },
        content: vec![spec.into()],
        deadline: Duration::from_secs(60),
        again: false,
    }
}

pub fn check(end: &WaveEnd, hosts: usize) {
    let ok =
        end.hosts.iter().filter(|fold| fold.outcome() == Outcome::Ok).map(|fold| fold.count as usize).sum::<usize>();
    assert_eq!(ok, hosts, "the wave went wrong: {:?}", end.hosts);
}

/// What the root sent for the first and for a later wave, and the model's time of the later one.
async fn model(hosts: usize, k: u32) -> (Counts, Counts, Duration) {
    let (net, clock) = (Net::new(Hop, Duration::from_secs(15)), ClockWatch::start());
    let members = members(hosts);
    for member in members.as_slice() {
        net.attach(
            &member.address,
            Node::new(Parts {
                name: member.name.clone(),
                link: net.link(&member.address),
                local: Arc::new(Work(member.name.clone())),
                log: Arc::new(MemoryLog::default()),
                config: Config::default(),
                clock: Arc::clone(&clock),
            }),
        );
    }
    let root = Root::new(net.link("root"), Config::default(), clock);
    check(&root.wave(call("first", &members, k)).unwrap().end().await.unwrap(), hosts);
    let first = net.counts("root");
    let start = tokio::time::Instant::now();
    check(&root.wave(call("later", &members, k)).unwrap().end().await.unwrap(), hosts);
    let took = start.elapsed();
    let both = net.counts("root");
    let later = Counts {
        connects: both.connects - first.connects,
        messages: both.messages - first.messages,
        bytes: both.bytes - first.bytes,
        opens: both.opens - first.opens,
    };
    members.as_slice().iter().for_each(|member| net.kill(&member.address));
    (first, later, took)
}

/// Processor time of the root for one wave, the least of several.
async fn processor_time(hosts: usize, k: u32) -> Duration {
    let members = members(hosts);
    let root = Root::new(Arc::new(instant::Instant::new(&members, k)), Config::default(), ClockWatch::start());
    let mut least = Duration::MAX;
    for round in 0..7 {
        let before = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).unwrap();
        check(&root.wave(call(&format!("{round}"), &members, k)).unwrap().end().await.unwrap(), hosts);
        let after = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).unwrap();
        least = least.min(Duration::from(after) - Duration::from(before));
    }
    least
}

/// The table of the model.
pub fn table() -> String {
    let runtime =
        |paused| tokio::runtime::Builder::new_current_thread().enable_all().start_paused(paused).build().unwrap();
    let mut text =
        "| hosts | k | levels | root's CPU | messages, first | later | bytes, first | later | 1 ms a hop |\n\
                    |---|---|---|---|---|---|---|---|---|\n"
            .to_owned();
    for hosts in [100, 1_000, 10_000, 100_000] {
        for k in [0, recommended_k(hosts)] {
            let cpu = runtime(false).block_on(processor_time(hosts, k));
            let (first, later, took) = runtime(true).block_on(model(hosts, k));
            writeln!(
                text,
                "| {hosts} | {} | {} | {:.2} ms | {} | {} | {} | {} | {} ms |",
                branches(k),
                plan::levels(hosts, k),
                cpu.as_secs_f64() * 1_000.0,
                first.messages,
                later.messages,
                first.bytes,
                later.bytes,
                took.as_millis(),
            )
            .unwrap();
        }
    }
    text
}

/// k in words.
pub fn branches(k: u32) -> String {
    if k == 0 { "flat".to_owned() } else { k.to_string() }
}
