//! What lets a host join: "ID.SECRET.FINGERPRINT", each part in base32 (RFC 4648) with small letters and no padding.
//!
//! The fingerprint is the SHA-256 of the CA's certificate, so that the host knows its controller before it says the
//! secret to anybody. The controller keeps the secret's SHA-256 only; 160 random bits need no slower hash.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use thiserror::Error;

use crate::error::PkiError;
use crate::key::{Fingerprint, random};

const ID_BYTES: usize = 5;
const SECRET_BYTES: usize = 20;

/// A text that is no token.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("this is no token of `fleet host token`: it must be ID.SECRET.FINGERPRINT, copied whole")]
pub struct TokenError;

/// A token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// What it is called; no secret.
    pub id: String,
    /// What its bearer knows.
    pub secret: Vec<u8>,
    /// Of the CA's certificate.
    pub ca: Fingerprint,
}

impl Token {
    /// A new one for a CA.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn new(ca: Fingerprint) -> Result<Self, PkiError> {
        let (id, secret) = (random::<ID_BYTES>()?, random::<SECRET_BYTES>()?);
        Ok(Self { id: base32(&id), secret: secret.to_vec(), ca })
    }

    /// What the controller keeps of the secret.
    pub fn secret_hash(secret: &[u8]) -> [u8; 32] {
        Fingerprint::of(secret).0
    }
}

fn base32(bytes: &[u8]) -> String {
    BASE32_NOPAD.encode(bytes).to_ascii_lowercase()
}

fn from_base32(text: &str, length: usize) -> Result<Vec<u8>, TokenError> {
    let bytes = BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).map_err(|_| TokenError)?;
    if bytes.len() == length { Ok(bytes) } else { Err(TokenError) }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.id, base32(&self.secret), base32(&self.ca.0))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "token {}", self.id)
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let mut parts = text.trim().split('.');
        let (Some(id), Some(secret), Some(ca), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(TokenError);
        };
        let ca = from_base32(ca, 32)?.try_into().map_err(|_| TokenError)?;
        let id = base32(&from_base32(id, ID_BYTES)?);
        Ok(Self { id, secret: from_base32(secret, SECRET_BYTES)?, ca: Fingerprint(ca) })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_token_comes_back_from_its_text_also_in_capitals() {
        let token = Token::new(Fingerprint::of(b"ca")).unwrap();
        let text = token.to_string();
        assert_eq!(text.parse::<Token>().unwrap(), token);
        assert_eq!(format!(" {}\n", text.to_uppercase()).parse::<Token>().unwrap(), token);
        assert!(!format!("{token:?}").contains(&base32(&token.secret)), "a secret is never logged");
    }

    #[test]
    fn a_token_that_lost_a_part_is_no_token() {
        let text = Token::new(Fingerprint::of(b"ca")).unwrap().to_string();
        for cut in 0..text.len() {
            assert_eq!(text[..cut].parse::<Token>(), Err(TokenError), "{cut}");
        }
        assert_eq!(format!("{text}.x").parse::<Token>(), Err(TokenError));
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_reader(text in "\\PC{0,120}") {
            let _ = text.parse::<Token>();
        }
    }
}
