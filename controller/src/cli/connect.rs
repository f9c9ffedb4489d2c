//! The way to the controller: the one that answers on the local socket, or one started in the background.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use fleet_proto::MAX_MESSAGE_BYTES;
use fleet_proto::v1::controller_client::ControllerClient;
use fleet_proto::v1::{ShutdownRequest, StatusReply, StatusRequest};
use tonic::transport::{Channel, Endpoint};

use super::output::{self, Table};
use super::{Context, Exit, Failure};
use crate::daemon::READY;

/// The controller's client.
pub type Client = ControllerClient<Channel>;

/// How long a controller may take until it answers: it adopts what runs first.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// How long a connection over the local socket may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// Whether to start a controller when none answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The command brings something up.
    Always,
    /// The command is about what is up: start it if one ended without taking everything down.
    IfUp,
    /// The command is about what was measured: start it if there ever was one.
    IfUsed,
    /// The command is about the controller itself.
    Never,
}

/// Connects to the controller, and starts it first where that makes sense.
///
/// # Errors
/// When there is none, or it could not be started; the message says why.
pub async fn connect(context: &Context, start: Start) -> Result<Client, Failure> {
    let socket = context.config.controller_socket();
    if let Some(client) = try_connect(&socket).await? {
        return Ok(client);
    }
    let wanted = match start {
        Start::Always => true,
        Start::IfUp => fleet_agent::any_remembered(&context.config.run_dir),
        Start::IfUsed => context.config.state_dir.join(crate::daemon::STORE_FILE).exists(),
        Start::Never => false,
    };
    if !wanted {
        return Err(Failure::new(Exit::NotReached, format!("no controller answers on {}", socket.display()))
            .help("`fleet up FILE` starts one, so does `fleet controller`"));
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::usage("no controller runs, and starting one needs root (namespaces, taps, cgroups)")
            .help("run this as root, or have root run `fleet controller` and join the fleet group"));
    }
    eprintln!("fleet: no controller runs here; starting one in the background");
    let config = context.config.clone();
    let started = tokio::task::spawn_blocking(move || start_controller(&config))
        .await
        .map_err(|error| Failure::internal(format!("the start of the controller was cut off: {error}")))?;
    let client = try_connect(&socket).await?;
    if client.is_none() {
        // Another command may have been quicker to start one; only when none serves does it matter why ours did not.
        started?;
    }
    client.ok_or_else(|| {
        Failure::internal(format!("the controller started but does not answer on {}", socket.display()))
            .help(format!("its log is {}", context.config.log_file().display()))
    })
}

/// Ends a controller that a command started when nothing is up any more; one that somebody runs stays. To be said at
/// the end of every command that can find or leave nothing up.
pub async fn end_if_idle(client: &mut Client) {
    // A controller that ended already, or ends just now, is as good.
    drop(client.shutdown(ShutdownRequest { only_idle: true }).await);
}

async fn try_connect(socket: &Path) -> Result<Option<Client>, Failure> {
    // A socket that nobody listens on, or none at all, means the same: no controller.
    match std::os::unix::net::UnixStream::connect(socket) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return Err(Failure::usage(format!("no permission to use {}", socket.display()))
                .help("run this as root, or as a member of the group `fleet`"));
        }
        Err(_) => return Ok(None),
    }
    let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display()))
        .map_err(|error| Failure::internal(format!("bad socket path {}: {error}", socket.display())))?
        .connect_timeout(CONNECT_DEADLINE);
    match endpoint.connect().await {
        Ok(channel) => Ok(Some(
            ControllerClient::new(channel)
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES),
        )),
        Err(_) => Ok(None),
    }
}

/// Starts `fleet controller --background` and waits for the line with which it says that it serves.
fn start_controller(config: &crate::config::Config) -> Result<(), Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::internal(format!("cannot find fleet's own program: {error}")))?;
    let mut command = Command::new(program);
    command.arg("controller").arg("--background");
    if let Some(root) = &config.root {
        command.arg("--root").arg(root);
    }
    if let Some(file) = &config.config_file {
        command.arg("--config").arg(file);
    }
    match &config.mongodb {
        _ if !config.telemetry => drop(command.arg("--no-telemetry")),
        // By environment: a URI can hold a password, and everybody can read command lines.
        Some(uri) => drop(command.env("FLEET_MONGODB", uri)),
        None => {}
    }
    std::fs::create_dir_all(&config.state_dir)
        .map_err(|error| Failure::internal(format!("cannot make {}: {error}", config.state_dir.display())))?;
    let log = std::fs::OpenOptions::new().create(true).append(true).open(config.log_file());
    let log =
        log.map_err(|error| Failure::internal(format!("cannot write {}: {error}", config.log_file().display())))?;
    let mut child = command
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(|error| Failure::internal(format!("cannot start the controller: {error}")))?;
    let said = child.stdout.take().map(|mut stdout| read_line(&mut stdout)).unwrap_or_default();
    if said == READY {
        return Ok(());
    }
    let said = if said.is_empty() { format!("it did not answer within {START_DEADLINE:?}") } else { said };
    Err(Failure::internal(format!("the controller did not start: {said}"))
        .help(format!("its log is {}", config.log_file().display())))
}

/// One line, or what came until the deadline or the end.
fn read_line(stdout: &mut std::process::ChildStdout) -> String {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    let until = std::time::Instant::now() + START_DEADLINE;
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        let left = until.saturating_duration_since(std::time::Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let ready = poll(&mut [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)], timeout);
        match ready {
            Err(nix::errno::Errno::EINTR) => continue,
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        match stdout.read(&mut byte) {
            Ok(1) if byte[0] != b'\n' => line.push(byte[0]),
            _ => break,
        }
    }
    String::from_utf8_lossy(&line).trim().to_owned()
}

/// `fleet controller status`.
pub async fn status(context: &Context) -> Result<Exit, Failure> {
    let mut client = connect(context, Start::Never).await?;
    let status = client.status(StatusRequest {}).await?.into_inner();
    if context.json {
        output::json(&status_json(&status));
        return Ok(Exit::Ok);
    }
    output::say!("controller {} pid {} epoch {}", status.version, status.pid, status.epoch);
    output::say!("metrics    http://{}/metrics", status.metrics_address);
    if let Some(telemetry) = &status.telemetry {
        let state = match (telemetry.on, telemetry.connected) {
            (false, _) => format!("off: {}", telemetry.reason),
            (true, true) => {
                format!("{} ({} written, {} dropped)", telemetry.server, telemetry.written, telemetry.dropped)
            }
            (true, false) => {
                format!("{} does not answer ({} dropped): {}", telemetry.server, telemetry.dropped, telemetry.reason)
            }
        };
        output::say!("telemetry  {state}");
    }
    output::say!();
    let mut table = Table::new(&["HOST", "CPUS", "MEMORY", "AVAILABLE", "COMMITTED", "HYPERVISORS", "KERNEL"]);
    for host in &status.hosts {
        table.row(vec![
            host.name.clone(),
            host.cpus.to_string(),
            output::bytes(host.memory_bytes),
            output::bytes(host.memory_available_bytes),
            output::bytes(host.memory_committed_bytes),
            host.hypervisors.join(" "),
            host.kernel.clone(),
        ]);
    }
    table.print();
    Ok(Exit::Ok)
}

fn status_json(status: &StatusReply) -> serde_json::Value {
    let telemetry = status.telemetry.clone().unwrap_or_default();
    serde_json::json!({
        "version": status.version, "pid": status.pid, "epoch": status.epoch, "started_ms": status.started_ms,
        "metrics_address": status.metrics_address,
        "telemetry": {
            "on": telemetry.on, "server": telemetry.server, "connected": telemetry.connected,
            "reason": telemetry.reason, "written": telemetry.written, "dropped": telemetry.dropped,
        },
        "hosts": status.hosts.iter().map(|host| serde_json::json!({
            "name": host.name, "cpus": host.cpus, "memory_bytes": host.memory_bytes,
            "memory_available_bytes": host.memory_available_bytes,
            "memory_committed_bytes": host.memory_committed_bytes,
            "hypervisors": host.hypervisors, "kernel": host.kernel, "version": host.version,
            "agent_rss_bytes": host.agent_rss_bytes,
        })).collect::<Vec<_>>(),
    })
}

/// `fleet controller stop`.
pub async fn stop(context: &Context) -> Result<Exit, Failure> {
    let mut client = connect(context, Start::Never).await?;
    client.shutdown(ShutdownRequest { only_idle: false }).await?;
    eprintln!("fleet: the controller ended; VMs that ran go on");
    Ok(Exit::Ok)
}
