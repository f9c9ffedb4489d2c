//! The controller process.
//!
//! Tasks and what joins them, from start to end:
//!
//! ```text
//!  fleet (CLI) ──gRPC, controller.sock──► service ──► fleet ──waves──► the agent here, by agent.sock; those elsewhere
//!                                            │          │                   │
//!                                            └► store ◄─┘           samples and events
//!                                                                           ▼
//!                                   telemetry::forward ──bounded queue──► writer ──► MongoDB
//! ```
//!
//! The agent inside this process is reached through its socket as any other would be: there is one way to an agent.
//! The end of this process ends no VM.

mod agents;
pub mod backup;
mod cameras;
mod exec;
mod fleet;
mod hosts;
mod local;
mod operation;
mod prometheus;
mod prove;
mod service;
mod store;
mod targets;
mod telemetry;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fleet_agent::{Agent, AgentConfig, JoinArgs};
use nix::fcntl::{Flock, FlockArg};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::commitments::Commitments;
use crate::config::Config;

pub use cameras::{short_port, state_word};
pub use hosts::{AGENT_PORT, CONTROLLER_PORT, parse_listen, with_port};

/// File name of the controller's store in its state folder.
pub const STORE_FILE: &str = "controller.redb";
/// What a controller in the background says on standard output when it serves.
pub const READY: &str = "ready";

/// How long a daemon that is ending may take: it flushes telemetry and stops its server first.
const LOCK_DEADLINE: Duration = Duration::from_secs(20);
/// How long threads of the runtime may take to end.
const RUNTIME_DEADLINE: Duration = Duration::from_secs(5);
/// Between two tries to get its lock.
const LOCK_RETRY: Duration = Duration::from_millis(50);

/// Why the process could not do its work.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// A folder of its own cannot be made.
    #[error("cannot make {path}: {source}; give another place with `--root DIR`")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another process holds the lock.
    #[error("another controller or agent runs already on {0}; `fleet controller status` shows it")]
    Held(PathBuf),
    /// The local socket cannot be had.
    #[error(transparent)]
    Socket(#[from] local::SocketError),
    /// The store is not usable.
    #[error(transparent)]
    Store(#[from] store::StoreError),
    /// The agent does not start.
    #[error("the agent of this host does not start: {0}")]
    Agent(#[from] fleet_agent::AgentError),
    /// The agent that was named does not answer.
    #[error("no agent answers on {socket} ({reason}); start one with `fleet agent`")]
    NoAgent {
        /// Its socket.
        socket: PathBuf,
        /// In words.
        reason: String,
    },
    /// The registry of hosts.
    #[error(transparent)]
    Hosts(#[from] hosts::HostsError),
    /// The leases of cameras.
    #[error(transparent)]
    Cameras(#[from] cameras::LedgerError),
    /// What is wanted of the fleet.
    #[error(transparent)]
    Fleet(#[from] fleet::FleetError),
    /// Hosts cannot reach the controller.
    #[error(transparent)]
    Listen(#[from] hosts::ListenError),
    /// An address on the command line or in the configuration.
    #[error("{0}")]
    Address(String),
    /// The agent does not belong to its fleet.
    #[error(transparent)]
    Membership(#[from] fleet_agent::MembershipError),
    /// The runtime or a signal handler.
    #[error("the runtime does not start: {0}")]
    Runtime(std::io::Error),
    /// A backup is not put back.
    #[error(transparent)]
    Backup(#[from] backup::BackupError),
    /// Only root can do what an agent does.
    #[error("fleet needs root here: it makes namespaces, taps and control groups; run it with sudo")]
    NotRoot,
}

/// Runs a controller until it is told to end. With `background`, detaches from the caller's terminal first and says
/// [`READY`], or why not, on standard output.
///
/// # Errors
/// When it cannot start; nothing is left behind then.
pub fn controller_main(config: Config, agent: Option<PathBuf>, background: bool) -> Result<(), DaemonError> {
    if background {
        // Fails only for a process that leads its group already, and then there is nothing to leave.
        let _ = nix::unistd::setsid();
    }
    let result = run_locked(&config, "controller.lock", &config.controller_socket(), background, || {
        controller(config.clone(), agent, background)
    });
    if background && let Err(error) = &result {
        println!("{error}");
    }
    result
}

/// Puts a backup in place of the controller's state, under the lock that keeps a controller away.
///
/// # Errors
/// When a controller runs, when there is a state already and `force` is not set, or when it cannot be written.
pub fn restore_main(config: &Config, backup: &fleet_proto::v1::Backup, force: bool) -> Result<(), DaemonError> {
    run_locked(config, "controller.lock", &config.controller_socket(), true, async || {
        Ok(backup::put_back(backup, &config.state_dir, force)?)
    })
}

/// Runs only the agent of this host until it is told to end; with `join`, or if it has joined before, as a member of a
/// fleet.
///
/// # Errors
/// When it cannot start or join.
pub fn agent_main(mut config: Config, socket: Option<PathBuf>, join: JoinArgs) -> Result<(), DaemonError> {
    let socket = socket.unwrap_or_else(|| config.agent_socket());
    let prepared = fleet_agent::prepare(&config.state_dir, &config.host, join)?;
    if let Some(prepared) = &prepared {
        config.host = prepared.host().to_owned();
    }
    run_locked(&config, "agent.lock", &socket, false, async || {
        let stop = CancellationToken::new();
        let agent = Agent::start(agent_config(&config)).await?;
        let server = serve_agent(&config, Arc::clone(&agent), &socket, stop.clone())?;
        tracing::info!(socket = %socket.display(), "agent serves");
        let result = member(prepared, &agent, &stop).await;
        stop.cancel();
        server.ended().await;
        agent.shutdown().await;
        result
    })
}

/// Until a signal comes: a member of its fleet, if this host is one or is asked to be.
async fn member(
    prepared: Option<fleet_agent::Prepared>,
    agent: &Arc<Agent>,
    stop: &CancellationToken,
) -> Result<(), DaemonError> {
    let mut membership = None;
    if let Some(prepared) = prepared {
        membership = Some(tokio::select! {
            joined = prepared.join(agent, stop) => joined?,
            signal = signalled() => return signal.map_err(DaemonError::Runtime),
        });
    }
    let result = signalled().await.map_err(DaemonError::Runtime);
    stop.cancel();
    if let Some(membership) = membership {
        membership.ended().await;
    }
    result
}

/// Runs a daemon under the lock of its folder. The lock outlives everything that the daemon holds: the next one can
/// have all of it.
fn run_locked<F>(
    config: &Config,
    lock: &str,
    socket: &Path,
    background: bool,
    daemon: impl FnOnce() -> F,
) -> Result<(), DaemonError>
where
    F: Future<Output = Result<(), DaemonError>>,
{
    let runtime = start(background)?;
    let lock = runtime.block_on(prepare(config, lock, socket))?;
    let result = runtime.block_on(async { daemon().await });
    // What still runs on a thread of its own is given up: everything that matters has been waited for.
    runtime.shutdown_timeout(RUNTIME_DEADLINE);
    // Another daemon's folders may be empty just now.
    if !matches!(result, Err(DaemonError::Held(_))) {
        local::remove_empty(config);
    }
    drop(lock);
    result
}

fn start(background: bool) -> Result<tokio::runtime::Runtime, DaemonError> {
    let filter = tracing_subscriber::EnvFilter::try_from_env("FLEET_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,mongodb=warn,h2=warn,tower=warn"));
    // A second subscriber is refused, and the first one is as good.
    drop(
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(!background && crate::cli::stderr_is_terminal())
            .try_init(),
    );
    // glibc gives each thread an arena of its own; few threads keep a daemon that mostly waits small.
    let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .max_blocking_threads(64)
        .thread_name("fleet")
        .enable_all()
        .build()
        .map_err(DaemonError::Runtime)
}

/// A fleet's own host keeps its name, as those that joined do: by it the fleet knows what runs there.
fn named_as_before(mut config: Config, store: &store::Store) -> Result<Config, DaemonError> {
    if let Some(name) = hosts::own_host(store)?.filter(|name| *name != config.host) {
        tracing::warn!(host = %name, now = %config.host, "this host keeps the name under which the fleet knows it");
        config.host = name;
    }
    Ok(config)
}

async fn controller(config: Config, remote: Option<PathBuf>, background: bool) -> Result<(), DaemonError> {
    let store = Arc::new(store::Store::open(&config.state_dir.join(STORE_FILE))?);
    let config = named_as_before(config, &store)?;
    // The agent of this host may know a higher one: the store was lost, or is an older one that was put back.
    let known = fleet_agent::Epoch::open(&config.state_dir).map_err(fleet_agent::AgentError::from)?.known();
    let epoch = store.next_epoch(known)?;
    let stop = CancellationToken::new();

    // Before the first metric is touched.
    let metrics_address = prometheus::serve(&config.metrics_address, stop.clone()).await;
    let socket = remote.clone().unwrap_or_else(|| config.agent_socket());
    // Held as long as the agent inside: another process must not look after the same VMs.
    let mut _agent_lock = None;
    let embedded = match remote {
        Some(_) => None,
        None => {
            _agent_lock = Some(prepare(&config, "agent.lock", &socket).await?);
            let agent = Agent::start(agent_config(&config)).await?;
            let server = serve_agent(&config, Arc::clone(&agent), &socket, stop.clone())?;
            Some((agent, server))
        }
    };
    let hosts = Arc::new(hosts::Hosts::open(Arc::clone(&store), hosts_settings(&config, epoch))?);
    let agents = agents::Agents::new(&hosts, &socket);
    let own = agents.own_info().await;
    let own =
        own.map_err(|status| DaemonError::NoAgent { socket: socket.clone(), reason: status.message().to_owned() })?;
    let own_host = service::OwnHost { address: format!("unix:{}", socket.display()), underlay: underlay(&config) };
    // Before the fleet is gone on with: what was begun here is there still.
    hosts.own_host(own, &own_host.address, &own_host.underlay)?;
    let fleet = fleet::Fleet::start(fleet::Parts {
        store: Arc::clone(&store),
        hosts: Arc::clone(&hosts),
        agents: agents.clone(),
        sizes: Commitments::new(&config.image_store, config.hypervisor.clone()),
        k: config.tree_k,
        stop: stop.clone(),
    })?;
    let listen_at = listen_address(&config)?;
    let cameras = cameras::Cameras::start(cameras::Parts {
        fleet: Arc::clone(&fleet),
        hosts: Arc::clone(&hosts),
        agents: agents.clone(),
        store: Arc::clone(&store),
        own_host_is_reached: embedded.is_some() && listen_at.is_some(),
        stop: stop.clone(),
    })?;
    let own_agent = embedded.as_ref().map(|(agent, _)| agent.as_ref());
    let listener = hosts::listen(&hosts, listen_at, own_agent, &stop).await?;
    let telemetry = telemetry::Telemetry::start(&config, agents.clone(), &hosts, &stop).await;

    let shared = Arc::new(service::Shared {
        agents,
        fleet,
        cameras,
        store,
        telemetry,
        own_host,
        hosts_address: listener.address,
        hosts,
        epoch,
        metrics_address,
        started_ms: crate::cli::now_ms(),
        started_by_command: background,
        stop: stop.clone(),
    });
    let server = local::serve(
        &config.controller_socket(),
        &config.group,
        service::router(Arc::clone(&shared)),
        "controller",
        stop.clone(),
    )?;
    let own_host = tokio::spawn(Arc::clone(&shared).watch_own_host());
    tracing::info!(epoch, socket = %config.controller_socket().display(), "controller serves");
    if background {
        println!("{READY}");
        local::forget_stdout();
    }
    tokio::select! {
        result = signalled() => result.map_err(DaemonError::Runtime)?,
        () = stop.cancelled() => {}
    }
    stop.cancel();
    server.ended().await;
    listener.ended().await;
    // It may be asking the agent, which is there still, and nothing depends on the answer.
    own_host.abort();
    shared.fleet.ended().await;
    shared.cameras.ended().await;
    shared.telemetry.shutdown().await;
    if let Some((agent, server)) = embedded {
        server.ended().await;
        agent.shutdown().await;
    }
    tracing::info!("controller ended; VMs go on");
    Ok(())
}

fn hosts_settings(config: &Config, epoch: u64) -> hosts::Settings {
    hosts::Settings {
        state_dir: config.state_dir.clone(),
        name: config.host.clone(),
        certificate_life: Duration::from_secs(config.certificate_life_seconds.into()),
        beat: Duration::from_secs(config.heartbeat_seconds.into()),
        epoch,
    }
}

/// Where the controller listens for hosts.
fn listen_address(config: &Config) -> Result<Option<SocketAddr>, DaemonError> {
    let parsed = config.listen.as_deref().map(|text| parse_listen(text, CONTROLLER_PORT));
    parsed.transpose().map_err(DaemonError::Address)
}

/// This host's address for segments over hosts: the one that is set, else the one that hosts reach the controller by.
fn underlay(config: &Config) -> String {
    let listens = || listen_address(config).ok().flatten().map(|address| address.ip());
    let told = config.underlay.clone().or_else(|| listens().filter(|ip| !ip.is_unspecified()).map(|ip| ip.to_string()));
    told.unwrap_or_default()
}

fn serve_agent(
    config: &Config,
    agent: Arc<Agent>,
    socket: &Path,
    stop: CancellationToken,
) -> Result<local::Server, DaemonError> {
    Ok(local::serve(socket, &config.group, fleet_agent::router(agent), "agent", stop)?)
}

/// Makes the folders and takes the lock that keeps a second daemon away. One that is just ending (its socket is closed
/// already) is waited for.
async fn prepare(config: &Config, lock: &str, socket: &Path) -> Result<Flock<std::fs::File>, DaemonError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(DaemonError::NotRoot);
    }
    let path = config.run_dir.join(lock);
    let until = tokio::time::Instant::now() + LOCK_DEADLINE;
    loop {
        // Opened anew each time: the one that ends removes the file, with its folder.
        let opened = local::make_dir(&config.run_dir).and_then(|()| std::fs::File::create(&path));
        match opened.map(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock)) {
            Ok(Ok(held)) if local::same_file(&held, &path) => {
                // Only now: the one that ended has removed what was empty.
                for path in [&config.state_dir, &config.ram_dir] {
                    local::make_dir(path).map_err(|source| DaemonError::Folder { path: path.clone(), source })?;
                }
                return Ok(held);
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(DaemonError::Folder { path, source }),
        }
        let serves = std::os::unix::net::UnixStream::connect(socket).is_ok();
        if serves || tokio::time::Instant::now() >= until {
            return Err(DaemonError::Held(path));
        }
        // flock(2) has no event to wait for with a deadline.
        tokio::time::sleep(LOCK_RETRY).await;
    }
}

fn agent_config(config: &Config) -> AgentConfig {
    AgentConfig {
        host: config.host.clone(),
        instance: config.instance.clone(),
        run_dir: config.run_dir.clone(),
        ram_dir: config.ram_dir.clone(),
        state_dir: config.state_dir.clone(),
        image_store: config.image_store.clone(),
        netns_dir: "/run/netns".into(),
        vxlan_port: config.vxlan_port,
        hypervisor: config.hypervisor.clone(),
        ksm: config.ksm,
        clones: config.clones,
        cameras: config.cameras.clone(),
        snapshot_quota: config.snapshot_quota,
        sample_interval: Duration::from_secs(config.telemetry_interval_seconds.into()),
    }
}

/// Waits for SIGTERM or SIGINT.
async fn signalled() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
