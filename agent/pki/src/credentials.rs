//! What a process shows to others, and whom it trusts. Both change while it runs: certificates are renewed, others are
//! revoked. Configurations of TLS are made once and look here at each handshake.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig, SignatureScheme};

use crate::error::PkiError;
use crate::key::{Fingerprint, HostKey, PublicKey};
use crate::name::Identity;
use crate::revoked::Revoked;
use crate::verify::{Client, Meant, Pinned, Server, Trust};

/// The one protocol spoken: HTTP/2 (RFC 9113, section 3.3).
const ALPN: &[u8] = b"h2";

/// A key with the certificate that is shown now.
#[derive(Debug)]
struct Shown(RwLock<Arc<CertifiedKey>>);

impl Shown {
    fn get(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.get())
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.get())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The credentials of a member of a fleet.
pub struct Credentials {
    identity: Identity,
    ca: CertificateDer<'static>,
    key: Arc<dyn SigningKey>,
    public: PublicKey,
    shown: Arc<Shown>,
    trust: Arc<Trust>,
    provider: Arc<CryptoProvider>,
}

impl Credentials {
    /// Of a member with its certificate.
    ///
    /// # Errors
    /// When the certificate is not of this key, or something does not parse.
    pub fn new(
        identity: Identity,
        key: &HostKey,
        certificate: CertificateDer<'static>,
        ca: CertificateDer<'static>,
    ) -> Result<Arc<Self>, PkiError> {
        let (public, signing) = (key.public(), key.signing()?);
        let provider = Arc::new(ring::default_provider());
        let trust = Arc::new(Trust::new(&ca, Arc::clone(&provider), Arc::new(Revoked::default()))?);
        let certified = certified(certificate, &ca, &public, &signing)?;
        let shown = Arc::new(Shown(RwLock::new(certified)));
        Ok(Arc::new(Self { identity, ca, key: signing, public, shown, trust, provider }))
    }

    /// Who this is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The CA's certificate.
    pub fn ca(&self) -> &CertificateDer<'static> {
        &self.ca
    }

    /// Shows another certificate from now on. Connections that stand go on.
    ///
    /// # Errors
    /// When it is not of this key.
    pub fn renew(&self, certificate: CertificateDer<'static>) -> Result<(), PkiError> {
        let certified = certified(certificate, &self.ca, &self.public, &self.key)?;
        *self.shown.0.write().unwrap_or_else(PoisonError::into_inner) = certified;
        Ok(())
    }

    /// Who is not accepted any more.
    pub fn revoked(&self) -> &Arc<Revoked> {
        &self.trust.revoked
    }

    pub(crate) fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    /// How this side answers.
    pub(crate) fn server_config(&self, strangers: bool) -> Result<Arc<ServerConfig>, PkiError> {
        let verifier = Client { trust: Arc::clone(&self.trust), strangers };
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::<Shown>::clone(&self.shown));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// How this side calls.
    pub(crate) fn client_config(&self, meant: Meant) -> Result<Arc<ClientConfig>, PkiError> {
        let verifier = Server { trust: Arc::clone(&self.trust), meant };
        let config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::<Shown>::clone(&self.shown));
        Ok(finished(config))
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "credentials of {}", self.identity)
    }
}

/// How a host that joins calls the controller: with a certificate of its own making.
pub(crate) fn joining_config(key: &HostKey, ca: Fingerprint) -> Result<Arc<ClientConfig>, PkiError> {
    let provider = Arc::new(ring::default_provider());
    let certified = CertifiedKey::new(vec![key.self_signed()?], key.signing()?);
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned { ca, provider }))
        .with_client_cert_resolver(Arc::new(Shown(RwLock::new(Arc::new(certified)))));
    Ok(finished(config))
}

fn finished(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// With the CA's certificate behind, in which a host that joins finds the fingerprint of its token.
fn certified(
    certificate: CertificateDer<'static>,
    ca: &CertificateDer<'static>,
    public: &PublicKey,
    key: &Arc<dyn SigningKey>,
) -> Result<Arc<CertifiedKey>, PkiError> {
    if PublicKey::of(&certificate)? != *public {
        return Err(PkiError::Certificate("it belongs to another key".into()));
    }
    Ok(Arc::new(CertifiedKey::new(vec![certificate, ca.clone()], Arc::clone(key))))
}
