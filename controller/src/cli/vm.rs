//! `fleet vm stop|start|reboot|pause|resume|snapshot|restore TARGET`.

use clap::{Args, Subcommand};
use fleet_proto::v1::{Action, ControllerActRequest};

use super::connect::{self, Start};
use super::snapshots::{SnapshotsArgs, snapshots};
use super::up::{failed, follow, new_op};
use super::{Context, Exit, Failure, output};

#[derive(Args, Debug)]
pub struct VmArgs {
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Args, Debug)]
pub struct TargetArgs {
    /// Which VMs: hello.web[0..10], web[3], hello
    pub target: String,
}

#[derive(Args, Debug)]
pub struct StopArgs {
    /// Which VMs: hello.web[0..10], web[3], hello
    pub target: String,
    /// Stop without asking the guest
    #[arg(long)]
    pub force: bool,
}

#[derive(Args, Debug)]
pub struct SnapshotArgs {
    /// Which VMs: hello.web[0..10], web[3], hello
    pub target: String,
    /// Name of the snapshot
    #[arg(long, default_value = "default")]
    pub name: String,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Shut down; the VM stays down until it is started
    Stop(StopArgs),
    /// Start what was stopped or failed
    Start(TargetArgs),
    /// Stop and start
    Reboot(StopArgs),
    /// Hold the VM where it is
    Pause(TargetArgs),
    /// Let a paused VM go on
    Resume(TargetArgs),
    /// Keep memory and devices of a QEMU VM on disk, to go back to
    Snapshot(SnapshotArgs),
    /// Go back to a snapshot
    Restore(SnapshotArgs),
    /// List snapshots, or remove some
    Snapshots(SnapshotsArgs),
}

pub async fn vm(context: &Context, args: &VmArgs) -> Result<Exit, Failure> {
    let (word, action, target, force, name) = match &args.verb {
        Verb::Stop(StopArgs { target, force }) => ("stop", Action::Stop, target, *force, ""),
        Verb::Start(TargetArgs { target }) => ("start", Action::Start, target, false, ""),
        Verb::Reboot(StopArgs { target, force }) => ("reboot", Action::Reboot, target, *force, ""),
        Verb::Pause(TargetArgs { target }) => ("pause", Action::Pause, target, false, ""),
        Verb::Resume(TargetArgs { target }) => ("resume", Action::Resume, target, false, ""),
        Verb::Snapshot(SnapshotArgs { target, name }) => ("snapshot", Action::Snapshot, target, false, name.as_str()),
        Verb::Restore(SnapshotArgs { target, name }) => ("restore", Action::Restore, target, false, name.as_str()),
        Verb::Snapshots(args) => return snapshots(context, args).await,
    };
    let mut client = connect::connect(context, Start::IfUp).await?;
    let request = ControllerActRequest {
        op: Some(new_op()),
        target: target.clone(),
        action: action.into(),
        force,
        name: name.to_owned(),
    };
    let stream = client.act(request).await?.into_inner();
    let finished = follow(context, &format!("{word} {target}"), stream).await?;
    if context.json {
        output::json(&serde_json::json!({
            "target": target, "action": word, "targets": finished.summary.targets,
            "outcomes": output::folds_json(&finished.summary.folds), "elapsed_ms": finished.summary.elapsed_ms,
        }));
    }
    Ok(if failed(&finished.summary) > 0 { Exit::Partial } else { Exit::Ok })
}
