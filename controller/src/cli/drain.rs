//! `fleet host drain`: has the VMs of hosts moved, and waits until nothing is left there.

use std::time::Instant;

use clap::Args;
use fleet_proto::v1::{ChangeHostsRequest, DrainProgress, HostChange, WatchDrainRequest};

use super::connect::{self, Client, Start};
use super::{Context, Exit, Failure, output};

#[derive(Args, Debug)]
pub struct DrainArgs {
    /// The hosts
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Return as soon as it has begun; `fleet host ls` shows what is left
    #[arg(long)]
    no_wait: bool,
}

pub async fn drain(context: &Context, args: &DrainArgs) -> Result<Exit, Failure> {
    let began = Instant::now();
    let mut client = connect::connect(context, Start::IfUsed).await?;
    let mut request = ChangeHostsRequest { names: args.names.clone(), ..Default::default() };
    request.set_change(HostChange::Drain);
    let changed = client.change_hosts(request).await?.into_inner().changed;
    if !args.no_wait {
        tokio::select! {
            ended = wait(&mut client, &args.names) => ended?,
            _ = tokio::signal::ctrl_c() => {
                let names = args.names.join(" ");
                eprintln!("fleet: interrupted; the VMs move without this command");
                eprintln!("  help: `fleet host ls` shows what is left, `fleet host undrain {names}` lets hosts be used again");
                return Ok(Exit::INTERRUPTED);
            }
        }
    }
    let (named, elapsed_ms) = (args.names.len(), u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
    if context.json {
        output::json(&serde_json::json!({ "changed": changed, "named": named, "elapsed_ms": elapsed_ms }));
        return Ok(Exit::Ok);
    }
    let hosts = output::plural(named as u64, "host");
    match (args.no_wait, usize::try_from(changed) == Ok(named)) {
        (false, _) => output::say!("drained: {hosts}, in {}", output::duration(elapsed_ms)),
        (true, true) => output::say!("draining: {hosts}"),
        (true, false) => output::say!("draining: {hosts}, {} of them already", named.saturating_sub(changed as usize)),
    }
    Ok(Exit::Ok)
}

/// Until the hosts have nothing; says on standard error what they have, and what holds it up.
async fn wait(client: &mut Client, names: &[String]) -> Result<(), Failure> {
    let mut left = client.watch_drain(WatchDrainRequest { names: names.to_vec() }).await?.into_inner();
    let mut told = Vec::new();
    while let Some(DrainProgress { hosts, problems }) = left.message().await? {
        for host in &hosts {
            eprintln!(
                "fleet: {}: {} of {} to move",
                host.name,
                output::plural(host.vms, "VM"),
                host.experiments.join(", ")
            );
        }
        for problem in problems.iter().filter(|problem| !told.contains(*problem)) {
            eprintln!("fleet: {problem}");
        }
        told = problems;
    }
    Ok(())
}
