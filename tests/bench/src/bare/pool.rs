//! Starts guests, so many at a time, and waits until each has its settings.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::time::Instant;

use anyhow::{Result, ensure};
use fleet_wire::{Decoder, ToAgent};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{UsageWho, getrusage};

use super::{Net, address, greeting};
use crate::cgroup::{self, Group};
use crate::host::{self, Taken};
use crate::{Run, ping};

/// Longest wait for the next guest that comes up, in ms.
const PATIENCE_MS: u16 = 60_000;

/// One guest that boots: its process, and where its init speaks.
pub struct Guest {
    /// Its first process.
    pub child: Child,
    /// The agent's end of the control channel.
    pub control: UnixStream,
    /// Its monitor, kept open as long as the guest.
    pub _monitor: Option<UnixStream>,
    /// It has been told its settings already: it does not say that it has come up, as it never was down.
    pub greeted: bool,
}

/// A guest and how far it is.
struct Booting {
    index: u32,
    guest: Guest,
    decoder: Decoder,
}

impl Booting {
    /// Takes what the guest says; true when its settings are in force.
    fn on_speech(&mut self, wired: bool) -> Result<bool> {
        let mut bytes = [0; 4096];
        let got = self.guest.control.read(&mut bytes)?;
        ensure!(got > 0, "guest {} of the bare loop ended", self.index);
        for message in self.decoder.push::<ToAgent>(&bytes[..got]) {
            match message {
                ToAgent::Hello { .. } if !self.guest.greeted => {
                    self.guest.greeted = true;
                    self.guest.control.write_all(&greeting(self.index, wired)?)?;
                }
                ToAgent::Configured { errors, .. } => {
                    ensure!(errors.is_empty(), "guest {}: {}", self.index, errors.join("; "));
                    return Ok(true);
                }
                _ => {}
            }
        }
        Ok(false)
    }
}

/// Starts `count` guests, `concurrency` at a time, and measures until each answers. `start` makes one in the group.
///
/// # Errors
/// When one of them does not come up: a floor with holes is none.
pub fn run(
    count: u32,
    concurrency: usize,
    wired: bool,
    mut start: impl FnMut(u32, &Group, Option<&Net>) -> Result<Guest>,
) -> Result<Run> {
    let free = host::settled_available()?;
    let group = Group::new("bench-bare")?;
    let before = own_cpu();
    let begin = Instant::now();
    let net = if wired { Some(Net::new(count)?) } else { None };
    let mut waiting: VecDeque<u32> = (0..count).collect();
    let mut booting: Vec<Booting> = Vec::new();
    let mut up: Vec<Guest> = Vec::new();
    while up.len() < count as usize {
        while booting.len() < concurrency
            && let Some(index) = waiting.pop_front()
        {
            let guest = start(index, &group, net.as_ref())?;
            booting.push(Booting { index, guest, decoder: Decoder::default() });
        }
        let mut watched: Vec<_> =
            booting.iter().map(|each| PollFd::new(each.guest.control.as_fd(), PollFlags::POLLIN)).collect();
        let ready = poll(&mut watched, PollTimeout::from(PATIENCE_MS))?;
        ensure!(ready > 0, "a guest of the bare loop did not come up within {} s", PATIENCE_MS / 1000);
        let spoke: Vec<bool> = watched.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        drop(watched);
        for index in (0..booting.len()).rev().filter(|index| spoke[*index]) {
            if booting[index].on_speech(wired)? {
                up.push(booting.swap_remove(index).guest);
            }
        }
    }
    let mut run = Run {
        wall: begin.elapsed().as_secs_f64(),
        guests_cpu: cgroup::cpu_seconds(group.path())?,
        starter_cpu: own_cpu() - before,
        ..Run::default()
    };
    if let Some(net) = &net {
        let guests: Vec<_> = (0..count).map(address).collect();
        run.answers = ping::all(&net.path(), &guests)?;
    }
    run.taken = Taken::measure(free, &[group.path().to_owned()])?;
    drop(group);
    for mut guest in up {
        guest.child.wait()?;
    }
    Ok(run)
}

/// CPU seconds of this process and of its children that have ended.
fn own_cpu() -> f64 {
    [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN]
        .into_iter()
        .filter_map(|who| getrusage(who).ok())
        .flat_map(|usage| [usage.user_time(), usage.system_time()])
        .map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6)
        .sum()
}
