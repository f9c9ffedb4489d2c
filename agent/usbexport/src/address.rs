//! Where a usbredir server listens: `unix:PATH` or `HOST:PORT`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::ExportError;

/// Where a usbredir server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ServerAddress {
    /// A socket of this host.
    Unix(PathBuf),
    /// `HOST:PORT`, the name or number of a host. Nothing is encrypted there and nobody is asked who he is.
    Tcp(String),
}

impl FromStr for ServerAddress {
    type Err = ExportError;

    fn from_str(text: &str) -> Result<Self, ExportError> {
        let wrong = || ExportError::Address { text: text.chars().take(200).collect() };
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return if path.is_absolute() { Ok(Self::Unix(path)) } else { Err(wrong()) };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        // A number of version 6 stands in brackets.
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let plausible = match bare {
            Some(number) => number.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && !host.contains([':', '[', ']', '/', ' ']),
        };
        match port.parse::<u16>() {
            Ok(1..) if plausible => Ok(Self::Tcp(text.to_owned())),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => f.write_str(address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_survives_its_own_text_and_what_is_none_is_refused() {
        for text in ["unix:/run/cam.sock", "127.0.0.1:4000", "cams.example.org:4000", "[::1]:4000"] {
            assert_eq!(text.parse::<ServerAddress>().expect(text).to_string(), text);
        }
        for text in
            ["", "unix:", "unix:cam.sock", "host", "host:", ":4000", "host:0", "host:70000", "::1:4000", "[x]:1"]
        {
            assert!(text.parse::<ServerAddress>().is_err(), "{text}");
        }
    }
}
