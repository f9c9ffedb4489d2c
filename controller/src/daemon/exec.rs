//! One command in one guest, in many, or on hosts. One guest has a session with its agent: input, a terminal, signals. Many
//! are a wave, whose equal answers arrive folded.

use std::collections::HashSet;
use std::sync::Arc;

use fleet_core::host_ends_of;
use fleet_proto::v1::session_output::Output;
use fleet_proto::v1::{
    ExecAnswer, ExecInput, ExecOpen, ExitStatus, Outcome, Reply, SessionInput, SessionOpen, SessionOutput, exec_input,
    reply, session_input,
};
use fleet_tree::{NameSet, Style, fold_names};
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::agents::Agents;
use super::fleet::{Fleet, On, Word};

/// Messages that wait for a slow caller, and for a slow guest.
const QUEUE: usize = 32;
/// Input that many get: as much as an [`fleet_proto::v1::ExecTask`] holds.
const MOST_INPUT: usize = 1 << 20;

/// What the caller gets.
pub type Answers = ReceiverStream<Result<SessionOutput, Status>>;

type Sender = mpsc::Sender<Result<SessionOutput, Status>>;

/// Runs a command where the caller says.
///
/// # Errors
/// When there is nothing of that name.
pub fn run(
    fleet: &Arc<Fleet>,
    agents: &Agents,
    open: ExecOpen,
    input: Streaming<ExecInput>,
) -> Result<Answers, Status> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let on =
        if open.hosts { On::Hosts(fleet.named_hosts(&open.target)?) } else { On::Guests(fleet.resolve(&open.target)?) };
    let names: Vec<(String, Option<String>)> = match &on {
        On::Guests(target) => fleet.with_hosts(target),
        On::Hosts(members) => members.iter().map(|member| (member.name.clone(), Some(member.name.clone()))).collect(),
    };
    let (fleet, agents) = (Arc::clone(fleet), agents.clone());
    tokio::spawn(async move {
        // Says who will answer, so that the caller knows before the first output.
        let all = fold_names(names.iter().map(|(name, _)| name.as_str()));
        if sender.send(Ok(SessionOutput { output: None, vm: all })).await.is_err() {
            return;
        }
        let work = async {
            match (names.as_slice(), &on) {
                ([(vm, host)], On::Guests(target)) => {
                    let experiment = target.experiment.clone();
                    if let Err(status) = one(&agents, host.as_deref(), (experiment, vm), open, input, &sender).await {
                        say(&sender, vm, Output::Failed(status.message().to_owned())).await;
                    }
                }
                _ => many(&fleet, &on, names, open, input, &sender).await,
            }
        };
        // A caller that goes away ends it: dropping its stream, or its wave, ends the command.
        tokio::select! {
            () = sender.closed() => {}
            () = work => {}
        }
    });
    Ok(ReceiverStream::new(receiver))
}

async fn say(sender: &Sender, vm: &str, output: Output) {
    drop(sender.send(Ok(SessionOutput { output: Some(output), vm: vm.to_owned() })).await);
}

/// A session with one guest.
async fn one(
    agents: &Agents,
    host: Option<&str>,
    (experiment, vm): (String, &str),
    open: ExecOpen,
    input: Streaming<ExecInput>,
    sender: &Sender,
) -> Result<(), Status> {
    let host = host.ok_or_else(|| Status::failed_precondition("it has no host yet"))?;
    let open = SessionOpen {
        experiment,
        vm: vm.to_owned(),
        argv: open.argv,
        env: open.env,
        tty: open.tty,
        timeout_ms: open.timeout_ms,
    };
    let opening = SessionInput { input: Some(session_input::Input::Open(open)) };
    let rest = input.filter_map(|message| {
        let input = match message.ok().and_then(|message| message.input) {
            Some(exec_input::Input::Stdin(data)) => Some(session_input::Input::Stdin(data)),
            Some(exec_input::Input::StdinClosed(closed)) => Some(session_input::Input::StdinClosed(closed)),
            Some(exec_input::Input::Resize(size)) => Some(session_input::Input::Resize(size)),
            Some(exec_input::Input::Signal(signal)) => Some(session_input::Input::Signal(signal)),
            Some(exec_input::Input::Open(_)) | None => None,
        };
        std::future::ready(input.map(|input| SessionInput { input: Some(input) }))
    });
    // The input stays open until the answers are complete, whatever the caller does with its own.
    let inputs = futures::stream::iter([opening]).chain(rest).chain(futures::stream::pending());
    let mut outputs = agents.client(host).await?.exec(inputs).await?.into_inner();
    while let Some(mut message) = outputs.message().await? {
        message.vm = vm.to_owned();
        let last = matches!(message.output, Some(Output::Exited(_) | Output::Failed(_)));
        if sender.send(Ok(message)).await.is_err() || last {
            return Ok(());
        }
    }
    Err(Status::unavailable("the agent ended the session before the command ended"))
}

/// A wave to many. Everybody who was named gets an end: what nobody answered for is failed with the reason.
async fn many(
    fleet: &Fleet,
    on: &On,
    names: Vec<(String, Option<String>)>,
    open: ExecOpen,
    input: Streaming<ExecInput>,
    sender: &Sender,
) {
    let stdin = match whole_input(input).await {
        Ok(stdin) => stdin,
        Err(status) => return drop(sender.send(Err(status)).await),
    };
    let mut open_still: HashSet<String> = names.iter().map(|(name, _)| name.clone()).collect();
    let mut sent = fleet.command(on, open, stdin);
    while let Some(word) = sent.next().await {
        let Word::Reply(Reply { hosts, reply: Some(reply::Reply::Exec(answer)), .. }) = word else { continue };
        let (style, who) = match on {
            On::Guests(_) => (Style::Guests, answer.guests.clone()),
            On::Hosts(_) => (Style::Hosts, hosts),
        };
        let ended = answer.ended;
        for output in outputs(answer) {
            say(sender, &who, output).await;
        }
        if ended {
            let who: HashSet<String> = NameSet::parse(style, &who).iter().collect();
            open_still.retain(|name| !who.contains(name));
        }
    }
    let end = sent.end();
    let hosts: HashSet<&str> = names.iter().filter_map(|(_, host)| host.as_deref()).collect();
    let ends = host_ends_of(hosts, &end);
    let why = |host: &Option<String>| {
        let Some(host) = host else { return "it has no host yet".to_owned() };
        let end = ends.iter().find(|end| end.outcome != Outcome::Ok && end.hosts.contains(host));
        end.map_or_else(|| format!("its host {host} does not answer"), |end| format!("{host}: {}", end.reason))
    };
    for (name, host) in names.iter().filter(|(name, _)| open_still.contains(name)) {
        say(sender, name, Output::Failed(why(host))).await;
    }
}

/// What the caller sends until it closes its input.
async fn whole_input(mut input: Streaming<ExecInput>) -> Result<Vec<u8>, Status> {
    let mut whole = Vec::new();
    while let Some(ExecInput { input: Some(part) }) = input.message().await? {
        match part {
            exec_input::Input::Stdin(data) => whole.extend_from_slice(&data),
            exec_input::Input::StdinClosed(_) => break,
            _ => {}
        }
        if whole.len() > MOST_INPUT {
            return Err(Status::invalid_argument(
                "many get 1 MiB of input at most\nhelp: copy it there with `fleet cp`, and read it from the file",
            ));
        }
    }
    Ok(whole)
}

fn outputs(answer: ExecAnswer) -> Vec<Output> {
    let ExecAnswer { stdout, stderr, ended, code, failed, .. } = answer;
    let mut outputs = Vec::new();
    if !stdout.is_empty() {
        outputs.push(Output::Stdout(stdout));
    }
    if !stderr.is_empty() {
        outputs.push(Output::Stderr(stderr));
    }
    match (ended, failed.is_empty()) {
        (true, true) => outputs.push(Output::Exited(ExitStatus { code })),
        (true, false) => outputs.push(Output::Failed(failed)),
        (false, _) => {}
    }
    outputs
}
