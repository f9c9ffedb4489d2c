//! Connections for a tonic server: accepted, shaken hands with, and ended when the other side is removed from the fleet.
//!
//! Handshakes run beside one another, each in a task that ends with the stream, so that one slow peer holds up nobody.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, StreamExt};
use rustls::pki_types::UnixTime;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::{TcpListenerStream, WatchStream};
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Server;
use tonic::transport::server::Connected;

use crate::credentials::Credentials;
use crate::error::PkiError;
use crate::key::PublicKey;
use crate::peer::{Peer, Who};
use crate::refusal::{Refusal, refusal};
use crate::verify::Trust;

/// Handshakes at once; the kernel's backlog holds the others.
const HANDSHAKES: usize = 128;
/// How long one may take.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// How long a peer may be silent before it is asked whether it lives, and how long it may take to say so.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// After a connection could not be accepted, for want of descriptors for example.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Whether somebody who is no member yet may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strangers {
    /// No.
    Refused,
    /// Yes: the services must look at who calls them.
    MayJoin,
}

/// A builder of servers for these connections. Certificates are looked at when a connection begins, so connections
/// must not outlive them: each is ended gently after a third of a certificate's life. What is under way goes on.
pub fn server(certificate_life: Duration) -> Server {
    Server::builder()
        .max_connection_age(certificate_life / 3)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
}

/// Connections that came in, each with its [`Peer`]. Those that are refused are logged with the reason.
///
/// # Errors
/// When the credentials cannot be used.
pub fn incoming(
    listener: TcpListener,
    credentials: &Arc<Credentials>,
    strangers: Strangers,
) -> Result<impl Stream<Item = io::Result<PeerStream>> + Send + use<>, PkiError> {
    let strangers = strangers == Strangers::MayJoin;
    let acceptor = TlsAcceptor::from(credentials.server_config(strangers)?);
    let trust = Arc::clone(credentials.trust());
    let handshakes = TcpListenerStream::new(listener).map(move |tcp| {
        let (acceptor, trust) = (acceptor.clone(), Arc::clone(&trust));
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            let tcp = match tcp {
                Ok(tcp) => tcp,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    return None;
                }
            };
            let address = tcp.peer_addr().ok()?;
            let shaken =
                tokio::time::timeout(HANDSHAKE_DEADLINE, handshake(tcp, address, &acceptor, &trust, strangers));
            match shaken.await {
                Ok(Ok(stream)) => return Some(Ok(stream)),
                Ok(Err(reason)) => tracing::warn!(peer = %address, %reason, "a connection was refused"),
                Err(_) => {
                    tracing::warn!(peer = %address, reason = "no handshake in time", "a connection was refused");
                }
            }
            None
        }));
        async move { task.await.ok().flatten() }
    });
    Ok(handshakes.buffer_unordered(HANDSHAKES).filter_map(std::future::ready))
}

async fn handshake(
    tcp: TcpStream,
    address: SocketAddr,
    acceptor: &TlsAcceptor,
    trust: &Arc<Trust>,
    strangers: bool,
) -> Result<PeerStream, Refusal> {
    let in_words = |error: io::Error| refusal(&error).unwrap_or_else(|| Refusal::Tls(error.to_string()));
    tcp.set_nodelay(true).map_err(in_words)?;
    // Before the certificate is looked at: what is revoked after that ends the connection.
    let changes = WatchStream::from_changes(trust.revoked.changes());
    let tls = acceptor.accept(tcp).await.map_err(in_words)?;
    let (certificate, intermediates) =
        tls.get_ref().1.peer_certificates().and_then(<[_]>::split_first).ok_or(Refusal::NoCertificate)?;
    let key = PublicKey::of(certificate).map_err(|error| Refusal::Tls(error.to_string()))?;
    // The handshake said that it is acceptable; whether it is a member's is asked again.
    let who = match trust.member(certificate, intermediates, UnixTime::now()) {
        Ok((identity, serial)) => Who::Member { identity, serial },
        Err(error) => match Refusal::from(&error) {
            Refusal::Stranger if strangers => Who::Stranger,
            refusal => return Err(refusal),
        },
    };
    Ok(PeerStream { tls, peer: Peer { address, key, who }, trust: Arc::clone(trust), changes, over: false })
}

/// A connection whose other end is known.
pub struct PeerStream {
    tls: TlsStream<TcpStream>,
    peer: Peer,
    trust: Arc<Trust>,
    changes: WatchStream<u64>,
    over: bool,
}

impl PeerStream {
    /// Fails once the other end was removed from the fleet; wakes the reader when that happens.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        while let Poll::Ready(Some(_)) = self.changes.poll_next_unpin(context) {
            if let Who::Member { identity, serial } = &self.peer.who
                && self.trust.revoked.contains(serial)
            {
                tracing::warn!(peer = %self.peer.address, member = %identity, "a connection was ended: its certificate was revoked");
                self.over = true;
            }
        }
        if self.over { Err(io::Error::new(io::ErrorKind::ConnectionAborted, Refusal::Revoked)) } else { Ok(()) }
    }
}

impl Connected for PeerStream {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check(context)?;
        Pin::new(&mut this.tls).poll_read(context, buffer)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.over {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, Refusal::Revoked)));
        }
        Pin::new(&mut this.tls).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tls).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tls).poll_shutdown(context)
    }
}
