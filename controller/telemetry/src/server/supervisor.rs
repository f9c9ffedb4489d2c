//! The task that sees to it that there is a server: it finds or starts one, watches it, and starts it again.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::DirBuilderExt as _;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{Instrument as _, info, info_span, warn};

use super::locate::{OFF, ServerProgram};
use super::process::{ServerProcess, folder_error, lock_file};
use super::{RunningServer, ServerConfig, ServerError, ServerState};
use crate::metric_definitions::SERVER_RESTARTS;

/// Waits between two tries: doubled each time, and back to the first after a server has run that long.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// flock(2) has no wait with a deadline, so the lock is tried again this often.
const LOCK_RETRY: Duration = Duration::from_millis(50);

/// Owns the task. Dropping it leaves the server running, to be taken over by the next one on the same folder;
/// [`ServerSupervisor::stop`] stops it.
#[derive(Debug)]
pub struct ServerSupervisor {
    state: watch::Receiver<ServerState>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), ServerError>>,
}

impl ServerSupervisor {
    /// Starts the task on the current runtime. Returns at once; follow [`ServerSupervisor::state`].
    pub fn start(config: ServerConfig) -> Self {
        let (publish, state) = watch::channel(ServerState::Starting);
        let (stop, stopping) = oneshot::channel();
        let task = tokio::spawn(supervise(config, publish, stopping).instrument(info_span!("telemetry-server")));
        Self { state, stop: Some(stop), task }
    }

    /// Which server there is, and every change of that.
    pub fn state(&self) -> watch::Receiver<ServerState> {
        self.state.clone()
    }

    /// Stops the server, unless another controller uses it, and waits for its end. Returns within a minute: the server
    /// has its time to end in order, then it is killed.
    pub async fn stop(mut self) -> Result<(), ServerError> {
        // The task may have ended already, as it does where there is nothing to watch.
        let _ = self.stop.take().map(|stop| stop.send(()));
        match (&mut self.task).await {
            Ok(stopped) => stopped,
            // Aborted or panicked: nobody stops the server then, and the next controller takes it over.
            Err(error) => {
                warn!(%error, "the telemetry server's task ended early");
                Ok(())
            }
        }
    }
}

impl Drop for ServerSupervisor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn supervise(
    config: ServerConfig,
    state: watch::Sender<ServerState>,
    mut stopping: oneshot::Receiver<()>,
) -> Result<(), ServerError> {
    if let Some(uri) = &config.uri {
        state.send_replace(ServerState::Running(RunningServer::remote(uri)));
        // The sender of the state must live for as long as there is a supervisor.
        let _ = stopping.await;
        return Ok(());
    }
    let Some(program) = config.search.find() else {
        state.send_replace(ServerState::Off { reason: OFF.to_owned() });
        let _ = stopping.await;
        return Ok(());
    };
    let mut wait = FIRST_WAIT;
    let mut before = false;
    loop {
        let obtained = tokio::select! {
            obtained = obtain(&config, &program) => obtained,
            // A server that is just being started has its record, and is found by the next controller.
            _ = &mut stopping => return Ok(()),
        };
        let reason = match obtained {
            Ok((mut server, users)) => {
                info!(pid = server.pid, port = server.port, adopted = server.adopted, "telemetry server is running");
                if before && !server.adopted {
                    metrics::counter!(SERVER_RESTARTS).increment(1);
                }
                before = true;
                let running = RunningServer::local(server.port, server.pid, server.adopted);
                state.send_replace(ServerState::Running(running));
                let since = Instant::now();
                tokio::select! {
                    () = server.ended() => {}
                    _ = &mut stopping => return stop(&config, server, users).await,
                }
                if since.elapsed() > LONGEST_WAIT {
                    wait = FIRST_WAIT;
                }
                format!("the telemetry server ended ({}); its last lines: {}", server.reap(), server.last_lines())
            }
            Err(error) => error.to_string(),
        };
        warn!(reason, "telemetry server is down; it is started again in {} ms", wait.as_millis());
        state.send_replace(ServerState::Down { reason });
        tokio::select! {
            () = sleep(wait) => {}
            _ = &mut stopping => return Ok(()),
        }
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// A running server, and the lock that says that we use it.
async fn obtain(config: &ServerConfig, program: &ServerProgram) -> Result<(ServerProcess, File), ServerError> {
    let folder = &config.folder;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(folder_error(folder))?;
    let _starting = start_lock(config).await?;
    let users = lock_file(folder, "users.lock")?;
    // Taken exclusively only under `start.lock`, which we hold: it cannot be refused for long.
    users.lock_shared().map_err(folder_error(folder))?;
    let server = ServerProcess::obtain(config, program).await?;
    Ok((server, users))
}

async fn stop(config: &ServerConfig, server: ServerProcess, users: File) -> Result<(), ServerError> {
    let _stopping = start_lock(config).await?;
    match users.unlock().map_err(TryLockError::Error).and_then(|()| users.try_lock()) {
        Ok(()) => server.stop().await,
        Err(TryLockError::WouldBlock) => {
            info!(pid = server.pid, "another controller uses the telemetry server; it is left running");
            Ok(())
        }
        Err(TryLockError::Error(source)) => Err(folder_error(&config.folder)(source)),
    }
}

async fn start_lock(config: &ServerConfig) -> Result<File, ServerError> {
    let file = lock_file(&config.folder, "start.lock")?;
    // The other one may use up its whole start deadline under the lock.
    let patience = config.start_deadline * 2;
    let deadline = Instant::now() + patience;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                sleep_until(Instant::now() + LOCK_RETRY).await;
            }
            Err(TryLockError::WouldBlock) => {
                return Err(ServerError::Locked { path: config.folder.clone(), waited: patience });
            }
            Err(TryLockError::Error(source)) => return Err(folder_error(&config.folder)(source)),
        }
    }
}
