//! How a command fails: an exit code, what went wrong, and what to do about it.

use std::fmt::Display;
use std::process::ExitCode;

use fleet_agent::MembershipError;
use tonic::{Code, Status};

use crate::daemon::DaemonError;

/// The exit codes of `fleet`; they are part of its interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All targets went well.
    Ok,
    /// Fleet itself failed.
    Internal,
    /// The command line or the network file is wrong; nothing was changed.
    Usage,
    /// Some targets failed.
    Partial,
    /// The deadline passed first.
    Deadline,
    /// Nobody was reached.
    NotReached,
    /// Another program's code: that of a command in a guest (`fleet exec` on one VM).
    Guest(u8),
}

impl Exit {
    /// Ctrl-C ended the command: 128 + SIGINT.
    pub const INTERRUPTED: Exit = Exit::Guest(130);
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(match exit {
            Exit::Ok => 0,
            Exit::Internal => 1,
            Exit::Usage => 2,
            Exit::Partial => 3,
            Exit::Deadline => 4,
            Exit::NotReached => 5,
            Exit::Guest(code) => code,
        })
    }
}

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    /// How the process ends.
    pub exit: Exit,
    /// What went wrong, and where.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
}

impl Failure {
    /// A failure with an exit code.
    pub fn new(exit: Exit, message: impl Display) -> Self {
        Self { exit, message: message.to_string(), help: None }
    }

    /// Fleet itself failed.
    pub fn internal(message: impl Display) -> Self {
        Self::new(Exit::Internal, message)
    }

    /// The user can mend it before anything was changed.
    pub fn usage(message: impl Display) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// From what a service says: it puts the mend on a line of its own that starts with `help: `.
    pub fn from_words(exit: Exit, words: &str) -> Self {
        match words.split_once("\nhelp: ") {
            Some((message, help)) => Self::new(exit, message).help(help),
            None => Self::new(exit, words),
        }
    }

    /// Adds what to do.
    #[must_use]
    pub fn help(self, help: impl Display) -> Self {
        Self { help: Some(help.to_string()), ..self }
    }

    /// Writes the failure to standard error.
    pub fn print(&self, color: bool) {
        let (red, bold, off) = if color { ("\x1b[1;31m", "\x1b[1m", "\x1b[0m") } else { ("", "", "") };
        if !self.message.is_empty() {
            eprintln!("{red}error{off}{bold}:{off} {}", self.message);
        }
        if let Some(help) = &self.help {
            eprintln!("  {bold}help:{off} {help}");
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let exit = match status.code() {
            Code::InvalidArgument | Code::NotFound | Code::FailedPrecondition | Code::ResourceExhausted => Exit::Usage,
            Code::PermissionDenied | Code::Unauthenticated | Code::AlreadyExists => Exit::Usage,
            Code::DeadlineExceeded => Exit::Deadline,
            Code::Unavailable => Exit::NotReached,
            Code::Aborted => Exit::Partial,
            _ => Exit::Internal,
        };
        // What the controller itself says has no source; a connection that breaks has one.
        if std::error::Error::source(&status).is_some() {
            return Self::new(Exit::NotReached, "the controller went away in the middle of the answer")
                .help("what was asked for goes on when a controller runs again; `fleet ps` starts one if need be, and shows it");
        }
        Self::from_words(exit, status.message())
    }
}

impl From<DaemonError> for Failure {
    fn from(error: DaemonError) -> Self {
        match error {
            DaemonError::NotRoot
            | DaemonError::Held(_)
            | DaemonError::Address(_)
            | DaemonError::Listen(_)
            | DaemonError::Backup(_) => Self::usage(error),
            DaemonError::Membership(error) => error.into(),
            _ => Self::internal(error),
        }
    }
}

impl From<MembershipError> for Failure {
    fn from(error: MembershipError) -> Self {
        let exit = match &error {
            MembershipError::Unreachable(_) => Exit::NotReached,
            MembershipError::Pki(_) | MembershipError::Epoch(_) | MembershipError::Answer(_) => Exit::Internal,
            _ => Exit::Usage,
        };
        Self::from_words(exit, &error.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::internal(error)
    }
}
