//! The control socket: a line is a command, and gets one line: `ok`, what was asked for, or `error: …`.
//!
//! | line | what |
//! |---|---|
//! | `unplug` | out of its port |
//! | `plug`, `plug low\|full\|high\|super` | into one, at this speed |
//! | `persona ptp`, `persona mass-storage` | becomes this device |
//! | `stall on\|off` | its bulk endpoints are halted for good |
//! | `hang on\|off` | it does not answer on them |
//! | `rate BYTES`, `rate off` | sends so many bytes a second at most |
//! | `hostile lengths\|strings\|packets\|off` | plugged in anew with wrong descriptors, or garbage at once |
//! | `cut` | closes the client's connection |
//! | `status` | one line of `key=value` |

use std::io;
use std::os::unix::net::UnixListener as StdListener;
use std::sync::Arc;

use fleet_usbredir::Speed;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use crate::server::{Seen, Shared};
use crate::{Condition, Hostile, Persona};

/// Clients at once; others wait.
const MAX_CLIENTS: usize = 16;
/// Bytes of a line.
const MAX_LINE: u64 = 256;

const COMMANDS: &str = "unplug, plug [low|full|high|super], persona ptp|mass-storage, stall on|off, hang on|off, rate BYTES|off, \
                        hostile lengths|strings|packets|off, cut, status";

/// Answers lines of all who connect; for ever without a socket.
pub(crate) async fn serve(listener: Option<StdListener>, shared: Arc<Shared>) -> io::Result<()> {
    let Some(listener) = listener else { return std::future::pending().await };
    let listener = UnixListener::from_std(listener)?;
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if clients.len() < MAX_CLIENTS => {
                clients.spawn(lines(accepted?.0, Arc::clone(&shared)));
            }
            Some(_) = clients.join_next() => {}
        }
    }
}

/// A client that goes, or says more than a line can be, is of no more interest.
async fn lines(stream: UnixStream, shared: Arc<Shared>) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = String::new();
        if (&mut reader).take(MAX_LINE).read_line(&mut line).await? == 0 || !line.ends_with('\n') {
            return Ok(());
        }
        let answer = command(&shared, &line).unwrap_or_else(|error| format!("error: {error}"));
        writer.write_all(format!("{answer}\n").as_bytes()).await?;
    }
}

/// Runs one line.
pub(crate) fn command(shared: &Shared, line: &str) -> Result<String, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let unknown = || format!("`{}` is no command; there are: {COMMANDS}", line.trim());
    if words == ["status"] {
        return Ok(status(&shared.conditions.borrow(), &shared.seen()));
    }
    let changed = shared.conditions.send_if_modified(|condition| {
        let mut changed = *condition;
        let known = change(&mut changed, &words).is_some();
        if known {
            *condition = changed;
        }
        known
    });
    if changed { Ok("ok".to_owned()) } else { Err(unknown()) }
}

fn change(condition: &mut Condition, words: &[&str]) -> Option<()> {
    match words {
        ["unplug"] => condition.unplug(),
        ["plug"] => condition.plug_in(condition.speed),
        ["plug", speed] => condition.plug_in(read_speed(speed)?),
        ["persona", name] => {
            let persona = [Persona::Ptp, Persona::MassStorage].into_iter().find(|persona| persona.as_str() == *name);
            condition.switch(persona?);
        }
        ["stall", flag] => condition.faults.stall = on(flag)?,
        ["hang", flag] => condition.faults.hang = on(flag)?,
        ["rate", "off"] => condition.rate = None,
        ["rate", bytes] => condition.rate = Some(bytes.parse().ok().filter(|bytes| *bytes > 0)?),
        ["hostile", kind] => {
            condition.faults.hostile = match *kind {
                "lengths" => Some(Hostile::Lengths),
                "strings" => Some(Hostile::Strings),
                "packets" => Some(Hostile::Packets),
                "off" => None,
                _ => return None,
            };
            condition.plug_in(condition.speed);
        }
        ["cut"] => condition.cuts += 1,
        _ => return None,
    }
    Some(())
}

fn on(flag: &str) -> Option<bool> {
    match flag {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

const SPEEDS: [(&str, Speed); 4] =
    [("low", Speed::Low), ("full", Speed::Full), ("high", Speed::High), ("super", Speed::Super)];

/// A speed by its name.
pub fn read_speed(name: &str) -> Option<Speed> {
    SPEEDS.into_iter().find(|(known, _)| *known == name).map(|(_, speed)| speed)
}

fn status(condition: &Condition, seen: &Seen) -> String {
    let Seen { clients, connected, announced, rejected, denied, sent } = *seen;
    let speed = SPEEDS.into_iter().find(|(_, speed)| *speed == condition.speed).map_or("unknown", |(name, _)| name);
    format!(
        "plugged={} speed={speed} persona={} connected={connected} clients={clients} announced={announced} \
         rejected={rejected} denied={denied} sent={sent}",
        condition.plugged,
        condition.persona.as_str(),
    )
}
