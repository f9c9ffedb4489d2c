//! `fleet exec`, `fleet console`, `fleet logs`: talking to guests.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::AsRawFd;

use clap::Args;
use fleet_proto::v1::session_output::Output;
use fleet_proto::v1::{
    ExecInput, ExecOpen, LogsRequest, SessionInput, SessionOpen, SessionOutput, exec_input, session_input,
};
use fleet_tree::{NameSet, Style};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::connect::{self, Start};
use super::session::{self, RawTerminal};
use super::{Context, Exit, Failure, output};

/// Messages that may wait on their way to the controller.
const QUEUE: usize = 32;
/// Output that is kept of one VM while many answer; the rest is cut, and said so.
const KEPT: usize = 1 << 20;
/// The key that leaves a console: ctrl-], as in telnet and virsh.
const LEAVE: u8 = 0x1d;

#[derive(Args, Debug)]
pub struct ExecArgs {
    /// Which VMs: alice, hello.web[0..10], web[*]; with --hosts which hosts: h1, h[1-3], *
    pub target: String,
    /// Run it on hosts instead of in guests
    #[arg(long)]
    pub hosts: bool,
    /// Give the command this program's standard input (1 MiB at most when there are many)
    #[arg(long, short)]
    pub interactive: bool,
    /// Run the command on a terminal (one VM only)
    #[arg(long, short)]
    pub tty: bool,
    /// Print lines as they come, each behind its VM's name, instead of folding alike answers
    #[arg(long)]
    pub stream: bool,
    /// Give up after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 0, hide_default_value = true)]
    pub timeout: u32,
    /// Set a variable in the command's environment
    #[arg(long, short, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
}

#[derive(Args, Debug)]
pub struct ConsoleArgs {
    /// Which VM
    pub vm: String,
}

#[derive(Args, Debug)]
pub struct LogsArgs {
    /// Which VM
    pub vm: String,
    /// Only the last so many lines
    #[arg(long, short = 'n', value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub lines: u32,
    /// Go on with what comes
    #[arg(long, short)]
    pub follow: bool,
}

pub async fn exec(context: &Context, args: ExecArgs) -> Result<Exit, Failure> {
    let mut client = connect::connect(context, Start::IfUp).await?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    let tty = if args.tty { session::window_size(std::io::stdin().as_raw_fd()) } else { None };
    if args.tty && tty.is_none() {
        return Err(Failure::usage("`--tty` needs a terminal as standard input").help("leave `--tty` out"));
    }
    let open = ExecOpen {
        target: args.target.clone(),
        argv: args.command,
        env: args.env,
        tty,
        timeout_ms: args.timeout.saturating_mul(1000),
        hosts: args.hosts,
    };
    send(&sender, exec_input::Input::Open(open)).await;
    let stream = client.exec(ReceiverStream::new(receiver)).await?.into_inner();
    let _raw = if tty.is_some() { RawTerminal::enter() } else { None };
    let pump = tokio::spawn(pump_exec(sender, args.interactive || args.tty));
    let result = receive(context, stream, args.stream, args.hosts).await;
    pump.abort();
    result
}

async fn send(sender: &mpsc::Sender<ExecInput>, input: exec_input::Input) -> bool {
    sender.send(ExecInput { input: Some(input) }).await.is_ok()
}

/// Standard input and changes of the window, until the command ends.
async fn pump_exec(sender: mpsc::Sender<ExecInput>, interactive: bool) {
    if !interactive {
        send(&sender, exec_input::Input::StdinClosed(true)).await;
        // The sender stays: its end would mean that the user went away.
        return std::future::pending().await;
    }
    let mut stdin = session::stdin();
    let Ok(mut resized) = signal(SignalKind::window_change()) else { return };
    loop {
        let input = tokio::select! {
            piece = stdin.recv() => match piece {
                Some(piece) if !piece.is_empty() => exec_input::Input::Stdin(piece),
                _ => break,
            },
            _ = resized.recv() => match session::window_size(std::io::stdin().as_raw_fd()) {
                Some(size) => exec_input::Input::Resize(size),
                None => continue,
            },
        };
        if !send(&sender, input).await {
            return;
        }
    }
    send(&sender, exec_input::Input::StdinClosed(true)).await;
    std::future::pending().await
}

/// What one VM answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Answer {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    cut: bool,
    code: Option<i32>,
    failed: String,
}

/// Takes the answers: one VM's as they come, those of many folded, or line by line.
async fn receive(
    context: &Context,
    mut stream: Streaming<SessionOutput>,
    by_line: bool,
    on_hosts: bool,
) -> Result<Exit, Failure> {
    let mut answers: BTreeMap<String, Answer> = BTreeMap::new();
    let mut single = None;
    while let Some(message) = stream.message().await? {
        // The first message names all that will answer; what is alike comes once, with all names.
        let Some(part) = message.output else {
            answers = names(&message.vm, on_hosts).map(|name| (name, Answer::default())).collect();
            single = Some(answers.len() == 1);
            continue;
        };
        let direct = !context.json && single == Some(true);
        for name in names(&message.vm, on_hosts) {
            let answer = answers.entry(name.clone()).or_default();
            take(answer, &part, direct);
            if by_line && !direct && !context.json {
                print_lines(&name, answer);
            }
        }
    }
    finish(context, answers, by_line)
}

/// The names in folded text.
fn names(folded: &str, on_hosts: bool) -> impl Iterator<Item = String> {
    let style = if on_hosts { Style::Hosts } else { Style::Guests };
    NameSet::parse(style, folded).iter().collect::<Vec<_>>().into_iter()
}

fn take(answer: &mut Answer, part: &Output, direct: bool) {
    match part {
        Output::Stdout(data) if direct => write_all(&mut std::io::stdout(), data),
        Output::Stderr(data) if direct => write_all(&mut std::io::stderr(), data),
        Output::Stdout(data) => keep(&mut answer.stdout, data, &mut answer.cut),
        Output::Stderr(data) => keep(&mut answer.stderr, data, &mut answer.cut),
        Output::Exited(status) => answer.code = Some(status.code),
        Output::Failed(reason) => answer.failed.clone_from(reason),
    }
}

fn finish(context: &Context, answers: BTreeMap<String, Answer>, by_line: bool) -> Result<Exit, Failure> {
    if context.json {
        output::json(&answers_json(&answers));
    } else if answers.len() == 1 {
        if let Some((vm, answer)) = answers.iter().next()
            && !answer.failed.is_empty()
        {
            return Err(Failure::from_words(Exit::Partial, &format!("{vm}: {}", answer.failed)));
        }
    } else {
        print_folded(&answers, by_line);
    }
    let codes: Vec<_> = answers.values().map(|answer| answer.code).collect();
    Ok(match codes.as_slice() {
        [Some(code)] => match u8::try_from(*code) {
            Ok(0) => Exit::Ok,
            Ok(code) => Exit::Guest(code),
            Err(_) => Exit::Partial,
        },
        codes if codes.iter().all(|code| *code == Some(0)) => Exit::Ok,
        _ => Exit::Partial,
    })
}

fn keep(kept: &mut Vec<u8>, data: &[u8], cut: &mut bool) {
    let room = KEPT.saturating_sub(kept.len());
    *cut |= data.len() > room;
    kept.extend_from_slice(&data[..data.len().min(room)]);
}

fn write_all(stream: &mut impl Write, data: &[u8]) {
    if stream.write_all(data).and_then(|()| stream.flush()).is_err() {
        std::process::exit(141); // 128 + SIGPIPE
    }
}

/// Prints the whole lines of an answer and keeps the rest.
fn print_lines(vm: &str, answer: &mut Answer) {
    let ended = answer.code.is_some() || !answer.failed.is_empty();
    for buffer in [&mut answer.stdout, &mut answer.stderr] {
        let whole =
            if ended { buffer.len() } else { buffer.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1) };
        let lines: Vec<u8> = buffer.drain(..whole).collect();
        for line in String::from_utf8_lossy(&lines).lines() {
            output::print(&format!("{vm}: {line}\n"));
        }
    }
}

/// Prints each different answer once, under the names of those who gave it (like `clush -b`).
fn print_folded(answers: &BTreeMap<String, Answer>, by_line: bool) {
    let mut folds: BTreeMap<&Answer, Vec<&str>> = BTreeMap::new();
    for (vm, answer) in answers {
        folds.entry(answer).or_default().push(vm);
    }
    let mut folds: Vec<_> = folds.into_iter().collect();
    folds.sort_by_key(|(_, vms)| (std::cmp::Reverse(vms.len()), vms.first().map(|vm| natural(vm))));
    for (answer, vms) in folds {
        let code = match answer.code {
            _ if !answer.failed.is_empty() => format!(" failed: {}", answer.failed),
            Some(0) if by_line => continue,
            Some(0) => String::new(),
            Some(code) => format!(" exit {code}"),
            None => " did not say how it ended".to_owned(),
        };
        output::print(&format!("{} ({}){code}\n", fleet_agent::fold_names(vms.iter().copied()), vms.len()));
        for (bytes, mark) in [(&answer.stdout, "  "), (&answer.stderr, "! ")] {
            for line in String::from_utf8_lossy(bytes).lines() {
                output::print(&format!("{mark}{line}\n"));
            }
        }
        if answer.cut {
            output::print(&format!("  … cut after {}\n", output::bytes(KEPT as u64)));
        }
    }
}

/// Sorts web[2] before web[10].
fn natural(vm: &str) -> (&str, u32) {
    let indexed = vm.strip_suffix(']').and_then(|vm| vm.rsplit_once('['));
    indexed.and_then(|(group, index)| Some((group, index.parse().ok()?))).unwrap_or((vm, 0))
}

fn answers_json(answers: &BTreeMap<String, Answer>) -> serde_json::Value {
    let answers: Vec<_> = answers
        .iter()
        .map(|(vm, answer)| {
            serde_json::json!({
                "vm": vm, "code": answer.code, "failed": answer.failed, "cut": answer.cut,
                "stdout": String::from_utf8_lossy(&answer.stdout), "stderr": String::from_utf8_lossy(&answer.stderr),
            })
        })
        .collect();
    serde_json::json!({ "answers": answers })
}

pub async fn console(context: &Context, args: &ConsoleArgs) -> Result<Exit, Failure> {
    let mut client = connect::connect(context, Start::IfUp).await?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    let open = SessionOpen { vm: args.vm.clone(), ..SessionOpen::default() };
    // The queue is new and empty.
    drop(sender.try_send(SessionInput { input: Some(session_input::Input::Open(open)) }));
    let mut stream = client.console(ReceiverStream::new(receiver)).await?.into_inner();
    eprintln!("fleet: console of {}; press enter for a shell, ctrl-] to leave", args.vm);
    let raw = RawTerminal::enter();
    let mut stdin = session::stdin();
    let mut listening = true;
    loop {
        tokio::select! {
            piece = stdin.recv(), if listening => {
                let piece = piece.unwrap_or_default();
                let left = raw.is_some().then(|| piece.iter().position(|byte| *byte == LEAVE)).flatten();
                let (send, end) = match left {
                    Some(at) => (piece[..at].to_vec(), true),
                    None => (piece, false),
                };
                listening = !send.is_empty();
                let input = SessionInput { input: Some(session_input::Input::Stdin(send)) };
                if (listening && sender.send(input).await.is_err()) || end {
                    break;
                }
            }
            message = stream.message() => match message?.and_then(|message| message.output) {
                Some(Output::Stdout(data) | Output::Stderr(data)) => write_all(&mut std::io::stdout(), &data),
                Some(Output::Failed(reason)) => {
                    drop(raw);
                    return Err(Failure::new(Exit::Partial, format!("{}: {reason}", args.vm)));
                }
                Some(Output::Exited(_)) | None => break,
            },
        }
    }
    drop(raw);
    eprintln!();
    Ok(Exit::Ok)
}

pub async fn logs(context: &Context, args: &LogsArgs) -> Result<Exit, Failure> {
    let mut client = connect::connect(context, Start::IfUp).await?;
    let request =
        LogsRequest { experiment: String::new(), vm: args.vm.clone(), lines: args.lines, follow: args.follow };
    let mut stream = client.logs(request).await?.into_inner();
    let mut text = Vec::new();
    while let Some(chunk) = stream.message().await? {
        if context.json {
            text.extend_from_slice(&chunk.data);
        } else {
            write_all(&mut std::io::stdout(), &chunk.data);
        }
    }
    if context.json {
        let lines: Vec<_> = String::from_utf8_lossy(&text).lines().map(str::to_owned).collect();
        output::json(&serde_json::json!({ "vm": args.vm, "lines": lines }));
    }
    Ok(Exit::Ok)
}
