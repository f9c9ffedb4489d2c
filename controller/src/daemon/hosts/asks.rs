//! What `fleet host …` asks, answered.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use fleet_proto::v1::{
    ChangeHostsReply, ChangeHostsRequest, Host, HostChange, IssueTokenRequest, IssuedToken, TokenInfo, TokensReply,
    TokensRequest,
};
use tonic::Status;

use super::registry::{Hosts, HostsError, check_labels};
use crate::cli::now_ms;

/// How long a token lets hosts in when nobody says so.
const TTL: Duration = Duration::from_secs(3600);

impl Hosts {
    /// Drains, undrains, tags or removes hosts: all that are named, or none. `wanted`: the experiments of which each is to
    /// have something, also before it has told of it.
    ///
    /// # Errors
    /// When one of them is not known, or it makes no sense.
    pub fn ask_change(
        &self,
        request: &ChangeHostsRequest,
        wanted: &HashMap<String, Vec<String>>,
    ) -> Result<ChangeHostsReply, Status> {
        if request.names.is_empty() {
            return Err(Status::invalid_argument("no host is named"));
        }
        let draining = |drain: bool| move |host: &mut Host| Ok(std::mem::replace(&mut host.draining, drain) != drain);
        let changed = match request.change() {
            HostChange::Drain => self.change(&request.names, draining(true)),
            HostChange::Undrain => self.change(&request.names, draining(false)),
            HostChange::Remove => self.remove(&request.names, request.force, wanted),
            HostChange::Tag => self.change(&request.names, |host| retag(host, request)),
            HostChange::Unspecified => {
                return Err(Status::invalid_argument("this controller does not know that change; use its version"));
            }
        }?;
        Ok(ChangeHostsReply { changed })
    }

    /// Makes a token; `address` is where the controller listens for hosts.
    ///
    /// # Errors
    /// When its labels cannot be, or the store cannot be written.
    pub fn ask_token(&self, request: IssueTokenRequest, address: Option<SocketAddr>) -> Result<IssuedToken, Status> {
        let ttl = if request.ttl_ms == 0 { u64::try_from(TTL.as_millis()).unwrap_or(u64::MAX) } else { request.ttl_ms };
        let wanted = TokenInfo {
            uses: request.uses.max(1),
            expires_ms: now_ms().saturating_add(ttl),
            rack: request.rack,
            tags: request.tags,
            ..TokenInfo::default()
        };
        let (token, info) = self.issue_token(wanted)?;
        let address = address.map(|address| address.to_string()).unwrap_or_default();
        Ok(IssuedToken { token: token.to_string(), info: Some(info), address })
    }

    /// Lists tokens, or revokes some.
    ///
    /// # Errors
    /// When one is not known.
    pub fn ask_tokens(&self, request: &TokensRequest) -> Result<TokensReply, Status> {
        let revoked = self.revoke_tokens(&request.revoke)?;
        Ok(TokensReply { tokens: self.tokens()?, revoked })
    }
}

fn retag(host: &mut Host, request: &ChangeHostsRequest) -> Result<bool, HostsError> {
    check_labels("", &request.set)?;
    let before = host.tags.clone();
    host.tags.retain(|key, _| !request.unset.contains(key));
    host.tags.extend(request.set.clone());
    Ok(host.tags != before)
}
