//! The agent's end of the control channel, as simple as it can be: blocking, with a deadline on every wait.

use std::{
    collections::VecDeque,
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use fleet_wire::{Decoder, ExecId, Pacer, ToAgent, ToGuest, encode};

/// A guest that says nothing for so long is broken, however busy the machine is.
const DEADLINE: Duration = Duration::from_secs(60);

/// A session with the init of a guest.
pub struct Session {
    stream: UnixStream,
    decoder: Decoder,
    inbox: VecDeque<ToAgent>,
    id: u64,
    pacer: Pacer,
}

/// What a command did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Outcome {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

impl Session {
    /// Attaches; repeats it when the guest says that it has only just opened the channel.
    pub fn attach(stream: UnixStream, id: u64) -> Self {
        let mut session =
            Self { stream, decoder: Decoder::default(), inbox: VecDeque::new(), id, pacer: Pacer::default() };
        session.send_raw(&[0]);
        session.send(&ToGuest::Attach { session: id });
        loop {
            match session.next() {
                ToAgent::Hello { session: theirs, .. } if theirs == id => {
                    session.pacer.attached();
                    return session;
                }
                ToAgent::Hello { .. } => session.send(&ToGuest::Attach { session: id }),
                _ => {} // of an earlier session
            }
        }
    }

    /// Attaches again on the same stream; gives the Hello.
    pub fn reattach(&mut self, id: u64) -> ToAgent {
        self.id = id;
        self.pacer = Pacer::default();
        self.send_raw(&[0]);
        self.send(&ToGuest::Attach { session: id });
        let hello = self.wait(|message| matches!(message, ToAgent::Hello { session, .. } if *session == id));
        self.pacer.attached();
        hello
    }

    pub fn send(&mut self, message: &ToGuest) {
        self.send_raw(&encode(message).unwrap());
    }

    /// Writes bytes as the guest has room for them.
    pub fn send_raw(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.pacer.room().min(bytes.len()) {
                0 => self.receive(),
                room => {
                    self.stream.write_all(&bytes[..room]).unwrap();
                    self.pacer.sent(room);
                    bytes = &bytes[room..];
                }
            }
        }
    }

    /// The next message of any kind.
    pub fn next(&mut self) -> ToAgent {
        loop {
            match self.inbox.pop_front() {
                Some(message) => return message,
                None => self.receive(),
            }
        }
    }

    /// Reads once.
    fn receive(&mut self) {
        self.stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut buffer = [0; 65536];
        match self.stream.read(&mut buffer) {
            Ok(0) => panic!("the channel was closed"),
            Ok(length) => {
                let messages = self.decoder.push::<ToAgent>(&buffer[..length]);
                if let Some(total) = self.decoder.take_note() {
                    self.pacer.noted(total);
                }
                self.inbox.extend(messages);
            }
            Err(error) => panic!("the guest says nothing: {error}"),
        }
    }

    /// The next message that fits; others are dropped.
    pub fn wait(&mut self, fits: impl Fn(&ToAgent) -> bool) -> ToAgent {
        loop {
            let message = self.next();
            if fits(&message) {
                return message;
            }
        }
    }

    pub fn start(&mut self, id: ExecId, argv: &[&str], tty: Option<(u16, u16)>) {
        let argv = argv.iter().map(|word| (*word).to_owned()).collect();
        self.send(&ToGuest::Exec { id, argv, env: Vec::new(), tty });
    }

    /// Runs a shell's line to its end.
    pub fn shell(&mut self, line: &str) -> Outcome {
        let id = 0xffff_0000;
        self.start(id, &["/bin/sh", "-c", line], None);
        self.finish(id)
    }

    /// Takes all output of a command, granting as it comes, until it ends.
    pub fn finish(&mut self, wanted: ExecId) -> Outcome {
        let mut outcome = Outcome::default();
        loop {
            let bytes = match self.next() {
                ToAgent::Stdout { id, data } if id == wanted => {
                    outcome.stdout.extend_from_slice(&data);
                    data.len()
                }
                ToAgent::Stderr { id, data } if id == wanted => {
                    outcome.stderr.extend_from_slice(&data);
                    data.len()
                }
                ToAgent::Exited { id, code } if id == wanted => return Outcome { code, ..outcome },
                ToAgent::ExecFailed { id, reason, .. } if id == wanted => panic!("not started: {reason}"),
                _ => continue,
            };
            self.send(&ToGuest::Grant { id: wanted, bytes: u32::try_from(bytes).unwrap() });
        }
    }
}
