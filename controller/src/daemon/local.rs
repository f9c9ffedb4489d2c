//! Local sockets: made so that only root and the fleet group may use them, served until told to stop.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Router;

use crate::config::Config;

/// How long answers that are under way may take after the end was asked for.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);
/// Longest path of a Unix socket: `sun_path` of unix(7) holds 108 bytes with its ending zero.
const MAX_SOCKET_PATH: usize = 107;

/// Why a socket could not be had.
#[derive(Debug, Error)]
pub enum SocketError {
    /// The path does not fit.
    #[error("{0} is too long for a socket ({MAX_SOCKET_PATH} bytes at most); give a shorter `--root`")]
    TooLong(PathBuf),
    /// The system says no.
    #[error("cannot listen on {path}: {source}")]
    Listen {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// A server on a local socket.
pub struct Server {
    task: JoinHandle<()>,
    path: PathBuf,
}

impl Server {
    /// Waits until the server ended, which it does soon after its token was cancelled.
    pub async fn ended(self) {
        if tokio::time::timeout(DRAIN_DEADLINE, self.task).await.is_err() {
            tracing::warn!(socket = %self.path.display(), "answers still under way were cut off");
        }
        drop(std::fs::remove_file(&self.path));
    }
}

/// Makes a folder that others than root and the group cannot look into. The parents get the system's usual mode.
///
/// # Errors
/// When it cannot be made.
pub fn make_dir(path: &Path) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::DirBuilder::new().mode(0o750).create(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        result => result,
    }
}

/// Serves on a socket in a task of its own. The caller holds the lock of the folder: a socket that is there already
/// is what a dead daemon left.
///
/// # Errors
/// When the socket cannot be had.
pub fn serve(
    path: &Path,
    group: &str,
    router: Router,
    name: &str,
    stop: CancellationToken,
) -> Result<Server, SocketError> {
    if path.as_os_str().len() > MAX_SOCKET_PATH {
        return Err(SocketError::TooLong(path.into()));
    }
    let failed = |source| SocketError::Listen { path: path.into(), source };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(failed)?;
    if let Ok(Some(group)) = nix::unistd::Group::from_name(group) {
        for path in path.parent().into_iter().chain([path]) {
            nix::unistd::chown(path, None, Some(group.gid)).map_err(|errno| failed(errno.into()))?;
        }
    }
    let incoming = UnixListenerStream::new(listener);
    let name = name.to_owned();
    let task = tokio::spawn(async move {
        if let Err(error) = router.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()).await {
            tracing::error!(server = name, %error, "the server ended");
        }
    });
    Ok(Server { task, path: path.into() })
}

/// Whether an open file is still the one of that path.
pub fn same_file(open: &std::fs::File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    open.metadata().map(id).ok() == std::fs::metadata(path).map(id).ok()
}

/// Points standard output at /dev/null: the pipe to the command that started this process ends with that command.
pub fn forget_stdout() {
    use std::os::fd::AsFd;
    if let Ok(null) = std::fs::OpenOptions::new().write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdout(null.as_fd());
    }
}

/// Removes the folders in RAM when nothing of any experiment is in them any more.
pub fn remove_empty(config: &Config) {
    // A folder that is not empty stays, and that is meant.
    drop(std::fs::remove_dir(&config.ram_dir));
    let only_locks = std::fs::read_dir(&config.run_dir).is_ok_and(|mut entries| {
        entries
            .all(|entry| entry.is_ok_and(|entry| entry.path().extension().is_some_and(|extension| extension == "lock")))
    });
    if only_locks {
        drop(std::fs::remove_dir_all(&config.run_dir));
    }
}
