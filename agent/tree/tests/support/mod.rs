//! A fleet in memory: nodes whose work is to note that they were told.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use fleet_proto::v1::*;
use fleet_tree::memory::{Hooks, Net};
use fleet_tree::{Call, ClockWatch, Config, Job, Local, LocalEnd, Members, MemoryLog, Node, Parts, Root, Sink};
use fleet_tree::{NameSet, Style, hash_of, recommended_k};
use tokio::time::Duration;

/// Until a stream across a cut breaks.
pub const KEEPALIVE: Duration = Duration::from_secs(15);

/// What the hosts did.
#[derive(Default)]
pub struct Ledger {
    /// Runs begun, by host and operation.
    pub begun: Mutex<HashMap<(String, String), usize>>,
    /// Newest epoch that any host saw, by host.
    pub epochs: Mutex<HashMap<String, u64>>,
}

impl Ledger {
    pub fn begun(&self, host: &str, op: &str) -> usize {
        self.begun.lock().unwrap().get(&(host.to_owned(), op.to_owned())).copied().unwrap_or(0)
    }
}

/// The work of a host, by what the task says: an exec answers with its arguments (`NAME` is the host's), `sleep MS`
/// takes time; everything else has two targets.
pub struct Work {
    pub name: String,
    pub ledger: Arc<Ledger>,
    pub takes: Duration,
}

#[async_trait]
impl Local for Work {
    fn admit_epoch(&self, epoch: u64) -> Result<(), String> {
        let mut epochs = self.ledger.epochs.lock().unwrap();
        let seen = epochs.entry(self.name.clone()).or_default();
        if epoch < *seen {
            return Err(format!("epoch {epoch} is over, {seen} was seen"));
        }
        *seen = epoch;
        Ok(())
    }

    async fn run(&self, job: Job, sink: Sink) -> LocalEnd {
        *self.ledger.begun.lock().unwrap().entry((self.name.clone(), job.op.op_id.clone())).or_default() += 1;
        sink.progress(Progress { targets: 2, done: 1, ..Progress::default() });
        tokio::time::sleep(self.takes).await;
        match job.task.task.unwrap() {
            task::Task::Info(_) => {
                sink.reply(reply::Reply::Info(HostInfo { name: self.name.clone(), ..HostInfo::default() })).await;
            }
            task::Task::Exec(exec) => {
                let stdout = exec.argv.join(" ").replace("NAME", &self.name).into_bytes();
                let answer = ExecAnswer { stdout, ended: true, ..ExecAnswer::default() };
                sink.reply(reply::Reply::Exec(answer)).await;
            }
            _ => {}
        }
        let targets = format!("{}[0-1]", self.name);
        LocalEnd::ok(vec![OutcomeFold { outcome: Outcome::Ok.into(), reason: String::new(), count: 2, targets }])
    }
}

/// Many nodes, their network and a root.
pub struct Fleet {
    pub net: Net,
    pub root: Root,
    pub members: Members,
    pub ledger: Arc<Ledger>,
    pub config: Config,
    clock: Arc<ClockWatch>,
    logs: HashMap<String, Arc<MemoryLog>>,
    takes: Duration,
}

pub fn name(index: usize) -> String {
    format!("h{index}")
}

impl Fleet {
    pub fn new(hosts: usize, takes: Duration, hooks: impl Hooks) -> Self {
        let net = Net::new(hooks, KEEPALIVE);
        let config = Config::default();
        let clock = ClockWatch::start();
        let ledger = Arc::new(Ledger::default());
        let member = |index| Member { name: name(index), address: name(index), rack: format!("r{}", index / 40) };
        let members = Members::new((0..hosts).map(member).collect()).unwrap();
        let root = Root::new(net.link("root"), config.clone(), Arc::clone(&clock));
        let logs = (0..hosts).map(|index| (name(index), Arc::new(MemoryLog::default()))).collect();
        let fleet = Self { net, root, members, ledger, config, clock, logs, takes };
        for index in 0..hosts {
            fleet.start(&name(index));
        }
        fleet
    }

    /// Starts a host's agent, on the log of an earlier one.
    pub fn start(&self, host: &str) {
        self.start_slow(host, self.takes);
    }

    /// Starts one whose work takes so long.
    pub fn start_slow(&self, host: &str, takes: Duration) {
        let local = Work { name: host.to_owned(), ledger: Arc::clone(&self.ledger), takes };
        let parts = Parts {
            name: host.to_owned(),
            link: self.net.link(host),
            local: Arc::new(local),
            log: self.logs[host].clone(),
            config: self.config.clone(),
            clock: Arc::clone(&self.clock),
        };
        self.net.attach(host, Node::new(parts));
    }

    pub fn call(&self, op: &str, task: task::Task) -> Call {
        Call {
            op: OpHeader { op_id: op.to_owned(), epoch: 1, generation: 0 },
            members: self.members.clone(),
            k: recommended_k(self.members.len()),
            dead: Vec::new(),
            task: Task { task: Some(task) },
            content: Vec::new(),
            deadline: Duration::from_secs(60),
            again: false,
        }
    }

    /// A task that changes something, with content of this size.
    pub fn apply(&self, op: &str, bytes: usize) -> Call {
        let spec = vec![7_u8; bytes];
        let apply = ApplyTask { spec: hash_of(&spec).to_vec(), dry_run: false };
        Call { content: vec![spec.into()], ..self.call(op, task::Task::Apply(apply)) }
    }

    pub async fn end(&self, call: Call) -> WaveEnd {
        let end = self.root.wave(call).unwrap().end().await.unwrap();
        assert_eq!(hosts(&end) as usize, self.members.len(), "every member is counted once: {:?}", end.hosts);
        end
    }
}

pub fn info() -> task::Task {
    task::Task::Info(InfoRequest {})
}

pub fn exec(words: &str) -> task::Task {
    task::Task::Exec(ExecTask { argv: vec![words.to_owned()], ..ExecTask::default() })
}

/// All hosts that are counted.
pub fn hosts(end: &WaveEnd) -> u32 {
    end.hosts.iter().map(|fold| fold.count).sum()
}

/// How many hosts ended so.
pub fn count(end: &WaveEnd, outcome: Outcome) -> u32 {
    end.hosts.iter().filter(|fold| fold.outcome() == outcome).map(|fold| fold.count).sum()
}

/// The hosts that ended so, in order.
pub fn named(end: &WaveEnd, outcome: Outcome) -> Vec<String> {
    let folds = end.hosts.iter().filter(|fold| fold.outcome() == outcome);
    let mut names: Vec<_> =
        folds.flat_map(|fold| NameSet::parse(Style::Hosts, &fold.targets).iter().collect::<Vec<_>>()).collect();
    names.sort_by_key(|name| name[1..].parse::<usize>().unwrap());
    names
}
