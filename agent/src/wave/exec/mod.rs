//! A command of a wave: on this host itself, or in those of its guests that are meant.
//!
//! ```text
//!  command (host: a process in a session of its own; guest: a session of its control channel)
//!     │ pieces of output, its end
//!     ▼
//!  Telling: a short answer is one, which folds with equal ones; a long one goes up in pieces
//!     ▼
//!  Sink ─► the wave's window of answers ─► up, as fast as it is taken: meanwhile the command waits in its write(2)
//! ```
//!
//! So what is held in memory is bounded by the commands that run at a time, whatever they say and however many guests
//! there are. Nobody's command outlives the wave: it is killed at its time limit, when the wave is cancelled or dropped,
//! and by the next agent when this one is killed ([`record`]).

mod guest;
mod host;
mod record;
mod telling;

use std::sync::Arc;

use fleet_proto::v1::{ExecAnswer, ExecTask, Outcome, Progress, reply};
use fleet_tree::{Job, LocalEnd, Outcomes, Sink};
use fleet_vm::ExecEvent;
use futures::StreamExt;
use tokio::time::{Duration, Instant, sleep_until, timeout_at};

use crate::agent::Agent;
use crate::session::{TIMED_OUT, timed_out};
use crate::slot::Slot;
use guest::GuestCommand;
use host::HostCommand;
pub use record::end_left;
use telling::Telling;

/// Guests that run it at once.
const CONCURRENCY: usize = 64;
/// Bytes of standard input.
const STDIN: usize = 1024 * 1024;
/// What is left of the wave's time for the answer of a command that ran into its end.
const SLACK: Duration = Duration::from_millis(100);
/// Of a guest that had no turn.
const TOO_LATE: &str = "the operation's time was over before it began";
/// Of a wave that was broken off.
const BROKEN_OFF: &str = "nobody waits for it any more; the command was killed";

/// A command that runs.
trait Command: Send {
    /// The next thing that it did; nothing after its end. Cancel-safe.
    fn next(&mut self) -> impl Future<Output = Result<ExecEvent, String>> + Send;
}

/// How a command ended.
enum Ended {
    Exited(i32),
    TimedOut(Duration),
    /// It could not be run to its end.
    Failed(String),
}

/// How long a command may take.
#[derive(Clone, Copy)]
struct Limit {
    /// From its start; none: the wave's time.
    own: Option<Duration>,
    wave: Instant,
}

impl Limit {
    fn new(timeout_ms: u32, deadline: Instant) -> Self {
        let own = (timeout_ms > 0).then(|| Duration::from_millis(timeout_ms.into()));
        Self { own, wave: deadline.checked_sub(SLACK).unwrap_or(deadline) }
    }

    fn until(self, start: Instant) -> Instant {
        self.own.and_then(|own| start.checked_add(own)).map_or(self.wave, |until| until.min(self.wave))
    }
}

/// Runs the command of a wave.
pub async fn run(agent: &Arc<Agent>, task: ExecTask, job: &Job, sink: &Sink) -> LocalEnd {
    if task.argv.is_empty() {
        return LocalEnd::failed("no command was named", Vec::new());
    }
    if task.stdin.len() > STDIN {
        let said = format!("its standard input has {} bytes; {STDIN} are allowed", task.stdin.len());
        return LocalEnd::failed(said, Vec::new());
    }
    let limit = Limit::new(task.timeout_ms, job.deadline);
    match task.experiment.is_empty() {
        true => on_host(agent, task, limit, job, sink).await,
        false => in_guests(agent, task, limit, job, sink).await,
    }
}

async fn on_host(agent: &Agent, task: ExecTask, limit: Limit, job: &Job, sink: &Sink) -> LocalEnd {
    let mut telling = Telling::new("");
    let mut command = match HostCommand::start(&task, &agent.config.run_dir) {
        Ok(command) => command,
        Err(reason) => {
            say(sink, telling.failed(&reason)).await;
            return LocalEnd::failed(reason, Vec::new());
        }
    };
    let ended = tokio::select! {
        biased;
        () = job.cancelled.cancelled() => {
            command.kill().await;
            return LocalEnd::failed(BROKEN_OFF, Vec::new());
        }
        ended = attend(&mut command, &mut telling, limit, sink) => ended,
    };
    command.kill().await;
    match last(telling, ended, sink).await {
        Ok(()) => LocalEnd::ok(Vec::new()),
        Err(reason) => LocalEnd::failed(reason, Vec::new()),
    }
}

async fn in_guests(agent: &Arc<Agent>, task: ExecTask, limit: Limit, job: &Job, sink: &Sink) -> LocalEnd {
    let Some(experiment) = agent.experiment(&task.experiment) else {
        return LocalEnd::failed("nothing of the experiment is here", Vec::new());
    };
    let Some(slice) = experiment.slice() else {
        return LocalEnd::failed("the experiment is still being set up; try again", Vec::new());
    };
    let names = match slice.names(&task.ranges) {
        Ok(names) => names,
        Err(error) => return LocalEnd::failed(error, Vec::new()),
    };
    let targets = u32::try_from(names.len()).unwrap_or(u32::MAX);
    let (slots, task) = (experiment.slots(), Arc::new(task));
    let mut ends = futures::stream::iter(names)
        .map(|name| {
            let (slot, task, sink) = (slots.get(&name).cloned(), Arc::clone(&task), sink.clone());
            async move {
                let ended = in_guest(slot, &name, &task, limit, &sink).await;
                (name, ended)
            }
        })
        .buffer_unordered(CONCURRENCY);
    let mut outcomes = Outcomes::of_targets();
    loop {
        let (name, ended) = tokio::select! {
            biased;
            // Dropping their sessions ends the commands.
            () = job.cancelled.cancelled() => return LocalEnd::failed(BROKEN_OFF, Vec::new()),
            end = ends.next() => match end {
                Some(end) => end,
                None => return LocalEnd::ok(outcomes.to_folds()),
            },
        };
        match ended {
            Ok(()) => outcomes.add(Outcome::Ok, "", &name),
            Err(reason) => outcomes.add(Outcome::Failed, &reason, &name),
        }
        sink.progress(Progress { targets, done: outcomes.count(), ..Progress::default() });
    }
}

/// Runs it in one guest and tells of it. The error says why it did not come to its end.
async fn in_guest(
    slot: Option<Arc<Slot>>,
    name: &str,
    task: &ExecTask,
    limit: Limit,
    sink: &Sink,
) -> Result<(), String> {
    let mut telling = Telling::new(name);
    // Its turn may come when the wave's time is over; and a guest that does not answer takes its command's own.
    let until = limit.until(Instant::now());
    let ended = match timeout_at(until, GuestCommand::start(slot.as_deref(), task)).await {
        Ok(Ok(mut command)) => attend(&mut command, &mut telling, limit, sink).await,
        Ok(Err(reason)) => Ended::Failed(reason),
        Err(_) => match limit.own {
            Some(own) if until < limit.wave => Ended::TimedOut(own),
            _ => Ended::Failed(TOO_LATE.to_owned()),
        },
    };
    last(telling, ended, sink).await
}

/// Tells what a command says, until its end or its time limit.
async fn attend(command: &mut impl Command, telling: &mut Telling, limit: Limit, sink: &Sink) -> Ended {
    let start = Instant::now();
    let until = limit.until(start);
    let told = async {
        loop {
            let due = telling.due();
            let part = tokio::select! {
                event = command.next() => match event {
                    Ok(ExecEvent::Exited(code)) => return Ended::Exited(code),
                    Ok(event) => telling.take(event, Instant::now()),
                    Err(reason) => return Ended::Failed(reason),
                },
                () = at(due) => telling.part(),
            };
            if let Some(part) = part {
                say(sink, part).await;
            }
        }
    };
    tokio::select! {
        biased;
        ended = told => ended,
        () = sleep_until(until) => Ended::TimedOut(until - start),
    }
}

/// The last answer of a command.
async fn last(telling: Telling, ended: Ended, sink: &Sink) -> Result<(), String> {
    match ended {
        Ended::Exited(code) => say(sink, telling.exited(code)).await,
        Ended::TimedOut(limit) => say(sink, telling.saying(&timed_out(limit)).exited(TIMED_OUT)).await,
        Ended::Failed(reason) => {
            say(sink, telling.failed(&reason)).await;
            return Err(reason);
        }
    }
    Ok(())
}

async fn say(sink: &Sink, answer: ExecAnswer) {
    sink.reply_of(1, reply::Reply::Exec(answer)).await;
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}
