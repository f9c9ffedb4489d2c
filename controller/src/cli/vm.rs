//! `fleet vm stop|start|reboot|pause|resume TARGET`.

use clap::{Args, ValueEnum};
use fleet_proto::v1::{Action, ControllerActRequest};

use super::connect::{self, Start};
use super::up::{failed, follow, new_op};
use super::{Context, Exit, Failure, output};

#[derive(Args, Debug)]
pub struct VmArgs {
    /// What to do
    #[arg(value_enum)]
    pub verb: Verb,
    /// Which VMs: hello.web[0..10], web[3], hello
    pub target: String,
    /// Stop without asking the guest
    #[arg(long)]
    pub force: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Verb {
    /// Shut down; the VM stays down until it is started
    Stop,
    /// Start what was stopped or failed
    Start,
    /// Stop and start
    Reboot,
    /// Hold the VM where it is
    Pause,
    /// Let a paused VM go on
    Resume,
}

pub async fn vm(context: &Context, args: &VmArgs) -> Result<Exit, Failure> {
    let (word, action) = match args.verb {
        Verb::Stop => ("stop", Action::Stop),
        Verb::Start => ("start", Action::Start),
        Verb::Reboot => ("reboot", Action::Reboot),
        Verb::Pause => ("pause", Action::Pause),
        Verb::Resume => ("resume", Action::Resume),
    };
    let mut client = connect::connect(context, Start::IfUp).await?;
    let request = ControllerActRequest {
        op: Some(new_op()),
        target: args.target.clone(),
        action: action.into(),
        force: args.force,
    };
    let stream = client.act(request).await?.into_inner();
    let finished = follow(context, &format!("{word} {}", args.target), stream).await?;
    if context.json {
        output::json(&serde_json::json!({
            "target": args.target, "action": word, "targets": finished.summary.targets,
            "outcomes": output::folds_json(&finished.summary.folds), "elapsed_ms": finished.summary.elapsed_ms,
        }));
    }
    Ok(if failed(&finished.summary) > 0 { Exit::Partial } else { Exit::Ok })
}
