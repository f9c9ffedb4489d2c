//! Roles and names, and how a certificate carries them: one URI among its alternative names, "fleet://agent/h1"
//! (RFC 5280, section 4.2.1.6).

use std::fmt;

use thiserror::Error;

use crate::error::PkiError;

/// Longest name of a host, in bytes: that of a DNS label (RFC 1035), so that it fits wherever names of hosts go.
const MAX_NAME: usize = 63;
const SCHEME: &str = "fleet://";

/// What a member of a fleet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Says what is to be done.
    Controller,
    /// Does it on its host, and hands it on to others.
    Agent,
}

impl Role {
    /// Its word in certificates and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Controller => "controller",
            Self::Agent => "agent",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that a host cannot have.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "`{0}` cannot be the name of a host: 1 to 63 letters, digits, `-`, `_` and `.`, the first one a letter or a digit"
)]
pub struct NameError(pub String);

/// Checks the name of a host.
///
/// # Errors
/// When a host cannot be called so.
pub fn check_name(name: &str) -> Result<(), NameError> {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let fits = name.len() <= MAX_NAME
        && name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
        && name.bytes().all(inner);
    if fits { Ok(()) } else { Err(NameError(name.chars().take(80).collect())) }
}

/// Who a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// What it is.
    pub role: Role,
    /// The host's name.
    pub name: String,
}

impl Identity {
    /// An agent.
    ///
    /// # Errors
    /// When a host cannot be called so.
    pub fn agent(name: &str) -> Result<Self, NameError> {
        check_name(name)?;
        Ok(Self { role: Role::Agent, name: name.to_owned() })
    }

    /// A controller.
    ///
    /// # Errors
    /// When a host cannot be called so.
    pub fn controller(name: &str) -> Result<Self, NameError> {
        check_name(name)?;
        Ok(Self { role: Role::Controller, name: name.to_owned() })
    }

    /// The URI in the certificate.
    pub(crate) fn uri(&self) -> String {
        format!("{SCHEME}{}/{}", self.role, self.name)
    }

    fn parse(uri: &str) -> Option<Self> {
        let (role, name) = uri.strip_prefix(SCHEME)?.split_once('/')?;
        match role {
            "controller" => Self::controller(name).ok(),
            "agent" => Self::agent(name).ok(),
            _ => None,
        }
    }

    /// What a certificate says. Nothing is known of its signature here.
    ///
    /// # Errors
    /// When it does not name exactly one member of a fleet.
    pub(crate) fn of(certificate: &webpki::EndEntityCert<'_>) -> Result<Self, PkiError> {
        let mut uris = certificate.valid_uri_names();
        let (Some(uri), None) = (uris.next(), uris.next()) else {
            return Err(PkiError::Certificate("it does not hold exactly one URI as its name".into()));
        };
        Self::parse(uri).ok_or_else(|| PkiError::Certificate(format!("`{uri}` names no member of a fleet")))
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role, self.name)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_name_that_is_accepted_comes_back_from_its_uri(name in "\\PC{0,70}", agent: bool) {
            let identity = if agent { Identity::agent(&name) } else { Identity::controller(&name) };
            if let Ok(identity) = identity {
                prop_assert_eq!(Identity::parse(&identity.uri()), Some(identity));
            }
        }
    }

    #[test]
    fn names_that_could_be_taken_for_something_else_are_refused() {
        for name in ["", "-h1", ".", "a/b", "h 1", "h1\n", "ü", &"a".repeat(64)] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        for name in ["h1", "rack-2.node_7", &"a".repeat(63)] {
            check_name(name).unwrap();
        }
    }

    #[test]
    fn a_uri_of_another_kind_is_nobody() {
        for uri in ["fleet://agent/", "fleet://root/h1", "http://agent/h1", "fleet://agent/h1/x", "fleet://agent"] {
            assert_eq!(Identity::parse(uri), None, "{uri}");
        }
    }
}
