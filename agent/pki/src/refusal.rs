//! Why a connection was refused, in words that name the cause and the mend.

use std::error::Error;

use rustls::{AlertDescription, CertificateError, OtherError};
use thiserror::Error;

use crate::key::Fingerprint;
use crate::name::{Identity, Role};

/// Why one side did not accept the other.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    /// It has no certificate of this fleet.
    #[error("its certificate was not made by this fleet's controller")]
    Stranger,
    /// It showed none.
    #[error("it showed no certificate")]
    NoCertificate,
    /// Its time is over.
    #[error("its certificate has expired; a clock may be wrong, or it did not reach the controller to have it renewed")]
    Expired,
    /// Its time has not come.
    #[error("its certificate is not valid yet; a clock is wrong")]
    NotYetValid,
    /// It was removed from the fleet.
    #[error("its certificate was revoked: the host was removed from the fleet")]
    Revoked,
    /// The certificate of this fleet names nobody.
    #[error("its certificate names no member of a fleet")]
    Nameless,
    /// Another host answers at the address.
    #[error("it is {found}, and {meant} was meant; another host has this address now")]
    WrongName {
        /// Who was called.
        meant: String,
        /// Who answered.
        found: Identity,
    },
    /// It may not do what this connection is for.
    #[error("it is {found}, and a {meant} was meant")]
    WrongRole {
        /// What was called.
        meant: Role,
        /// Who answered.
        found: Identity,
    },
    /// The controller is not the one of the token.
    #[error("the controller's CA is not the one of the token ({wanted}); take the token of this controller")]
    OtherCa {
        /// That of the token.
        wanted: Fingerprint,
    },
    /// The other side refused.
    #[error("it refused this side: {0}")]
    ByPeer(&'static str),
    /// The protocol.
    #[error("TLS: {0}")]
    Tls(String),
}

impl From<Refusal> for rustls::Error {
    /// As a verifier says it. What has a TLS alert of its own keeps it, so that the other side learns the reason.
    fn from(refusal: Refusal) -> Self {
        let error = match refusal {
            Refusal::Revoked => CertificateError::Revoked,
            Refusal::Stranger => CertificateError::UnknownIssuer,
            other => CertificateError::Other(OtherError(std::sync::Arc::new(other))),
        };
        Self::InvalidCertificate(error)
    }
}

impl From<&rustls::Error> for Refusal {
    fn from(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::NoCertificatesPresented => Self::NoCertificate,
            rustls::Error::InvalidCertificate(error) => match error {
                CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::Stranger,
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
                CertificateError::Revoked => Self::Revoked,
                CertificateError::Other(OtherError(cause)) => {
                    cause.downcast_ref::<Self>().cloned().unwrap_or_else(|| Self::Tls(error.to_string()))
                }
                _ => Self::Tls(error.to_string()),
            },
            rustls::Error::AlertReceived(alert) => match alert_in_words(*alert) {
                Some(words) => Self::ByPeer(words),
                None => Self::Tls(error.to_string()),
            },
            _ => Self::Tls(error.to_string()),
        }
    }
}

/// What the other side's alert means (RFC 8446, section 6.2).
fn alert_in_words(alert: AlertDescription) -> Option<&'static str> {
    Some(match alert {
        AlertDescription::CertificateRevoked => REVOKED_BY_PEER,
        AlertDescription::CertificateExpired => EXPIRED_AT_PEER,
        AlertDescription::UnknownCA => "this host's certificate is not of its fleet",
        AlertDescription::CertificateRequired => "it wants a certificate",
        AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied
        | AlertDescription::DecryptError => "it does not accept this host's certificate",
        _ => return None,
    })
}

const EXPIRED_AT_PEER: &str = "this host's certificate has expired there, or is not valid yet; a clock may be wrong";
const REVOKED_BY_PEER: &str = "this host was removed from the fleet; a new token lets it in again";

impl Refusal {
    /// Whether the other side says that this host was removed from the fleet.
    pub fn is_removal(&self) -> bool {
        *self == Self::ByPeer(REVOKED_BY_PEER)
    }

    /// Whether the other side says that this host's certificate has expired.
    pub fn is_expiry(&self) -> bool {
        *self == Self::ByPeer(EXPIRED_AT_PEER)
    }
}

/// The refusal behind an error of a connection, if that is what it was.
pub fn refusal(error: &(dyn Error + 'static)) -> Option<Refusal> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(refusal) = error.downcast_ref::<Refusal>() {
            return Some(refusal.clone());
        }
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls.into());
        }
        // An `io::Error` shows the source of what it holds, not what it holds.
        if let Some(held) = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref)
            && let Some(found) = refusal(held)
        {
            return Some(found);
        }
        next = error.source();
    }
    None
}
