//! The connection: one task that follows the server's state, connects, and connects again with back-off.
//!
//! The writers see a [`Ready`] database or wait for one. A writer whose operation failed reports it with the
//! generation it used; the task then leaves the ready state and goes through a ping before anyone writes again. So a
//! server that is down costs one failed operation, not one a batch.

use std::sync::Arc;
use std::time::Duration;

use mongodb::bson::doc;
use mongodb::options::{Acknowledgment, ClientOptions, WriteConcern};
use mongodb::{Client, Database};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::WriterConfig;
use super::setup::{self, Retention};
use super::status::Status;
use crate::schema::DATABASE;
use crate::server::{RunningServer, ServerState};

/// Why there is no database now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct NotConnected {
    /// In a line, with how to have one where nobody is trying.
    pub reason: String,
}

/// A database that answered, and which connect it came from.
#[derive(Debug, Clone)]
pub(super) struct Ready {
    pub(super) database: Database,
    generation: u64,
}

/// What the writers see. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    link: watch::Receiver<Result<Ready, NotConnected>>,
    /// The latest generation that a writer found broken.
    broken: Arc<watch::Sender<u64>>,
}

impl Connection {
    /// The database as it is now.
    pub(super) fn now(&self) -> Result<Ready, NotConnected> {
        self.link.borrow().clone()
    }

    /// Waits for a database; for ever, if none comes. Cancel safe.
    pub(super) async fn ready(&self) -> Ready {
        let mut link = self.link.clone();
        let ready = link.wait_for(Result::is_ok).await.ok().and_then(|link| link.clone().ok());
        match ready {
            Some(ready) => ready,
            // The connection's task has ended, as it does when the writer is dropped: so does the caller.
            None => std::future::pending().await,
        }
    }

    /// An operation on this database failed.
    pub(super) fn report(&self, ready: &Ready) {
        self.broken.send_if_modified(|broken| {
            let news = *broken < ready.generation;
            *broken = (*broken).max(ready.generation);
            news
        });
    }
}

/// The connection and the task that keeps it.
pub(super) fn connection(
    config: &WriterConfig,
    server: watch::Receiver<ServerState>,
    status: Status,
) -> (Connection, impl Future<Output = ()> + Send + 'static) {
    let not_yet = NotConnected { reason: "the telemetry database is not connected yet; try again in a moment".into() };
    let (publish, link) = watch::channel(Err(not_yet));
    let (broken, breakage) = watch::channel(0);
    let keeper = Keeper {
        deadline: config.operation_deadline,
        first: config.backoff_first,
        longest: config.backoff_longest,
        retention: config.retention,
        server,
        breakage,
        publish,
        status,
        generation: 0,
    };
    (Connection { link, broken: Arc::new(broken) }, keeper.run())
}

struct Keeper {
    deadline: Duration,
    first: Duration,
    longest: Duration,
    retention: Retention,
    server: watch::Receiver<ServerState>,
    breakage: watch::Receiver<u64>,
    publish: watch::Sender<Result<Ready, NotConnected>>,
    status: Status,
    generation: u64,
}

impl Keeper {
    async fn run(mut self) {
        loop {
            let state = self.server.borrow_and_update().clone();
            let changed = match state {
                ServerState::Running(server) => self.serve(&server).await,
                ServerState::Off { reason } => self.without(false, reason).await,
                ServerState::Down { reason } => self.without(true, reason).await,
                ServerState::Starting => self.without(true, "the telemetry server is being started".to_owned()).await,
            };
            if !changed {
                // The supervisor is gone, and its last word was not a server we could go on with.
                return;
            }
        }
    }

    fn set(&self, link: Result<Ready, NotConnected>) {
        drop(self.publish.send_replace(link));
    }

    /// Nothing to connect to; ends with the next change of the server's state, or false if none can come.
    async fn without(&mut self, on: bool, reason: String) -> bool {
        self.status.disconnected(on, "", &reason);
        self.set(Err(NotConnected { reason }));
        self.server.changed().await.is_ok()
    }

    /// Keeps a connection to this server until the server's state changes.
    async fn serve(&mut self, server: &RunningServer) -> bool {
        let mut wait = self.first;
        loop {
            let connected = tokio::select! {
                connected = connect(&server.uri, self.deadline, self.retention) => connected,
                changed = self.server.changed() => return changed.is_ok(),
            };
            let reason = match connected {
                Ok(database) => {
                    self.generation += 1;
                    info!(server = server.shown, "telemetry database is connected");
                    // First the way, then the word: who waits for the word takes the way at once.
                    self.set(Ok(Ready { database, generation: self.generation }));
                    self.status.connected(&server.shown);
                    let since = Instant::now();
                    let generation = self.generation;
                    tokio::select! {
                        // The other end is in `Connection`; when all of those are gone, so is the need for us.
                        broken = self.breakage.wait_for(|broken| *broken >= generation) => if broken.is_err() {
                            return false;
                        },
                        changed = self.server.changed() => return changed.is_ok(),
                    }
                    if since.elapsed() > self.longest {
                        wait = self.first;
                    }
                    "an operation on the telemetry database failed; it is connected anew".to_owned()
                }
                Err(error) => format!("the telemetry database at {} does not answer: {error}", server.shown),
            };
            warn!(reason, "telemetry database is not connected");
            self.status.disconnected(true, &server.shown, &reason);
            self.status.failed(&reason);
            self.set(Err(NotConnected { reason }));
            tokio::select! {
                () = sleep(wait) => {}
                changed = self.server.changed() => return changed.is_ok(),
            }
            wait = (wait * 2).min(self.longest);
        }
    }
}

/// A new client, its first ping, and the collections.
async fn connect(uri: &str, deadline: Duration, retention: Retention) -> Result<Database, ConnectError> {
    let answer = async {
        let mut options = ClientOptions::parse(uri).await?;
        options.app_name.get_or_insert_with(|| "fleet".to_owned());
        options.connect_timeout = Some(deadline);
        options.server_selection_timeout = Some(deadline);
        options.max_pool_size.get_or_insert(8);
        // Telemetry is worth an acknowledgement, not a wait for the disk.
        options.write_concern = Some(WriteConcern::builder().w(Acknowledgment::Nodes(1)).journal(false).build());
        let database = Client::with_options(options)?.database(DATABASE);
        database.run_command(doc! { "ping": 1 }).await?;
        Ok::<_, mongodb::error::Error>(database)
    };
    // Dropping one of the driver's futures amid a command closes its connection, and nothing else of the driver's
    // state depends on the operations that are used in this crate.
    let database = timeout(deadline, answer).await.map_err(|_| ConnectError::Deadline(deadline))??;
    // Making time-series collections on a slow disk takes longer than a ping.
    let patience = deadline * 3;
    let ensured = timeout(patience, setup::ensure(&database, retention)).await;
    ensured.map_err(|_| ConnectError::Deadline(patience))??;
    Ok(database)
}

#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("{0}")]
    Driver(#[from] mongodb::error::Error),
    #[error("no answer within {} s", .0.as_secs_f32())]
    Deadline(Duration),
}
