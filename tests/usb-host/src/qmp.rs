//! As much of QMP as these tests need: commands, answers, and a descriptor that goes along.

use std::io::{BufRead, BufReader, IoSlice, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

/// How long QEMU may take; one within another is slow.
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
        self.execute_with(command, arguments, None)
    }

    /// The same, with a descriptor.
    pub fn execute_with(&mut self, command: &str, arguments: &str, fd: Option<BorrowedFd>) -> String {
        let text = format!("{{\"execute\":\"{command}\",\"arguments\":{arguments}}}\n");
        match fd {
            None => self.stream.write_all(text.as_bytes()).expect("qemu takes it"),
            Some(fd) => {
                let fds = [fd.as_raw_fd()];
                let message = [ControlMessage::ScmRights(&fds)];
                let bytes = [IoSlice::new(text.as_bytes())];
                let sent = sendmsg::<()>(self.stream.as_raw_fd(), &bytes, &message, MsgFlags::empty(), None);
                assert_eq!(sent, Ok(text.len()));
            }
        }
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

    /// Asks until the answer has these words.
    pub fn until(&mut self, command: &str, arguments: &str, words: &str) {
        let until = Instant::now() + DEADLINE;
        loop {
            let answer = self.execute(command, arguments);
            if answer.contains(words) {
                return;
            }
            assert!(Instant::now() < until, "{command} {arguments}: {answer}");
        }
    }
}
