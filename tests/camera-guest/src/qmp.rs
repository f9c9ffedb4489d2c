//! QEMU's monitor: a command, its answer; events in between are passed over.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

/// A monitor that says nothing for so long hangs.
const DEADLINE: Duration = Duration::from_secs(60);

/// A connection.
pub(crate) struct Qmp(BufReader<UnixStream>);

impl Qmp {
    pub(crate) fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut qmp = Self(BufReader::new(stream));
        qmp.next();
        qmp.run("qmp_capabilities", json!({})).unwrap();
        qmp
    }

    /// Runs a command; the error is QEMU's words.
    pub(crate) fn run(&mut self, command: &str, arguments: Value) -> Result<Value, String> {
        let line = json!({ "execute": command, "arguments": arguments }).to_string();
        self.0.get_mut().write_all(line.as_bytes()).unwrap();
        loop {
            let answer = self.next();
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
            if let Some(error) = answer.get("error") {
                return Err(error["desc"].as_str().unwrap_or("an error without words").to_owned());
            }
        }
    }

    /// Waits until a device that was taken out is gone; the names of its parts come before its own.
    pub(crate) fn deleted(&mut self, id: &str) {
        while self.next().get("data").is_none_or(|data| data["device"] != id) {}
    }

    fn next(&mut self) -> Value {
        let mut line = String::new();
        let length = self.0.read_line(&mut line).unwrap_or_else(|error| panic!("QEMU's monitor: {error}"));
        assert!(length > 0, "QEMU has ended");
        serde_json::from_str(&line).unwrap()
    }
}
