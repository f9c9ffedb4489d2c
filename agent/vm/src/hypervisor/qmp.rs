//! QEMU's monitor protocol: JSON objects, one a line. QEMU greets, the client says `qmp_capabilities`, then each command
//! is answered by `return` or `error`; events come in between. A connection is made for one conversation: the monitor
//! serves one client at a time, and a held connection would keep everyone else out.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::error::VmError;

/// Longest line taken; answers to the commands used here are far shorter.
const MAX_LINE: u64 = 1 << 20;

/// One conversation with a monitor.
pub(super) struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects, runs one command without arguments and gives its `return`.
    ///
    /// # Errors
    /// When the monitor does not answer within the deadline, or refuses.
    pub(super) async fn run(path: &Path, command: &str, deadline: Duration) -> Result<Value, VmError> {
        let refused =
            |problem: String| VmError::Monitor { vm: path.display().to_string(), command: command.to_owned(), problem };
        let conversation = async {
            let mut qmp = Qmp::connect(path).await?;
            qmp.execute(command).await
        };
        timeout(deadline, conversation)
            .await
            .map_err(|_| VmError::Deadline { doing: format!("\"{command}\" to {}", path.display()), deadline })?
            .map_err(|error| refused(error.to_string()))?
            .map_err(refused)
    }

    async fn connect(path: &Path) -> io::Result<Qmp> {
        let mut qmp = Qmp { stream: BufReader::new(UnixStream::connect(path).await?) };
        let greeting = qmp.read().await?;
        if greeting.get("QMP").is_none() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("no greeting but {greeting}")));
        }
        qmp.execute("qmp_capabilities").await?.map_err(io::Error::other)?;
        Ok(qmp)
    }

    /// Sends a command and waits for its answer; events in between are passed over.
    async fn execute(&mut self, command: &str) -> io::Result<Result<Value, String>> {
        let mut line = json!({ "execute": command }).to_string();
        line.push('\n');
        self.stream.write_all(line.as_bytes()).await?;
        loop {
            let mut answer = self.read().await?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(Ok(value.take()));
            }
            if let Some(error) = answer.get("error") {
                let text = error.get("desc").and_then(Value::as_str).map_or_else(|| error.to_string(), str::to_owned);
                return Ok(Err(text));
            }
        }
    }

    async fn read(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        (&mut self.stream).take(MAX_LINE).read_line(&mut line).await?;
        if line.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        serde_json::from_str(&line).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
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
        let (result, ()) =
            tokio::join!(Qmp::run(&path, "query-status", Duration::from_secs(5)), answer(listener, &lines));
        assert_eq!(result.unwrap(), json!({ "running": false }));
    }

    #[tokio::test]
    async fn a_refusal_is_given_in_the_monitors_words() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("q");
        let listener = UnixListener::bind(&path).unwrap();
        let lines = ["{\"QMP\":{}}\n", "{\"return\":{}}\n", "{\"error\":{\"class\":\"X\",\"desc\":\"not now\"}}\n"];
        let (result, ()) = tokio::join!(Qmp::run(&path, "cont", Duration::from_secs(5)), answer(listener, &lines));
        assert!(result.unwrap_err().to_string().contains("\"cont\": not now"));
    }
}
