//! Commands in a guest: the agent's end of the control channel, as simple as it can be: blocking, one command at a time.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use fleet_wire::{Decoder, Pacer, ToAgent, ToGuest, encode};

/// A guest that says nothing for so long is broken, however busy the machine is.
const DEADLINE: Duration = Duration::from_secs(240);
/// The command that runs.
const ID: u32 = 1;

/// A session with the init of a guest.
pub struct Session {
    stream: UnixStream,
    decoder: Decoder,
    pacer: Pacer,
}

/// What a command did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Its exit code.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Session {
    /// Attaches, when the guest has come up.
    ///
    /// # Panics
    /// When it says nothing.
    pub fn attach(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut session = Self { stream, decoder: Decoder::default(), pacer: Pacer::default() };
        session.write(&[0]);
        session.send(&ToGuest::Attach { session: 1 });
        loop {
            for message in session.receive() {
                match message {
                    ToAgent::Hello { session: 1, .. } => {
                        session.pacer.attached();
                        return session;
                    }
                    ToAgent::Hello { .. } => session.send(&ToGuest::Attach { session: 1 }),
                    _ => {}
                }
            }
        }
    }

    /// Runs a line of shell to its end.
    ///
    /// # Panics
    /// When the guest says nothing, or cannot start it.
    pub fn shell(&mut self, line: &str) -> Outcome {
        let argv = ["/bin/sh", "-c", line].map(str::to_owned).to_vec();
        self.send(&ToGuest::Exec { id: ID, argv, env: Vec::new(), tty: None });
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        loop {
            for message in self.receive() {
                let bytes = match message {
                    ToAgent::Stdout { id: ID, data } => {
                        stdout.extend_from_slice(&data);
                        data.len()
                    }
                    ToAgent::Stderr { id: ID, data } => {
                        stderr.extend_from_slice(&data);
                        data.len()
                    }
                    ToAgent::Exited { id: ID, code } => {
                        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                        return Outcome { code, stdout: text(&stdout), stderr: text(&stderr) };
                    }
                    ToAgent::ExecFailed { reason, .. } => panic!("`{line}` was not started: {reason}"),
                    _ => continue,
                };
                self.send(&ToGuest::Grant { id: ID, bytes: u32::try_from(bytes).unwrap() });
            }
        }
    }

    fn send(&mut self, message: &ToGuest) {
        let bytes = encode(message).unwrap();
        self.write(&bytes);
    }

    /// Writes; lines of this session are shorter than what may be under way.
    fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
        self.pacer.sent(bytes.len());
    }

    /// Reads once.
    fn receive(&mut self) -> Vec<ToAgent> {
        let mut buffer = vec![0; 65536];
        let length = self.stream.read(&mut buffer).unwrap_or_else(|error| panic!("the guest says nothing: {error}"));
        assert!(length > 0, "the guest has ended");
        let messages = self.decoder.push::<ToAgent>(&buffer[..length]);
        if let Some(total) = self.decoder.take_note() {
            self.pacer.noted(total);
        }
        messages.into_iter().collect()
    }
}
