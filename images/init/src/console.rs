//! A shell on the console, for whoever presses Enter there. No shell runs before: a thousand idle ones would cost as
//! much as a hundred guests.
//!
//! The terminal belongs to the init's own session, and a shell is a foreground process group of it. Were the shell the
//! leader of a session on that terminal, its end would hang the terminal up, and UML then closes its side of it for good.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd},
        unix::{fs::OpenOptionsExt, process::CommandExt},
    },
    process::{Command, Stdio},
};

use nix::{
    sys::{
        signal::{SigSet, Signal, kill},
        termios::{SetArg, SpecialCharacterIndices, tcgetattr, tcsetattr},
    },
    unistd::{Pid, getpgrp, setpgid, setsid, tcsetpgrp},
};

use crate::{
    command::BASE_ENVIRONMENT,
    events::{Events, Source},
};

const PROMPT: &[u8] = b"\nfleet: press Enter to get a shell\n";
const SHELL: &str = "/bin/sh";
/// The character that ends input, for the shell; and none.
const CTRL_D: u8 = 4;
const DISABLED: u8 = 0;

/// The console and the shell that may run on it.
pub struct Console {
    path: String,
    tty: Option<File>,
    shell: Option<Pid>,
}

impl Console {
    /// Opens the terminal behind /dev/console (which itself cannot control a shell's jobs) and offers a shell.
    pub fn open(events: &Events) -> Self {
        let active = fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
        let name = active.split_whitespace().last().unwrap_or("console");
        let path = format!("/dev/{name}");
        let options = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK).clone();
        let tty = options.open(&path).ok();
        if let Some(tty) = &tty {
            let _leads_already = setsid();
            // Blocked, or taking the terminal back from a shell would fail; children unblock everything.
            let _always_valid = SigSet::from_iter([Signal::SIGTTOU]).thread_block();
            // SAFETY: TIOCSCTTY takes a number, no pointer.
            let _no_terminal = unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCSCTTY, 0) };
        }
        let mut console = Self { path, tty, shell: None };
        console.offer(events);
        console
    }

    /// A key was pressed: starts the shell.
    pub fn on_input(&mut self, events: &Events) {
        let Some(tty) = &mut self.tty else { return };
        match tty.read(&mut [0; 256]) {
            Ok(1..) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => return,
            Ok(_) | Err(_) => {
                // Nobody is behind it. A terminal that says so would say so for ever.
                events.forget(tty.as_fd());
                self.tty = None;
                return;
            }
        }
        events.forget(tty.as_fd());
        set_end_of_input(tty, CTRL_D);
        match start_shell(&self.path) {
            Ok(pid) => self.shell = Some(pid),
            Err(error) => {
                let _nobody_reads = writeln!(tty, "fleet: {SHELL}: {error}");
                self.offer(events);
            }
        }
    }

    /// A process ended: if it was the shell, offers another.
    pub fn on_exit(&mut self, pid: Pid, events: &Events) {
        if self.shell == Some(pid) {
            self.shell = None;
            let _nobody_left = kill(Pid::from_raw(-pid.as_raw()), Signal::SIGHUP);
            self.offer(events);
        }
    }

    /// Says that there is a shell to be had, and waits for a key.
    fn offer(&mut self, events: &Events) {
        let Some(tty) = &mut self.tty else { return };
        // The terminal is the init's again. Nothing is lost if it cannot be: the next shell takes it.
        let _no_terminal = tcsetpgrp(&*tty, getpgrp());
        set_end_of_input(tty, DISABLED); // else Ctrl-D would look as if nobody were there
        let _nobody_reads = tty.write_all(PROMPT);
        // A file or /dev/null cannot be watched: there is nobody to offer a shell to.
        if events.watch_input(tty.as_fd(), Source::Console).is_err() {
            self.tty = None;
        }
    }
}

fn set_end_of_input(tty: &File, character: u8) {
    if let Ok(mut settings) = tcgetattr(tty) {
        settings.control_chars[SpecialCharacterIndices::VEOF as usize] = character;
        let _no_terminal = tcsetattr(tty, SetArg::TCSANOW, &settings);
    }
}

fn start_shell(path: &str) -> io::Result<Pid> {
    // The shell gets an open file of its own: a non-blocking terminal would confuse it.
    let options = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).clone();
    let own = || options.open(path).map(Stdio::from);
    let mut command = Command::new(SHELL);
    command.arg0("-sh").current_dir("/root").env_clear().envs(BASE_ENVIRONMENT.iter().copied());
    command.stdin(own()?).stdout(own()?).stderr(own()?);
    // SAFETY: between fork and exec only system calls are made; there is one thread.
    unsafe { command.pre_exec(foreground) };
    let pid = command.spawn()?.id();
    Ok(Pid::from_raw(i32::try_from(pid).unwrap_or(0)))
}

/// For use between fork and exec: a process group of its own, in the foreground of the terminal that is standard input,
/// with no signal blocked (the init blocks those that it takes from its signalfd).
fn foreground() -> io::Result<()> {
    setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
    // Who is in the background and asks for the foreground gets SIGTTOU; blocked, it does not matter.
    SigSet::all().thread_set_mask()?;
    tcsetpgrp(io::stdin(), getpgrp())?;
    SigSet::empty().thread_set_mask()?;
    Ok(())
}
