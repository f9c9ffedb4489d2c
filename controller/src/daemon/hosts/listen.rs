//! The controller's listener for hosts, and the task that keeps the registry.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fleet_agent::Agent;
use fleet_pki::{Connector, Strangers, incoming, server};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::registry::Hosts;
use super::remote;

/// How long answers that are under way may take after the end was asked for.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);
/// Certificates are renewed after so much of their life, in thirds.
const ROTATE_THIRDS: u32 = 2;
/// Between two looks for what may be forgotten.
const PRUNE: Duration = Duration::from_secs(600);

/// Why the controller cannot be reached by hosts.
#[derive(Debug, Error)]
pub enum ListenError {
    /// The address cannot be had.
    #[error("cannot listen for hosts on {address}: {source}; give another address with `--listen`")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The controller's own certificate.
    #[error(transparent)]
    Pki(#[from] fleet_pki::PkiError),
}

/// The listener and the registry's keeper.
pub struct Listener {
    /// Where hosts reach the controller; `None`: nowhere.
    pub address: Option<SocketAddr>,
    server: Option<JoinHandle<()>>,
    keeper: JoinHandle<()>,
}

impl Listener {
    /// Waits until both have ended, which they do soon after their token was cancelled.
    pub async fn ended(self) {
        for task in self.server.into_iter().chain([self.keeper]) {
            if tokio::time::timeout(DRAIN_DEADLINE, task).await.is_err() {
                tracing::warn!("answers to hosts still under way were cut off");
            }
        }
    }
}

/// Listens for hosts, if there is an address to listen on, and keeps the registry. `agent` is that of the controller's own
/// host, if it is in this process: hosts reach its cameras here.
///
/// # Errors
/// When the address cannot be had.
pub async fn listen(
    hosts: &Arc<Hosts>,
    address: Option<SocketAddr>,
    agent: Option<&Agent>,
    stop: &CancellationToken,
) -> Result<Listener, ListenError> {
    let mut at = None;
    let mut server_task = None;
    if let Some(address) = address {
        let listener = TcpListener::bind(address).await.map_err(|source| ListenError::Bind { address, source })?;
        at = listener.local_addr().ok();
        let incoming = incoming(listener, hosts.credentials(), Strangers::MayJoin)?;
        let mut router = remote::router(server(hosts.certificate_life()), hosts, stop);
        if let Some(agent) = agent {
            router = fleet_agent::with_cameras(router, agent, Connector::new(Arc::clone(hosts.credentials())));
        }
        let stopped = stop.clone().cancelled_owned();
        server_task = Some(tokio::spawn(async move {
            if let Err(error) = router.serve_with_incoming_shutdown(incoming, stopped).await {
                tracing::error!(%error, "the server for hosts ended");
            }
        }));
        tracing::info!(address = %at.unwrap_or(address), ca = %hosts.fingerprint(), "controller listens for hosts");
    }
    let keeper = tokio::spawn(keep(Arc::clone(hosts), stop.clone()));
    Ok(Listener { address: at, server: server_task, keeper })
}

/// Counts beats that are due, renews the controller's certificate, forgets what is over.
async fn keep(hosts: Arc<Hosts>, stop: CancellationToken) {
    let mut beats = tokio::time::interval(hosts.beat_interval());
    // A process that was paused counts one beat, not all that it slept through.
    beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut rotations = tokio::time::interval(hosts.certificate_life() * ROTATE_THIRDS / 3);
    rotations.reset();
    let mut prunings = tokio::time::interval(PRUNE);
    prunings.reset();
    loop {
        let result = tokio::select! {
            () = stop.cancelled() => return,
            _ = beats.tick() => {
                hosts.tick();
                Ok(())
            }
            _ = rotations.tick() => hosts.rotate(),
            _ = prunings.tick() => hosts.prune(),
        };
        if let Err(error) = result {
            tracing::error!(%error, "the registry of hosts could not be kept");
        }
    }
}
