//! The local server: found, started, shared, taken over, started again, stopped.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use fleet_telemetry::Pushed;
use fleet_telemetry_db::{ProgramSearch, ServerConfig, ServerState, ServerSupervisor, Writer, WriterConfig};
use support::{Folder, PATIENCE, kill, processes_in, running, status};
use tokio::time::timeout;

#[tokio::test]
async fn a_server_that_is_stopped_leaves_no_process_and_no_record() {
    let folder = Folder::new();
    let server = ServerSupervisor::start(folder.config());
    let found = running(&mut server.state()).await;
    assert_eq!(processes_in(folder.0.path()), [found.pid.unwrap()]);
    server.stop().await.unwrap();
    assert_eq!(processes_in(folder.0.path()), [] as [u32; 0]);
    assert!(!folder.0.path().join("server.json").exists());
}

#[tokio::test]
async fn two_controllers_share_one_server_and_the_last_one_stops_it() {
    let folder = Folder::new();
    let (first, second) = (ServerSupervisor::start(folder.config()), ServerSupervisor::start(folder.config()));
    let (a, b) = (running(&mut first.state()).await, running(&mut second.state()).await);
    assert_eq!((a.pid, &a.uri), (b.pid, &b.uri));
    assert!(a.adopted != b.adopted, "one started it, the other took it over");
    first.stop().await.unwrap();
    assert_eq!(processes_in(folder.0.path()), [b.pid.unwrap()]);
    second.stop().await.unwrap();
    assert_eq!(processes_in(folder.0.path()), [] as [u32; 0]);
}

/// Not a test: the controller that [`a_server_outlives_a_killed_controller_and_is_found_again`] kills.
#[tokio::test]
async fn controller_process() {
    let Some(folder) = std::env::var_os("FLEET_TEST_SERVER_FOLDER") else { return };
    let search = ProgramSearch { path: None, ..ProgramSearch::from_env() };
    let server = ServerSupervisor::start(ServerConfig { search, cache_mib: 64, ..ServerConfig::local(folder) });
    println!("pid {}", running(&mut server.state()).await.pid.unwrap());
    tokio::time::sleep(PATIENCE).await;
}

#[tokio::test]
async fn a_server_outlives_a_killed_controller_and_is_found_again() {
    let folder = Folder::new();
    let mut controller = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "controller_process", "--nocapture"])
        .env("FLEET_TEST_SERVER_FOLDER", folder.0.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(controller.stdout.take().unwrap());
    let pid = output.lines().map_while(Result::ok).find_map(|line| line.split_once("pid ")?.1.parse::<u32>().ok());
    controller.kill().unwrap();
    controller.wait().unwrap();

    let server = ServerSupervisor::start(folder.config());
    let found = running(&mut server.state()).await;
    assert_eq!((found.pid, found.adopted), (pid, true));
    let writer = Writer::start(WriterConfig::default(), server.state());
    status(&writer, |status| status.connected).await;
    server.stop().await.unwrap();
    assert_eq!(processes_in(folder.0.path()), [] as [u32; 0]);
}

#[tokio::test]
async fn a_server_that_dies_is_started_again_also_by_one_who_took_it_over() {
    let folder = Folder::new();
    let (first, second) = (ServerSupervisor::start(folder.config()), ServerSupervisor::start(folder.config()));
    let (mut a, mut b) = (first.state(), second.state());
    let pid = running(&mut a).await.pid;
    running(&mut b).await;
    kill(pid.unwrap());
    for state in [&mut a, &mut b] {
        let other = |state: &ServerState| matches!(state, ServerState::Running(server) if server.pid != pid);
        timeout(PATIENCE, state.wait_for(other)).await.unwrap().unwrap();
    }
    assert_eq!(running(&mut a).await.pid, running(&mut b).await.pid);
    assert_eq!(processes_in(folder.0.path()).len(), 1);
    first.stop().await.unwrap();
    second.stop().await.unwrap();
    assert_eq!(processes_in(folder.0.path()), [] as [u32; 0]);
}

#[tokio::test]
async fn a_record_of_another_process_is_not_believed() {
    let folder = Folder::new();
    let server = ServerSupervisor::start(folder.config());
    let old = running(&mut server.state()).await.pid.unwrap();
    let record = std::fs::read_to_string(folder.0.path().join("server.json")).unwrap();
    server.stop().await.unwrap();
    // The pid is that of a process which is no server at all.
    let stale = record.replace(&format!("\"pid\":{old}"), &format!("\"pid\":{}", std::process::id()));
    assert_ne!(record, stale);
    std::fs::write(folder.0.path().join("server.json"), stale).unwrap();
    let server = ServerSupervisor::start(folder.config());
    let found = running(&mut server.state()).await;
    assert!(!found.adopted && found.pid != Some(std::process::id()));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn without_a_program_telemetry_is_off_and_says_how_to_have_it() {
    let folder = Folder::new();
    let config = ServerConfig { search: ProgramSearch::default(), ..ServerConfig::local(folder.0.path()) };
    let server = ServerSupervisor::start(config);
    let mut state = server.state();
    let off = timeout(PATIENCE, state.wait_for(|state| matches!(state, ServerState::Off { .. }))).await;
    let ServerState::Off { reason } = off.unwrap().unwrap().clone() else { unreachable!() };
    assert!(
        reason.contains("deploy/telemetry-server.sh") && reason.contains("--mongodb") && reason.lines().count() == 1
    );

    let writer = Writer::start(WriterConfig::default(), server.state());
    let seen = status(&writer, |status| !status.reason.is_empty() && !status.on).await;
    assert_eq!(seen.reason, reason);
    assert_eq!(writer.database().unwrap_err().to_string(), reason);
    // Nothing is kept for a server that will not come, and nothing counts as lost.
    assert_eq!(writer.sink().offer(support::vm(support::T0, "web[0]", 1.0)), Pushed::Closed);
    assert_eq!(writer.sink().offer(support::event(support::T0, "e")), Pushed::Closed);
    let flushed = writer.shutdown(PATIENCE).await;
    assert!(flushed.complete && flushed.dropped == 0, "{flushed:?}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_program_that_fails_at_once_is_reported_with_its_words_and_tried_again() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = Folder::new();
    let bin = folder.0.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let program = bin.join("secantusd-rs");
    std::fs::write(&program, "#!/bin/sh\necho starting\necho 'no room on the disk' >&2\nexit 7\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let search = ProgramSearch { path: None, tools: Some(folder.0.path().to_owned()) };
    let server = ServerSupervisor::start(ServerConfig { search, ..ServerConfig::local(folder.0.path().join("mongo")) });
    let mut state = server.state();
    for _ in 0..2 {
        let down = timeout(PATIENCE, state.wait_for(|state| matches!(state, ServerState::Down { .. }))).await;
        let ServerState::Down { reason } = down.unwrap().unwrap().clone() else { unreachable!() };
        assert!(reason.contains("exit status: 7") && reason.contains("starting | no room on the disk"), "{reason}");
        timeout(PATIENCE, state.changed()).await.unwrap().unwrap();
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_given_uri_starts_nothing() {
    let folder = Folder::new();
    let uri = Some("mongodb://fleet:secret@127.0.0.1:1/".to_owned());
    let server = ServerSupervisor::start(ServerConfig { uri, ..folder.config() });
    let found = running(&mut server.state()).await;
    assert_eq!((found.shown.as_str(), found.pid), ("mongodb://fleet:***@127.0.0.1:1/", None));
    let config = WriterConfig { operation_deadline: Duration::from_millis(200), ..WriterConfig::default() };
    let writer = Writer::start(config, server.state());
    let seen = status(&writer, |status| status.last_error.is_some()).await;
    assert!(seen.on && !seen.connected && !format!("{seen:?}").contains("secret"), "{seen:?}");
    server.stop().await.unwrap();
    assert!(!folder.0.path().join("server.log").exists());
}
