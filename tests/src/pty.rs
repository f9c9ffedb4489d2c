//! A program on a terminal of its own, as a person has it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use nix::pty::Winsize;

use crate::wait::DEADLINE;

nix::ioctl_none_bad!(set_controlling_terminal, nix::libc::TIOCSCTTY);

/// The terminal and the program on it.
pub struct Pty {
    child: Child,
    keyboard: File,
    output: Receiver<Vec<u8>>,
    /// Everything that was shown so far.
    pub shown: String,
}

impl Pty {
    /// Starts a program on a new terminal of 80 columns.
    ///
    /// # Panics
    /// When there is no terminal or no such program.
    pub fn start(mut command: Command) -> Self {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = nix::pty::openpty(&size, None).unwrap();
        let end = || -> OwnedFd { pty.slave.try_clone().unwrap() };
        command.stdin(end()).stdout(end()).stderr(end());
        // SAFETY: setsid and an ioctl on descriptor 0, which is open: both may be called between fork and exec.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                set_controlling_terminal(0)?;
                Ok(())
            });
        }
        let child = command.spawn().unwrap();
        drop(command);
        drop(pty.slave);
        let keyboard = File::from(pty.master);
        let mut screen = keyboard.try_clone().unwrap();
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            // Reading fails with EIO when the last program on the terminal has ended.
            while let Ok(length @ 1..) = screen.read(&mut piece) {
                if sender.send(piece[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { child, keyboard, output, shown: String::new() }
    }

    /// Types.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub fn type_keys(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until something is shown behind what was waited for before.
    ///
    /// # Panics
    /// When the program ends, or the deadline passes, first.
    pub fn wait_for(&mut self, text: &str) {
        self.wait_while(text, |shown| !shown.contains(text));
        let at = self.shown.find(text).unwrap() + text.len();
        self.shown.drain(..at);
    }

    fn wait_while(&mut self, what: &str, waiting: impl Fn(&str) -> bool) {
        let until = Instant::now() + DEADLINE;
        while waiting(&self.shown) {
            let left = until.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(piece) => self.shown.push_str(&String::from_utf8_lossy(&piece)),
                Err(error) => panic!("`{what}` was not shown ({error}); shown was:\n{}", self.shown),
            }
        }
    }

    /// Waits for the program's end.
    ///
    /// # Panics
    /// When the deadline passes first.
    pub fn end(mut self) -> ExitStatus {
        crate::eventually("the end of the program on the terminal", || self.child.try_wait().unwrap())
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        // It has ended already when all went well.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
