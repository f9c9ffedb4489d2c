//! The controller as certificate authority. Its key never leaves its folder:
//!
//! ```text
//!  STATE/pki/ca.key   PKCS #8 in PEM, mode 0600
//!  STATE/pki/ca.crt   certificate in PEM, for twenty years: hosts pin its SHA-256
//! ```
//!
//! Certificates of members are short-lived and made on demand; they are kept nowhere but by their holder.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;

use crate::error::PkiError;
use crate::file;
use crate::key::{Fingerprint, HostKey, PublicKey, Serial};
use crate::name::Identity;
use crate::stored::{certificate_from_pem, certificate_to_pem};

const KEY_FILE: &str = "ca.key";
const CERTIFICATE_FILE: &str = "ca.crt";
/// How long the CA's own certificate is valid: longer than a fleet lives.
const CA_LIFE: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
/// A certificate begins so long before now: clocks of hosts differ.
const CLOCK_SKEW: Duration = Duration::from_secs(300);

/// A certificate that was made just now.
#[derive(Clone, Debug)]
pub struct Issued {
    /// In DER.
    pub certificate: CertificateDer<'static>,
    /// Its serial number.
    pub serial: Serial,
    /// When it was made, ms since 1970.
    pub issued_ms: u64,
    /// When it ends, ms since 1970.
    pub not_after_ms: u64,
}

/// The certificate authority of a fleet.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Authority {
    /// Opens the CA of this folder, or makes one where there is none.
    ///
    /// # Errors
    /// When a file cannot be read or written or is damaged, or when the certificate is there without its key: a new key
    /// would lock all hosts out.
    pub fn open(dir: &Path) -> Result<Self, PkiError> {
        let (key_path, certificate_path) = (dir.join(KEY_FILE), dir.join(CERTIFICATE_FILE));
        let known = file::read(&certificate_path)?;
        let key = match file::read(&key_path)? {
            Some(text) => HostKey::from_pem(&text)
                .map_err(|error| PkiError::Damaged { path: key_path, reason: error.to_string() })?,
            None if known.is_some() => {
                return Err(PkiError::Damaged {
                    path: key_path,
                    reason: "it is missing beside its certificate".into(),
                });
            }
            None => {
                let key = HostKey::generate()?;
                // First: a key without a certificate gets one at the next start.
                file::write_private(&key_path, key.to_pem().as_bytes())?;
                key
            }
        };
        let public = key.public();
        let params = ca_params(&public)?;
        let pair = key.into_pair();
        let certificate = match known {
            Some(text) => {
                let damaged = |reason| PkiError::Damaged { path: certificate_path.clone(), reason };
                let certificate = certificate_from_pem(&text).map_err(damaged)?;
                if PublicKey::of(&certificate)? != public {
                    return Err(damaged("it belongs to another key".into()));
                }
                certificate
            }
            None => {
                let certificate = params.self_signed(&pair)?.der().clone();
                file::write_private(&certificate_path, certificate_to_pem(&certificate).as_bytes())?;
                certificate
            }
        };
        Ok(Self { issuer: Issuer::new(params, pair), certificate })
    }

    /// The CA's own certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// What hosts pin.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// Makes a certificate that is valid from now on for so long.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn issue(&self, key: &PublicKey, identity: &Identity, life: Duration) -> Result<Issued, PkiError> {
        self.issue_at(key, identity, SystemTime::now(), life)
    }

    /// Makes a certificate as of another time.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn issue_at(
        &self,
        key: &PublicKey,
        identity: &Identity,
        now: SystemTime,
        life: Duration,
    ) -> Result<Issued, PkiError> {
        let serial = Serial::new()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(&identity.name);
        params.subject_alt_names = vec![SanType::URI(identity.uri().try_into()?)];
        params.serial_number = Some(serial.0.clone().into());
        params.not_before = OffsetDateTime::from(now - CLOCK_SKEW);
        params.not_after = OffsetDateTime::from(now + life);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // Every member is both: an agent serves its parent and calls its children.
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(key, &self.issuer)?.der().clone();
        Ok(Issued { certificate, serial, issued_ms: ms(now), not_after_ms: ms(now + life) })
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CA {}", self.fingerprint())
    }
}

/// The subject holds a part of the key's fingerprint, so that CAs of two fleets are told apart by their names already.
fn ca_params(key: &PublicKey) -> Result<CertificateParams, PkiError> {
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    let short: String = key.fingerprint().to_string().chars().take(16).collect();
    params.distinguished_name = common_name(&format!("fleet CA {short}"));
    params.serial_number = Some(Serial::new()?.0.into());
    params.not_before = OffsetDateTime::from(now - CLOCK_SKEW);
    params.not_after = OffsetDateTime::from(now + CA_LIFE);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    Ok(params)
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_is_made_once_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let first = Authority::open(dir.path()).unwrap();
        let again = Authority::open(dir.path()).unwrap();
        assert_eq!(first.fingerprint(), again.fingerprint());
        let other = tempfile::tempdir().unwrap();
        assert_ne!(Authority::open(other.path()).unwrap().fingerprint(), first.fingerprint());
    }

    #[test]
    fn a_start_that_was_cut_off_after_the_key_goes_on_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let key = HostKey::generate().unwrap();
        file::write_private(&dir.path().join(KEY_FILE), key.to_pem().as_bytes()).unwrap();
        let authority = Authority::open(dir.path()).unwrap();
        assert_eq!(PublicKey::of(authority.certificate()).unwrap(), key.public());
    }

    #[test]
    fn a_lost_key_is_told_and_not_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        drop(Authority::open(dir.path()).unwrap());
        std::fs::remove_file(dir.path().join(KEY_FILE)).unwrap();
        let error = Authority::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("ca.key") && error.contains("missing"), "{error}");
        file::write_private(&dir.path().join(KEY_FILE), HostKey::generate().unwrap().to_pem().as_bytes()).unwrap();
        let error = Authority::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("ca.crt") && error.contains("another key"), "{error}");
    }

    #[test]
    fn a_certificate_carries_its_key_its_name_and_its_serial_number() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path()).unwrap();
        let key = HostKey::generate().unwrap();
        let identity = Identity::agent("h1").unwrap();
        let issued = authority.issue(&key.public(), &identity, Duration::from_secs(60)).unwrap();
        assert_eq!(PublicKey::of(&issued.certificate).unwrap(), key.public());
        let parsed = webpki::EndEntityCert::try_from(&issued.certificate).unwrap();
        assert_eq!(Identity::of(&parsed).unwrap(), identity);
        assert_eq!(parsed.serial(), issued.serial.0);
        assert_eq!(issued.not_after_ms - issued.issued_ms, 60_000);
    }
}
