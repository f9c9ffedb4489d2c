//! What a host keeps of its membership: one file, replaced as a whole, so that key and certificates always fit.

use std::path::Path;

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use crate::error::PkiError;
use crate::file;

const CERTIFICATE: &str = "CERTIFICATE";

/// A host's key and, once it has joined, its certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// The host's name in the fleet.
    pub name: String,
    /// Where the controller is, "address:port".
    pub controller: String,
    /// Id of the token that it joined with last.
    #[serde(default)]
    pub token: String,
    /// The host's secret key, PKCS #8 in PEM.
    pub key: String,
    /// What the controller gave; `None` until it has.
    pub membership: Option<StoredMembership>,
}

/// The part of [`Stored`] that comes from the controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredMembership {
    /// The host's certificate in PEM.
    pub certificate: String,
    /// The CA's certificate in PEM.
    pub ca: String,
    /// When the certificate was made, ms since 1970.
    pub issued_ms: u64,
    /// When it ends, ms since 1970.
    pub not_after_ms: u64,
}

impl Stored {
    /// Reads the file; `None` when there is none.
    ///
    /// # Errors
    /// When it is there and cannot be read or understood.
    pub fn read(path: &Path) -> Result<Option<Self>, PkiError> {
        let Some(text) = file::read(path)? else { return Ok(None) };
        let damaged = |reason| PkiError::Damaged { path: path.into(), reason };
        serde_json::from_str(&text).map(Some).map_err(|error| damaged(error.to_string()))
    }

    /// Writes the file with mode 0600.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), PkiError> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|error| PkiError::Damaged { path: path.into(), reason: error.to_string() })?;
        file::write_private(path, text.as_bytes())
    }
}

impl StoredMembership {
    /// From what the controller gave, in DER.
    pub fn new(certificate: &CertificateDer<'_>, ca: &CertificateDer<'_>, issued_ms: u64, not_after_ms: u64) -> Self {
        Self { certificate: certificate_to_pem(certificate), ca: certificate_to_pem(ca), issued_ms, not_after_ms }
    }

    /// The host's certificate.
    ///
    /// # Errors
    /// When its text is damaged.
    pub fn certificate(&self) -> Result<CertificateDer<'static>, PkiError> {
        certificate_from_pem(&self.certificate).map_err(PkiError::Certificate)
    }

    /// The CA's certificate.
    ///
    /// # Errors
    /// When its text is damaged.
    pub fn ca(&self) -> Result<CertificateDer<'static>, PkiError> {
        certificate_from_pem(&self.ca).map_err(PkiError::Certificate)
    }
}

/// A certificate as text (RFC 7468).
pub(crate) fn certificate_to_pem(certificate: &CertificateDer<'_>) -> String {
    pem::encode(&pem::Pem::new(CERTIFICATE, certificate.to_vec()))
}

/// A certificate from its text.
///
/// # Errors
/// In words.
pub(crate) fn certificate_from_pem(text: &str) -> Result<CertificateDer<'static>, String> {
    let parsed = pem::parse(text).map_err(|error| error.to_string())?;
    if parsed.tag() != CERTIFICATE {
        return Err(format!("it holds a {} instead of a {CERTIFICATE}", parsed.tag()));
    }
    Ok(CertificateDer::from(parsed.into_contents()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_membership_comes_back_from_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.json");
        assert_eq!(Stored::read(&path).unwrap(), None);
        let certificate = CertificateDer::from(vec![1, 2, 3]);
        let stored = Stored {
            name: "h1".into(),
            controller: "10.0.0.1:7117".into(),
            token: "t".into(),
            key: "secret".into(),
            membership: Some(StoredMembership::new(&certificate, &certificate, 5, 6)),
        };
        stored.write(&path).unwrap();
        let again = Stored::read(&path).unwrap().unwrap();
        assert_eq!(again, stored);
        assert_eq!(again.membership.unwrap().certificate().unwrap(), certificate);
    }

    #[test]
    fn a_damaged_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.json");
        std::fs::write(&path, "{").unwrap();
        let error = Stored::read(&path).unwrap_err().to_string();
        assert!(error.contains("identity.json") && error.contains("damaged"), "{error}");
    }
}
