//! The sending side: warm channels, and what errors mean.

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use fleet_proto::MAX_MESSAGE_BYTES;
use fleet_proto::v1::tree_client::TreeClient;
use fleet_proto::v1::{Member, WaveDown, WaveOpen, wave_down};
use futures::{StreamExt, TryFutureExt, TryStreamExt};
use tokio::sync::mpsc;
use tokio::time::Duration;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

use crate::link::{ConnectError, Connection, DOWN_QUEUE, Link, WaveError, WaveStream};

/// Between two pings on a connection.
pub(super) const PING_EVERY: Duration = Duration::from_secs(10);
/// A ping that is not answered by then breaks the connection.
pub(super) const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Channels that are kept warm.
const WARM: usize = 1_024;

/// Makes channels to members. The caller bounds the time.
#[async_trait]
pub trait Connector: Send + Sync + 'static {
    /// A channel whose connection stands. [`endpoint`] has the settings that it should have, and [`connect_error`] the
    /// words for what went wrong.
    async fn channel(&self, member: &Member) -> Result<Channel, ConnectError>;
}

/// Channels without encryption, for sockets of one machine.
#[derive(Clone, Copy, Debug)]
pub struct Plain {
    /// How long a connection may take.
    pub connect_timeout: Duration,
}

/// An endpoint with keepalive. `uri` is `unix:/path`, `http://host:port` or `https://host:port`.
///
/// # Errors
/// When it is no address.
pub fn endpoint(uri: String, connect_timeout: Duration) -> Result<Endpoint, ConnectError> {
    let endpoint = Endpoint::from_shared(uri).map_err(|error| connect_error(&error))?;
    Ok(endpoint
        .connect_timeout(connect_timeout)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true))
}

/// Why a connection could not be made, in words that many members share.
pub fn connect_error(error: &(dyn Error + 'static)) -> ConnectError {
    let mut deepest = error;
    loop {
        if let Some(error) = deepest.downcast_ref::<io::Error>() {
            match error.kind() {
                io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => {
                    return ConnectError("connection refused".to_owned());
                }
                io::ErrorKind::TimedOut => return ConnectError("no answer".to_owned()),
                _ => {}
            }
        }
        match deepest.source() {
            Some(source) => deepest = source,
            None => return ConnectError(deepest.to_string()),
        }
    }
}

#[async_trait]
impl Connector for Plain {
    async fn channel(&self, member: &Member) -> Result<Channel, ConnectError> {
        let address = &member.address;
        let uri = if address.starts_with("unix:") { address.clone() } else { format!("http://{address}") };
        endpoint(uri, self.connect_timeout)?.connect().await.map_err(|error| connect_error(&error))
    }
}

/// The way to members over gRPC. Cheap to clone.
#[derive(Clone)]
pub struct GrpcLink {
    inner: Arc<Inner>,
}

struct Inner {
    connector: Box<dyn Connector>,
    warm: Mutex<Warm>,
}

/// Channels by address, with when they were used.
#[derive(Default)]
struct Warm {
    channels: HashMap<String, (Channel, u64)>,
    clock: u64,
}

impl GrpcLink {
    /// A link whose channels are made so.
    pub fn new(connector: impl Connector) -> Self {
        let inner = Inner { connector: Box::new(connector), warm: Mutex::default() };
        Self { inner: Arc::new(inner) }
    }

    /// Forgets the channel to an address: the next wave makes a new one. For a member whose certificate was revoked.
    pub fn forget(&self, address: &str) {
        self.warm().channels.remove(address);
    }

    fn warm(&self) -> MutexGuard<'_, Warm> {
        self.inner.warm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, address: &str, channel: &Channel) {
        let mut warm = self.warm();
        warm.clock += 1;
        let now = warm.clock;
        warm.channels.insert(address.to_owned(), (channel.clone(), now));
        if warm.channels.len() > WARM
            && let Some(oldest) = warm.channels.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| key.clone())
        {
            warm.channels.remove(&oldest);
        }
    }

    fn kept(&self, address: &str) -> Option<Channel> {
        let mut warm = self.warm();
        warm.clock += 1;
        let now = warm.clock;
        let (channel, used) = warm.channels.get_mut(address)?;
        *used = now;
        Some(channel.clone())
    }
}

#[async_trait]
impl Link for GrpcLink {
    async fn connect(&self, member: &Member) -> Result<Box<dyn Connection>, ConnectError> {
        let channel = match self.kept(&member.address) {
            Some(channel) => channel,
            None => {
                let channel = self.inner.connector.channel(member).await?;
                self.keep(&member.address, &channel);
                channel
            }
        };
        Ok(Box::new(GrpcConnection { link: self.clone(), address: member.address.clone(), channel }))
    }
}

struct GrpcConnection {
    link: GrpcLink,
    address: String,
    channel: Channel,
}

#[async_trait]
impl Connection for GrpcConnection {
    async fn open(self: Box<Self>, open: WaveOpen) -> Result<WaveStream, WaveError> {
        let Self { link, address, channel } = *self;
        let (down, messages) = mpsc::channel(DOWN_QUEUE + 1);
        // The queue is new and has room.
        drop(down.try_send(WaveDown { message: Some(wave_down::Message::Open(open)) }));
        let mut client = TreeClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let fail = move |status: &Status| {
            let error = wave_error(status);
            // A refusal came over a connection that works.
            if !matches!(error, WaveError::Refused { .. }) {
                link.forget(&address);
            }
            error
        };
        // A member's answer begins with its first message: the call is made by whoever waits for that.
        let answer = async move { client.wave(ReceiverStream::new(messages)).await.map(Response::into_inner) };
        let up = answer.try_flatten_stream().map_err(move |status| fail(&status));
        Ok(WaveStream { down, up: up.boxed() })
    }
}

/// What an error says of the member: it said no, it was told nothing, or nobody knows.
fn wave_error(status: &Status) -> WaveError {
    match status.code() {
        code @ (Code::FailedPrecondition
        | Code::NotFound
        | Code::InvalidArgument
        | Code::ResourceExhausted
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::Unimplemented) => WaveError::Refused { code, message: status.message().to_owned() },
        _ => {
            let mut cause = status.source();
            while let Some(error) = cause {
                if error.is::<tonic::ConnectError>() {
                    return WaveError::Unreached(connect_error(error).0);
                }
                cause = error.source();
            }
            WaveError::Lost("the connection broke".to_owned())
        }
    }
}
