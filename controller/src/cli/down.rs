//! `fleet down`: nothing of an experiment remains.

use clap::Args;
use fleet_proto::v1::DownRequest;

use super::connect::{self, Start};
use super::up::{failed, follow, new_op};
use super::{Context, Exit, Failure, output};

#[derive(Args, Debug)]
pub struct DownArgs {
    /// The experiments; all of them when left out
    pub experiments: Vec<String>,
}

pub async fn down(context: &Context, args: &DownArgs) -> Result<Exit, Failure> {
    let mut client = match connect::connect(context, Start::IfUp).await {
        Ok(client) => client,
        Err(failure) if failure.exit == Exit::NotReached && args.experiments.is_empty() => {
            if context.json {
                output::json(&serde_json::json!({ "experiments": [] }));
            } else {
                output::say!("nothing is up");
            }
            return Ok(Exit::Ok);
        }
        Err(failure) => return Err(failure),
    };
    let mut wanted: Vec<String> = args.experiments.iter().map(|name| experiment_name(name)).collect();
    if wanted.is_empty() {
        wanted.push(String::new());
    }
    let mut documents = Vec::new();
    let mut partial = false;
    for experiment in wanted {
        let verb = if experiment.is_empty() { "down".to_owned() } else { format!("down {experiment}") };
        let request = DownRequest { op: Some(new_op()), experiment: experiment.clone() };
        let stream = client.down(request).await?.into_inner();
        let finished = follow(context, &verb, stream).await?;
        partial |= failed(&finished.summary) > 0;
        documents.push(serde_json::json!({
            "experiment": experiment, "targets": finished.summary.targets,
            "outcomes": output::folds_json(&finished.summary.folds), "elapsed_ms": finished.summary.elapsed_ms,
        }));
    }
    if context.json {
        output::json(&serde_json::json!({ "experiments": documents }));
    }
    connect::end_if_idle(&mut client).await;
    Ok(if partial { Exit::Partial } else { Exit::Ok })
}

/// Users also give the file that they brought up.
fn experiment_name(given: &str) -> String {
    match given.strip_suffix(".fleet") {
        Some(path) => path.rsplit('/').next().unwrap_or(path).to_owned(),
        None => given.to_owned(),
    }
}
