//! Byte streams between a caller and a guest: commands, consoles, logs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use fleet_proto::v1::session_input::Input;
use fleet_proto::v1::session_output::Output;
use fleet_proto::v1::{ExitStatus, LogsChunk, SessionInput, SessionOpen, SessionOutput};
use fleet_vm::{ConsoleSession, ControlError, ExecEvent, ExecInput, ExecSpec, Machine};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::experiment::Experiment;
use crate::slot::Slot;

/// Pieces that wait for a slow caller.
const QUEUE: usize = 32;
/// For a command to begin in a guest that runs.
pub const START_DEADLINE: Duration = Duration::from_secs(30);
/// For a guest whose session was lost to end, or to come back.
const END_DEADLINE: Duration = Duration::from_secs(10);
/// Of a console's recent output so much is shown first, in bytes.
const CONSOLE_TAIL: u64 = 4096;
/// Bytes of a log sent at once.
const LOG_PIECE: usize = 64 * 1024;
/// Exit code of a command that took too long, as timeout(1) gives it.
pub const TIMED_OUT: i32 = 124;

/// What a caller of a session gets.
pub type Outputs = ReceiverStream<Result<SessionOutput, Status>>;
/// What a reader of a log gets.
pub type Chunks = ReceiverStream<Result<LogsChunk, Status>>;

type Sender = mpsc::Sender<Result<SessionOutput, Status>>;

/// Takes the first message of a session.
///
/// # Errors
/// When it is not the one that opens it.
pub async fn opening(input: &mut Streaming<SessionInput>) -> Result<SessionOpen, Status> {
    match input.message().await? {
        Some(SessionInput { input: Some(Input::Open(open)) }) => Ok(open),
        _ => Err(Status::invalid_argument("the first message of a session must open it")),
    }
}

/// The machine of a VM that runs.
///
/// # Errors
/// When there is no such VM, or it has no process.
pub fn machine(experiment: &Experiment, vm: &str) -> Result<Machine, Status> {
    let slots = experiment.slots();
    let slot = slots.get(vm).ok_or_else(|| Status::not_found(format!("no VM `{vm}` on this host")))?;
    slot.machine().ok_or_else(|| {
        Status::failed_precondition(format!("`{vm}` is {}\nhelp: `fleet vm start {vm}` starts it", state_word(slot)))
    })
}

/// The state of a VM as a word.
pub fn state_word(slot: &Slot) -> String {
    slot.state().as_str_name().trim_start_matches("VM_STATE_").to_lowercase()
}

/// What a command that took too long says last, on its error output.
pub fn timed_out(limit: Duration) -> String {
    match limit.subsec_millis() {
        0 => format!("fleet: timed out after {} s\n", limit.as_secs()),
        _ => format!("fleet: timed out after {} ms\n", limit.as_millis()),
    }
}

async fn say(sender: &Sender, output: Output) -> bool {
    sender.send(Ok(SessionOutput { output: Some(output), vm: String::new() })).await.is_ok()
}

/// Runs a command. It ends with its caller.
pub fn exec(machine: Machine, open: SessionOpen, input: Streaming<SessionInput>) -> Outputs {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let limit = match open.timeout_ms {
            0 => Duration::MAX,
            ms => Duration::from_millis(ms.into()),
        };
        let last = tokio::select! {
            () = sender.closed() => return,
            last = tokio::time::timeout(limit, run(&machine, open, input, &sender)) => last,
        };
        let last = match last {
            Ok(last) => last,
            Err(_) => {
                say(&sender, Output::Stderr(timed_out(limit).into_bytes())).await;
                Ok(TIMED_OUT)
            }
        };
        let output = match last {
            Ok(code) => Output::Exited(ExitStatus { code }),
            Err(reason) => Output::Failed(reason),
        };
        say(&sender, output).await;
    });
    ReceiverStream::new(receiver)
}

/// Runs a command to its end and gives its exit code.
async fn run(
    machine: &Machine,
    open: SessionOpen,
    input: Streaming<SessionInput>,
    sender: &Sender,
) -> Result<i32, String> {
    let small = |of: u32| u16::try_from(of).unwrap_or(u16::MAX);
    let spec =
        ExecSpec { argv: open.argv, env: open.env, tty: open.tty.map(|size| (small(size.rows), small(size.columns))) };
    let mut session = machine.control().exec(spec, START_DEADLINE).await.map_err(|error| error.to_string())?;
    let feeding = feed(session.input(), input);
    tokio::pin!(feeding);
    let mut fed = false;
    loop {
        let event = tokio::select! {
            event = session.next() => match event {
                Ok(event) => event,
                Err(error) => return Err(cut_off(machine, error).await),
            },
            () = &mut feeding, if !fed => {
                fed = true;
                continue;
            }
        };
        let told = match event {
            ExecEvent::Stdout(data) => say(sender, Output::Stdout(data)).await,
            ExecEvent::Stderr(data) => say(sender, Output::Stderr(data)).await,
            ExecEvent::Exited(code) => return Ok(code),
        };
        if !told {
            return Err("the caller went away".into());
        }
    }
}

/// Why a command did not come to its end: mostly because its guest did.
pub async fn cut_off(machine: &Machine, error: ControlError) -> String {
    if !matches!(error, ControlError::Ended | ControlError::SessionLost) {
        return error.to_string();
    }
    let mut link = machine.control().link();
    let back = link.wait_for(|link| link.hello.is_some());
    tokio::select! {
        exit = machine.wait() => match exit.is_clean() {
            true => "the guest powered off before the command ended".into(),
            false => format!("the VM ended before the command: {exit}"),
        },
        // An error means that the VM ended, which the other branch tells.
        Ok(_) = back => "the guest started again before the command ended".into(),
        () = tokio::time::sleep(END_DEADLINE) => error.to_string(),
    }
}

/// Hands the caller's input to the command, until one of them has no more. The command's end is told elsewhere.
async fn feed(guest: ExecInput, mut input: Streaming<SessionInput>) {
    let small = |of: u32| u16::try_from(of).unwrap_or(u16::MAX);
    while let Ok(Some(SessionInput { input: Some(input) })) = input.message().await {
        let done = match input {
            Input::Open(_) => Ok(()),
            Input::Stdin(data) => guest.write(&data).await,
            Input::StdinClosed(_) => guest.close().await,
            Input::Resize(size) => guest.resize(small(size.rows), small(size.columns)).await,
            Input::Signal(signal) => guest.signal(signal).await,
        };
        if done.is_err() {
            return;
        }
    }
}

/// Joins a caller with a console until one of them goes.
pub fn console(console: ConsoleSession, input: Streaming<SessionInput>) -> Outputs {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let last = tokio::select! {
            () = sender.closed() => return,
            last = join(console, input, &sender) => last,
        };
        let output = match last {
            Ok(()) => Output::Exited(ExitStatus { code: 0 }),
            Err(reason) => Output::Failed(reason),
        };
        say(&sender, output).await;
    });
    ReceiverStream::new(receiver)
}

async fn join(mut console: ConsoleSession, mut input: Streaming<SessionInput>, sender: &Sender) -> Result<(), String> {
    let mut listening = true;
    loop {
        tokio::select! {
            output = console.next() => match output.map_err(|error| error.to_string())? {
                Some(data) => {
                    if !say(sender, Output::Stdout(data)).await {
                        return Ok(());
                    }
                }
                None => return Ok(()), // the VM ended
            },
            message = input.message(), if listening => match message {
                Ok(Some(SessionInput { input: Some(Input::Stdin(data)) })) => {
                    console.write(&data).await.map_err(|error| error.to_string())?;
                }
                Ok(Some(_)) => {}
                // The caller has no more to say, and may still want to see.
                Ok(None) | Err(_) => listening = false,
            },
        }
    }
}

/// How much of a console is shown at first.
pub fn console_tail() -> u64 {
    CONSOLE_TAIL
}

/// Sends a VM's console log: the last lines, or all that is kept; with `follow`, what comes as well.
pub fn logs(log: PathBuf, lines: u32, machine: Option<Machine>, follow: bool) -> Chunks {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        if let Err(error) = send_log(&log, lines, &sender).await {
            drop(sender.send(Err(Status::not_found(format!("cannot read {}: {error}", log.display())))).await);
            return;
        }
        let Some(machine) = machine.filter(|_| follow) else { return };
        let mut console = match machine.console(0).await {
            Ok(console) => console,
            Err(error) => return drop(sender.send(Err(Status::failed_precondition(error.to_string()))).await),
        };
        loop {
            let next = tokio::select! {
                () = sender.closed() => return,
                next = console.next() => next,
            };
            let Ok(Some(data)) = next else { return };
            if sender.send(Ok(LogsChunk { data })).await.is_err() {
                return;
            }
        }
    });
    ReceiverStream::new(receiver)
}

async fn send_log(log: &Path, lines: u32, sender: &mpsc::Sender<Result<LogsChunk, Status>>) -> std::io::Result<()> {
    let text = tokio::fs::read(log).await?;
    // What was trimmed is a hole at the beginning, which reads as zeroes.
    let begin = text.iter().position(|byte| *byte != 0).unwrap_or(text.len());
    let text = last_lines(&text[begin..], lines as usize);
    for piece in text.chunks(LOG_PIECE) {
        if sender.send(Ok(LogsChunk { data: piece.to_vec() })).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// The last so many lines; all of them for 0.
fn last_lines(text: &[u8], lines: usize) -> &[u8] {
    if lines == 0 {
        return text;
    }
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    let mut ends = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    match ends.nth(lines - 1) {
        Some((at, _)) => &text[at + 1..],
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::last_lines;

    #[test]
    fn the_last_lines_are_whole_lines() {
        assert_eq!(last_lines(b"a\nb\nc\n", 2), b"b\nc\n");
        assert_eq!(last_lines(b"a\nb\nc", 1), b"c");
        assert_eq!(last_lines(b"a\n", 5), b"a\n");
        assert_eq!(last_lines(b"", 3), b"");
        assert_eq!(last_lines(b"a\nb\n", 0), b"a\nb\n");
    }
}
