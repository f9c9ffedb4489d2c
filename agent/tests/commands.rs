//! Promises of commands on a host: what it says and how it ends is told, in bounded memory, and nothing of it is left.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};

use fleet_proto::v1::{ExecAnswer, ExecTask, OpHeader, Outcome, Reply, reply, task};
use fleet_tests::until;
use fleet_tree::{Event, RootWave};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use support::*;
use tokio::time::{Duration, Instant};

fn shell(script: &str) -> ExecTask {
    ExecTask { argv: ["bash", "-c", script].map(String::from).to_vec(), ..ExecTask::default() }
}

/// What a command said, all pieces together, and its last answer.
#[derive(Debug)]
struct Answered {
    stdout: String,
    stderr: String,
    last: ExecAnswer,
    pieces: usize,
}

fn exec_answer(reply: Reply) -> ExecAnswer {
    match reply.reply {
        Some(reply::Reply::Exec(answer)) => answer,
        other => panic!("a command's answer was expected: {other:?}"),
    }
}

fn answered(said: &Said) -> Answered {
    let all: Vec<ExecAnswer> = said.replies.iter().cloned().map(exec_answer).collect();
    let text = |of: fn(&ExecAnswer) -> &[u8]| String::from_utf8(all.iter().flat_map(of).copied().collect()).unwrap();
    let ends = all.iter().filter(|answer| answer.ended).count();
    assert!(ends == 1 && all.last().unwrap().ended, "one end, behind everything else: {ends}");
    let (stdout, stderr) = (text(|answer| &answer.stdout), text(|answer| &answer.stderr));
    Answered { stdout, stderr, pieces: all.len(), last: all.last().unwrap().clone() }
}

async fn run(host: &Served, task: ExecTask) -> (Said, Answered) {
    let said = host.ask(0, task::Task::Exec(task), Vec::new()).await;
    let answer = answered(&said);
    (said, answer)
}

fn begin(host: &Served, task: ExecTask) -> RootWave {
    let op = OpHeader { op_id: uuid::Uuid::new_v4().to_string(), epoch: 1, generation: 0 };
    host.wave(op, task::Task::Exec(task), Vec::new())
}

/// A pipe by which a command tells where it is.
struct Fifo {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl Fifo {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        Self { _dir: dir, path }
    }

    /// Waits until somebody wrote numbers, and gives them.
    async fn pids(&self) -> Vec<i32> {
        let path = self.path.clone();
        let reading = tokio::task::spawn_blocking(move || std::fs::read_to_string(path).unwrap());
        let text = tokio::time::timeout(PATIENCE, reading).await.unwrap().unwrap();
        text.split_ascii_whitespace().map(|pid| pid.parse().unwrap()).collect()
    }
}

/// Whether a process runs; one that only waits to be reaped does not.
fn runs(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Waits until none of these runs.
async fn gone(pids: &[i32]) {
    let until = Instant::now() + PATIENCE;
    while pids.iter().any(|pid| runs(*pid)) {
        assert!(Instant::now() < until, "{pids:?} are still there");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_answer_is_one_with_its_exit_code() {
    let place = Place::new();
    let host = place.start().await;
    let task = ExecTask { env: vec!["WHO=you and=me".into()], ..shell("echo $WHO; pwd; echo bad >&2; exit 7") };
    let (said, answer) = run(&host, task).await;
    assert_eq!((said.outcome, said.targets()), (Outcome::Ok, vec![]), "it ran, whatever its code: {said:?}");
    assert_eq!((answer.stdout.as_str(), answer.stderr.as_str()), ("you and=me\n/\n", "bad\n"));
    assert_eq!((answer.pieces, answer.last.code, answer.last.failed.as_str()), (1, 7, ""));
    let (_, answer) = run(&host, shell("kill -TERM $$")).await;
    assert_eq!(answer.last.code, 128 + 15);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_run_is_told_in_words() {
    let place = Place::new();
    let host = place.start().await;
    let (said, answer) = run(&host, ExecTask { argv: vec!["no-such-program".into()], ..ExecTask::default() }).await;
    assert_eq!(said.outcome, Outcome::Failed);
    assert!(said.reason.contains("no-such-program") && answer.last.failed == said.reason, "{said:?}");
    let said = host.ask(0, task::Task::Exec(ExecTask::default()), Vec::new()).await;
    assert_eq!(said.outcome, Outcome::Failed, "{said:?}");
    let (said, _) = run(&host, ExecTask { env: vec!["X".into()], ..shell("true") }).await;
    assert!(said.reason.contains("NAME=VALUE"), "{said:?}");
    let large = ExecTask { stdin: vec![b'x'; 1024 * 1024 + 1], ..shell("cat") };
    let said = host.ask(0, task::Task::Exec(large), Vec::new()).await;
    assert!(said.outcome == Outcome::Failed && said.reason.contains("standard input"), "{said:?}");
    let missing = ExecTask { experiment: "a".into(), ..shell("true") };
    let said = host.ask(0, task::Task::Exec(missing), Vec::new()).await;
    assert!(said.outcome == Outcome::Failed && said.reason.contains("experiment"), "{said:?}");
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_gets_all_its_input_and_then_its_end() {
    let place = Place::new();
    let host = place.start().await;
    let stdin: Vec<u8> = (0..1024 * 1024_u32).map(|at| b'a' + (at % 23) as u8).collect();
    let (said, answer) = run(&host, ExecTask { stdin: stdin.clone(), ..shell("cat") }).await;
    assert_eq!(said.outcome, Outcome::Ok, "{}", said.reason);
    assert_eq!(said.end.replies_lost, 0);
    assert!(answer.stdout.as_bytes() == stdin && answer.pieces > 1, "{} pieces", answer.pieces);
    let (_, answer) = run(&host, ExecTask { stdin, ..shell("head -c 3") }).await;
    assert_eq!((answer.stdout.as_str(), answer.last.code), ("abc", 0), "it need not read all of it");
    let (_, answer) = run(&host, shell("cat")).await;
    assert_eq!((answer.stdout.as_str(), answer.last.code), ("", 0), "no input is an empty one");
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_too_long_is_killed_with_all_that_it_started() {
    let place = Place::new();
    let host = place.start().await;
    // A child in its group, and, by job control, one in a group of its own.
    let script = "sleep 1000 & echo $! $$; set -m; sleep 1000 & echo $!; wait";
    let (said, answer) = run(&host, ExecTask { timeout_ms: 1_000, ..shell(script) }).await;
    assert_eq!((said.outcome, answer.last.code), (Outcome::Ok, 124), "{answer:?}");
    assert!(answer.stderr.contains("timed out after 1 s"), "{answer:?}");
    let pids: Vec<i32> = answer.stdout.split_ascii_whitespace().map(|pid| pid.parse().unwrap()).collect();
    assert_eq!(pids.len(), 3);
    assert!(!pids.iter().any(|pid| runs(*pid)), "before the end is told");
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wave_that_is_cancelled_or_dropped_or_ends_with_its_agent_leaves_no_process() {
    let place = Place::new();
    let host = place.start().await;
    let fifo = Fifo::new();
    let script = format!("set -m; sleep 1000 & echo $! $$ >{}; wait", fifo.path.display());
    let wave = begin(&host, shell(&script));
    let pids = fifo.pids().await;
    wave.cancel();
    let said = end_of(wave).await;
    assert_ne!(said.outcome, Outcome::Ok, "{said:?}");
    gone(&pids).await;

    let wave = begin(&host, shell(&script));
    let pids = fifo.pids().await;
    drop(wave);
    gone(&pids).await;

    let _wave = begin(&host, shell(&script));
    let pids = fifo.pids().await;
    host.end().await;
    gone(&pids).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_agent_left_is_ended_by_the_next_one() {
    let place = Place::new();
    let host = place.start().await;
    let fifo = Fifo::new();
    let wave = begin(&host, shell(&format!("echo $$ >{}; sleep 1000", fifo.path.display())));
    let pids = fifo.pids().await;
    let records = place.path().join("run/.commands");
    let record = std::fs::read_dir(&records).unwrap().next().unwrap().unwrap().path();
    let noted = std::fs::read(&record).unwrap();
    drop(wave);
    gone(&pids).await;
    until("the record to go with its command", || !records.exists());
    host.end().await;

    // As if that agent had been killed: what runs is noted, and nobody looks after it.
    let mut left = std::process::Command::new("setsid").args(["sleep", "1000"]).spawn().unwrap();
    let pid = i32::try_from(left.id()).unwrap();
    until("a session", || nix::unistd::getsid(Some(Pid::from_raw(pid))) == Ok(Pid::from_raw(pid)));
    let session = fleet_vm::Session::led_by(pid).unwrap();
    std::fs::create_dir_all(&records).unwrap();
    std::fs::write(&record, serde_json::to_vec(&session).unwrap()).unwrap();
    // And one that has ended since.
    std::fs::write(records.join("ended"), noted).unwrap();
    let host = place.start().await;
    assert!(!runs(pid) && !records.exists());
    left.wait().unwrap();
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_left_in_the_background_on_purpose_goes_on_and_holds_nothing_up() {
    let place = Place::new();
    let host = place.start().await;
    // It has the command's output open.
    let (said, answer) = run(&host, shell("sleep 1000 & echo $!")).await;
    assert_eq!((said.outcome, answer.last.code), (Outcome::Ok, 0), "{answer:?}");
    let pid: i32 = answer.stdout.trim().parse().unwrap();
    assert!(runs(pid));
    nix::sys::signal::kill(Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_output_nobody_takes_waits_with_it() {
    /// All queues between command and caller hold less.
    const BOUND: u64 = 24 * 1024 * 1024;
    const SIZE: u64 = 160 * 1024 * 1024;
    let place = Place::new();
    let host = place.start().await;
    let fifo = Fifo::new();
    let dir = tempfile::tempdir().unwrap();
    let large = dir.path().join("large");
    std::fs::File::create(&large).unwrap().set_len(SIZE).unwrap();
    let script = format!("exec 0<{}; echo $$ >{}; exec cat", large.display(), fifo.path.display());
    let mut wave = begin(&host, shell(&script));
    let pid = fifo.pids().await[0];
    let (mut told, mut ended) = (0, None);
    while let Some(event) = wave.next().await {
        match event {
            Event::Reply(reply) => {
                let answer = exec_answer(reply);
                told += answer.stdout.len() as u64;
                // Once it has ended, its position is that of nobody.
                let read = position(pid).unwrap_or(told);
                assert!(read <= told + BOUND, "{read} bytes were read, {told} told");
                ended = answer.ended.then_some(answer.code).or(ended);
            }
            Event::Progress(_) => {}
            Event::End(end) => assert_eq!(end.replies_lost, 0),
        }
    }
    assert_eq!((told, ended), (SIZE, Some(0)));
    host.end().await;
}

/// How far a process has read its standard input.
fn position(pid: i32) -> Option<u64> {
    let info = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("fdinfo/0")).ok()?;
    info.lines().find_map(|line| line.strip_prefix("pos:")?.trim().parse().ok())
}
