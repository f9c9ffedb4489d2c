//! Who is who in a fleet, and mutual TLS between its members.
//!
//! The controller is the certificate authority. Every host has one key for as long as it belongs to the fleet, and
//! certificates of it that live for a day; a certificate says a role and a name, nothing else.
//!
//! ```text
//!  token (CA's fingerprint, id, secret) ──► the host pins the CA, shows a self-signed certificate of its new key
//!       controller: Join is the only call for such a stranger ──► certificate "fleet://agent/h1"
//!  from then on: both sides of every connection show a certificate of that CA
//!       checked: signature, validity, not revoked, role and name (of the server: the one that was meant)
//! ```
//!
//! * `name`: roles and names, as certificates carry them; `key`: keys, fingerprints and serial numbers;
//! * [`Authority`]: the CA and its files; [`Token`]: what lets a host join; [`Stored`]: what a host keeps;
//! * [`Credentials`]: what a process shows and whom it trusts, changed while connections stand (rotation, revocation);
//! * `verify`: the checks; [`Refusal`]: why a connection was refused, in words;
//! * [`incoming`]: connections for a tonic server, each with its [`Peer`]; [`require`]: which role may call a service;
//! * [`Connector`], [`connect_to_join`]: channels to a host that is meant, to the controller, and to one that is joined.
//!
//! TLS 1.3 only, without resumption: a resumed session would not see the other side's certificate again.

mod authority;
mod connect;
mod credentials;
mod error;
mod file;
mod incoming;
mod key;
mod name;
mod peer;
mod refusal;
mod revoked;
mod stored;
mod token;
mod verify;

pub use authority::{Authority, Issued};
pub use connect::{ConnectError, Connector, connect_to_join};
pub use credentials::Credentials;
pub use error::PkiError;
pub use file::write_private;
pub use incoming::{PeerStream, Strangers, incoming, server};
pub use key::{Fingerprint, HostKey, PublicKey, Serial};
pub use name::{Identity, NameError, Role, check_name};
pub use peer::{Peer, Who, peer, require};
pub use refusal::{Refusal, refusal};
pub use revoked::Revoked;
pub use rustls::pki_types::CertificateDer;
pub use stored::{Stored, StoredMembership};
pub use token::{Token, TokenError};
