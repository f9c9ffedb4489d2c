//! A command that the agent runs in this guest: with three pipes, or on a terminal of its own.
//!
//! Each command is a session and process group of its own, so that a signal reaches all of it. Output goes out as far
//! as the window allows ([`WINDOW_BYTES`], then what the agent grants). A command has ended when its process has; what
//! it has written until then is sent, but nobody waits for a background process that keeps the pipe open.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::Stdio,
};

use fleet_wire::{ExecId, ToAgent, WINDOW_BYTES};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    pty::{Winsize, openpty},
    sys::signal::{SigSet, Signal, kill, killpg},
    unistd::{Pid, setsid},
};

use crate::{
    channel::Channel,
    events::{Events, Source},
};

/// What every command finds in its environment.
pub const BASE_ENVIRONMENT: &[(&str, &str)] = &[
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/root"),
    ("USER", "root"),
    ("TERM", "linux"),
];

/// Ctrl-D: how a terminal says that input ends.
const END_OF_INPUT: u8 = 4;

/// A running command. Dropping it kills it.
pub struct Command {
    group: Pid,
    input: Option<File>,
    output: Option<File>,
    errors: Option<File>,
    is_tty: bool,
    waiting: VecDeque<u8>,
    input_ends: bool,
    window: u32,
    code: Option<i32>,
}

/// The streams of a command on this side.
struct Streams {
    input: File,
    output: File,
    errors: Option<File>,
}

/// Why a command was not started.
#[derive(Debug)]
pub struct Refusal {
    /// The kernel's reason, or the nearest to ours.
    pub errno: Errno,
    /// In words.
    pub reason: String,
}

impl Refusal {
    /// A refusal of our own.
    pub fn new(errno: Errno, reason: &str) -> Self {
        Self { errno, reason: reason.to_owned() }
    }
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self { errno, reason: errno.desc().to_owned() }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(code) => Errno::from_raw(code).into(),
            None => Self { errno: Errno::EINVAL, reason: error.to_string() }, // a zero byte in an argument
        }
    }
}

/// For use between fork and exec: a session of its own, on the terminal that is standard input if it is to be on one,
/// with no signal blocked (the init blocks those that it takes from its signalfd).
fn new_session(on_terminal: bool) -> io::Result<()> {
    setsid()?;
    SigSet::empty().thread_set_mask()?;
    // SAFETY: TIOCSCTTY takes a number, no pointer.
    if on_terminal && unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

impl Command {
    /// Starts it; returns when the program runs or could not be executed.
    pub fn start(
        events: &Events,
        id: ExecId,
        argv: &[String],
        env: &[String],
        tty: Option<(u16, u16)>,
    ) -> Result<Self, Refusal> {
        let Some((program, arguments)) = argv.split_first().filter(|(program, _)| !program.is_empty()) else {
            return Err(Refusal::new(Errno::EINVAL, "no program was named"));
        };
        let mut command = std::process::Command::new(program);
        command.args(arguments).current_dir("/").env_clear().envs(BASE_ENVIRONMENT.iter().copied());
        command.envs(env.iter().filter_map(|pair| pair.split_once('=').filter(|(name, _)| !name.is_empty())));
        let (pid, streams) = match tty {
            Some((rows, columns)) => start_on_tty(command, rows, columns)?,
            None => start_with_pipes(command)?,
        };
        let Streams { input, output, errors } = streams;
        // From here on the value ends the command if anything fails.
        let started = Self {
            group: pid,
            input: Some(input),
            output: Some(output),
            errors,
            is_tty: tty.is_some(),
            waiting: VecDeque::new(),
            input_ends: false,
            window: WINDOW_BYTES,
            code: None,
        };
        let watched = if started.is_tty { [None, started.output.as_ref(), None] } else { started.streams() };
        for file in watched.into_iter().flatten() {
            fcntl(file, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            events.watch(file.as_fd(), Source::Command(id))?;
        }
        Ok(started)
    }

    /// Its process in this guest.
    pub fn pid(&self) -> u32 {
        self.group.as_raw().cast_unsigned()
    }

    /// Whether it is this process, and has not ended.
    pub fn is(&self, pid: Pid) -> bool {
        self.group == pid && self.code.is_none()
    }

    /// Its process has ended and is reaped.
    pub fn ended(&mut self, code: i32) {
        self.code = Some(code);
    }

    /// Takes input. More than a window of it is against the protocol, and is lost.
    pub fn give_input(&mut self, data: &[u8]) {
        let room = (WINDOW_BYTES as usize).saturating_sub(self.waiting.len());
        if !self.input_ends {
            self.waiting.extend(&data[..data.len().min(room)]);
        }
    }

    /// After the input given so far, there is no more.
    pub fn end_input(&mut self) {
        if self.is_tty && !self.input_ends {
            self.waiting.push_back(END_OF_INPUT);
        }
        self.input_ends = true;
    }

    /// The agent has taken so much output.
    pub fn grant(&mut self, bytes: u32) {
        self.window = self.window.saturating_add(bytes).min(WINDOW_BYTES);
    }

    /// Sends a signal to all of it.
    pub fn signal(&self, signal: i32) {
        if let Ok(signal) = Signal::try_from(signal)
            && self.code.is_none()
        {
            let _just_ended = killpg(self.group, signal);
        }
    }

    /// Changes its terminal's size.
    pub fn resize(&self, rows: u16, columns: u16) {
        if let Some(terminal) = self.output.as_ref().filter(|_| self.is_tty) {
            let size = window_size(rows, columns);
            // SAFETY: TIOCSWINSZ reads one winsize, which lives until the call returns.
            unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        }
    }

    /// Writes waiting input without waiting, and says how much was taken.
    pub fn write_input(&mut self, id: ExecId, channel: &mut Channel) {
        let mut taken = 0;
        while let (Some(input), (data, _)) = (&mut self.input, self.waiting.as_slices())
            && !data.is_empty()
        {
            match input.write(data) {
                Ok(length) => {
                    self.waiting.drain(..length);
                    taken += length;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => self.input = None, // it reads no more
            }
        }
        if self.input.is_none() {
            taken += self.waiting.len();
            self.waiting.clear();
        } else if self.input_ends && self.waiting.is_empty() && !self.is_tty {
            self.input = None;
        }
        if taken > 0 {
            channel.send(&ToAgent::StdinTaken { id, bytes: u32::try_from(taken).unwrap_or(u32::MAX) });
        }
    }

    /// Sends output as far as window and channel allow; gives the exit code once all is sent.
    pub fn read_output(&mut self, id: ExecId, channel: &mut Channel, buffer: &mut [u8]) -> Option<i32> {
        let ended = self.code.is_some();
        for is_error in [false, true] {
            let stream = if is_error { &mut self.errors } else { &mut self.output };
            while let Some(file) = stream.as_mut().filter(|_| self.window > 0 && channel.has_room()) {
                let length = buffer.len().min(self.window as usize);
                match file.read(&mut buffer[..length]) {
                    Ok(0) => *stream = None,
                    Ok(length) => {
                        self.window = self.window.saturating_sub(u32::try_from(length).unwrap_or(u32::MAX));
                        let data = buffer[..length].to_vec();
                        let output = if is_error { ToAgent::Stderr { id, data } } else { ToAgent::Stdout { id, data } };
                        channel.send(&output);
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    // Nothing now (or, from a terminal, nobody has it open), and after the end nothing comes.
                    Err(_) if ended => *stream = None,
                    Err(_) => break,
                }
            }
        }
        self.code.filter(|_| self.output.is_none() && self.errors.is_none())
    }

    fn streams(&self) -> [Option<&File>; 3] {
        [self.input.as_ref(), self.output.as_ref(), self.errors.as_ref()]
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        if self.code.is_none() {
            let _just_ended = killpg(self.group, Signal::SIGKILL);
            let _just_ended = kill(self.group, Signal::SIGKILL);
        }
    }
}

fn start_with_pipes(mut command: std::process::Command) -> Result<(Pid, Streams), Refusal> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // SAFETY: between fork and exec only system calls are made; there is one thread.
    unsafe { command.pre_exec(|| new_session(false)) };
    let mut child = command.spawn()?;
    let pid = pid_of(&child);
    match (child.stdin.take(), child.stdout.take(), child.stderr.take()) {
        (Some(input), Some(output), Some(errors)) => {
            let [input, output, errors] = [input.into(), output.into(), OwnedFd::from(errors)].map(File::from);
            Ok((pid, Streams { input, output, errors: Some(errors) }))
        }
        _ => Err(Refusal::new(Errno::EIO, "its pipes are missing")),
    }
}

fn start_on_tty(mut command: std::process::Command, rows: u16, columns: u16) -> Result<(Pid, Streams), Refusal> {
    let pty = openpty(&window_size(rows, columns), None)?;
    for fd in [&pty.master, &pty.slave] {
        fcntl(fd, FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
    }
    let output = File::from(pty.master);
    let input = output.try_clone()?;
    command.stdin(pty.slave.try_clone()?).stdout(pty.slave.try_clone()?).stderr(pty.slave);
    // SAFETY: between fork and exec only system calls are made; there is one thread.
    unsafe { command.pre_exec(|| new_session(true)) };
    let child = command.spawn()?;
    Ok((pid_of(&child), Streams { input, output, errors: None }))
}

fn pid_of(child: &std::process::Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

fn window_size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
