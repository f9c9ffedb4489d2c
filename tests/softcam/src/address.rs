//! Where a usbredir server listens: `unix:PATH` or `HOST:PORT`.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// An address of a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A socket in the file system.
    Unix(PathBuf),
    /// Host and port; port 0 is a free one.
    Tcp(String),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self::Unix(path.into()));
        }
        match text.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && host != "unix" && port.parse::<u16>().is_ok() => {
                Ok(Self::Tcp(text.to_owned()))
            }
            _ => Err(format!("`{text}` is no address: write unix:PATH or HOST:PORT")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => f.write_str(address),
        }
    }
}

/// A socket that listens, before a runtime has it.
#[derive(Debug)]
pub(crate) enum Bound {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// Listens; gives the address with its real port.
pub(crate) fn bind(address: &Address) -> io::Result<(Bound, Address)> {
    match address {
        Address::Unix(path) => Ok((Bound::Unix(bind_unix(path)?), address.clone())),
        Address::Tcp(text) => {
            let listener = TcpListener::bind(text)?;
            listener.set_nonblocking(true)?;
            let real = Address::Tcp(listener.local_addr()?.to_string());
            Ok((Bound::Tcp(listener), real))
        }
    }
}

/// A socket at this path; one that a killed program left there is replaced, and one that somebody listens at is not.
pub(crate) fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if UnixStream::connect(path).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused) {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::Address;

    #[test]
    fn an_address_is_a_path_or_a_host_with_a_port() {
        for text in ["unix:/run/cam", "127.0.0.1:4000", "[::1]:0", "lab:1"] {
            assert_eq!(text.parse::<Address>().map(|address| address.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "unix:", "lab", "lab:", ":1", "lab:70000"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
