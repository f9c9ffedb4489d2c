//! The checks of the other side's certificate: its signature and time, revocation, who it is.
//!
//! rustls and webpki check the chain; only what is fleet's own is decided here.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};

use crate::error::PkiError;
use crate::key::{Fingerprint, Serial};
use crate::name::{Identity, Role};
use crate::refusal::Refusal;
use crate::revoked::Revoked;

/// Whom a process trusts: the members of one fleet that were not removed.
#[derive(Debug)]
pub(crate) struct Trust {
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
    pub(crate) revoked: Arc<Revoked>,
}

impl Trust {
    pub(crate) fn new(
        ca: &CertificateDer<'static>,
        provider: Arc<CryptoProvider>,
        revoked: Arc<Revoked>,
    ) -> Result<Self, PkiError> {
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone())?;
        Ok(Self { roots, provider, revoked })
    }

    /// Who shows this certificate.
    ///
    /// # Errors
    /// When it is not to be accepted.
    pub(crate) fn member(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(Identity, Serial), rustls::Error> {
        // Certificates of members are for both ends of a connection, so this check serves both.
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(certificate)?,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        let parsed = webpki::EndEntityCert::try_from(certificate).map_err(|_| Refusal::Nameless)?;
        let identity = Identity::of(&parsed).map_err(|_| Refusal::Nameless)?;
        let serial = Serial(parsed.serial().to_vec());
        if self.revoked.contains(&serial) {
            tracing::warn!(member = %identity, %serial, "a revoked certificate was shown");
            return Err(Refusal::Revoked.into());
        }
        Ok((identity, serial))
    }
}

/// Who must answer a call.
#[derive(Clone, Debug)]
pub(crate) enum Meant {
    Controller,
    Agent(String),
}

impl Meant {
    fn check(&self, found: Identity) -> Result<(), Refusal> {
        match self {
            Self::Controller if found.role == Role::Controller => Ok(()),
            Self::Controller => Err(Refusal::WrongRole { meant: Role::Controller, found }),
            Self::Agent(name) if found.role == Role::Agent && found.name == *name => Ok(()),
            Self::Agent(_) if found.role != Role::Agent => Err(Refusal::WrongRole { meant: Role::Agent, found }),
            Self::Agent(name) => Err(Refusal::WrongName { meant: name.clone(), found }),
        }
    }
}

/// The part of both verifiers that is rustls's own.
macro_rules! signatures_as_usual {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls12_signature(message, certificate, signed, &self.provider().signature_verification_algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls13_signature(message, certificate, signed, &self.provider().signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.provider().signature_verification_algorithms.supported_schemes()
        }
    };
}

/// Checks whom this side has called.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) trust: Arc<Trust>,
    pub(crate) meant: Meant,
}

impl Server {
    fn provider(&self) -> &CryptoProvider {
        &self.trust.provider
    }
}

impl ServerCertVerifier for Server {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let (identity, _) = self.trust.member(certificate, intermediates, now)?;
        self.meant.check(identity)?;
        Ok(ServerCertVerified::assertion())
    }

    signatures_as_usual!();
}

/// Checks the controller of a host that joins: only the fingerprint of its CA is known.
#[derive(Debug)]
pub(crate) struct Pinned {
    pub(crate) ca: Fingerprint,
    pub(crate) provider: Arc<CryptoProvider>,
}

impl Pinned {
    fn provider(&self) -> &CryptoProvider {
        &self.provider
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let ca = intermediates.iter().find(|shown| Fingerprint::of(shown) == self.ca);
        let ca = ca.ok_or(Refusal::OtherCa { wanted: self.ca })?.clone().into_owned();
        let trust = Trust::new(&ca, Arc::clone(&self.provider), Arc::default())
            .map_err(|_| Refusal::OtherCa { wanted: self.ca })?;
        let (identity, _) = trust.member(certificate, &[], now)?;
        Meant::Controller.check(identity)?;
        Ok(ServerCertVerified::assertion())
    }

    signatures_as_usual!();
}

/// Checks who calls this side.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) trust: Arc<Trust>,
    /// Whether somebody who is no member yet may call: it has proved that it has its key, and nothing else.
    pub(crate) strangers: bool,
}

impl Client {
    fn provider(&self) -> &CryptoProvider {
        &self.trust.provider
    }
}

impl ClientCertVerifier for Client {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        match self.trust.member(certificate, intermediates, now) {
            Err(error) if !(self.strangers && Refusal::from(&error) == Refusal::Stranger) => Err(error),
            _ => Ok(ClientCertVerified::assertion()),
        }
    }

    signatures_as_usual!();
}
