//! A daemon of a fleet's folder in the foreground: a controller or an agent that the test owns.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use nix::sys::signal::Signal;

use crate::{Fleet, eventually, signal};

/// A daemon; ended with its value.
pub struct Daemon {
    child: Child,
}

impl Daemon {
    /// Starts `fleet` with these arguments. What it says goes to [`Daemon::log_file`].
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(fleet: &Fleet, args: &[&str]) -> Self {
        let log = std::fs::File::options().create(true).append(true).open(Self::log_file(fleet.root())).unwrap();
        let mut command = fleet.command(args);
        Self { child: command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap() }
    }

    /// Where the daemons of a folder say what they do.
    pub fn log_file(root: &Path) -> PathBuf {
        root.join("daemon.log")
    }

    /// What the daemons of a folder have said so far.
    pub fn log(root: &Path) -> String {
        let mut bytes = Vec::new();
        if let Ok(mut file) = std::fs::File::open(Self::log_file(root)) {
            file.read_to_end(&mut bytes).unwrap();
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its own end; gives its exit code, -1 when a signal ended it.
    ///
    /// # Panics
    /// When it does not end.
    pub fn ended(mut self) -> i32 {
        eventually("the end of a daemon", || self.child.try_wait().unwrap()).code().unwrap_or(-1)
    }

    /// As the kernel does it when memory runs out.
    ///
    /// # Panics
    /// When it ended before.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end, without waiting.
    pub fn ask_to_end(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            signal(self.child.id(), Signal::SIGTERM);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.ask_to_end();
        self.child.wait().unwrap();
    }
}
