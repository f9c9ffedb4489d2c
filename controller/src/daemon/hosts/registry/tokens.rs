//! Tokens, and the labels that hosts and tokens carry.

use fleet_pki::{Fingerprint, Token};
use fleet_proto::v1::{TokenInfo, TokenRecord};

use super::{Hosts, HostsError, locked};
use crate::cli::now_ms;
use crate::daemon::hosts::records::{self, Change};

impl Hosts {
    /// Makes a token.
    ///
    /// # Errors
    /// When the store cannot be written, or its labels cannot be.
    pub fn issue_token(&self, wanted: TokenInfo) -> Result<(Token, TokenInfo), HostsError> {
        check_labels(&wanted.rack, &wanted.tags)?;
        let token = Token::new(self.authority.fingerprint())?;
        let info = TokenInfo { id: token.id.clone(), used: 0, issued_ms: now_ms(), ..wanted };
        let record = TokenRecord { info: Some(info.clone()), secret: Token::secret_hash(&token.secret).to_vec() };
        let _changing = locked(&self.changing);
        records::write(&self.store, &Change { token: Some(&record), ..Change::default() })?;
        Ok((token, info))
    }

    /// Tokens that let somebody in still.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn tokens(&self) -> Result<Vec<TokenInfo>, HostsError> {
        let now = now_ms();
        let infos = records::tokens(&self.store)?.into_iter().filter_map(|token| token.info);
        Ok(infos.filter(|info| info.expires_ms > now && info.used < info.uses).collect())
    }

    /// Revokes tokens, all or none.
    ///
    /// # Errors
    /// When one is not known.
    pub fn revoke_tokens(&self, ids: &[String]) -> Result<u32, HostsError> {
        let _changing = locked(&self.changing);
        let known = records::tokens(&self.store)?;
        let known = |id: &str| known.iter().any(|token| token.info.as_ref().is_some_and(|info| info.id == id));
        if let Some(id) = ids.iter().find(|id| !known(id)) {
            return Err(HostsError::Invalid(format!("no token `{id}`\nhelp: `fleet host token --ls` lists them")));
        }
        let forgotten_tokens = ids.iter().map(String::as_str).collect();
        records::write(&self.store, &Change { forgotten_tokens, ..Change::default() })?;
        Ok(u32::try_from(ids.len()).unwrap_or(u32::MAX))
    }

    pub(super) fn check_token(&self, id: &str, secret: &[u8]) -> Result<TokenRecord, HostsError> {
        let tokens = records::tokens(&self.store)?;
        let found = tokens.into_iter().find(|token| token.info.as_ref().is_some_and(|info| info.id == id));
        // Hashes are compared, so that the time it takes tells nothing of the secret.
        let token = found.filter(|token| token.secret == Token::secret_hash(secret));
        let token = token.ok_or_else(|| HostsError::BadToken(id.chars().take(16).collect()))?;
        let info = token.info.clone().unwrap_or_default();
        if info.expires_ms <= now_ms() {
            return Err(HostsError::Expired(info.id));
        }
        if info.used >= info.uses {
            return Err(HostsError::UsedUp(info.id, info.used));
        }
        Ok(token)
    }

    /// The CA's fingerprint, as tokens carry it.
    pub fn fingerprint(&self) -> Fingerprint {
        self.authority.fingerprint()
    }
}

/// Checks a rack and tags: the language writes them in quotes, tables show them, so they are of plain characters.
///
/// # Errors
/// When one of them cannot be.
pub(in crate::daemon::hosts) fn check_labels<'a>(
    rack: &str,
    tags: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Result<(), HostsError> {
    let plain = |text: &str| {
        text.len() <= 63 && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/'))
    };
    if !plain(rack) {
        return Err(HostsError::Invalid(format!("`{rack}` cannot be the name of a rack; {LABELS}")));
    }
    for (key, value) in tags {
        if key.is_empty() || !plain(key) || !plain(value) {
            return Err(HostsError::Invalid(format!("`{key}={value}` cannot be a tag; {LABELS}")));
        }
    }
    Ok(())
}

const LABELS: &str = "it has at most 63 letters, digits, `-`, `_`, `.` and `/`";
