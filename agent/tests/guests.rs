//! Promises of an agent's part of a wave, with real guests: it does what is here, its outcomes add up, and a command is
//! run in guests as on the host.
#![allow(clippy::unwrap_used)]

mod support;

use bytes::Bytes;
use fleet_proto::v1::{
    ActRequest, Action, ApplyTask, ExecAnswer, ExecTask, ListRequest, OpHeader, Options, Outcome, Range, Spec, reply,
    task,
};
use fleet_tree::{AnswerWindow, Event, RootWave, hash_of};
use prost::Message;
use support::*;
use tokio::time::Instant;

fn all() -> Vec<Range> {
    vec![Range { group: "web".into(), first: 0, count: 4 }]
}

async fn exec(host: &Served, task: ExecTask) -> (Said, Vec<(u32, ExecAnswer)>) {
    let task = ExecTask { experiment: "a".into(), ranges: all(), ..task };
    let said = host.ask(0, task::Task::Exec(task), Vec::new()).await;
    // Those that came too late for the agent's own window are folded here.
    let mut window = AnswerWindow::new(PATIENCE);
    let mut replies: Vec<_> =
        said.replies.iter().flat_map(|reply| window.push(reply.clone(), Instant::now())).collect();
    replies.extend(window.flush(None));
    let answers = replies.into_iter().map(|reply| match reply.reply {
        Some(reply::Reply::Exec(answer)) => (reply.count, answer),
        other => panic!("a command's answer was expected: {other:?}"),
    });
    let mut answers: Vec<_> = answers.collect();
    answers.sort_by(|a, b| a.1.guests.cmp(&b.1.guests));
    (said, answers)
}

fn shell(script: &str) -> ExecTask {
    ExecTask { argv: ["sh", "-c", script].map(String::from).to_vec(), ..ExecTask::default() }
}

async fn act(host: &Served, action: Action, ranges: Vec<Range>) -> Said {
    let request = ActRequest {
        op: None,
        experiment: "a".into(),
        ranges,
        action: action.into(),
        force: false,
        name: String::new(),
    };
    host.ask(0, task::Task::Act(request), Vec::new()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_experiment_on_two_hosts_this_one_does_its_part() {
    let place = Place::with_images();
    let host = place.start().await;
    let said = host.apply(1, &spec("a", 3), false).await;
    assert_eq!((said.outcome, said.targets()), (Outcome::Ok, vec![(Outcome::Ok, 3, "web[0-2]")]), "{said:?}");
    assert_eq!(host.held().await, [("a".to_owned(), 1)]);
    let said = host.ask(0, task::Task::List(ListRequest::default()), Vec::new()).await;
    let vms = said.replies.iter().filter_map(|reply| match &reply.reply {
        Some(reply::Reply::List(chunk)) => Some(chunk.vms.iter().map(|vm| vm.name.as_str())),
        _ => None,
    });
    assert_eq!(vms.flatten().collect::<Vec<_>>(), ["web[0]", "web[1]", "web[2]"]);

    // Equal answers are one; their guests are named.
    let (said, answers) = exec(&host, shell("echo hi; echo no >&2; exit 3")).await;
    assert_eq!((said.outcome, said.targets()), (Outcome::Ok, vec![(Outcome::Ok, 3, "web[0-2]")]));
    let [(3, answer)] = answers.as_slice() else { panic!("{answers:?}") };
    assert_eq!((answer.guests.as_str(), answer.ended, answer.code), ("web[0-2]", true, 3));
    assert_eq!((answer.stdout.as_slice(), answer.stderr.as_slice()), (b"hi\n".as_slice(), b"no\n".as_slice()));
    let (_, answers) = exec(&host, shell("cat /proc/sys/kernel/hostname")).await;
    let told: Vec<_> = answers.iter().map(|(count, answer)| (*count, answer.guests.as_str())).collect();
    assert_eq!(told, [(1, "web[0]"), (1, "web[1]"), (1, "web[2]")], "each has its own name: {answers:?}");

    let stdin = vec![b'x'; 100_000];
    let (_, answers) = exec(&host, ExecTask { stdin, ..shell("wc -c") }).await;
    assert_eq!(answers.iter().map(|(count, answer)| (*count, answer.code)).collect::<Vec<_>>(), [(3, 0)]);
    assert_eq!(String::from_utf8_lossy(&answers[0].1.stdout).trim(), "100000");
    let (said, answers) = exec(&host, ExecTask { timeout_ms: 1_000, ..shell("echo $$; sleep 1000") }).await;
    assert_eq!(said.outcome, Outcome::Ok);
    assert!(answers.iter().all(|(_, answer)| !answer.ended || answer.code == 124), "{answers:?}");
    let (_, left) = exec(&host, shell("ps | grep -c '[s]leep 1000'")).await;
    assert_eq!(left.iter().map(|(count, answer)| (*count, answer.code)).collect::<Vec<_>>(), [(3, 1)], "{left:?}");

    let one = vec![Range { group: "web".into(), first: 1, count: 1 }];
    let said = act(&host, Action::Stop, one).await;
    assert_eq!((said.outcome, said.targets()), (Outcome::Ok, vec![(Outcome::Ok, 1, "web[1]")]), "{said:?}");
    let (said, answers) = exec(&host, shell("true")).await;
    assert_eq!(said.targets(), [(Outcome::Ok, 2, "web[0,2]"), (Outcome::Failed, 1, "web[1]")]);
    let failed: Vec<_> = answers.iter().filter(|(_, answer)| !answer.failed.is_empty()).collect();
    assert!(failed.len() == 1 && failed[0].1.failed.contains("stopped"), "{answers:?}");
    let said = act(&host, Action::Stop, all()).await;
    assert_eq!(said.targets(), [(Outcome::Ok, 2, "web[0,2]"), (Outcome::AlreadySo, 1, "web[1]")], "{said:?}");

    let said = host.remove(2, "a").await;
    assert_eq!(said.outcome, Outcome::Ok, "{said:?}");
    assert_eq!(host.held().await, []);
    host.end().await;
}

/// One VM after the other.
fn slowly() -> Spec {
    Spec { options: Some(Options { concurrency: 1, ..Options::default() }), ..spec("a", 4) }
}

fn begin(host: &Served, op_id: &str, generation: u64, spec: &Spec) -> RootWave {
    let spec = Bytes::from(spec.encode_to_vec());
    let task = ApplyTask { spec: hash_of(&spec).to_vec(), dry_run: false };
    let op = OpHeader { op_id: op_id.into(), epoch: 1, generation };
    host.wave(op, task::Task::Apply(task), vec![spec])
}

/// Waits until the host says what it has to do.
async fn under_way(wave: &mut RootWave) {
    let begun = async {
        while let Some(event) = wave.next().await {
            match event {
                Event::Progress(progress) if progress.targets.as_ref().is_some_and(|of| of.targets == 4) => return,
                Event::End(end) => panic!("it ended first: {end:?}"),
                _ => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, begun).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_does_not_wait_for_what_is_under_way() {
    let place = Place::with_images();
    let host = place.start().await;
    let mut wave = begin(&host, "first", 1, &slowly());
    under_way(&mut wave).await;
    let said = host.apply(0, &slowly(), true).await;
    assert_eq!(said.outcome, Outcome::Ok, "{said:?}");
    let differences = said.replies.iter().filter_map(|reply| match &reply.reply {
        Some(reply::Reply::Difference(difference)) => Some(difference),
        _ => None,
    });
    let differences: Vec<_> = differences.collect();
    let [difference] = differences.as_slice() else { panic!("{said:?}") };
    assert!(difference.notes.iter().any(|note| note.contains("under way")), "{difference:?}");
    assert_eq!(end_of(wave).await.targets(), [(Outcome::Ok, 4, "web[0-3]")], "it goes on undisturbed");
    assert_eq!(host.remove(2, "a").await.outcome, Outcome::Ok);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_apply_begins_nothing_new_and_says_what_it_did_not_reach() {
    let place = Place::with_images();
    let host = place.start().await;
    let mut wave = begin(&host, "first", 1, &slowly());
    under_way(&mut wave).await;
    wave.cancel();
    let said = end_of(wave).await;
    assert_eq!(said.outcome, Outcome::NotReached, "{said:?}");
    assert_eq!(said.end.targets.iter().map(|fold| fold.count).sum::<u32>(), 4, "they add up: {said:?}");
    assert!(said.targets().iter().any(|(outcome, count, _)| *outcome == Outcome::NotReached && *count > 0));
    assert_eq!(host.held().await, [("a".to_owned(), 0)], "it has none whole");
    // Told again, it goes on.
    let said = end_of(begin(&host, "second", 1, &slowly())).await;
    assert_eq!(said.outcome, Outcome::Ok, "{said:?}");
    assert_eq!(host.held().await, [("a".to_owned(), 1)]);
    assert_eq!(host.remove(2, "a").await.outcome, Outcome::Ok);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apply_whose_parent_went_away_goes_on() {
    let place = Place::with_images();
    let host = place.start().await;
    let mut wave = begin(&host, "first", 1, &slowly());
    under_way(&mut wave).await;
    drop(wave);
    let said = end_of(begin(&host, "first", 1, &slowly())).await;
    assert_eq!((said.outcome, said.targets()), (Outcome::Ok, vec![(Outcome::Ok, 4, "web[0-3]")]), "{said:?}");
    assert_eq!(host.remove(2, "a").await.outcome, Outcome::Ok);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_agent_goes_on_with_an_apply_and_knows_when_it_is_whole() {
    let place = Place::with_images();
    let host = place.start().await;
    let mut wave = begin(&host, "first", 1, &slowly());
    under_way(&mut wave).await;
    drop(wave);
    host.end().await;
    let host = place.start().await;
    let mut held = host.agent.held();
    let whole = async {
        while host.held().await != [("a".to_owned(), 1)] {
            held.changed().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, whole).await.unwrap();
    // Told again by a controller that knows nothing of it: an intent without an outcome.
    let said = end_of(begin(&host, "first", 1, &slowly())).await;
    assert_eq!((said.outcome, said.targets()), (Outcome::Ok, vec![(Outcome::AlreadySo, 4, "web[0-3]")]), "{said:?}");
    assert_eq!(host.remove(2, "a").await.outcome, Outcome::Ok);
    host.end().await;
}
