//! `fleet vm snapshots [EXPERIMENT] [--remove NAME]`.

use clap::Args;
use fleet_proto::v1::SnapshotsRequest;

use super::connect::{self, Start};
use super::output::{self, Table};
use super::{Context, Exit, Failure};

#[derive(Args, Debug)]
pub struct SnapshotsArgs {
    /// Only of this experiment
    pub experiment: Option<String>,
    /// Remove all snapshots of this name; needs EXPERIMENT
    #[arg(long, value_name = "NAME", requires = "experiment")]
    pub remove: Option<String>,
}

pub async fn snapshots(context: &Context, args: &SnapshotsArgs) -> Result<Exit, Failure> {
    let mut client = connect::connect(context, Start::IfUp).await?;
    let request = SnapshotsRequest {
        experiment: args.experiment.clone().unwrap_or_default(),
        remove: args.remove.clone().unwrap_or_default(),
    };
    let reply = client.snapshots(request).await?.into_inner();
    if context.json {
        let list = reply.snapshots.iter().map(|snapshot| {
            serde_json::json!({
                "experiment": snapshot.experiment, "vm": snapshot.vm, "name": snapshot.name, "id": snapshot.id,
                "host": snapshot.host, "taken_ms": snapshot.taken_ms, "bytes": snapshot.bytes,
                "shared_bytes": snapshot.shared_bytes,
            })
        });
        output::json(&serde_json::json!({ "snapshots": list.collect::<Vec<_>>(), "removed": reply.removed }));
        return Ok(Exit::Ok);
    }
    if args.remove.is_some() {
        output::print(&format!("removed {}\n", output::plural(reply.removed, "snapshot")));
        return Ok(Exit::Ok);
    }
    if reply.snapshots.is_empty() {
        output::print("no snapshots; `fleet vm snapshot TARGET` takes some\n");
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(&["EXPERIMENT", "VM", "NAME", "ID", "TAKEN", "SIZE", "SHARED", "HOST"]);
    for snapshot in reply.snapshots {
        table.row(vec![
            snapshot.experiment,
            snapshot.vm,
            snapshot.name,
            snapshot.id.chars().take(12).collect(),
            format!("{} ago", output::age(snapshot.taken_ms)),
            output::bytes(snapshot.bytes),
            output::bytes(snapshot.shared_bytes),
            snapshot.host,
        ]);
    }
    table.print();
    Ok(Exit::Ok)
}
