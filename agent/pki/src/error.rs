//! Why keys and certificates could not be had.

use std::path::PathBuf;

use thiserror::Error;

/// What went wrong with keys, certificates and their files.
#[derive(Debug, Error)]
pub enum PkiError {
    /// A file of keys or certificates cannot be read or written.
    #[error("cannot {what} {path}: {source}")]
    File {
        /// What was tried.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file holds something else than it should.
    #[error("{path} is damaged: {reason}; restore it from a backup, or remove it and join the host anew")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A key or a certificate could not be made.
    #[error("cannot make a key or a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// A key or a certificate cannot be used for TLS.
    #[error("this key or certificate cannot be used for TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// A certificate of another kind.
    #[error("this is no certificate of a fleet: {0}")]
    Certificate(String),
    /// The name of a host or of a controller.
    #[error(transparent)]
    Name(#[from] crate::name::NameError),
    /// The system gave no random bytes.
    #[error("the system gives no random bytes")]
    Random,
}
