//! The control channel: which file it is, and messages over it.
//!
//! - User-mode Linux: `/dev/ttyS0`, a terminal line that is made raw; the other end is a socket pair whose both ends
//!   the UML process holds, so the line never hangs up.
//! - QEMU: the virtio-serial port named `org.fleet.control`. It appears some time after its driver is loaded, with a
//!   uevent. While no agent is connected the port says "hang-up" and takes what is written to nowhere.
//!
//! Output is queued. The queue stays short: commands are not read while it holds more than [`ROOM`] bytes, and the
//! channel itself is not read while it holds more than [`LIMIT`], so an agent that asks and never reads stops itself.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::OpenOptionsExt,
    },
    time::{Duration, Instant},
};

use fleet_wire::{Decoder, NOTE_EVERY, ToAgent, ToGuest, encode, encode_note};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::termios::{ControlFlags, SetArg, cfmakeraw, tcgetattr, tcsetattr},
};

use crate::{error::InitError, netlink::Uevents};

/// Name of the virtio-serial port.
const PORT: &str = "org.fleet.control";
/// The line in user-mode Linux.
const TTY: &str = "/dev/ttyS0";
/// How long the port may take to appear.
const PORT_DEADLINE: Duration = Duration::from_secs(20);

/// With this much queued, no more output of commands is taken; bytes.
const ROOM: usize = 64 * 1024;
/// With this much queued, no more messages are read; bytes.
const LIMIT: usize = 256 * 1024;

/// The open channel.
pub struct Channel {
    file: File,
    decoder: Decoder,
    queue: VecDeque<Vec<u8>>,
    /// Bytes of the first frame of the queue that are written.
    written: usize,
    queued: usize,
    /// Somebody was told that there is no room.
    starved: bool,
    /// Bytes read since boot, and as the agent was told last.
    read: u64,
    noted: u64,
}

impl Channel {
    /// Finds and opens it, and ends whatever half frame an earlier life of this guest left with a zero byte.
    pub fn open() -> Result<Self, InitError> {
        let no_channel = |detail: String| InitError::NoChannel { port: PORT, tty: TTY, detail };
        let is_uml = fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains("User Mode Linux"));
        let path = if is_uml { TTY.to_owned() } else { wait_for_port().map_err(no_channel)? };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(&path)
            .map_err(|error| no_channel(format!("{path}: {error}")))?;
        if is_uml {
            make_raw(&file).map_err(|errno| no_channel(format!("{path}: {errno}")))?;
        }
        let mut channel = Self {
            file,
            decoder: Decoder::default(),
            queue: VecDeque::new(),
            written: 0,
            queued: 0,
            starved: false,
            read: 0,
            noted: 0,
        };
        channel.enqueue(vec![0]);
        Ok(channel)
    }

    /// Queues a message and writes what can be written.
    pub fn send(&mut self, message: &ToAgent) {
        // Only a message longer than a frame cannot be encoded, and all are made far shorter.
        if let Ok(frame) = encode(message) {
            self.enqueue(frame);
        }
    }

    /// Whether output of commands may be queued.
    pub fn has_room(&mut self) -> bool {
        self.starved |= self.queued >= ROOM;
        self.queued < ROOM
    }

    /// Whether there is room again after somebody was told that there is none; says so once.
    pub fn has_room_again(&mut self) -> bool {
        self.queued < ROOM && std::mem::take(&mut self.starved)
    }

    /// Writes what can be written without waiting.
    pub fn flush(&mut self) {
        while let Some(frame) = self.queue.front() {
            match self.file.write(&frame[self.written..]) {
                Ok(length) => {
                    self.written += length;
                    if self.written >= frame.len() {
                        self.queued -= frame.len();
                        self.queue.pop_front();
                        self.written = 0;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return, // would block, or nobody there: an event says when that changes
            }
        }
    }

    /// Reads once; `None` when there is nothing now, or when too much waits to be written.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Option<Vec<ToGuest>> {
        if self.queued > LIMIT {
            return None;
        }
        match self.file.read(buffer) {
            Ok(0) => None, // a port without an agent
            Ok(length) => {
                self.read += length as u64;
                if self.read - self.noted >= NOTE_EVERY {
                    self.note();
                }
                Some(self.decoder.push(&buffer[..length]))
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Some(Vec::new()),
            Err(_) => None,
        }
    }

    /// Tells the agent how much was read, so that it sends more.
    pub fn note(&mut self) {
        self.noted = self.read;
        self.enqueue(encode_note(self.read));
    }

    /// Forgets what is queued for an earlier agent, but for the rest of a frame that is half written.
    pub fn start_session(&mut self) {
        self.queue.truncate(usize::from(self.written > 0));
        self.queued = self.queue.iter().map(Vec::len).sum();
    }

    /// Writes all that is queued, for at most this long.
    pub fn drain(&mut self, limit: Duration) {
        let end = Instant::now() + limit;
        while !self.queue.is_empty() {
            self.flush();
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
            let _ready = poll(&mut fds, timeout(left));
        }
    }

    fn enqueue(&mut self, frame: Vec<u8>) {
        self.queued += frame.len();
        self.queue.push_back(frame);
        self.flush();
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Waits for the port by uevents: the kernel sends one when the port has got its name.
fn wait_for_port() -> Result<String, String> {
    let uevents = Uevents::open().map_err(|errno| format!("listening for uevents: {errno}"))?;
    let end = Instant::now() + PORT_DEADLINE;
    loop {
        if let Some(path) = find_port() {
            return Ok(path);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(format!("no such port after {} s", PORT_DEADLINE.as_secs()));
        }
        uevents.wait(timeout(left));
    }
}

fn find_port() -> Option<String> {
    fs::read_dir("/sys/class/virtio-ports").ok()?.flatten().find_map(|entry| {
        let name = fs::read_to_string(entry.path().join("name")).ok()?;
        let device = entry.file_name().into_string().ok()?;
        (name.trim_end() == PORT).then(|| format!("/dev/{device}"))
    })
}

fn make_raw(file: &File) -> nix::Result<()> {
    let mut settings = tcgetattr(file)?;
    cfmakeraw(&mut settings);
    settings.control_flags |= ControlFlags::CLOCAL;
    settings.control_flags &= !ControlFlags::HUPCL;
    tcsetattr(file, SetArg::TCSANOW, &settings)
}

fn timeout(left: Duration) -> PollTimeout {
    // Rounded up: a timeout of 0 would spin through the last millisecond.
    PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
}
