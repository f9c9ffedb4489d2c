//! Which MongoDB server, and running one when nobody gives one.
//!
//! 1. A URI that the user gave: nothing is started.
//! 2. `mongod` on `PATH`, else `secantusd-rs` (a server of the same protocol in one program) from the user's cache of
//!    tools or `PATH`: run on loopback with a data folder of fleet's own.
//! 3. Neither: telemetry is off, and [`ServerState::Off`] says in one line how to have it.
//!
//! A server that fleet runs has a session of its own and is no orphan after `kill -9` of the controller: its pid, start
//! time and port are in a record in the folder, and the next controller takes it over. Two controllers on one folder
//! share one server; the last one that ends in order stops it. Two locks see to that: `start.lock` is held while a
//! server is looked for, started or stopped, `users.lock` is held shared by everyone who uses it.

mod locate;
mod process;
mod record;
mod supervisor;

use std::path::PathBuf;
use std::time::Duration;

pub use locate::ProgramSearch;
pub use supervisor::ServerSupervisor;

/// What to run and where.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// The user's own server. Nothing is started then.
    pub uri: Option<String>,
    /// Folder of the local server: its data, its log and the record. Made if missing, for its owner only.
    pub folder: PathBuf,
    /// Where programs are looked for.
    pub search: ProgramSearch,
    /// TCP port on loopback; 0 for any free one.
    pub port: u16,
    /// The local server's cache, in MiB.
    pub cache_mib: u32,
    /// How long a server may take until it listens (it may have to recover its data first).
    pub start_deadline: Duration,
}

impl ServerConfig {
    /// A server of our own in `folder`, with the programs found in the environment.
    pub fn local(folder: impl Into<PathBuf>) -> Self {
        Self {
            uri: None,
            folder: folder.into(),
            search: ProgramSearch::from_env(),
            port: 0,
            cache_mib: 256,
            start_deadline: Duration::from_secs(60),
        }
    }
}

/// Which server there is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerState {
    /// There is none and there will be none: why, and how to have one, in a line.
    Off {
        /// The line.
        reason: String,
    },
    /// One is being looked for or started.
    Starting,
    /// One can be connected to.
    Running(RunningServer),
    /// It ended or could not be started; it is tried again.
    Down {
        /// Why, with the last lines of its log.
        reason: String,
    },
}

/// A server that can be connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningServer {
    /// For the driver. May hold a password: never show it.
    pub uri: String,
    /// The URI without its password, for people.
    pub shown: String,
    /// Pid of the local server; none where the user gave a URI.
    pub pid: Option<u32>,
    /// Whether it ran already and was taken over.
    pub adopted: bool,
}

impl RunningServer {
    pub(crate) fn remote(uri: &str) -> Self {
        Self { uri: uri.to_owned(), shown: without_password(uri), pid: None, adopted: false }
    }

    pub(crate) fn local(port: u16, pid: u32, adopted: bool) -> Self {
        // Direct: the server names itself to clients, and that name need not be one that leads here.
        let uri = format!("mongodb://127.0.0.1:{port}/?directConnection=true");
        Self { shown: uri.clone(), uri, pid: Some(pid), adopted }
    }
}

/// Why a local server could not be had or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A file of the folder.
    #[error("the telemetry server's folder cannot be used: {path}: {source}", path = path.display())]
    Folder {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another controller holds the lock.
    #[error("another controller has been starting or stopping the telemetry server in {path} for {} s", waited.as_secs(), path = path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
        /// For so long.
        waited: Duration,
    },
    /// The program did not start.
    #[error("{program} cannot be started: {source}", program = program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It ended before it listened.
    #[error("{program} ended before it listened ({status}); its last lines: {log}", program = program.display())]
    Ended {
        /// The program.
        program: PathBuf,
        /// Its exit status.
        status: String,
        /// The end of its log, on one line.
        log: String,
    },
    /// It does not listen.
    #[error("{program} did not listen within {} s; its last lines: {log}", waited.as_secs(), program = program.display())]
    Silent {
        /// The program.
        program: PathBuf,
        /// For so long.
        waited: Duration,
        /// The end of its log, on one line.
        log: String,
    },
    /// It did not stop.
    #[error(
        "the telemetry server (pid {pid}) does not end, not even by SIGKILL; it may hang in the kernel on its disk"
    )]
    Unstoppable {
        /// Its pid.
        pid: u32,
    },
    /// A call on its process failed.
    #[error("the telemetry server (pid {pid}) cannot be watched or signalled: {source}")]
    Process {
        /// Its pid.
        pid: u32,
        /// Why.
        source: std::io::Error,
    },
}

/// The URI with `***` for the password. Everything between `//` and the last `@` before the path is credentials: a
/// password may hold an `@` that should have been escaped, and must not be shown then either.
fn without_password(uri: &str) -> String {
    let Some((scheme, rest)) = uri.split_once("://") else { return uri.to_owned() };
    let end_of_hosts = rest.rfind('@').map_or(0, |at| at + 1);
    let (credentials, hosts) = rest.split_at(end_of_hosts);
    match credentials.strip_suffix('@').and_then(|credentials| credentials.split_once(':')) {
        Some((user, _)) => format!("{scheme}://{user}:***@{hosts}"),
        None => uri.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        assert_eq!(without_password("mongodb://127.0.0.1:27017/"), "mongodb://127.0.0.1:27017/");
        assert_eq!(without_password("mongodb://a:b@h1,h2/?x=y"), "mongodb://a:***@h1,h2/?x=y");
        assert_eq!(without_password("mongodb+srv://a:p@ss/w:rd@h"), "mongodb+srv://a:***@h");
        assert_eq!(without_password("mongodb://user@h/"), "mongodb://user@h/");
        assert_eq!(without_password("nonsense"), "nonsense");
    }
}
