//! Channels to members of the fleet. A channel that stands was accepted by both sides: the server's first bytes, which
//! come after it has looked at this side's certificate (TLS 1.3), are waited for before the channel is given out.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::{DnsName, ServerName};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::credentials::{Credentials, joining_config};
use crate::error::PkiError;
use crate::key::{Fingerprint, HostKey};
use crate::refusal::{Refusal, refusal};
use crate::verify::Meant;

/// How long a connection may take, with its handshake.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// A peer that is silent for so long while something is asked of it is asked whether it lives, and may take so long
/// again to say so.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// What stands where HTTP wants a host. Who is meant is checked by certificate, not by this.
const AUTHORITY: &str = "fleet.internal";
const UNIX: &str = "unix:";

/// Why there is no channel.
#[derive(Clone, Debug, Error)]
pub enum ConnectError {
    /// Nobody answers there, or not in time: the host may be dead.
    #[error("{address} does not answer: {reason}")]
    Unreachable {
        /// Where.
        address: String,
        /// In words.
        reason: String,
    },
    /// Somebody answers, and one of the two sides does not accept the other.
    #[error("{address}: {refusal}")]
    Refused {
        /// Where.
        address: String,
        /// Why.
        refusal: Refusal,
    },
    /// A local socket that this process does not serve for.
    #[error("{0} is a local socket, and only the agent of this host is reached by one")]
    NotLocal(String),
    /// This side's own keys.
    #[error("cannot connect: {0}")]
    Own(String),
}

impl From<PkiError> for ConnectError {
    fn from(error: PkiError) -> Self {
        Self::Own(error.to_string())
    }
}

/// Makes channels with this process's credentials.
#[derive(Clone, Debug, Default)]
pub struct Connector {
    credentials: Option<Arc<Credentials>>,
    local: Option<PathBuf>,
}

impl Connector {
    /// With these credentials.
    pub fn new(credentials: Arc<Credentials>) -> Self {
        Self { credentials: Some(credentials), local: None }
    }

    /// Lets the agent of this host be reached by its local socket. Without this, an address that is one is refused:
    /// others could name sockets that are none of the fleet's.
    #[must_use]
    pub fn with_local(self, socket: &Path) -> Self {
        Self { local: Some(socket.into()), ..self }
    }

    /// A channel to the agent of a host, "address:port" (or "unix:PATH" for this host's own). It connects anew by
    /// itself, and each time the host must show that it is the one of this name.
    ///
    /// # Errors
    /// When nobody answers in time, or one side refuses the other.
    pub async fn agent(&self, name: &str, address: &str) -> Result<Channel, ConnectError> {
        match address.strip_prefix(UNIX) {
            Some(path) if self.local.as_deref() == Some(Path::new(path)) => local(address).await,
            Some(_) => Err(ConnectError::NotLocal(address.to_owned())),
            None => channel(self.config(Meant::Agent(name.to_owned()))?, address).await,
        }
    }

    /// A channel to the controller, "address:port".
    ///
    /// # Errors
    /// When nobody answers in time, or one side refuses the other.
    pub async fn controller(&self, address: &str) -> Result<Channel, ConnectError> {
        channel(self.config(Meant::Controller)?, address).await
    }

    fn config(&self, meant: Meant) -> Result<Arc<ClientConfig>, ConnectError> {
        let credentials = self.credentials.as_ref();
        let credentials = credentials.ok_or_else(|| ConnectError::Own("this process belongs to no fleet".into()))?;
        Ok(credentials.client_config(meant)?)
    }
}

/// A channel to a controller of which only the CA's fingerprint is known, for a host that has only its key: good for
/// the Join service and nothing else.
///
/// # Errors
/// When nobody answers in time, or it is another controller.
pub async fn connect_to_join(address: &str, ca: Fingerprint, key: &HostKey) -> Result<Channel, ConnectError> {
    channel(joining_config(key, ca)?, address).await
}

async fn local(address: &str) -> Result<Channel, ConnectError> {
    let failed = |error: tonic::transport::Error| unreachable(address, &error);
    let endpoint = Endpoint::from_shared(address.to_owned()).map_err(failed)?.connect_timeout(CONNECT_DEADLINE);
    endpoint.connect().await.map_err(failed)
}

async fn channel(config: Arc<ClientConfig>, address: &str) -> Result<Channel, ConnectError> {
    let to = address.to_owned();
    let dial = tower::service_fn(move |_: Uri| {
        let (config, to) = (Arc::clone(&config), to.clone());
        async move { dial(config, &to).await.map(TokioIo::new) }
    });
    Endpoint::from_shared(format!("http://{AUTHORITY}"))
        .map_err(|error| unreachable(address, &error))?
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .connect_with_connector(dial)
        .await
        .map_err(|error| found(&error).unwrap_or_else(|| unreachable(address, &error)))
}

/// The error of [`dial`], which comes wrapped.
fn found(error: &tonic::transport::Error) -> Option<ConnectError> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<ConnectError>() {
            return Some(found.clone());
        }
        next = error.source();
    }
    None
}

fn unreachable(address: &str, error: &dyn std::error::Error) -> ConnectError {
    let mut reason = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        reason = cause.to_string();
        next = cause.source();
    }
    ConnectError::Unreachable { address: address.to_owned(), reason }
}

async fn dial(config: Arc<ClientConfig>, address: &str) -> Result<Accepted, ConnectError> {
    let failed = |error: io::Error| match refusal(&error) {
        Some(refusal) => ConnectError::Refused { address: address.to_owned(), refusal },
        None => unreachable(address, &error),
    };
    let dialled = async {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let name = DnsName::try_from(AUTHORITY).map_err(io::Error::other)?;
        let mut tls = TlsConnector::from(config).connect(ServerName::DnsName(name), tcp).await?;
        let mut first = [0; FIRST];
        match tls.read(&mut first).await? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection")),
            length => Ok(Accepted { first, at: 0, length, tls }),
        }
    };
    match tokio::time::timeout(CONNECT_DEADLINE, dialled).await {
        Ok(result) => result.map_err(failed),
        Err(_) => {
            let reason = format!("no connection within {} s", CONNECT_DEADLINE.as_secs());
            Err(ConnectError::Unreachable { address: address.to_owned(), reason })
        }
    }
}

/// The head of a frame of HTTP/2 (RFC 9113, section 4.1): any first bytes would do.
const FIRST: usize = 9;

/// A connection that the other side has accepted, with the first bytes that show it.
struct Accepted {
    first: [u8; FIRST],
    at: usize,
    length: usize,
    tls: TlsStream<TcpStream>,
}

impl AsyncRead for Accepted {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.at < this.length {
            let end = this.length.min(this.at + buffer.remaining());
            // `at <= end <= length <= FIRST`.
            buffer.put_slice(&this.first[this.at..end]);
            this.at = end;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.tls).poll_read(context, buffer)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tls).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tls).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tls).poll_shutdown(context)
    }
}
