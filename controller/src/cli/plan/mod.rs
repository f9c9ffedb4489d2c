//! `fleet plan`: what a file means, which hosts would run it, and what `fleet up` would change. Nothing is changed, but
//! for the lock with `--prune`.

mod hosts;
mod lock;
mod show;

use std::path::PathBuf;

use clap::Args;
use fleet_proto::v1::{Difference, Options, Spec, UpRequest};
use netlang::Placement;

use super::check::{not_yet, not_yet_text};
use super::connect::{self, Start};
use super::up::{difference_json, difference_lines, new_op};
use super::{Context, Exit, Failure, output, source};
use crate::commitments::Commitments;

/// Version of the JSON document; it is raised when a key loses its meaning.
const VERSION: u32 = 1;

#[derive(Args, Debug)]
pub struct PlanArgs {
    /// The network file
    pub file: PathBuf,
    /// Show every line; else arrays of instances are folded, and long lists cut
    #[arg(long)]
    pub all: bool,
    /// Plan for the hosts of this TOML file instead of this host alone
    #[arg(long, value_name = "HOSTS")]
    pub hosts: Option<PathBuf>,
    /// Free the addresses in fleet.lock of what is gone from FILE
    #[arg(long)]
    pub prune: bool,
}

pub async fn plan(context: &Context, args: &PlanArgs) -> Result<Exit, Failure> {
    let loaded = source::load(context, &args.file, source::Purpose::Look)?;
    let plan = &loaded.plan;
    let hosts = match &args.hosts {
        Some(file) => hosts::read(file)?,
        None => vec![hosts::this_one(context)?],
    };
    let sizes = Commitments::new(&context.config.image_store, context.config.hypervisor.clone());
    let placement = plan.place(&hosts, &|vm| sizes.bytes(&Options::default(), vm), None);
    // What cannot run is not compared with what runs.
    let runnable = plan.unsupported().next().is_none();
    let difference = if runnable { running_difference(context, &loaded).await? } else { None };
    if args.prune {
        lock::prune(&loaded, &loaded.lock_difference, context.json)?;
    }
    let file = args.file.display().to_string();
    if context.json {
        let (placed, refused) = match &placement {
            Ok(placement) => (Some(placement), None),
            Err(error) => (None, Some(error.to_string())),
        };
        output::json(&serde_json::json!({
            "version": VERSION, "plan": plan.summary(), "difference": difference.as_ref().map(difference_json),
            "hosts": hosts, "placement": placed, "refused": refused, "lock": loaded.lock_difference,
            "pruned": args.prune, "unsupported": not_yet(plan).into_keys().collect::<Vec<_>>(),
        }));
    } else if !args.prune {
        print(args, &loaded, &hosts, placement.as_ref(), difference.as_ref());
        lock::print(&loaded.lock_difference, &file, args.all);
    }
    match placement {
        // Hosts that were named are what the file is to run on.
        Err(error) if args.hosts.is_some() => Err(Failure::usage(error)),
        _ => Ok(Exit::Ok),
    }
}

fn print(
    args: &PlanArgs,
    loaded: &source::Loaded,
    hosts: &[netlang::Host],
    placement: Result<&Placement, &netlang::PlaceError>,
    difference: Option<&Difference>,
) {
    let file = args.file.display();
    show::plan(&loaded.plan, hosts, placement, args.all);
    output::say!();
    if let Some(words) = not_yet_text(&loaded.plan) {
        output::say!("{}", output::wrap(&words));
        return;
    }
    let Some(difference) = difference else {
        output::say!("nothing of {} runs; `fleet up {file}` brings it up", loaded.plan.experiment());
        return;
    };
    output::say!("`fleet up {file}` would");
    let lines = difference_lines(difference);
    for line in &lines {
        output::say!("  {line}");
    }
    if lines.is_empty() {
        output::say!("  change nothing");
    }
}

/// The difference to what runs, where a controller runs that can say it.
async fn running_difference(context: &Context, loaded: &source::Loaded) -> Result<Option<Difference>, Failure> {
    let Ok(mut client) = connect::connect(context, Start::Never).await else { return Ok(None) };
    let spec = Spec {
        experiment: loaded.plan.experiment().to_owned(),
        source_name: loaded.source.file_name(),
        source: loaded.source.text.clone(),
        lock: loaded.lock.only(loaded.plan.experiment()).to_string(),
        hosts: Vec::new(),
        options: Some(Options::default()),
    };
    let request = UpRequest { op: Some(new_op()), spec: Some(spec) };
    Ok(Some(client.diff(request).await?.into_inner()))
}
