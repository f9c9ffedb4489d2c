//! Deaths, cuts, duplicates, pauses: whatever happens and whenever, everybody is counted once, nobody acts twice, and
//! the living are not taken for dead.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::{Arc, Mutex};

use fleet_proto::v1::Outcome;
use fleet_tree::Call;
use fleet_tree::memory::{Hooks, Net, Perfect, Sent};
use fleet_tree::reason;
use proptest::prelude::*;
use support::*;
use tokio::time::{Duration, Instant};

const MS: Duration = Duration::from_millis(1);

/// One millisecond a hop; kills and cuts when so many messages have gone.
#[derive(Clone, Default)]
struct Faults {
    kills: Plan,
    cuts: Plan,
}

/// After how many messages, and who.
type Plan = Arc<Mutex<Vec<(u64, String)>>>;

impl Hooks for Faults {
    fn latency(&self, _: &str, _: &str) -> Duration {
        MS
    }

    fn sent(&self, net: &Net, sent: &Sent<'_>) {
        let due = |list: &Plan| {
            let (now, later) = list.lock().unwrap().drain(..).partition(|(at, _)| *at <= sent.number);
            *list.lock().unwrap() = later;
            Vec::into_iter(now).map(|(_, host)| host)
        };
        due(&self.kills).for_each(|host| net.kill(&host));
        due(&self.cuts).for_each(|host| net.silence(&host));
    }
}

fn on_current_thread<F: Future>(test: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(test)
}

#[tokio::test(start_paused = true)]
async fn one_percent_dead_cost_one_connect_time_out_at_most() {
    let fleet = Fleet::new(10_000, Duration::ZERO, Faults::default());
    let start = Instant::now();
    fleet.end(fleet.call("warm", info())).await;
    let healthy = start.elapsed();
    // A hundred, spread over all levels; some are children of others.
    let k = fleet_tree::recommended_k(10_000);
    let heads = fleet_tree::plan::branches(fleet.members.as_slice(), k);
    let mut dead: Vec<usize> = (0..97).map(|index| (index * 7_919 + 13) % 10_000).collect();
    dead.extend([heads[3].start, heads[3].start + 1, heads[3].start + 2]);
    dead.iter().for_each(|host| fleet.net.silence(&name(*host)));
    dead.sort_unstable();
    let start = Instant::now();
    let end = fleet.end(fleet.call("op", info())).await;
    assert_eq!(named(&end, Outcome::NotReached), dead.iter().map(|host| name(*host)).collect::<Vec<_>>());
    assert_eq!(count(&end, Outcome::Ok), 9_900);
    assert_eq!(end.dead.iter().map(|at| *at as usize).collect::<Vec<_>>(), dead);
    let cost = start.elapsed().saturating_sub(healthy);
    assert!(cost <= fleet.config.connect_timeout + 50 * MS, "{cost:?}");

    // Told of them, the next wave does not try.
    let start = Instant::now();
    let end = fleet.end(Call { dead: dead.clone(), ..fleet.call("knows", info()) }).await;
    assert!(end.hosts.iter().any(|fold| fold.reason == reason::KNOWN_DEAD && fold.count == 100));
    assert_eq!(end.dead.len(), 100);
    assert!(start.elapsed() < healthy + 50 * MS, "{:?}", start.elapsed());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn whoever_dies_and_whenever_everybody_is_counted_once(
        hosts in 1_usize..200,
        k in prop::sample::select(vec![0_u32, 1, 2, 3, 16]),
        kills in prop::collection::vec((0_u64..900, 0_usize..200), 0..12),
        cuts in prop::collection::vec((0_u64..900, 0_usize..200), 0..4),
        command: bool,
    ) {
        // A chain of two hundred hosts is two hundred margins deep.
        let hosts = if k == 1 { hosts % 12 + 1 } else { hosts };
        on_current_thread(async {
            let plan = |list: &[(u64, usize)]| -> Plan {
                Arc::new(Mutex::new(list.iter().map(|(at, host)| (*at, name(host % hosts))).collect()))
            };
            let faults = Faults { kills: plan(&kills), cuts: plan(&cuts) };
            let fleet = Fleet::new(hosts, 3 * MS, faults.clone());
            let task = if command { fleet.call("op", exec("NAME")) } else { fleet.apply("op", 100) };
            let hurt: Vec<String> = kills.iter().chain(&cuts).map(|(_, host)| name(host % hosts)).collect();
            // `end` asserts that the members add up.
            let end = fleet.end(Call { k, ..task.clone() }).await;
            let mut seen = Vec::new();
            for outcome in [Outcome::Ok, Outcome::Failed, Outcome::Unknown, Outcome::NotReached] {
                seen.extend(named(&end, outcome));
            }
            seen.sort();
            seen.dedup();
            assert_eq!(seen.len(), hosts, "every host has one outcome");
            for host in (0..hosts).map(name) {
                assert!(fleet.ledger.begun(&host, "op") <= 1, "{host} acted twice");
            }
            for outcome in [Outcome::Unknown, Outcome::NotReached, Outcome::Failed] {
                for host in named(&end, outcome) {
                    assert!(hurt.contains(&host), "{host} lives and is {outcome:?}: {:?}", end.hosts);
                }
            }
            for host in named(&end, Outcome::Ok) {
                assert_eq!(fleet.ledger.begun(&host, "op"), 1, "{host} says that it did it");
            }
            for host in named(&end, Outcome::NotReached) {
                assert_eq!(fleet.ledger.begun(&host, "op"), 0, "{host} was told");
            }

            faults.kills.lock().unwrap().clear();
            faults.cuts.lock().unwrap().clear();
            // They all come back, and the next operation reaches them.
            for host in (0..hosts).map(name) {
                fleet.net.heal(&host);
                if hurt.contains(&host) {
                    fleet.net.kill(&host);
                    fleet.start(&host);
                }
            }
            if !command {
                let end = fleet.end(Call { k: 0, ..fleet.apply("again", 100) }).await;
                assert_eq!(count(&end, Outcome::Ok) as usize, hosts, "{:?}", end.hosts);
            }
        });
    }
}

#[tokio::test(start_paused = true)]
async fn a_repeated_operation_joins_the_one_under_way() {
    let fleet = Fleet::new(50, Duration::from_secs(2), Perfect);
    let first = fleet.root.wave(Call { k: 3, ..fleet.apply("op", 10) }).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let start = Instant::now();
    let second = fleet.end(Call { k: 3, ..fleet.apply("op", 10) }).await;
    assert!(start.elapsed() <= Duration::from_millis(1_100));
    assert_eq!(count(&first.end().await.unwrap(), Outcome::Ok), 50);
    assert_eq!(count(&second, Outcome::Ok), 50);
    assert!((0..50).all(|host| fleet.ledger.begun(&name(host), "op") == 1));
}

#[tokio::test(start_paused = true)]
async fn an_intent_without_outcome_is_done_again_after_a_crash() {
    let fleet = Fleet::new(1, Duration::from_secs(2), Perfect);
    let wave = fleet.root.wave(fleet.apply("op", 10)).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    fleet.net.kill("h0");
    fleet.start("h0");
    // The root tries once more, and finds the new agent.
    assert_eq!(count(&wave.end().await.unwrap(), Outcome::Ok), 1);
    assert_eq!(fleet.ledger.begun("h0", "op"), 2);
    // It has ended: after another crash its outcome is remembered.
    fleet.net.kill("h0");
    fleet.start("h0");
    assert_eq!(count(&fleet.end(fleet.apply("op", 10)).await, Outcome::Ok), 1);
    assert_eq!(fleet.ledger.begun("h0", "op"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_command_is_not_run_again_by_an_agent_that_started_anew() {
    let fleet = Fleet::new(1, Duration::from_secs(2), Perfect);
    let wave = fleet.root.wave(fleet.call("op", exec("x"))).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    fleet.net.kill("h0");
    fleet.start("h0");
    let end = wave.end().await.unwrap();
    assert_eq!((end.hosts[0].outcome(), end.hosts[0].reason.as_str()), (Outcome::Unknown, reason::ANEW));
    assert_eq!(fleet.ledger.begun("h0", "op"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_change_goes_on_without_its_root_and_a_read_does_not() {
    let fleet = Fleet::new(30, Duration::from_secs(2), Perfect);
    let changes = fleet.root.wave(Call { k: 3, ..fleet.apply("op", 10) }).unwrap();
    let reads = fleet.root.wave(Call { k: 3, ..fleet.call("read", info()) }).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop((changes, reads));
    tokio::time::sleep(Duration::from_secs(5)).await;
    let messages = fleet.net.total().messages;
    let end = fleet.end(Call { k: 3, ..fleet.apply("op", 10) }).await;
    assert_eq!(count(&end, Outcome::Ok), 30);
    assert!(fleet.net.total().messages - messages <= 6, "the first level remembers");
    assert!((0..30).all(|host| fleet.ledger.begun(&name(host), "op") == 1));
}

#[tokio::test(start_paused = true)]
async fn what_has_not_answered_by_the_deadline_is_unknown_and_the_rest_is_told() {
    let fleet = Fleet::new(30, Duration::ZERO, Perfect);
    // The work of these never ends: their agents are there and healthy.
    let call = Call { k: 3, deadline: Duration::from_secs(10), ..fleet.call("op", exec("x")) };
    for slow in ["h5", "h29"] {
        fleet.start_slow(slow, Duration::from_secs(1_000));
    }
    let start = Instant::now();
    let end = fleet.end(call).await;
    assert_eq!(named(&end, Outcome::Unknown), ["h5", "h29"]);
    assert_eq!(count(&end, Outcome::Ok), 28);
    assert!(start.elapsed() <= Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_paused_does_not_take_its_children_for_dead() {
    let fleet = Fleet::new(30, Duration::from_secs(2), Faults::default());
    fleet.net.silence("h0");
    let wave = fleet.root.wave(Call { k: 3, ..fleet.apply("op", 10) }).unwrap();
    tokio::time::sleep(MS / 2).await;
    // All stands still, longer than every time-out; what was to be heard meanwhile was not.
    fleet.net.heal("h0");
    tokio::time::advance(Duration::from_secs(30)).await;
    let end = wave.end().await.unwrap();
    assert_eq!(count(&end, Outcome::Ok), 30, "{:?}", end.hosts);
}

#[tokio::test(start_paused = true)]
async fn five_thousand_different_answers_come_up_one_by_one() {
    let fleet = Fleet::new(5_000, Duration::ZERO, Faults::default());
    let mut wave = fleet.root.wave(fleet.call("op", exec("I am NAME"))).unwrap();
    let (mut answers, mut ended) = (0, None);
    while let Some(event) = wave.next().await {
        match event {
            fleet_tree::Event::Reply(reply) => answers += reply.count,
            fleet_tree::Event::End(end) => ended = Some(end),
            fleet_tree::Event::Progress(_) => {}
        }
    }
    let end = ended.unwrap();
    assert_eq!((answers, end.replies_lost, count(&end, Outcome::Ok)), (5_000, 0, 5_000));
}
