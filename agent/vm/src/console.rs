//! The console of a VM. Its output is a log file in RAM, so that it is kept while no agent runs; a session follows the
//! file with inotify. Its input is a stream of the VM ([`crate::hypervisor::Endpoint`]).
//!
//! The log is bounded by punching a hole where its old part was: the writer appends and need not know. So the file's
//! length is the number of bytes ever written, and reading starts after the hole.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;

use crate::error::VmError;
use crate::exit::VmExit;
use crate::procs::async_fd;

/// How much of the log is read for its last lines.
const TAIL_BYTES: u64 = 64 * 1024;

/// Most bytes given in one piece.
const PIECE: usize = 16 * 1024;

/// Holes are punched in whole pages.
const PAGE: u64 = 4096;

/// The last lines of a log, oldest first, without control characters. At most `count`, and of at most 64 KiB.
pub fn last_lines(log: &Path, count: usize) -> io::Result<Vec<String>> {
    let file = File::open(log)?;
    let length = file.metadata()?.len();
    let start = length.saturating_sub(TAIL_BYTES);
    let mut bytes = vec![0; usize::try_from(length - start).unwrap_or(0)];
    let got = read_full(&file, &mut bytes, start)?;
    bytes.truncate(got);
    // A hole reads as zeroes.
    let text = bytes.rsplit(|byte| *byte == 0).next().map(String::from_utf8_lossy).unwrap_or_default();
    let clean = |line: &str| line.chars().filter(|c| !c.is_control() || *c == '\t').collect::<String>();
    let lines: Vec<String> = text.lines().map(clean).collect();
    Ok(lines[lines.len().saturating_sub(count)..].to_vec())
}

fn read_full(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<usize> {
    let mut total = 0;
    while !bytes.is_empty() {
        let got = file.read_at(bytes, offset)?;
        if got == 0 {
            break;
        }
        (total, offset, bytes) = (total + got, offset + got as u64, &mut bytes[got..]);
    }
    Ok(total)
}

/// Keeps at least the last `keep` bytes of a log and gives the memory of what is older back. Cheap when there is
/// nothing to do.
///
/// # Errors
/// When the file cannot be opened, or its file system cannot punch holes (tmpfs can).
pub fn trim(log: &Path, keep: u64) -> Result<(), VmError> {
    let file = File::options().write(true).open(log).map_err(VmError::io("cannot open", log))?;
    let data = file.metadata().map_err(VmError::io("cannot read the size of", log))?;
    let hole = data.len().saturating_sub(keep) / PAGE * PAGE;
    // Blocks are counted in 512 bytes; a log that fits needs no further hole.
    if hole == 0 || data.blocks() * 512 <= keep + PAGE {
        return Ok(());
    }
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let length = i64::try_from(hole).unwrap_or(i64::MAX);
    fallocate(file.as_fd(), flags, 0, length).map_err(|errno| VmError::io("cannot shorten", log)(errno.into()))
}

/// The input of a console; sessions of one agent share it.
#[derive(Debug)]
pub(crate) struct ConsoleInput {
    /// Not split into halves: the writing half would shut the socket down when dropped, and a UML process holds that
    /// same socket for the next session.
    stream: Arc<UnixStream>,
    /// One session types at a time.
    turn: Mutex<()>,
    drain: JoinHandle<()>,
}

impl ConsoleInput {
    /// Takes the stream. What comes out of it is thrown away (QEMU sends the output here too; the log has it).
    pub(crate) fn new(stream: UnixStream) -> ConsoleInput {
        let stream = Arc::new(stream);
        let read = Arc::clone(&stream);
        let drain = tokio::spawn(async move {
            let mut bytes = vec![0; PIECE];
            while read.readable().await.is_ok() {
                match read.try_read(&mut bytes) {
                    Ok(1..) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Ok(_) | Err(_) => return,
                }
            }
        });
        ConsoleInput { stream, turn: Mutex::new(()), drain }
    }

    async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        let _turn = self.turn.lock().await;
        while !bytes.is_empty() {
            self.stream.writable().await?;
            match self.stream.try_write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Drop for ConsoleInput {
    fn drop(&mut self) {
        self.drain.abort();
    }
}

/// Someone at a VM's console: recent output, then what comes; and a keyboard.
#[derive(Debug)]
pub struct ConsoleSession {
    log: PathBuf,
    file: File,
    offset: u64,
    changes: AsyncFd<Arc<OwnedFd>>,
    exit: watch::Receiver<Option<VmExit>>,
    input: Arc<ConsoleInput>,
}

impl ConsoleSession {
    /// Starts a session with up to `tail` bytes of what was said before.
    pub(crate) fn new(
        log: &Path,
        tail: u64,
        input: Arc<ConsoleInput>,
        exit: watch::Receiver<Option<VmExit>>,
    ) -> Result<ConsoleSession, VmError> {
        let start = || -> io::Result<(File, u64, AsyncFd<Arc<OwnedFd>>)> {
            let changes = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
            changes.add_watch(log, AddWatchFlags::IN_MODIFY)?;
            let file = File::open(log)?;
            let offset = file.metadata()?.len().saturating_sub(tail.min(TAIL_BYTES));
            Ok((file, offset, async_fd(OwnedFd::from(changes), Interest::READABLE)?))
        };
        let (file, offset, changes) = start().map_err(VmError::io("cannot follow", log))?;
        Ok(ConsoleSession { log: log.to_owned(), file, offset, changes, exit, input })
    }

    /// The next piece of output; `None` when the VM has ended and all was given. Cancel-safe.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, VmError> {
        self.read_on().await.map_err(VmError::io("cannot follow", &self.log))
    }

    async fn read_on(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let ended = self.exit.borrow().is_some();
            let mut bytes = vec![0; PIECE];
            let got = self.file.read_at(&mut bytes, self.offset)?;
            if got > 0 {
                self.offset += got as u64;
                bytes.truncate(got);
                bytes.retain(|byte| *byte != 0); // of a hole that was punched meanwhile
                if bytes.is_empty() {
                    continue;
                }
                return Ok(Some(bytes));
            }
            if ended {
                return Ok(None);
            }
            tokio::select! {
                ready = self.changes.readable() => {
                    let mut ready = ready?;
                    let mut events = [0; 4096]; // what they say is known: the log has grown
                    while nix::unistd::read(ready.get_inner(), &mut events).is_ok_and(|got| got > 0) {}
                    ready.clear_ready();
                }
                changed = self.exit.changed() => {
                    if changed.is_err() {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Types bytes.
    ///
    /// # Errors
    /// When the VM does not take them any more.
    pub async fn write(&self, bytes: &[u8]) -> Result<(), VmError> {
        self.input.write_all(bytes).await.map_err(VmError::io("cannot type on the console of", &self.log))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_trimmed_log_gives_its_memory_back_and_keeps_its_end() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let log = dir.path().join("log");
        let mut file = File::options().create(true).append(true).open(&log).unwrap();
        for number in 0..40_000 {
            writeln!(file, "line {number}").unwrap();
        }
        let length = file.metadata().unwrap().len();
        trim(&log, 8192).unwrap();
        let data = file.metadata().unwrap();
        assert_eq!(data.len(), length);
        assert!(data.blocks() * 512 <= 8192 + PAGE, "{} blocks", data.blocks());
        writeln!(file, "\x1b[1mthe end\r").unwrap();
        let lines = last_lines(&log, 2).unwrap();
        assert_eq!(lines, ["line 39999", "[1mthe end"]);
    }

    #[test]
    fn a_log_with_less_than_asked_is_given_whole() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        std::fs::write(&log, "a\nb").unwrap();
        assert_eq!(last_lines(&log, 10).unwrap(), ["a", "b"]);
        std::fs::write(&log, "").unwrap();
        assert_eq!(last_lines(&log, 10).unwrap(), Vec::<String>::new());
    }
}
