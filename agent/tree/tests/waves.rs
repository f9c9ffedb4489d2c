//! Waves over a fleet in memory: what they cost, and that everybody is counted once.
#![allow(clippy::unwrap_used)]

mod support;

use fleet_proto::v1::{Outcome, PieceTask, WaveEnd, reply, task};
use fleet_tree::memory::{Hooks, Perfect};
use fleet_tree::{Call, Event, NameSet, Style, hash_of};
use support::*;
use tokio::time::{Duration, Instant};

const NO_TIME: Duration = Duration::ZERO;

fn sum(end: &WaveEnd) -> u32 {
    end.targets.iter().map(|fold| fold.count).sum()
}

#[tokio::test(start_paused = true)]
async fn every_host_acts_once_and_the_targets_add_up() {
    for (hosts, k) in [(1, 0), (5, 0), (120, 0), (120, 1), (120, 2), (300, 16)] {
        let fleet = Fleet::new(hosts, NO_TIME, Perfect);
        let end = fleet.end(Call { k, ..fleet.apply("op", 1_000) }).await;
        assert_eq!((count(&end, Outcome::Ok) as usize, sum(&end) as usize), (hosts, 2 * hosts), "k = {k}");
        assert!((0..hosts).all(|host| fleet.ledger.begun(&name(host), "op") == 1));
        assert!(end.dead.is_empty());
    }
}

struct Slow;

impl Hooks for Slow {
    fn latency(&self, _: &str, _: &str) -> Duration {
        Duration::from_millis(1)
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_hosts_cost_the_root_k_messages() {
    let fleet = Fleet::new(10_000, NO_TIME, Slow);
    let k = fleet_tree::recommended_k(10_000);
    let start = Instant::now();
    let end = fleet.end(fleet.apply("first", 10_000)).await;
    assert_eq!((count(&end, Outcome::Ok), sum(&end)), (10_000, 20_000));
    // Opening, list of members, spec for each branch.
    let cold = fleet.net.counts("root");
    assert_eq!((cold.opens, cold.messages), (u64::from(k), 3 * u64::from(k)));
    let took = start.elapsed();

    let start = Instant::now();
    fleet.end(fleet.apply("second", 10_000)).await;
    let warm = fleet.net.counts("root");
    assert_eq!(warm.messages - cold.messages, u64::from(k), "what hosts have is not sent again");
    assert!(warm.bytes - cold.bytes < u64::from(k) * 200, "{}", warm.bytes - cold.bytes);
    assert!(start.elapsed() < took);

    let messages = fleet.net.total().messages;
    fleet.end(fleet.apply("second", 10_000)).await;
    assert!(fleet.net.total().messages - messages <= 2 * u64::from(k), "a repeated operation stops at the first level");
    assert!((0..10_000).all(|host| fleet.ledger.begun(&name(host), "second") == 1));
}

#[tokio::test(start_paused = true)]
async fn what_is_new_to_all_follows_its_opening_unasked() {
    let fleet = Fleet::new(4, NO_TIME, Slow);
    let piece = |byte: u8| {
        let content = vec![byte; 100_000];
        let piece = PieceTask { hash: hash_of(&content).to_vec() };
        let call = fleet.call(&format!("piece {byte}"), task::Task::Piece(piece));
        Call { k: 1, content: vec![content.into()], ..call }
    };
    fleet.end(piece(1)).await;
    for again in [false, true] {
        let (root, last) = (fleet.net.counts("root"), fleet.net.counts("h3"));
        let end = fleet.end(piece(2)).await;
        // One that has it already takes it all the same.
        assert_eq!(count(&end, Outcome::Ok), 4, "again: {again}");
        assert_eq!(fleet.net.counts("root").messages - root.messages, 2, "the opening and the piece");
        assert_eq!(fleet.net.counts("h3").messages - last.messages, 1, "the end alone, no question");
    }
}

#[tokio::test(start_paused = true)]
async fn replies_come_up_and_equal_answers_are_one() {
    let fleet = Fleet::new(1_000, NO_TIME, Slow);
    let mut wave = fleet.root.wave(fleet.call("info", info())).unwrap();
    let mut names = NameSet::new(Style::Hosts);
    while let Some(event) = wave.next().await {
        if let Event::Reply(reply) = event {
            names.insert(&reply.hosts);
        }
    }
    assert_eq!(names.to_text(100), "h[0-999]");

    let mut wave = fleet.root.wave(fleet.call("same", exec("6.1"))).unwrap();
    let mut replies = Vec::new();
    while let Some(event) = wave.next().await {
        if let Event::Reply(reply) = event {
            replies.push(reply);
        }
    }
    let counts: Vec<_> = replies.iter().map(|reply| (reply.count, reply.hosts.as_str())).collect();
    assert_eq!(counts, [(1_000, "h[0-999]")]);
    let Some(reply::Reply::Exec(exec)) = &replies[0].reply else { panic!() };
    assert_eq!(exec.stdout, b"6.1");
}
