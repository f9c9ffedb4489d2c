//! How what a command says becomes answers. Pure.
//!
//! Output is held until the command ends: a short answer is then one message, which the tree folds with equal ones.
//! One that is long, or of a command that goes on, goes up in pieces from then on.

use fleet_proto::v1::ExecAnswer;
use fleet_vm::ExecEvent;
use tokio::time::{Duration, Instant};

/// Bytes that are held. The tree's window of answers holds ends of twice as much.
const HELD: usize = 32 * 1024;
/// How long output is held for its command's end.
const HOLD: Duration = Duration::from_secs(2);
/// How long it is held once it goes up in pieces, so that these are not one for each line.
const PACE: Duration = Duration::from_millis(100);

/// What one command said and nobody was told yet.
pub struct Telling {
    guests: String,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// Since when it is held.
    since: Option<Instant>,
    in_pieces: bool,
}

impl Telling {
    /// Of a command that starts in a guest of this name; empty: on the host.
    pub fn new(guest: &str) -> Self {
        Self { guests: guest.to_owned(), stdout: Vec::new(), stderr: Vec::new(), since: None, in_pieces: false }
    }

    /// It said this; gives what is to be told now.
    pub fn take(&mut self, event: ExecEvent, now: Instant) -> Option<ExecAnswer> {
        match event {
            ExecEvent::Stdout(data) => self.stdout.extend(data),
            ExecEvent::Stderr(data) => self.stderr.extend(data),
            ExecEvent::Exited(_) => return None,
        }
        self.since.get_or_insert(now);
        if self.stdout.len() + self.stderr.len() >= HELD { self.part() } else { None }
    }

    /// When [`Telling::part`] is to be told.
    pub fn due(&self) -> Option<Instant> {
        self.since.map(|since| since + if self.in_pieces { PACE } else { HOLD })
    }

    /// What is held, if there is anything. From now on output goes up in pieces.
    pub fn part(&mut self) -> Option<ExecAnswer> {
        self.since.take()?;
        self.in_pieces = true;
        Some(self.answer())
    }

    /// With a line of the agent's own at the end of its error output.
    pub fn saying(mut self, line: &str) -> Self {
        self.stderr.extend(line.as_bytes());
        self
    }

    /// The last answer: it ended with this code.
    pub fn exited(mut self, code: i32) -> ExecAnswer {
        ExecAnswer { ended: true, code, ..self.answer() }
    }

    /// The last answer: it could not be run, or not to its end.
    pub fn failed(mut self, reason: &str) -> ExecAnswer {
        ExecAnswer { ended: true, failed: reason.to_owned(), ..self.answer() }
    }

    fn answer(&mut self) -> ExecAnswer {
        ExecAnswer {
            guests: self.guests.clone(),
            stdout: std::mem::take(&mut self.stdout),
            stderr: std::mem::take(&mut self.stderr),
            ..ExecAnswer::default()
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn out(text: &str) -> ExecEvent {
        ExecEvent::Stdout(text.into())
    }

    #[test]
    fn a_short_answer_is_one() {
        let (mut telling, now) = (Telling::new("web[3]"), Instant::now());
        assert_eq!(telling.due(), None);
        assert_eq!(telling.take(out("a\n"), now), None);
        assert_eq!(telling.take(ExecEvent::Stderr("b\n".into()), now + PACE), None);
        assert_eq!(telling.due(), Some(now + HOLD));
        let said = telling.exited(3);
        assert_eq!((said.stdout.as_slice(), said.stderr.as_slice()), (b"a\n".as_slice(), b"b\n".as_slice()));
        assert_eq!((said.guests.as_str(), said.ended, said.code, said.failed.as_str()), ("web[3]", true, 3, ""));
    }

    #[test]
    fn a_command_that_goes_on_is_told_in_pieces_in_order_and_whole() {
        let (mut telling, now) = (Telling::new(""), Instant::now());
        assert_eq!(telling.take(out("a"), now), None);
        let mut told = telling.part().unwrap().stdout;
        assert_eq!((telling.part(), telling.due()), (None, None));
        assert_eq!(telling.take(out("b"), now), None);
        assert_eq!(telling.due(), Some(now + PACE));
        told.extend(telling.part().unwrap().stdout);
        telling.take(out("c"), now);
        let last = telling.failed("its guest ended");
        told.extend(&last.stdout);
        assert_eq!((told.as_slice(), last.ended, last.failed.as_str()), (b"abc".as_slice(), true, "its guest ended"));
    }

    #[test]
    fn however_much_is_said_little_is_held() {
        let (mut telling, now) = (Telling::new(""), Instant::now());
        let mut told = 0;
        for _ in 0..1_000 {
            let part = telling.take(ExecEvent::Stdout(vec![b'x'; 5_000]), now);
            told += part.map_or(0, |part| part.stdout.len());
            assert!(telling.stdout.len() < HELD);
        }
        assert_eq!(told + telling.exited(0).stdout.len(), 5_000_000);
    }
}
