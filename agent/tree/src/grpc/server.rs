//! The receiving side.

use std::pin::Pin;

use fleet_proto::MAX_MESSAGE_BYTES;
use fleet_proto::v1::tree_server::{Tree, TreeServer};
use fleet_proto::v1::{WaveDown, WaveUp};
use futures::{Stream, StreamExt, stream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::link::{PING_EVERY, PING_TIMEOUT};
use crate::link::WaveError;
use crate::relay::Node;

/// Serves a node.
pub struct TreeService {
    node: Node,
}

/// The service of a node, ready to be added to a server.
pub fn service(node: Node) -> TreeServer<TreeService> {
    TreeServer::new(TreeService { node })
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

/// Makes a server notice a parent that is gone without a word.
pub fn keepalive<L>(server: tonic::transport::Server<L>) -> tonic::transport::Server<L> {
    server.http2_keepalive_interval(Some(PING_EVERY)).http2_keepalive_timeout(Some(PING_TIMEOUT))
}

#[tonic::async_trait]
impl Tree for TreeService {
    type WaveStream = Pin<Box<dyn Stream<Item = Result<WaveUp, Status>> + Send>>;

    async fn wave(&self, request: Request<Streaming<WaveDown>>) -> Result<Response<Self::WaveStream>, Status> {
        // A stream that breaks is a parent that has gone, whatever its error says.
        let down = request.into_inner().take_while(|message| std::future::ready(message.is_ok()));
        let down = down.filter_map(|message| std::future::ready(message.ok()));
        let mut answer = self.node.accept(down.boxed()).await;
        // Known now: a refusal goes as one frame, and an end together with the head of the answer.
        let first = answer.recv().await.transpose().map_err(status)?.map(Ok);
        let rest = ReceiverStream::new(answer).map(|message| message.map_err(status));
        Ok(Response::new(stream::iter(first).chain(rest).boxed()))
    }
}

fn status(error: WaveError) -> Status {
    match error {
        WaveError::Refused { code, message } => Status::new(code, message),
        WaveError::Lost(why) | WaveError::Unreached(why) => Status::unavailable(why),
    }
}
