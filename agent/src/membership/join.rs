//! Joining: the controller is known by its CA's fingerprint, this host by its key; the answer is a certificate.

use std::path::Path;
use std::time::Duration;

use fleet_pki::CertificateDer;
use fleet_pki::{ConnectError, Fingerprint, HostKey, PublicKey, Stored, StoredMembership, Token, connect_to_join};
use fleet_proto::v1::JoinRequest;
use fleet_proto::v1::join_client::JoinClient;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};

use super::wait::Waits;
use super::{About, JoinArgs, MembershipError, ca_of};

/// How long a controller that is not reached is tried: it may be starting just now.
const JOIN_DEADLINE: Duration = Duration::from_secs(60);
/// How long one answer may take.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);

/// Joins with a token, and writes down what makes this host a member.
pub(super) async fn join(
    stored: &mut Stored,
    path: &Path,
    token: &Token,
    args: &JoinArgs,
    about: &About,
    stop: &CancellationToken,
) -> Result<(), MembershipError> {
    let before = stored.membership.as_ref().map(ca_of).transpose()?;
    let moves = before.is_some_and(|ca| ca != token.ca);
    if moves {
        // Another fleet: nothing of the old one counts there.
        stored.key = HostKey::generate()?.to_pem();
        stored.membership = None;
    }
    // The key first: if the answer is lost, the same key asks again, and the controller knows it.
    stored.write(path)?;
    if moves || before.is_none() {
        about.agent.epoch().reset()?;
        if let Some(cameras) = about.agent.cameras() {
            cameras.another_fleet().await;
        }
    }
    let key = HostKey::from_pem(&stored.key)?;
    let request = JoinRequest {
        name: stored.name.clone(),
        token: token.id.clone(),
        secret: token.secret.clone(),
        hello: Some(about.hello()),
        rack: args.rack.clone(),
        tags: args.tags.clone(),
    };
    let until = tokio::time::Instant::now() + JOIN_DEADLINE;
    let mut waits = Waits::default();
    let membership = loop {
        let error = match ask(&stored.controller, token.ca, &key, request.clone()).await {
            Ok((membership, epoch)) => {
                about.agent.epoch().admit(epoch)?;
                break membership;
            }
            Err(error @ MembershipError::Unreachable(_)) => error,
            Err(error) => return Err(error),
        };
        let wait = waits.next();
        if tokio::time::Instant::now() + wait > until {
            return Err(error);
        }
        tracing::warn!(%error, "joining is tried again in {:.1} s", wait.as_secs_f64());
        tokio::select! {
            () = stop.cancelled() => return Err(MembershipError::Stopped),
            () = tokio::time::sleep(wait) => {}
        }
    };
    stored.membership = Some(membership);
    stored.token.clone_from(&token.id);
    stored.write(path)?;
    tracing::info!(host = stored.name, controller = stored.controller, "joined the fleet");
    Ok(())
}

/// Comes back with a key that the controller knows, after the certificate has expired.
pub(super) async fn come_back(
    stored: &Stored,
    key: &HostKey,
    about: &About,
) -> Result<StoredMembership, MembershipError> {
    let membership = stored.membership.as_ref().ok_or(MembershipError::NoToken)?;
    let request = JoinRequest { name: stored.name.clone(), hello: Some(about.hello()), ..JoinRequest::default() };
    let (membership, epoch) = ask(&stored.controller, ca_of(membership)?, key, request).await?;
    about.agent.epoch().admit(epoch)?;
    Ok(membership)
}

async fn ask(
    controller: &str,
    ca: Fingerprint,
    key: &HostKey,
    request: JoinRequest,
) -> Result<(StoredMembership, u64), MembershipError> {
    let channel = connect_to_join(controller, ca, key).await.map_err(|error| match error {
        ConnectError::Unreachable { .. } => MembershipError::Unreachable(error.to_string()),
        _ => MembershipError::Refused(error.to_string()),
    })?;
    let mut request = Request::new(request);
    request.set_timeout(ANSWER_DEADLINE);
    let answer = tokio::time::timeout(ANSWER_DEADLINE, JoinClient::new(channel).join(request)).await;
    let answer = answer.unwrap_or_else(|_| Err(Status::unavailable("no answer in time")));
    let answer = answer.map_err(|status| match status.code() {
        // tonic reports its own time-out as cancelled.
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded => {
            MembershipError::Unreachable(status.message().to_owned())
        }
        _ => MembershipError::Refused(status.message().to_owned()),
    })?;
    let answer = answer.into_inner();
    checked(&answer, ca, &key.public()).map(|membership| (membership, answer.epoch))
}

/// What the controller gave, if it is of this fleet and for this key.
pub(super) fn checked(
    answer: &fleet_proto::v1::Membership,
    ca: Fingerprint,
    key: &PublicKey,
) -> Result<StoredMembership, MembershipError> {
    let certificate = CertificateDer::from(answer.certificate.clone());
    if Fingerprint::of(&answer.ca) != ca {
        return Err(MembershipError::Answer("its CA is another one".into()));
    }
    if PublicKey::of(&certificate)? != *key {
        return Err(MembershipError::Answer("the certificate is for another key".into()));
    }
    let ca = CertificateDer::from(answer.ca.clone());
    Ok(StoredMembership::new(&certificate, &ca, answer.issued_ms, answer.not_after_ms))
}
