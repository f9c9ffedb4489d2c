//! A guest's command or console on this terminal: raw mode, window size, bytes both ways.

use std::os::fd::{AsFd, OwnedFd, RawFd};

use fleet_proto::v1::WindowSize;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{self, SetArg, Termios};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

/// Bytes read from standard input at once, and how many such pieces may wait to be sent.
const PIECE: usize = 4096;
const PIECES: usize = 16;

nix::ioctl_read_bad!(tiocgwinsz, nix::libc::TIOCGWINSZ, nix::libc::winsize);

/// The size of the terminal behind a file descriptor; `None` when it is none.
pub fn window_size(fd: RawFd) -> Option<WindowSize> {
    let mut size = nix::libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the pointer is to a local of the type that TIOCGWINSZ fills.
    unsafe { tiocgwinsz(fd, &mut size) }.ok()?;
    (size.ws_col > 0).then(|| WindowSize { rows: size.ws_row.into(), columns: size.ws_col.into() })
}

/// The terminal in raw mode, until dropped.
pub struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// Puts standard input into raw mode; `None` when it is no terminal.
    pub fn enter() -> Option<Self> {
        let stdin = std::io::stdin();
        let before = termios::tcgetattr(stdin.as_fd()).ok()?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &raw).ok()?;
        Some(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // The terminal may be gone; then there is nothing to put back.
        let _ = termios::tcsetattr(std::io::stdin().as_fd(), SetArg::TCSANOW, &self.before);
    }
}

/// Standard input, piece by piece; an empty piece is its end.
///
/// Tokio's own standard input reads on a thread that cannot be cancelled, so the program would wait for one more line
/// after the guest's command ended. Where epoll can watch the descriptor (terminals, pipes, sockets), it does; a file
/// is read by a thread, since reading it never waits long.
pub fn stdin() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(PIECES);
    let watched = std::io::stdin().as_fd().try_clone_to_owned().ok().and_then(|stdin| {
        // SAFETY: the descriptor is our own copy, which only `watched` closes.
        unsafe { AsyncFd::register_with_interest(stdin, Interest::READABLE) }.ok()
    });
    match watched {
        Some(watched) => drop(tokio::spawn(pump(watched, sender))),
        None => drop(std::thread::Builder::new().name("stdin".into()).spawn(move || {
            while let Ok(piece) = read_piece() {
                let end = piece.is_empty();
                if sender.blocking_send(piece).is_err() || end {
                    break;
                }
            }
        })),
    }
    receiver
}

async fn pump(watched: AsyncFd<OwnedFd>, sender: mpsc::Sender<Vec<u8>>) {
    loop {
        let Ok(mut ready) = watched.readable().await else { return };
        // The descriptor stays blocking (it is shared with the shell), so it is asked before each read. Epoll tells of
        // new input only: readiness is given up when all that came was read, not before.
        if !has_input() {
            ready.clear_ready();
            continue;
        }
        let piece = read_piece().unwrap_or_default();
        let end = piece.is_empty();
        if sender.send(piece).await.is_err() || end {
            return;
        }
    }
}

/// Whether a read would give something at once, be it the end.
fn has_input() -> bool {
    let stdin = std::io::stdin();
    let mut asked = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    poll(&mut asked, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

fn read_piece() -> nix::Result<Vec<u8>> {
    let mut piece = vec![0; PIECE];
    let length = nix::unistd::read(std::io::stdin().as_fd(), &mut piece)?;
    piece.truncate(length);
    Ok(piece)
}
