//! Attending the controller: one stream for as long as it goes, another one after each break.
//!
//! On the stream this host says hello and then beats; the controller says which certificates are revoked. Beside it the
//! certificate is renewed at two thirds of its life, after which the stream is opened anew with the new one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fleet_pki::{ConnectError, Connector, Credentials, HostKey, Serial, Stored, StoredMembership};
use fleet_proto::v1::registry_client::RegistryClient;
use fleet_proto::v1::{Beat, ControllerWord, HostWord, RenewRequest, RevokedList, controller_word, host_word};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use super::wait::{Waits, by_chance};
use super::{About, MembershipError, ca_of, join};
use crate::hub::now_ms;

/// How long the controller may take for an answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);
/// Words that wait for the connection; a beat that finds no place is not sent.
const QUEUE: usize = 4;
/// Between two beats when the controller says nothing sensible.
const SHORTEST_BEAT: Duration = Duration::from_millis(100);

/// The task that attends.
pub(super) struct Attend {
    pub stored: Stored,
    pub path: PathBuf,
    pub key: HostKey,
    pub credentials: Arc<Credentials>,
    pub about: About,
    /// Ends the membership, its server too.
    pub over: CancellationToken,
}

/// Why a stream ended.
enum Ended {
    /// The process ends.
    Stopped,
    /// To be opened anew at once: the certificate was renewed.
    Renewed,
    /// It broke; in words.
    Broken(String),
    /// The certificate has expired.
    Expired,
    /// This host was removed from the fleet.
    Removed(String),
}

impl Attend {
    /// Attends until the process ends or the host is removed.
    pub async fn run(mut self) {
        let mut waits = Waits::default();
        loop {
            let ended = match self.expired() {
                true => Ended::Expired,
                false => self.attend(&mut waits).await,
            };
            let reason = match ended {
                Ended::Stopped => return,
                Ended::Renewed => continue,
                Ended::Broken(reason) => reason,
                Ended::Removed(reason) => return self.removed(&reason),
                Ended::Expired => match join::come_back(&self.stored, &self.key, &self.about).await {
                    Ok(membership) => match self.take(membership) {
                        Ok(()) => continue,
                        Err(error) => error.to_string(),
                    },
                    Err(MembershipError::Refused(reason)) => return self.removed(&reason),
                    Err(error) => error.to_string(),
                },
            };
            let wait = waits.next();
            tracing::warn!(
                controller = self.stored.controller,
                reason,
                "the controller is not there; tried again in {:.1} s",
                wait.as_secs_f64()
            );
            tokio::select! {
                () = self.over.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Others must not be served any more; VMs go on, and the local socket does.
    fn removed(&self, reason: &str) {
        let reason = reason.lines().next().unwrap_or_default();
        tracing::error!(host = self.stored.name, reason, "this host is no member of the fleet any more; its VMs go on");
        self.over.cancel();
    }

    fn expired(&self) -> bool {
        self.stored.membership.as_ref().is_some_and(|membership| membership.not_after_ms <= now_ms())
    }

    /// Takes a new certificate into use: the file first.
    fn take(&mut self, membership: StoredMembership) -> Result<(), MembershipError> {
        let certificate = membership.certificate()?;
        self.stored.membership = Some(membership);
        self.stored.write(&self.path)?;
        self.credentials.renew(certificate)?;
        tracing::info!(host = self.stored.name, "the certificate was renewed");
        Ok(())
    }

    /// How long until the certificate is to be renewed: at two thirds of its life, and a little by chance.
    fn renewal(&self) -> Duration {
        let Some(membership) = &self.stored.membership else { return Duration::ZERO };
        let life = membership.not_after_ms.saturating_sub(membership.issued_ms);
        let due = membership.issued_ms + life / 3 * 2;
        Duration::from_millis(due.saturating_sub(now_ms())) + by_chance(Duration::from_millis(life / 30))
    }

    async fn attend(&mut self, waits: &mut Waits) -> Ended {
        let connector = Connector::new(Arc::clone(&self.credentials));
        let channel = tokio::select! {
            () = self.over.cancelled() => return Ended::Stopped,
            channel = connector.controller(&self.stored.controller) => channel,
        };
        let channel = match channel {
            Ok(channel) => channel,
            Err(error @ ConnectError::Refused { .. }) => return self.refused(error),
            Err(error) => return Ended::Broken(error.to_string()),
        };
        // From before the first word: what changes later is told again.
        let agent = Arc::clone(&self.about.agent);
        let mut held = agent.held();
        let mut known = agent.probed_if_known().is_some();
        let (words, receiver) = mpsc::channel(QUEUE);
        // The channel is new and empty.
        drop(words.try_send(hello(&self.about)));
        let client = RegistryClient::new(channel.clone());
        let opened = tokio::select! {
            () = self.over.cancelled() => return Ended::Stopped,
            opened = open(client, receiver) => opened,
        };
        let (mut input, beat) = match opened.and_then(|(input, welcome)| self.admit(welcome).map(|beat| (input, beat)))
        {
            Ok(opened) => opened,
            Err(status) => return broken(&status),
        };
        tracing::info!(controller = self.stored.controller, "the controller knows that this host is there");
        waits.reset();
        let mut beats = tokio::time::interval(beat);
        beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let renewal = tokio::time::sleep(self.renewal());
        tokio::pin!(renewal);
        // What the host can run is found out while it is there already.
        let probed = agent.probed();
        tokio::pin!(probed);
        // A word that finds no place is said when there is one: nobody else tells the controller.
        let mut unsaid = false;
        loop {
            tokio::select! {
                () = self.over.cancelled() => return Ended::Stopped,
                word = input.message() => match word {
                    Ok(Some(ControllerWord { word: Some(controller_word::Word::Revoked(list)) })) => self.revoke(list),
                    Ok(Some(_)) => {}
                    Ok(None) => return Ended::Broken("the controller ended the stream".into()),
                    Err(status) => return broken(&status),
                },
                _ = beats.tick() => {
                    let info = agent.info();
                    let beat = Beat {
                        memory_available_bytes: info.memory_available_bytes,
                        memory_committed_bytes: info.memory_committed_bytes,
                        vms: info.vms,
                    };
                    drop(words.try_send(HostWord { word: Some(host_word::Word::Beat(beat)) }));
                }
                _ = &mut probed, if !known => {
                    known = true;
                    unsaid = true;
                }
                // The agent outlives this: the channel does not close.
                Ok(()) = held.changed() => unsaid = true,
                place = words.reserve(), if unsaid => match place {
                    Ok(place) => {
                        unsaid = false;
                        place.send(hello(&self.about));
                    }
                    // The stream's other half tells why.
                    Err(_) => unsaid = false,
                },
                () = &mut renewal => match self.renew(channel.clone()).await {
                    Ok(()) => return Ended::Renewed,
                    Err(reason) => return Ended::Broken(format!("the certificate was not renewed: {reason}")),
                },
            }
        }
    }

    /// What the controller's welcome means for this host; gives the time between two beats.
    fn admit(&self, welcome: ControllerWord) -> Result<Duration, Status> {
        let Some(controller_word::Word::Welcome(welcome)) = welcome.word else {
            return Err(Status::internal("its first word was no welcome"));
        };
        self.about.agent.admit_epoch(welcome.epoch).map_err(Status::aborted)?;
        self.revoke(welcome.revoked.unwrap_or_default());
        Ok(Duration::from_millis(welcome.beat_ms.into()).max(SHORTEST_BEAT))
    }

    fn revoke(&self, list: RevokedList) {
        let serials =
            list.certificates.into_iter().map(|certificate| (Serial(certificate.serial), certificate.not_after_ms));
        self.credentials.revoked().set(serials);
    }

    async fn renew(&mut self, channel: Channel) -> Result<(), String> {
        let ca = self.stored.membership.as_ref().map(ca_of).transpose().map_err(|error| error.to_string())?;
        let ca = ca.ok_or("this host is no member")?;
        let mut client = RegistryClient::new(channel);
        let answer = tokio::time::timeout(ANSWER_DEADLINE, client.renew(RenewRequest {})).await;
        let answer =
            answer.map_err(|_| "no answer in time".to_owned())?.map_err(|status| status.message().to_owned())?;
        let checked = join::checked(answer.get_ref(), ca, &self.key.public());
        checked.and_then(|membership| self.take(membership)).map_err(|error| error.to_string())
    }

    fn refused(&self, error: ConnectError) -> Ended {
        match &error {
            ConnectError::Refused { refusal, .. } if refusal.is_removal() => Ended::Removed(error.to_string()),
            ConnectError::Refused { refusal, .. } if refusal.is_expiry() => Ended::Expired,
            _ => Ended::Broken(error.to_string()),
        }
    }
}

fn hello(about: &About) -> HostWord {
    HostWord { word: Some(host_word::Word::Hello(about.hello())) }
}

/// Opens the stream and waits for the controller's first word.
async fn open(
    mut client: RegistryClient<Channel>,
    words: mpsc::Receiver<HostWord>,
) -> Result<(Streaming<ControllerWord>, ControllerWord), Status> {
    let opened = async {
        let mut input = client.attend(ReceiverStream::new(words)).await?.into_inner();
        let first = input.message().await?;
        first.map(|first| (input, first)).ok_or_else(|| Status::unavailable("it ended the stream without a word"))
    };
    let opened = tokio::time::timeout(ANSWER_DEADLINE, opened).await;
    opened.unwrap_or_else(|_| Err(Status::unavailable("no answer in time")))
}

/// A member that is unknown or removed is told so by the registry itself, too.
fn broken(status: &Status) -> Ended {
    match status.code() {
        Code::NotFound | Code::PermissionDenied => Ended::Removed(status.message().to_owned()),
        _ => Ended::Broken(status.message().to_owned()),
    }
}
