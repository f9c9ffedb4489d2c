//! The ways from this host to others in a wave.

use async_trait::async_trait;
use fleet_pki::Connector;
use fleet_proto::v1::Member;
use fleet_tree::{ConnectError, Connection, Link, grpc};
use tonic::transport::Channel;

/// To nobody: the host of the controller is told directly, and tells no other.
pub struct Alone;

#[async_trait]
impl Link for Alone {
    async fn connect(&self, _: &Member) -> Result<Box<dyn Connection>, ConnectError> {
        Err(ConnectError("this host belongs to no fleet, and reaches no other".to_owned()))
    }
}

/// To members of the fleet, over mutual TLS.
pub struct ToMembers(pub Connector);

#[async_trait]
impl grpc::Connector for ToMembers {
    async fn channel(&self, member: &Member) -> Result<Channel, ConnectError> {
        self.0.agent(&member.name, &member.address).await.map_err(|error| grpc::connect_error(&error))
    }
}
