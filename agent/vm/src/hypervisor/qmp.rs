//! QEMU's monitor protocol: JSON objects, one a line. QEMU greets, the client says `qmp_capabilities`, then each command
//! is answered by `return` or `error`; events come in between. A connection is made for one conversation: the monitor
//! serves one client at a time, and a held connection would keep everyone else out. Conversations with one monitor take
//! turns here: QEMU would obey what a client has said that waited for its greeting, was given up and has gone.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde_json::{Value, json};
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::error::VmError;

/// Longest line taken; answers to the commands used here are far shorter.
const MAX_LINE: u64 = 1 << 20;

/// Whose turn it is at the monitors that are talked to now, by their paths.
static TURNS: LazyLock<Mutex<HashMap<PathBuf, Weak<tokio::sync::Mutex<()>>>>> = LazyLock::new(Mutex::default);

/// The turn at a monitor.
fn turn(path: &Path) -> Arc<tokio::sync::Mutex<()>> {
    let mut turns = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(turn) = turns.get(path).and_then(Weak::upgrade) {
        return turn;
    }
    turns.retain(|_, turn| turn.strong_count() > 0);
    let turn = Arc::default();
    turns.insert(path.to_owned(), Arc::downgrade(&turn));
    turn
}

/// Connects, runs one command without arguments and gives its `return`.
///
/// # Errors
/// When the monitor does not answer within the deadline, or refuses.
pub(super) async fn run(path: &Path, command: &str, deadline: Duration) -> Result<Value, VmError> {
    converse(path, command, deadline, async |qmp| qmp.execute(command, None).await).await
}

/// Connects and has one conversation, called `what` in errors.
///
/// # Errors
/// When it does not come to its end within the deadline, or the monitor refuses.
pub(super) async fn converse<T>(
    path: &Path,
    what: &str,
    deadline: Duration,
    talk: impl AsyncFnOnce(&mut Qmp) -> Result<T, QmpError>,
) -> Result<T, VmError> {
    let turn = turn(path);
    let conversation = async {
        let _turn = turn.lock().await;
        let mut qmp = Qmp::connect(path).await?;
        talk(&mut qmp).await
    };
    timeout(deadline, conversation)
        .await
        .map_err(|_| VmError::Deadline { doing: format!("\"{what}\" to {}", path.display()), deadline })?
        .map_err(|error| VmError::Monitor {
            vm: path.display().to_string(),
            command: what.to_owned(),
            problem: error.to_string(),
        })
}

/// What goes wrong in a conversation.
#[derive(Debug, Error)]
pub(super) enum QmpError {
    /// The stream broke, or what came is no JSON.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The monitor said no, in its words.
    #[error("{0}")]
    Refused(String),
}

/// One conversation with a monitor.
pub(super) struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects and says `qmp_capabilities`, without waiting for greeting and answer: the monitor obeys in order.
    async fn connect(path: &Path) -> Result<Qmp, QmpError> {
        let mut qmp = Qmp { stream: BufReader::new(UnixStream::connect(path).await?) };
        qmp.send("qmp_capabilities", None).await?;
        let greeting = qmp.read().await?;
        if greeting.get("QMP").is_none() {
            let problem = format!("no greeting but {greeting}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem).into());
        }
        qmp.answer().await?;
        Ok(qmp)
    }

    /// Sends a command and waits for its answer; events in between are passed over.
    pub(super) async fn execute(&mut self, command: &str, arguments: Option<Value>) -> Result<Value, QmpError> {
        self.send(command, arguments).await?;
        self.answer().await
    }

    /// Sends a command. Its answer has to be taken by [`Qmp::answer`], in the order of the commands.
    pub(super) async fn send(&mut self, command: &str, arguments: Option<Value>) -> Result<(), QmpError> {
        Ok(self.stream.write_all(&line(command, arguments)).await?)
    }

    /// Sends a command and waits for its answer and for an event that `wanted` takes, whichever is first.
    pub(super) async fn execute_until(
        &mut self,
        command: &str,
        arguments: Option<Value>,
        wanted: impl Fn(&str, &Value) -> bool,
    ) -> Result<(), QmpError> {
        self.send(command, arguments).await?;
        let (mut answered, mut seen) = (false, false);
        while !(answered && seen) {
            let said = self.read().await?;
            refuse(&said)?;
            let name = said.get("event").and_then(Value::as_str).unwrap_or_default();
            answered |= said.get("return").is_some();
            seen |= wanted(name, said.get("data").unwrap_or(&Value::Null));
        }
        Ok(())
    }

    /// Gives the monitor a descriptor under a name (`getfd`).
    pub(super) async fn give(&mut self, fd: impl AsFd, name: &str) -> Result<(), QmpError> {
        self.send_with("getfd", json!({ "fdname": name }), fd).await.map(|_| ())
    }

    /// Gives the monitor a descriptor that QEMU opens as `/dev/fdset/N` (`add-fd`); gives N. `note` is what
    /// `query-fdsets` says of it.
    pub(super) async fn add_fd(&mut self, fd: impl AsFd, note: &str) -> Result<u64, QmpError> {
        let added = self.send_with("add-fd", json!({ "opaque": note }), fd).await?;
        let number = added.get("fdset-id").and_then(Value::as_u64);
        number.ok_or_else(|| QmpError::Refused(format!("no number in \"{added}\"")))
    }

    async fn send_with(&mut self, command: &str, arguments: Value, fd: impl AsFd) -> Result<Value, QmpError> {
        let line = line(command, Some(arguments));
        let stream = self.stream.get_ref();
        // A whole line at once: it is short, and the socket's buffer is empty, as everything was answered.
        let sent = stream.async_io(Interest::WRITABLE, || {
            let fds = [fd.as_fd().as_raw_fd()];
            let rights = [ControlMessage::ScmRights(&fds)];
            Ok(sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(&line)], &rights, MsgFlags::MSG_NOSIGNAL, None)?)
        });
        if sent.await? != line.len() {
            return Err(io::Error::from(io::ErrorKind::WriteZero).into());
        }
        self.answer().await
    }

    /// The answer to the oldest command that has none; events before it are passed over.
    pub(super) async fn answer(&mut self) -> Result<Value, QmpError> {
        loop {
            let mut answer = self.read().await?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            refuse(&answer)?;
        }
    }

    /// Waits for an event that `wanted` takes; it gets the event's name and data. The answers before it are passed over,
    /// but for refusals.
    pub(super) async fn event<T>(&mut self, wanted: impl Fn(&str, &Value) -> Option<T>) -> Result<T, QmpError> {
        loop {
            let said = self.read().await?;
            refuse(&said)?;
            let name = said.get("event").and_then(Value::as_str).unwrap_or_default();
            if let Some(taken) = wanted(name, said.get("data").unwrap_or(&Value::Null)) {
                return Ok(taken);
            }
        }
    }

    async fn read(&mut self) -> Result<Value, QmpError> {
        let mut line = String::new();
        (&mut self.stream).take(MAX_LINE).read_line(&mut line).await?;
        if line.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the monitor has closed the connection").into());
        }
        Ok(serde_json::from_str(&line).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?)
    }
}

fn refuse(said: &Value) -> Result<(), QmpError> {
    let Some(error) = said.get("error") else { return Ok(()) };
    let text = error.get("desc").and_then(Value::as_str).map_or_else(|| error.to_string(), str::to_owned);
    Err(QmpError::Refused(text))
}

fn line(command: &str, arguments: Option<Value>) -> Vec<u8> {
    let command = match arguments {
        Some(arguments) => json!({ "execute": command, "arguments": arguments }),
        None => json!({ "execute": command }),
    };
    format!("{command}\n").into_bytes()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    /// A monitor that plays these lines, one after each line it gets (the first at once).
    async fn answer(listener: UnixListener, lines: &[&str]) {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        for line in lines {
            stream.write_all(line.as_bytes()).await.unwrap();
            stream.read_line(&mut String::new()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn events_between_a_command_and_its_answer_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("q");
        let listener = UnixListener::bind(&path).unwrap();
        let lines = ["{\"QMP\":{}}\n", "{\"return\":{}}\n", "{\"event\":\"STOP\"}\n{\"return\":{\"running\":false}}\n"];
        let (result, ()) = tokio::join!(run(&path, "query-status", Duration::from_secs(5)), answer(listener, &lines));
        assert_eq!(result.unwrap(), json!({ "running": false }));
    }

    #[tokio::test]
    async fn a_refusal_is_given_in_the_monitors_words() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("q");
        let listener = UnixListener::bind(&path).unwrap();
        let lines = ["{\"QMP\":{}}\n", "{\"return\":{}}\n", "{\"error\":{\"class\":\"X\",\"desc\":\"not now\"}}\n"];
        let (result, ()) = tokio::join!(run(&path, "cont", Duration::from_secs(5)), answer(listener, &lines));
        assert!(result.unwrap_err().to_string().contains("\"cont\": not now"));
    }
}
