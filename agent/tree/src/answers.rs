//! Equal answers of many hosts become one, within a window that is bounded in bytes, entries and time.
//!
//! What ended a command (output, exit code) is held a moment; an equal one that comes meanwhile only adds its names.
//! When the window is full, the entry that was met the longest ago goes up: five thousand different answers pass
//! through, five thousand equal ones become one. Everything else passes at once, so that a host's answers keep their
//! order.

use std::collections::HashMap;

use fleet_proto::v1::{ExecAnswer, Reply, reply};
use tokio::time::{Duration, Instant};

use crate::names::{NameSet, Style};

/// Different answers that are held.
const ENTRIES: usize = 256;
/// Bytes of them, names included.
const BYTES: usize = 512 * 1024;
/// An answer that is larger is not held.
const LARGE: usize = 64 * 1024;
/// Bytes of names in one answer; what is more is cut, and the count stays exact.
const NAMES: usize = 256 * 1024;

/// Answers that wait for equal ones.
#[derive(Debug)]
pub struct AnswerWindow {
    hold: Duration,
    entries: HashMap<Said, Entry>,
    bytes: usize,
    clock: u64,
}

/// What makes answers equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Said {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    code: i32,
    failed: String,
    in_guests: bool,
}

#[derive(Debug)]
struct Entry {
    hosts: NameSet,
    guests: NameSet,
    count: u32,
    bytes: usize,
    used: u64,
    since: Instant,
}

impl AnswerWindow {
    /// A window that holds an answer so long at most.
    pub fn new(hold: Duration) -> Self {
        Self { hold, entries: HashMap::new(), bytes: 0, clock: 0 }
    }

    /// Takes an answer; gives what has to go up now.
    pub fn push(&mut self, reply: Reply, now: Instant) -> Vec<Reply> {
        let Reply { hosts, count, reply } = reply;
        let exec = match reply {
            Some(reply::Reply::Exec(exec))
                if exec.ended && exec.stdout.len() + exec.stderr.len() + exec.failed.len() <= LARGE =>
            {
                exec
            }
            reply => return vec![Reply { hosts, count, reply }],
        };
        let ExecAnswer { guests, stdout, stderr, code, failed, .. } = exec;
        let names = hosts.len() + guests.len();
        let said = Said { stdout, stderr, code, failed, in_guests: !guests.is_empty() };
        let own = said.stdout.len() + said.stderr.len() + said.failed.len();
        self.clock += 1;
        let entry = self.entries.entry(said).or_insert_with(|| {
            self.bytes += own;
            let (hosts, guests) = (NameSet::new(Style::Hosts), NameSet::new(Style::Guests));
            Entry { hosts, guests, count: 0, bytes: own, used: 0, since: now }
        });
        entry.hosts.union(&NameSet::parse(Style::Hosts, &hosts));
        entry.guests.union(&NameSet::parse(Style::Guests, &guests));
        entry.count = entry.count.saturating_add(count);
        entry.used = self.clock;
        entry.bytes += names;
        self.bytes += names;
        let mut out = Vec::new();
        while self.entries.len() > ENTRIES || self.bytes > BYTES {
            let Some(oldest) = self.entries.iter().min_by_key(|(_, entry)| entry.used).map(|(said, _)| said.clone())
            else {
                break;
            };
            out.extend(self.take(&oldest));
        }
        out
    }

    /// When the oldest answer has to go up.
    pub fn due(&self) -> Option<Instant> {
        self.entries.values().map(|entry| entry.since + self.hold).min()
    }

    /// Takes what has been held long enough at `now`, or everything.
    pub fn flush(&mut self, now: Option<Instant>) -> Vec<Reply> {
        let is_due = |entry: &Entry| now.is_none_or(|now| entry.since + self.hold <= now);
        let mut due: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| is_due(entry))
            .map(|(said, entry)| (entry.used, said.clone()))
            .collect();
        due.sort_unstable_by_key(|(used, _)| *used);
        due.iter().filter_map(|(_, said)| self.take(said)).collect()
    }

    fn take(&mut self, said: &Said) -> Option<Reply> {
        let (said, entry) = self.entries.remove_entry(said)?;
        self.bytes -= entry.bytes;
        let Said { stdout, stderr, code, failed, .. } = said;
        let guests = entry.guests.to_text(NAMES);
        let exec = ExecAnswer { guests, stdout, stderr, ended: true, code, failed };
        let (hosts, count) = (entry.hosts.to_text(NAMES), entry.count);
        Some(Reply { hosts, count, reply: Some(reply::Reply::Exec(exec)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(host: usize, text: &str, ended: bool) -> Reply {
        let exec = ExecAnswer { stdout: text.into(), ended, ..ExecAnswer::default() };
        Reply { hosts: format!("h{host}"), count: 1, reply: Some(reply::Reply::Exec(exec)) }
    }

    fn window() -> AnswerWindow {
        AnswerWindow::new(Duration::from_millis(100))
    }

    #[test]
    fn equal_answers_become_one() {
        let (mut window, now) = (window(), Instant::now());
        for host in 0..5_000 {
            assert_eq!(window.push(answer(host, "6.1\n", true), now), []);
        }
        window.push(answer(5_000, "6.2\n", true), now);
        assert_eq!(window.due(), Some(now + Duration::from_millis(100)));
        assert_eq!(window.flush(Some(now)), []);
        let all = window.flush(Some(now + Duration::from_millis(100)));
        let lines: Vec<_> = all.iter().map(|reply| (reply.hosts.as_str(), reply.count)).collect();
        assert_eq!(lines, [("h[0-4999]", 5_000), ("h5000", 1)]);
        assert_eq!((window.due(), window.bytes), (None, 0));
    }

    #[test]
    fn different_answers_pass_through_and_none_is_lost() {
        let (mut window, now) = (window(), Instant::now());
        let mut out = Vec::new();
        for host in 0..5_000 {
            out.extend(window.push(answer(host, &format!("{host} {}", "x".repeat(10_000)), true), now));
            out.extend(window.push(answer(host + 5_000, "same", true), now));
            assert!(window.bytes <= BYTES && window.entries.len() <= ENTRIES);
        }
        assert!(out.len() > 4_900);
        out.extend(window.flush(None));
        assert_eq!(out.len(), 5_001, "what is met often stays");
        assert_eq!(out.iter().map(|reply| reply.count).sum::<u32>(), 10_000);
    }

    #[test]
    fn what_is_no_end_or_is_large_passes_at_once() {
        let (mut window, now) = (window(), Instant::now());
        let part = answer(1, "part", false);
        assert_eq!(window.push(part.clone(), now), [part]);
        let large = answer(1, &"x".repeat(LARGE + 1), true);
        assert_eq!(window.push(large.clone(), now), [large]);
    }
}
