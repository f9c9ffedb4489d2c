//! A command on the host itself: a process that leads a session of its own, so that all of it can be killed.
//!
//! It runs as the agent does, in `/`, with the agent's environment. It has ended when its first process has: what that
//! left in the background on purpose goes on, as after a remote login. Dropping it before that kills its session; only a
//! process that made a session of its own escapes.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};

use fleet_proto::v1::ExecTask;
use fleet_vm::{ExecEvent, Session};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout};
use tokio::time::{Duration, sleep};

use super::Command;
use super::record::Record;

/// Output that is read at once.
const PIECE: usize = 16 * 1024;
/// What both pipes can hold when the command has ended: 64 KiB each, as pipe(7) has it. What comes later is of somebody
/// whom it left in the background.
const LEFT: usize = 128 * 1024;
/// How long a pipe that such a one holds open may be silent before nothing more is expected.
const GRACE: Duration = Duration::from_millis(100);

/// A command that runs on this host.
pub struct HostCommand {
    child: Child,
    /// None: nothing is to be killed any more.
    session: Option<Session>,
    record: Option<Record>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    /// Hands it its input; none: that is done.
    feeding: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    exited: Option<i32>,
    /// Bytes that may still be in the pipes, once it has ended.
    left: usize,
}

impl HostCommand {
    /// Starts it.
    ///
    /// # Errors
    /// In words that many hosts can share.
    pub fn start(task: &ExecTask, run_dir: &Path) -> Result<Self, String> {
        let (program, arguments) = task.argv.split_first().ok_or("no command was named")?;
        let mut command = tokio::process::Command::new(program);
        command.args(arguments).current_dir("/").stdout(Stdio::piped()).stderr(Stdio::piped());
        command.stdin(if task.stdin.is_empty() { Stdio::null() } else { Stdio::piped() });
        for setting in &task.env {
            let (key, value) =
                setting.split_once('=').ok_or_else(|| format!("`{setting}` sets nothing; write NAME=VALUE"))?;
            command.env(key, value);
        }
        // SAFETY: setsid(2) may be called between fork and exec, and allocates nothing.
        unsafe { command.pre_exec(|| Ok(nix::unistd::setsid().map(drop)?)) };
        let mut child = command.spawn().map_err(|error| format!("cannot run `{program}`: {error}"))?;
        let session = pid_of(&child).and_then(|pid| Session::led_by(pid.as_raw()).ok());
        let record = session.map(|session| Record::write(run_dir, session)).and_then(|written| {
            let warn =
                |error: &std::io::Error| tracing::warn!(%error, "a command runs that the next agent would not find");
            written.inspect_err(warn).ok()
        });
        let stdin = child.stdin.take().map(|pipe| feed(pipe, task.stdin.clone()));
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        Ok(Self { child, session, record, stdout, stderr, feeding: stdin, exited: None, left: LEFT })
    }

    /// Kills it and all that it started, and waits until they are gone. Nothing happens to what has ended.
    pub async fn kill(mut self) {
        self.kill_group();
        if let Some(session) = self.session.filter(|_| self.exited.is_none()) {
            end(session, None).await;
        }
        // Not before: when this is dropped, the rest of it is done as for one that was dropped.
        self.session = None;
    }

    /// Its process group; its number is its own as long as it was not waited for.
    fn kill_group(&self) {
        if self.exited.is_none()
            && let Some(pid) = pid_of(&self.child)
        {
            // It can only have ended meanwhile.
            let _ = killpg(pid, Signal::SIGKILL);
        }
    }
}

impl Drop for HostCommand {
    fn drop(&mut self) {
        self.kill_group();
        let session = self.session.filter(|_| self.exited.is_none());
        let Some(session) = session else { return };
        // Now, as the agent may be about to end.
        session.kill();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // What was being made meanwhile. Has a deadline of its own.
            runtime.spawn(end(session, self.record.take()));
        }
    }
}

async fn end(session: Session, _record: Option<Record>) {
    if let Err(error) = session.end().await {
        tracing::warn!(%error, "a command that was to be killed is still there");
    }
}

impl Command for HostCommand {
    async fn next(&mut self) -> Result<ExecEvent, String> {
        let Self { child, stdout, stderr, feeding, exited, left, .. } = self;
        loop {
            let over = (stdout.is_none() && stderr.is_none()) || *left == 0;
            if let Some(code) = exited.filter(|_| over) {
                return Ok(ExecEvent::Exited(code));
            }
            let event = tokio::select! {
                piece = piece(stdout) => piece.map(ExecEvent::Stdout),
                piece = piece(stderr) => piece.map(ExecEvent::Stderr),
                () = fed(feeding) => {
                    *feeding = None;
                    None
                }
                status = child.wait(), if exited.is_none() => {
                    *exited = Some(code_of(status.map_err(|error| format!("cannot wait for it: {error}"))?));
                    None
                }
                () = sleep(GRACE), if exited.is_some() => {
                    (*stdout, *stderr) = (None, None);
                    None
                }
            };
            if let Some(event) = event {
                if let (Some(_), ExecEvent::Stdout(data) | ExecEvent::Stderr(data)) = (&exited, &event) {
                    *left = left.saturating_sub(data.len());
                }
                return Ok(event);
            }
        }
    }
}

/// The process id while it was not waited for.
fn pid_of(child: &Child) -> Option<Pid> {
    child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw)
}

/// 128 + n when signal n ended it, as shells have it.
fn code_of(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
}

fn feed(mut pipe: ChildStdin, input: Vec<u8>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        // A command that does not read to the end is no error. Dropping the pipe ends its input.
        drop(pipe.write_all(&input).await);
    })
}

async fn fed(feeding: &mut Option<Pin<Box<dyn Future<Output = ()> + Send>>>) {
    match feeding {
        Some(feeding) => feeding.await,
        None => std::future::pending().await,
    }
}

/// What comes from a pipe; none at its end, after which it is none itself.
async fn piece(pipe: &mut Option<impl AsyncRead + Unpin>) -> Option<Vec<u8>> {
    let Some(reader) = pipe else { return std::future::pending().await };
    let mut data = vec![0; PIECE];
    match reader.read(&mut data).await {
        Ok(read) if read > 0 => {
            data.truncate(read);
            Some(data)
        }
        _ => {
            *pipe = None;
            None
        }
    }
}
