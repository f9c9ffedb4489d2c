//! One epoll for everything, always edge-triggered: a source that is ready but must wait (flow control) then costs
//! nothing, and is looked at again when what it waits for happens.

use std::os::fd::AsFd;

use fleet_wire::ExecId;
use nix::{
    errno::Errno,
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
};

use crate::error::InitError;

/// Where an event comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The control channel.
    Channel,
    /// The signalfd.
    Signals,
    /// The console, while no shell runs on it.
    Console,
    /// The socket for echo requests.
    Probe,
    /// A pipe or terminal of a command.
    Command(ExecId),
}

impl Source {
    fn token(self) -> u64 {
        match self {
            Self::Channel => 0,
            Self::Signals => 1,
            Self::Console => 2,
            Self::Probe => 3,
            Self::Command(id) => 4 | u64::from(id) << 8,
        }
    }

    fn from_token(token: u64) -> Option<Self> {
        match token & 0xff {
            0 => Some(Self::Channel),
            1 => Some(Self::Signals),
            2 => Some(Self::Console),
            3 => Some(Self::Probe),
            4 => u32::try_from(token >> 8).ok().map(Self::Command),
            _ => None,
        }
    }
}

/// The epoll.
pub struct Events(Epoll);

impl Events {
    /// Makes it.
    pub fn new() -> Result<Self, InitError> {
        Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map(Self).map_err(InitError::system("epoll_create"))
    }

    /// Watches a file until it is closed.
    pub fn watch(&self, fd: impl AsFd, source: Source) -> Result<(), Errno> {
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        self.0.add(fd, EpollEvent::new(flags, source.token()))
    }

    /// Watches a file for input only, as long as there is some (not edge-triggered).
    pub fn watch_input(&self, fd: impl AsFd, source: Source) -> Result<(), Errno> {
        self.0.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, source.token()))
    }

    /// No longer watches a file.
    pub fn forget(&self, fd: impl AsFd) {
        let _not_watched = self.0.delete(fd); // the only error: it was not watched
    }

    /// Waits for events, for ever without a timeout (ms).
    pub fn wait(&self, timeout_ms: Option<u32>) -> Result<Vec<Source>, InitError> {
        let timeout = match timeout_ms {
            None => EpollTimeout::NONE,
            Some(ms) => EpollTimeout::try_from(ms).unwrap_or(EpollTimeout::MAX),
        };
        let mut events = [EpollEvent::empty(); 32];
        match self.0.wait(&mut events, timeout) {
            Ok(count) => Ok(events[..count].iter().filter_map(|event| Source::from_token(event.data())).collect()),
            Err(Errno::EINTR) => Ok(Vec::new()),
            Err(errno) => Err(InitError::system("epoll_wait")(errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_survives_its_token() {
        for source in [Source::Channel, Source::Signals, Source::Console, Source::Probe, Source::Command(u32::MAX)] {
            assert_eq!(Source::from_token(source.token()), Some(source));
        }
        assert_eq!(Source::from_token(u64::MAX), None);
    }
}
