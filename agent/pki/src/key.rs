//! Keys, fingerprints and serial numbers. All keys are ECDSA on P-256: one kind is enough, and it is quick on every
//! processor.

use std::fmt;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};

use crate::error::PkiError;

/// What stands before the point in the SubjectPublicKeyInfo of a P-256 key (RFC 5480, section 2): the algorithm
/// ecPublicKey with the curve prime256v1, and the head of a bit string of 66 bytes.
const P256_SPKI_HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// Bytes of an uncompressed point of P-256.
const P256_POINT: usize = 65;

/// Fills a buffer with random bytes of the system.
///
/// # Errors
/// When there are none.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], PkiError> {
    let mut bytes = [0; N];
    ring::default_provider().secure_random.fill(&mut bytes).map_err(|_| PkiError::Random)?;
    Ok(bytes)
}

/// The SHA-256 of a certificate or of a public key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The serial number of a certificate: no two of one CA have the same.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Serial(pub Vec<u8>);

impl Serial {
    /// A new one: 126 random bits, positive and without zeros in front, so that its bytes are those of the certificate
    /// (RFC 5280, section 4.1.2.2).
    pub(crate) fn new() -> Result<Self, PkiError> {
        let mut bytes = random::<16>()?;
        bytes[0] = bytes[0] & 0x3f | 0x40;
        Ok(Self(bytes.to_vec()))
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A public key: an uncompressed point of P-256.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PublicKey(Box<[u8]>);

impl PublicKey {
    /// The key of a certificate.
    ///
    /// # Errors
    /// When it is no certificate, or its key is of another kind.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, PkiError> {
        let parsed = webpki::EndEntityCert::try_from(certificate)
            .map_err(|error| PkiError::Certificate(format!("it does not parse ({error})")))?;
        let info = parsed.subject_public_key_info();
        match info.strip_prefix(&P256_SPKI_HEAD) {
            Some(point) if point.len() == P256_POINT => Ok(Self(point.into())),
            _ => Err(PkiError::Certificate("its key is not of P-256".into())),
        }
    }

    /// What tells this key from others.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.0)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {}", self.fingerprint())
    }
}

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// The key of a host or of a controller.
pub struct HostKey {
    pair: KeyPair,
}

impl HostKey {
    /// A new one.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn generate() -> Result<Self, PkiError> {
        Ok(Self { pair: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)? })
    }

    /// From PKCS #8 in PEM.
    ///
    /// # Errors
    /// When the text is something else.
    pub fn from_pem(text: &str) -> Result<Self, PkiError> {
        Ok(Self { pair: KeyPair::from_pkcs8_pem_and_sign_algo(text, &PKCS_ECDSA_P256_SHA256)? })
    }

    /// PKCS #8 in PEM: a secret.
    pub fn to_pem(&self) -> String {
        self.pair.serialize_pem()
    }

    /// Its public part.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.pair.public_key_raw().into())
    }

    pub(crate) fn into_pair(self) -> KeyPair {
        self.pair
    }

    /// A certificate of this key by this key: shows that its holder has it, and nothing else.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn self_signed(&self) -> Result<CertificateDer<'static>, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "a host that joins a fleet");
        Ok(params.self_signed(&self.pair)?.der().clone())
    }

    /// The key as TLS uses it.
    ///
    /// # Errors
    /// When it cannot be used.
    pub(crate) fn signing(&self) -> Result<Arc<dyn rustls::sign::SigningKey>, PkiError> {
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pair.serialize_der()));
        Ok(ring::sign::any_ecdsa_type(&der)?)
    }
}

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "secret {:?}", self.public())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_key_comes_back_from_its_text_and_from_its_certificate() {
        let key = HostKey::generate().unwrap();
        let again = HostKey::from_pem(&key.to_pem()).unwrap();
        assert_eq!(key.public(), again.public());
        assert_eq!(PublicKey::of(&key.self_signed().unwrap()).unwrap(), key.public());
        assert_ne!(HostKey::generate().unwrap().public(), key.public());
    }

    #[test]
    fn what_is_no_key_or_no_certificate_is_an_error() {
        assert!(HostKey::from_pem("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").is_err());
        assert!(HostKey::from_pem("").is_err());
        assert!(PublicKey::of(&CertificateDer::from(vec![0x30, 0x01, 0x00])).is_err());
    }

    #[test]
    fn a_key_of_another_kind_is_refused() {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let certificate = CertificateParams::default().self_signed(&pair).unwrap();
        assert!(PublicKey::of(certificate.der()).unwrap_err().to_string().contains("P-256"));
    }
}
