//! The way from the controller to the agents. In the one-machine case there is one, behind a local socket.

use std::path::Path;
use std::time::Duration;

use fleet_proto::MAX_MESSAGE_BYTES;
use fleet_proto::v1::agent_client::AgentClient;
use fleet_proto::v1::{ExperimentStatus, HostInfo, InfoRequest, KsmReply, KsmRequest, ListRequest};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// How long a connection may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// How long a question that an agent answers from memory may take.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// The agents of the fleet.
#[derive(Clone)]
pub struct Agents {
    client: AgentClient<Channel>,
}

impl Agents {
    /// Connects to the agent behind a local socket.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn connect(socket: &Path) -> Result<Self, Status> {
        let bad = |error: tonic::transport::Error| Status::unavailable(error.to_string());
        let endpoint =
            Endpoint::from_shared(format!("unix:{}", socket.display())).map_err(bad)?.connect_timeout(CONNECT_DEADLINE);
        let client = AgentClient::new(endpoint.connect().await.map_err(bad)?)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let agents = Self { client };
        agents.info().await?;
        Ok(agents)
    }

    /// The agent's client; cheap to take.
    pub fn client(&self) -> AgentClient<Channel> {
        self.client.clone()
    }

    /// What the hosts say of themselves.
    ///
    /// # Errors
    /// When a host does not answer in time.
    pub async fn info(&self) -> Result<Vec<HostInfo>, Status> {
        let mut request = tonic::Request::new(InfoRequest {});
        request.set_timeout(ANSWER_DEADLINE);
        Ok(vec![self.client().info(request).await?.into_inner()])
    }

    /// What the hosts say of the merging of memory.
    ///
    /// # Errors
    /// When a host does not answer in time.
    pub async fn ksm(&self, request: KsmRequest) -> Result<KsmReply, Status> {
        let mut request = tonic::Request::new(request);
        request.set_timeout(ANSWER_DEADLINE);
        Ok(self.client().ksm(request).await?.into_inner())
    }

    /// The experiments that the hosts know of, also those that the store has lost.
    ///
    /// # Errors
    /// When a host does not answer in time.
    pub async fn experiments(&self) -> Result<Vec<ExperimentStatus>, Status> {
        let mut request = tonic::Request::new(ListRequest { summary: true, ..ListRequest::default() });
        request.set_timeout(ANSWER_DEADLINE);
        let mut stream = self.client().list(request).await?.into_inner();
        let mut experiments = Vec::new();
        while let Some(chunk) = stream.message().await? {
            experiments.extend(chunk.experiments);
        }
        Ok(experiments)
    }
}
