//! As much of QMP as plugging needs: commands and their answers.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long QEMU may take.
const DEADLINE: Duration = Duration::from_secs(240);

/// A monitor's connection.
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects when the socket is there.
    pub fn connect(path: &Path) -> Self {
        let until = Instant::now() + DEADLINE;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < until, "no monitor: {error}"),
            }
            std::thread::yield_now();
        };
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        let lines = BufReader::new(stream.try_clone().expect("a descriptor"));
        let mut qmp = Self { stream, lines };
        let mut greeting = String::new();
        qmp.lines.read_line(&mut greeting).expect("a greeting");
        qmp.execute("qmp_capabilities", "{}");
        qmp
    }

    /// The answer to a command; that it went well, is asserted.
    pub fn execute(&mut self, command: &str, arguments: &str) -> String {
        let text = format!("{{\"execute\":\"{command}\",\"arguments\":{arguments}}}\n");
        self.stream.write_all(text.as_bytes()).expect("qemu takes it");
        loop {
            let mut line = String::new();
            self.lines.read_line(&mut line).expect("an answer");
            assert!(!line.contains("\"error\":"), "{command} {arguments}: {line}");
            assert!(!line.is_empty(), "qemu ended at {command} {arguments}");
            if line.starts_with("{\"return\":") {
                return line.trim_end().to_owned();
            }
        }
    }
}
