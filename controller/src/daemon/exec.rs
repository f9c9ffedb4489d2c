//! One command in one guest or in many: a session with the agent for each, bounded in number, their answers marked
//! with the guest's name.

use std::sync::Arc;

use fleet_proto::v1::session_output::Output;
use fleet_proto::v1::{ExecInput, ExecOpen, SessionInput, SessionOpen, SessionOutput, exec_input, session_input};
use futures::StreamExt;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::agents::Agents;
use super::service::Shared;
use super::targets::Target;

/// Sessions at once.
const CONCURRENCY: usize = 64;
/// Messages that wait for a slow caller, and for a slow guest.
const QUEUE: usize = 32;

/// What the caller gets.
pub type Answers = ReceiverStream<Result<SessionOutput, Status>>;

/// Runs a command in the guests of a target.
pub fn run(shared: &Shared, target: Target, open: ExecOpen, input: Streaming<ExecInput>) -> Answers {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let agents = shared.agents.clone();
    let names = shared.fleet.with_hosts(&target);
    tokio::spawn(async move {
        for (name, _) in &names {
            // Says who will answer, so that the caller knows before the first output.
            if sender.send(Ok(SessionOutput { output: None, vm: name.clone() })).await.is_err() {
                return;
            }
        }
        // A caller that goes away ends every session: dropping their streams ends the commands.
        tokio::select! {
            () = sender.closed() => {}
            () = run_all(&agents, &target.experiment, names, open, input, &sender) => {}
        }
    });
    ReceiverStream::new(receiver)
}

async fn run_all(
    agents: &Agents,
    experiment: &str,
    names: Vec<(String, Option<String>)>,
    open: ExecOpen,
    mut input: Streaming<ExecInput>,
    sender: &mpsc::Sender<Result<SessionOutput, Status>>,
) {
    let single = names.len() == 1;
    let permits = Arc::new(Semaphore::new(CONCURRENCY));
    let sessions = futures::stream::iter(names).map(|(vm, host)| {
        let (to_guest, from_caller) = mpsc::channel(QUEUE);
        let open = SessionOpen {
            experiment: experiment.to_owned(),
            vm: vm.clone(),
            argv: open.argv.clone(),
            env: open.env.clone(),
            tty: if single { open.tty } else { None },
            timeout_ms: open.timeout_ms,
        };
        let permits = Arc::clone(&permits);
        let agents = agents.clone();
        let sender = sender.clone();
        let task = async move {
            let _permit = permits.acquire().await;
            let opening = SessionInput { input: Some(session_input::Input::Open(open)) };
            let inputs = futures::stream::iter([opening]).chain(ReceiverStream::new(from_caller));
            if let Err(status) = one(&agents, host.as_deref(), inputs, &vm, &sender).await {
                let output = Some(Output::Failed(status.message().to_owned()));
                drop(sender.send(Ok(SessionOutput { output, vm })).await);
            }
        };
        (to_guest, task)
    });
    let (to_guests, tasks): (Vec<_>, Vec<_>) = sessions.unzip::<_, _, Vec<_>, Vec<_>>().await;
    let forward = async move {
        if !single {
            // Standard input goes to one guest only: the others see its end at once.
            for to_guest in &to_guests {
                drop(to_guest.send(SessionInput { input: Some(session_input::Input::StdinClosed(true)) }).await);
            }
        }
        while let Ok(Some(ExecInput { input: Some(input) })) = input.message().await {
            let input = match input {
                exec_input::Input::Open(_) => continue,
                exec_input::Input::Stdin(data) => session_input::Input::Stdin(data),
                exec_input::Input::StdinClosed(closed) => session_input::Input::StdinClosed(closed),
                exec_input::Input::Resize(size) => session_input::Input::Resize(size),
                exec_input::Input::Signal(signal) => session_input::Input::Signal(signal),
            };
            let Some(to_guest) = to_guests.first().filter(|_| single) else { continue };
            if to_guest.send(SessionInput { input: Some(input) }).await.is_err() {
                break;
            }
        }
        // Keeps the sessions' inputs open until the answers are complete.
        futures::future::pending::<()>().await;
        drop(to_guests);
    };
    tokio::select! {
        () = forward => {}
        _ = futures::future::join_all(tasks) => {}
    }
}

/// One session: its outputs go to the caller under the guest's name.
async fn one(
    agents: &Agents,
    host: Option<&str>,
    inputs: impl futures::Stream<Item = SessionInput> + Send + 'static,
    vm: &str,
    sender: &mpsc::Sender<Result<SessionOutput, Status>>,
) -> Result<(), Status> {
    let host = host.ok_or_else(|| Status::failed_precondition("it has no host yet"))?;
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
