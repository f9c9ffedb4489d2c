//! The ways from the controller to the agents: one channel for each host that something was asked of directly (a
//! session, a stream of samples). Operations for many hosts go as waves instead ([`super::fleet`]).

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use fleet_pki::Connector;
use fleet_proto::MAX_MESSAGE_BYTES;
use fleet_proto::v1::agent_client::AgentClient;
use fleet_proto::v1::{HostInfo, InfoRequest, Member};
use fleet_tree::ConnectError;
use tonic::Status;
use tonic::transport::Channel;

use super::hosts::Hosts;

/// How long a question that an agent answers from memory may take.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// The agents of the fleet.
#[derive(Clone)]
pub struct Agents {
    hosts: Arc<Hosts>,
    connector: Connector,
    /// Of this host: a local socket.
    own: String,
    channels: Arc<Mutex<HashMap<String, (String, Channel)>>>,
}

impl Agents {
    /// The agents of these hosts; the one of this host is behind a local socket.
    pub fn new(hosts: &Arc<Hosts>, socket: &Path) -> Self {
        let connector = Connector::new(Arc::clone(hosts.credentials())).with_local(socket);
        let own = format!("unix:{}", socket.display());
        Self { hosts: Arc::clone(hosts), connector, own, channels: Arc::default() }
    }

    /// A client of the agent of a host.
    ///
    /// # Errors
    /// When there is no such host, or it does not answer.
    pub async fn client(&self, host: &str) -> Result<AgentClient<Channel>, Status> {
        let address = self.hosts.address(host).ok_or_else(|| Status::not_found(format!("no host `{host}`")))?;
        let kept = self.channels().get(host).filter(|(known, _)| *known == address).map(|(_, channel)| channel.clone());
        let channel = match kept {
            Some(channel) => channel,
            None => {
                let channel = self.connect(host, &address).await?;
                self.channels().insert(host.to_owned(), (address, channel.clone()));
                channel
            }
        };
        Ok(client(channel))
    }

    /// What this host says of itself.
    ///
    /// # Errors
    /// When its agent does not answer in time.
    pub async fn own_info(&self) -> Result<HostInfo, Status> {
        let mut request = tonic::Request::new(InfoRequest {});
        request.set_timeout(ANSWER_DEADLINE);
        let channel = self.connect("", &self.own).await?;
        Ok(client(channel).info(request).await?.into_inner())
    }

    async fn connect(&self, host: &str, address: &str) -> Result<Channel, Status> {
        self.connector.agent(host, address).await.map_err(|error| Status::unavailable(error.to_string()))
    }

    fn channels(&self) -> std::sync::MutexGuard<'_, HashMap<String, (String, Channel)>> {
        // Only whole entries are exchanged under this lock.
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn client(channel: Channel) -> AgentClient<Channel> {
    AgentClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES)
}

#[async_trait]
impl fleet_tree::grpc::Connector for Agents {
    async fn channel(&self, member: &Member) -> Result<Channel, ConnectError> {
        let channel = self.connector.agent(&member.name, &member.address).await;
        channel.map_err(|error| fleet_tree::grpc::connect_error(&error))
    }
}
