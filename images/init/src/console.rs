//! A shell on the console, for whoever presses Enter there. No shell runs before: a thousand idle ones would cost as
//! much as a hundred guests.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::AsFd,
        unix::{fs::OpenOptionsExt, process::CommandExt},
    },
    process::{Command, Stdio},
};

use nix::{
    sys::{
        signal::{Signal, kill},
        termios::{SetArg, SpecialCharacterIndices, tcgetattr, tcsetattr},
    },
    unistd::Pid,
};

use crate::{
    command::{BASE_ENVIRONMENT, new_session},
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
        let mut console = Self { path: format!("/dev/{name}"), tty: None, shell: None };
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

    /// Opens the terminal (again: the end of a shell hangs up all who had it open) and waits for a key.
    fn offer(&mut self, events: &Events) {
        let options = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK).clone();
        self.tty = options.open(&self.path).ok().filter(|tty| {
            set_end_of_input(tty, DISABLED); // else Ctrl-D would look as if nobody were there
            let mut writer: &File = tty;
            let _nobody_reads = writer.write_all(PROMPT);
            // A file or /dev/null cannot be watched: there is nobody to offer a shell to.
            events.watch_input(tty.as_fd(), Source::Console).is_ok()
        });
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
    unsafe { command.pre_exec(|| new_session(true)) };
    let pid = command.spawn()?.id();
    Ok(Pid::from_raw(i32::try_from(pid).unwrap_or(0)))
}
